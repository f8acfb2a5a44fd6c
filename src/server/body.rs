//! Bodies of requests on their way in: each message no larger than its RPC takes, and the bytes of unfinished messages
//! counted. A length is refused as soon as it is read, before anything is kept for it.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use uuid::Uuid;

use super::quota::{Full, Permit, Quota};
use crate::access::max_request_bytes;
use crate::config::ServerConfig;
use crate::context::Entropy;
use crate::fault::{Fault, Reason, Result};

/// Length of the head of a gRPC message: a flag and the length.
const HEAD: usize = 5;
/// The first bytes of each message that are not counted, so that small calls go on while large ones fill the budgets. The
/// number of concurrent calls bounds them.
const UNCOUNTED: usize = 4 * 1024;
/// Largest message for what is not an RPC of ours: health and reflection.
const OTHERS: u32 = 16 * 1024;
/// Around when a refused caller should retry.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// What the bodies of all requests have to keep to.
#[derive(Debug)]
pub(super) struct Limits {
    largest: usize,
    /// Bytes of unfinished messages of all callers who have not signed in.
    strangers: Quota,
    /// The same of all callers who have.
    signed_in: Quota,
}

/// Who sent a request, whose share its bytes count in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sender {
    /// A caller at this address who has not signed in.
    Stranger(Option<IpAddr>),
    /// A user or a service account.
    SignedIn(Uuid),
}

impl Limits {
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self {
            largest: config.max_message_bytes,
            strangers: Quota::quartered(config.max_unfinished_bytes_unauthenticated),
            signed_in: Quota::quartered(config.max_unfinished_bytes_authenticated),
        }
    }

    /// `body` of a request to the RPC at `path`. `connection` counts for the connection, and `sender` says in whose share it
    /// counts besides.
    pub(super) fn bound(
        &self,
        path: &str,
        body: Body,
        connection: Option<&Quota>,
        sender: Sender,
        entropy: &Entropy,
    ) -> Body {
        let limit = max_request_bytes(path).unwrap_or(OTHERS) as usize;
        // Nothing is taken yet, which never fails.
        let shared = match sender {
            Sender::Stranger(address) => self.strangers.take(address, 0),
            Sender::SignedIn(caller) => self.signed_in.take_as(caller, 0),
        };
        let permits = [connection.and_then(|quota| quota.take(None, 0).ok()), shared.ok()];
        Body::new(Bounded { body, messages: Messages::new(limit.min(self.largest)), permits, entropy: entropy.clone() })
    }
}

/// Follows the messages in a body.
struct Messages {
    limit: usize,
    head: [u8; HEAD],
    /// Bytes of the next head that have come.
    filled: usize,
    /// Bytes of the current message that have come, and that are to come.
    come: usize,
    to_come: usize,
}

impl Messages {
    fn new(limit: usize) -> Self {
        Self { limit, head: [0; HEAD], filled: 0, come: 0, to_come: 0 }
    }

    /// Notes what came.
    ///
    /// # Errors
    /// When a message is too large.
    fn pass(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.to_come > 0 {
                let taken = bytes.len().min(self.to_come);
                bytes = &bytes[taken..];
                self.come += taken;
                self.to_come -= taken;
            } else {
                let taken = bytes.len().min(HEAD - self.filled);
                self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
                self.filled += taken;
                if self.filled == HEAD {
                    let [_, a, b, c, d] = self.head;
                    let length = u32::from_be_bytes([a, b, c, d]) as usize;
                    if length > self.limit {
                        let limit = self.limit;
                        let fault = Fault::new(
                            Reason::MessageTooLarge,
                            format!("A message of {length} bytes is too large: the RPC takes {limit}."),
                        );
                        return Err(fault.with("max_request_bytes", limit));
                    }
                    (self.filled, self.to_come) = (0, length);
                }
            }
            if self.to_come == 0 {
                self.come = 0;
            }
        }
        Ok(())
    }

    /// Bytes that are held because their message is not complete, as far as they are counted.
    fn held(&self) -> usize {
        self.come.saturating_sub(UNCOUNTED)
    }
}

struct Bounded {
    body: Body,
    messages: Messages,
    /// The connection's part, and the sender's.
    permits: [Option<Permit>; 2],
    entropy: Entropy,
}

