//! A call from its beginning to its end: its span, its log line and its metrics. The end of a stream is where its last byte
//! is, not where its response begins, and a client that disconnects ends its call as well.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Code, Status};
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::denials::Denials;
use super::refusals::{ANSWERING, Answering};
use crate::context::{Clock, Stopwatch};
use crate::correlation;
use crate::fault::{Fault, Result};
use crate::metrics::Metrics;
use crate::telemetry;

/// A call that goes on. It is counted once: when it ends, or as cancelled when it is dropped before.
pub(super) struct Observed {
    /// Gone when the call has ended.
    running: Option<Running>,
    method: &'static str,
    span: Span,
    correlation_id: Uuid,
    answering: Answering,
    /// Gone when a denial was given to it: a call is denied once.
    denials: Option<Denials>,
}

struct Running {
    begun: Stopwatch,
    metrics: Metrics,
}

/// The recording of a denial, which the answer waits for.
type Recording = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

impl Observed {
    /// Observes a call of `method` from now on.
    pub(super) fn begin(
        method: &'static str,
        span: Span,
        (correlation_id, answering): (Uuid, Answering),
        denials: Option<Denials>,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Self {
        metrics.call_begun(method);
        let running = Some(Running { begun: clock.stopwatch(), metrics: metrics.clone() });
        Self { running, method, span, correlation_id, answering, denials }
    }

    /// `response`, observed until its last byte.
    pub(super) async fn answered(mut self, mut response: Response) -> Response {
        // What is refused before it begins, or fails, is a response of a head only.
        if let Some(code) = status_in(response.headers()) {
            if let Some(recording) = self.denial(code)
                && let Err(fault) = recording.instrument(self.span.clone()).await
            {
                response = self.within(|| Status::from(fault)).into_http();
            }
            self.ended(status_in(response.headers()).unwrap_or(code));
        }
        let call = Box::new(self);
        response.map(|body| Body::new(ObservedBody { body: Some(body), call, recording: None }))
    }

    /// The recording of the denial that an answer with this code is; none for every other answer.
    fn denial(&mut self, code: Code) -> Option<Recording> {
        if code == Code::Ok {
            return None;
        }
        let (call, refusal) = (self.answering.known()?.clone(), self.answering.refusal(code)?);
        let (denials, method) = (self.denials.take()?, self.method);
        // It goes on when the caller hangs up: nobody takes back what they tried.
        let recording = async move { denials.record(method, &call, &refusal).await };
        let task = self.within(|| correlation::spawn(recording));
        Some(Box::pin(async move { task.await.map_err(Fault::internal)? }))
    }

    /// Runs `work` as part of the call: its log lines and errors carry the correlation id.
    fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let _entered = self.span.enter();
        correlation::sync_scope(self.correlation_id, || ANSWERING.sync_scope(self.answering.clone(), work))
    }

    fn ended(&mut self, code: Code) {
        let Some(Running { begun, metrics }) = self.running.take() else { return };
        let (took, method) = (begun.elapsed(), self.method);
        metrics.call_ended(method, code, took);
        telemetry::rpc_ended(&self.span, method, code, took);
        let millis = took.as_secs_f64() * 1000.0;
        self.span.in_scope(|| {
            self.answering.ended(code);
            tracing::debug!(event = "call_answered", code = ?code, millis, "answered");
        });
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
    }
}

/// The gRPC status in the head of a response, or in its trailers.
pub(super) fn status_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

struct ObservedBody {
    /// Gone when the response has ended.
    body: Option<Body>,
    call: Box<Observed>,
    /// A denial that is being recorded, and the trailers that wait for it.
    recording: Option<(Recording, HeaderMap)>,
}

impl ObservedBody {
    /// The trailers with which a stream ends, once what they say is durable.
    fn poll_recorded(&mut self, cx: &mut TaskContext<'_>) -> Poll<HeaderMap> {
        let Some((recording, trailers)) = &mut self.recording else { return Poll::Ready(HeaderMap::new()) };
        let recorded = ready!(self.call.within(|| recording.as_mut().poll(cx)));
        let mut trailers = std::mem::take(trailers);
        self.recording = None;
        if let Err(fault) = recorded {
            trailers = self.call.within(|| trailers_of(&Status::from(fault)));
        }
        Poll::Ready(trailers)
    }

    /// Ends the response with `trailers`.
    fn end(&mut self, trailers: HeaderMap) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        self.call.ended(status_in(&trailers).unwrap_or(Code::Unknown));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    /// A panic ends its own stream, not the connection with all others.
    fn panicked(&mut self) -> HeaderMap {
        self.body = None;
        if let Some(running) = &self.call.running {
            running.metrics.panics.inc();
        }
        self.call.within(|| trailers_of(&Status::from(Fault::internal("a stream panicked"))))
    }
}

