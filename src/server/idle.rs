//! The idle timeout of connections, also of those that never began to speak HTTP/2: a client that lives answers the pings.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::quota::Permit;

/// A connection that fails when nothing was read from it for too long.
#[derive(Debug)]
pub(super) struct IdleTimeoutStream {
    stream: TcpStream,
    // Given back when the connection is closed.
    _permit: Permit,
    limit: Duration,
    /// Something was read since the silence was last looked at.
    heard: bool,
    silence: Pin<Box<Sleep>>,
}

impl IdleTimeoutStream {
    pub(super) fn new(stream: TcpStream, permit: Permit, limit: Duration) -> Self {
        Self { stream, _permit: permit, limit, heard: false, silence: Box::pin(tokio::time::sleep(limit)) }
    }
}

impl AsyncRead for IdleTimeoutStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.heard = true;
            return read;
        }
        loop {
            ready!(self.silence.as_mut().poll(cx));
            if !std::mem::take(&mut self.heard) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            // The timer is set anew only here, not with every read: a silent client is disconnected the second time at most.
            let limit = self.limit;
            self.silence.set(tokio::time::sleep(limit));
        }
    }
}

impl AsyncWrite for IdleTimeoutStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
