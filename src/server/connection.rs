//! A connection of the gRPC port: TLS where it is configured, then bytes of HTTP/2 that are counted. It must begin in time,
//! and end when it does nothing but keep the service busy.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::frames::Frames;
use super::idle::IdleTimeoutStream;
use super::quota::Quota;
use crate::context::Clock;
use crate::metrics::Metrics;

/// The peer, for the layers.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// The certificates that it showed, its own first.
    pub(super) certificates: Option<Arc<[CertificateDer<'static>]>>,
    /// Bytes of its requests that may be held before these are complete.
    pub(super) bytes: Quota,
}

impl Peer {
    /// A peer at this address, without a connection.
    #[cfg(any(test, fuzzing))]
    pub(super) fn at(address: SocketAddr) -> Self {
        Self { address, certificates: None, bytes: Quota::new(1 << 20, 1 << 20) }
    }
}

enum Wire {
    Plain(IdleTimeoutStream),
    Tls(Box<TlsStream<IdleTimeoutStream>>),
}

/// What connections need in order to begin.
#[derive(Clone)]
pub(super) struct Opening {
    /// None for plaintext.
    pub(super) tls: Option<TlsAcceptor>,
    /// How long a client may take until its first request could come.
    pub(super) timeout: Duration,
    /// Bytes of unfinished requests that a connection may hold.
    pub(super) bytes: usize,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
}

impl Opening {
    /// The connection after the TLS handshake; none when the client does not finish it in time.
    pub(super) async fn open(self, stream: IdleTimeoutStream, address: SocketAddr) -> Option<Connection> {
        let mut beginning = Box::pin(tokio::time::sleep(self.timeout));
        let (wire, certificates) = match self.tls {
            None => (Wire::Plain(stream), None),
            Some(acceptor) => {
                let accepted = tokio::select! {
                    accepted = acceptor.accept(stream) => accepted,
                    () = &mut beginning => Err(io::ErrorKind::TimedOut.into()),
                };
                let stream = match accepted {
                    Ok(stream) => stream,
                    Err(error) => {
                        self.metrics.connection_refused("handshake");
                        tracing::debug!(event = "handshake_failed", %address, cause = %error, "no TLS");
                        return None;
                    }
                };
                let certificates = stream.get_ref().1.peer_certificates().map(Arc::from);
                (Wire::Tls(Box::new(stream)), certificates)
            }
        };
        let peer = Peer { address, certificates, bytes: Quota::new(self.bytes, self.bytes) };
        let frames = Frames::new(self.clock.instant());
        let (clock, metrics) = (self.clock, self.metrics);
        Some(Connection { wire, peer, frames, beginning: Some(beginning), clock, metrics })
    }
}

/// A connection as the HTTP/2 library reads and writes it.
pub(super) struct Connection {
    wire: Wire,
    peer: Peer,
    frames: Frames,
    /// Over when the client has not begun to speak HTTP/2 in time; gone once it has.
    beginning: Option<Pin<Box<Sleep>>>,
    clock: Clock,
    metrics: Metrics,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.peer.address)
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = match &mut this.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if read.is_pending() {
            if let Some(beginning) = &mut this.beginning {
                ready!(beginning.as_mut().poll(cx));
                this.metrics.connection_refused("preface");
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Pending;
        }
        let now = this.clock.instant();
        if !this.frames.received(&buf.filled()[before..], now) {
            // None of it reaches the library, which would answer each of them.
            buf.set_filled(before);
            this.metrics.connection_refused("control_frames");
            tracing::debug!(event = "control_frame_flood", address = %this.peer.address, "a connection is closed");
            return Poll::Ready(Err(io::Error::other("too many control frames")));
        }
        if this.frames.began() {
            this.beginning = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(match &mut this.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        })?;
        this.frames.sent(&bytes[..written.min(bytes.len())]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(match &mut this.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        })?;
        let mut left = written;
        for part in parts {
            let count = left.min(part.len());
            this.frames.sent(&part[..count]);
            left -= count;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