fn trailers_of(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // What does not fit into trailers leaves them without a status, which is an end as well.
    let _ = status.add_header(&mut trailers);
    trailers
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.recording.is_some() {
            let trailers = ready!(this.poll_recorded(cx));
            return this.end(trailers);
        }
        let Some(polled) = this.body.as_mut() else { return Poll::Ready(None) };
        let poll = || catch_unwind(AssertUnwindSafe(|| Pin::new(polled).poll_frame(cx)));
        let Ok(poll) = this.call.within(poll) else {
            let trailers = this.panicked();
            return this.end(trailers);
        };
        let frame = match ready!(poll) {
            Some(Ok(frame)) => frame.into_trailers(),
            // Neither is an end that gRPC knows: its clients take it for UNKNOWN.
            other => {
                this.body = None;
                this.call.ended(Code::Unknown);
                return Poll::Ready(other);
            }
        };
        match frame {
            Err(data) => Poll::Ready(Some(Ok(data))),
            Ok(trailers) => match this.call.denial(status_in(&trailers).unwrap_or(Code::Unknown)) {
                None => this.end(trailers),
                Some(recording) => {
                    this.recording = Some((recording, trailers));
                    let trailers = ready!(this.poll_recorded(cx));
                    this.end(trailers)
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.recording.is_none() && self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::stream;
    use http_body_util::BodyExt as _;

    use super::super::refusals::Refusals;
    use super::*;

    const METHOD: &str = "/sidle.v1.AuditService/StreamEvents";
    const ID: Uuid = Uuid::from_u128(9);

    fn observed(metrics: &Metrics) -> Observed {
        let clock = Clock::system();
        let answering = Answering::new(Refusals::new(clock.clone()), None);
        Observed::begin(METHOD, Span::none(), (ID, answering), None, &clock, metrics)
    }

    /// How calls ended, and how many go on.
    fn counted(metrics: &Metrics) -> (Vec<String>, String) {
        let page = metrics.render().unwrap();
        let ended = page.lines().filter(|line| line.starts_with("sidle_calls_total{"));
        let ended = ended.map(|line| line.split("code=").nth(1).unwrap().replace(['"', '}'], "")).collect();
        let open = page.lines().find(|line| line.starts_with("sidle_calls_active{")).unwrap();
        (ended, open.rsplit(' ').next().unwrap().to_owned())
    }

    fn trailers(code: Code) -> Frame<Bytes> {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", (code as i32).into());
        Frame::trailers(trailers)
    }

    fn response(frames: Vec<Result<Frame<Bytes>, axum::Error>>) -> Response {
        Response::new(Body::new(http_body_util::StreamBody::new(stream::iter(frames))))
    }

    #[tokio::test]
    async fn a_stream_is_counted_when_it_ends_with_the_code_that_it_ends_with() {
        let metrics = Metrics::new();
        let frames = vec![Ok(Frame::data(Bytes::from("part"))), Ok(trailers(Code::Unauthenticated))];
        let mut body = observed(&metrics).answered(response(frames)).await.into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert_eq!(counted(&metrics), (vec![], "1".to_owned()));
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        drop(body);
        assert_eq!(counted(&metrics), (vec!["UNAUTHENTICATED 1".to_owned()], "0".to_owned()));
    }

    #[tokio::test]
    async fn every_other_end_is_counted_once() {
        let metrics = Metrics::new();
        drop(observed(&metrics));
        let silent = Body::from_stream(stream::pending::<Result<Bytes, axum::Error>>());
        drop(observed(&metrics).answered(Response::new(silent)).await);
        assert_eq!(counted(&metrics), (vec!["CANCELLED 2".to_owned()], "0".to_owned()));

        let mut refused = Response::new(Body::empty());
        refused.headers_mut().insert("grpc-status", 5.into());
        drop(observed(&metrics).answered(refused).await);
        let cut = vec![Ok(Frame::data(Bytes::from("part")))];
        assert!(observed(&metrics).answered(response(cut)).await.into_body().collect().await.is_ok());
        let broken = vec![Err(axum::Error::new("the way broke"))];
        assert!(observed(&metrics).answered(response(broken)).await.into_body().collect().await.is_err());
        let (mut ended, open) = counted(&metrics);
        ended.sort();
        assert_eq!(
            (ended, open),
            (["CANCELLED 2", "NOT_FOUND 1", "UNKNOWN 2"].map(str::to_owned).to_vec(), "0".into())
        );
    }

    #[tokio::test]
    async fn what_a_stream_does_is_done_under_the_id_of_its_call() {
        let metrics = Metrics::new();
        let ids = stream::poll_fn(|_| Poll::Ready(Some(Ok::<_, axum::Error>(format!("{:?}", correlation::current())))));
        let mut body = observed(&metrics).answered(Response::new(Body::from_stream(ids))).await.into_body();
        let seen = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(seen, format!("{:?}", Some(ID)));
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_with_an_error_that_carries_the_id() {
        let metrics = Metrics::new();
        let panics = stream::poll_fn(|_| -> Poll<Option<Result<Bytes, axum::Error>>> { panic!("on purpose") });
        let body = observed(&metrics).answered(Response::new(Body::from_stream(panics))).await.into_body();
        let collected = tokio::time::timeout(Duration::from_secs(60), body.collect()).await.unwrap().unwrap();
        let status = Status::from_header_map(collected.trailers().unwrap()).unwrap();
        let details = tonic_types::StatusExt::get_error_details(&status);
        assert_eq!(details.error_info().unwrap().metadata["correlation_id"], ID.to_string());
        assert_eq!(counted(&metrics), (vec!["INTERNAL 1".to_owned()], "0".to_owned()));
        assert_eq!(metrics.panics.get(), 1);
    }
}