impl Bounded {
    fn pass(&mut self, bytes: &[u8]) -> Result<()> {
        self.messages.pass(bytes)?;
        let held = self.messages.held();
        for permit in self.permits.iter_mut().flatten() {
            permit.set(held).map_err(|full| {
                let whose = match full {
                    Full::Total => "Too many bytes of unfinished requests are held.",
                    Full::Client => "Too many bytes of unfinished requests of this client are held.",
                };
                Fault::new(Reason::TooManyUnfinishedBytes, whose).retry_after(self.entropy.jitter(COME_AGAIN))
            })?;
        }
        Ok(())
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::BoxError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else { return Poll::Ready(None) };
        let frame = frame?;
        if let Some(bytes) = frame.data_ref()
            && let Err(fault) = self.pass(bytes)
        {
            // What is held is given back now: the rest of the body is of no use any more.
            self.permits = [None, None];
            self.body = Body::empty();
            return Poll::Ready(Some(Err(Status::from(fault).into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32, sent: usize) -> Vec<u8> {
        [&[0], length.to_be_bytes().as_slice(), vec![7; sent].as_slice()].concat()
    }

    #[test]
    fn a_message_over_the_limit_is_refused_at_its_length_however_it_is_cut() {
        for piece in [1, 3, 5, 4096] {
            let mut messages = Messages::new(100);
            let body = [message(100, 100), message(0, 0), message(99, 99), message(101, 0)].concat();
            let (last, fine) = body.split_last().unwrap();
            assert!(fine.chunks(piece).all(|piece| messages.pass(piece).is_ok()), "in pieces of {piece}");
            let refused = messages.pass(&[*last]).unwrap_err();
            assert_eq!(refused.reason(), Reason::MessageTooLarge);
        }
        assert!(Messages::new(1 << 20).pass(&message(u32::MAX, 0)).is_err());
    }

    #[test]
    fn bytes_are_held_until_their_message_is_complete() {
        let mut messages = Messages::new(1 << 20);
        messages.pass(&message(20_000, UNCOUNTED)).unwrap();
        assert_eq!(messages.held(), 0);
        messages.pass(&[7; 10_000]).unwrap();
        assert_eq!(messages.held(), 10_000);
        messages.pass(&[7; 20_000 - UNCOUNTED - 10_000]).unwrap();
        assert_eq!(messages.held(), 0);
        messages.pass(&message(20_000, UNCOUNTED + 1)).unwrap();
        assert_eq!(messages.held(), 1);
    }

    fn poll(body: &mut Bounded) -> Option<std::result::Result<Frame<Bytes>, axum::BoxError>> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match Pin::new(body).poll_frame(&mut cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => panic!("nothing to wait for"),
        }
    }

    fn bounded(connection: &Quota, strangers: &Quota, sent: usize) -> Bounded {
        Bounded {
            body: Body::from(message(60_000, sent)),
            messages: Messages::new(64 * 1024),
            permits: [connection.take(None, 0).ok(), strangers.take(Some([192, 0, 2, 1].into()), 0).ok()],
            entropy: Entropy::system(),
        }
    }

    #[test]
    fn unfinished_requests_share_what_there_is_and_give_it_back() {
        let (connection, strangers) = (Quota::new(60_000, 60_000), Quota::new(1 << 20, 100_000));
        let mut first = bounded(&connection, &strangers, 50_000);
        assert!(poll(&mut first).unwrap().is_ok());
        let mut second = bounded(&connection, &strangers, 50_000);
        let refused = Status::from_error(poll(&mut second).unwrap().unwrap_err());
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
        let mut small = bounded(&connection, &strangers, UNCOUNTED);
        assert!(poll(&mut small).unwrap().is_ok(), "a small request is read all the same");
        drop(first);
        let mut third = bounded(&connection, &strangers, 50_000);
        assert!(poll(&mut third).unwrap().is_ok());
        let elsewhere = Quota::new(60_000, 60_000);
        let mut fourth = bounded(&elsewhere, &strangers, 50_000);
        assert!(poll(&mut fourth).unwrap().is_ok());
        let another = Quota::new(60_000, 60_000);
        let mut fifth = bounded(&another, &strangers, 50_000);
        assert!(poll(&mut fifth).unwrap().is_err(), "another connection does not help the same address");
    }
}
