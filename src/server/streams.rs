//! Streams that need no login, such as `grpc.health.v1.Health/Watch`: so many for each client and together, and none for
//! good. They can be opened without a login, and each takes memory until it ends.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;

use super::authentication as layer;
use super::quota::{Permit, Quota};
use crate::config::ServerConfig;
use crate::fault::{Fault, Reason, Result};

/// The streams.
#[derive(Debug)]
pub(super) struct Streams {
    quota: Quota,
    lifetime: Duration,
}

impl Streams {
    pub(super) fn new(config: &ServerConfig) -> Self {
        let quota = Quota::new(config.max_public_streams, config.max_public_streams_per_address);
        Self { quota, lifetime: config.public_stream_lifetime }
    }

    /// A permit for the stream at `path`, of which anybody may open some; none for everything else.
    ///
    /// # Errors
    /// `TOO_MANY_OPEN_STREAMS`.
    pub(super) fn permit(&self, path: &str, address: Option<IpAddr>) -> Result<Option<Permit>> {
        if !path.starts_with(layer::HEALTH_WATCH) && !path.starts_with(layer::REFLECTION) {
            return Ok(None);
        }
        let taken = self.quota.take(address, 1);
        taken.map(Some).map_err(|_| Fault::new(Reason::TooManyOpenStreams, "Too many streams are open already."))
    }

    /// `response` as the stream of a permit: it ends after its time, and gives the permit back with its end.
    pub(super) fn hold(&self, response: Response, permit: Permit) -> Response {
        let over = Box::pin(tokio::time::sleep(self.lifetime));
        response.map(|body| Body::new(Held { body: Some((body, permit)), over }))
    }
}

struct Held {
    /// Gone when the stream has ended.
    body: Option<(Body, Permit)>,
    over: Pin<Box<Sleep>>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        let Some((body, _)) = &mut self.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            if frame.is_none() {
                self.body = None;
            }
            return Poll::Ready(frame);
        }
        if self.over.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.body = None;
        let fault = Fault::new(Reason::StreamTooOld, "The stream has been open for as long as it may be.");
        let mut trailers = HeaderMap::new();
        // What does not fit into trailers leaves them without a status, which is an end as well.
        let _ = Status::from(fault).add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    // A refusal is a head without a body, and clients take it for one only when the head says that it is the end.
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const WATCH: &str = "/grpc.health.v1.Health/Watch";

    fn streams(total: usize, each: usize) -> Streams {
        let config = Config::load(None, []).unwrap().server;
        Streams::new(&ServerConfig {
            max_public_streams: total,
            max_public_streams_per_address: each,
            public_stream_lifetime: Duration::from_millis(1),
            ..config
        })
    }

    #[test]
    fn only_streams_that_need_no_login_are_counted() {
        let streams = streams(1, 1);
        let address = Some([192, 0, 2, 1].into());
        for other in ["/grpc.health.v1.Health/Check", "/sidle.v1.AuditService/StreamEvents", "/"] {
            assert!(streams.permit(other, address).unwrap().is_none(), "{other}");
        }
        let held = streams.permit(WATCH, address).unwrap();
        assert!(held.is_some());
        let refused = streams.permit("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None).unwrap_err();
        assert_eq!(refused.reason(), Reason::TooManyOpenStreams);
    }

    #[tokio::test]
    async fn a_refusal_is_at_its_end_with_its_head() {
        let streams = streams(1, 1);
        let permit = streams.permit(WATCH, None).unwrap().unwrap();
        let refused = streams.hold(Status::unauthenticated("No.").into_http(), permit);
        assert!(refused.body().is_end_stream(), "an empty body behind the head is no end of a call");
    }

    #[tokio::test]
    async fn a_stream_ends_after_its_time_and_gives_its_permit_back() {
        let streams = streams(1, 1);
        let permit = streams.permit(WATCH, None).unwrap().unwrap();
        let silent = Body::from_stream(futures_util::stream::pending::<Result<Bytes, axum::Error>>());
        let mut response = streams.hold(Response::new(silent), permit);
        assert!(streams.permit(WATCH, None).is_err());
        let frame = std::future::poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)).await.unwrap().unwrap();
        let trailers = frame.into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "14", "{trailers:?}");
        assert!(streams.permit(WATCH, None).is_ok(), "although the response is still there");
        assert!(std::future::poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)).await.is_none());
    }
}
