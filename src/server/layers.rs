//! What every call passes before its RPC, in one order that a test pins. Each step is a function from request and next
//! step to response.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use tracing::Instrument as _;
use uuid::Uuid;

use super::body::Limits;
use super::connection::Peer;
use super::status::CORRELATION;
use super::streams::Streams;
use super::{Authorities, protocol};
use crate::access::layer::Gate;
use crate::access::{Call, Policy, layer};
use crate::config::{Network, ServerConfig};
use crate::context::Context;
use crate::fault::{Fault, Reason};
use crate::metrics::Metrics;
use crate::session::opaque;

/// Name of the header that carries the correlation id, both ways.
pub static CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

/// Name of the header that carries the fresh proof for a sensitive call.
const STEP_UP_HEADER: &str = "sidle-step-up";
/// Name of the header that carries the secret by which the device is known that a call comes from.
const KNOWN_DEVICE_HEADER: &str = "sidle-known-device";

/// Health checks that may be in work at once.
const HEALTH_CHECKS: usize = 64;

/// A step that every call passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Turns away what is no gRPC at all.
    Protocol,
    /// Accepts or makes the correlation id, and notes who is on the other end.
    RequestId,
    /// One span and one line in the log.
    Trace,
    /// Counts and times.
    Metrics,
    /// Answers a panic in place of tearing the connection down.
    PanicGuard,
    /// Turns unreadable requests from our failure into the caller's.
    Malformed,
    /// Turns calls away when too many are in work.
    LoadShed,
    /// Gives up when the caller has, or when it takes too long.
    Deadline,
    /// Who is calling, and may they.
    Authentication,
    /// Bounds the messages of the request.
    MessageSize,
}

/// The steps, the outermost first.
pub const ORDER: [Step; 10] = [
    Step::Protocol,
    Step::RequestId,
    Step::Trace,
    Step::Metrics,
    Step::PanicGuard,
    Step::Malformed,
    Step::LoadShed,
    Step::Deadline,
    Step::Authentication,
    Step::MessageSize,
];

/// What the steps need.
#[derive(Clone)]
pub struct Edge {
    inner: Arc<Inner>,
}

struct Inner {
    context: Context,
    metrics: Metrics,
    gate: Gate,
    authorities: Authorities,
    places: Semaphore,
    /// Of these, those for calls that need no login.
    places_of_strangers: Semaphore,
    /// Besides these, for health checks: nobody's calls are to make a healthy replica look dead.
    places_of_health: Semaphore,
    streams: Streams,
    limits: Limits,
    call_timeout: Duration,
    trusted_proxies: Vec<Network>,
}

impl Edge {
    /// The edge of a service.
    pub fn new(
        config: &ServerConfig,
        context: Context,
        metrics: Metrics,
        gate: Gate,
        authorities: Authorities,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                context,
                metrics,
                gate,
                authorities,
                places: Semaphore::new(config.max_concurrent_calls),
                places_of_strangers: Semaphore::new((config.max_concurrent_calls / 2).max(1)),
                places_of_health: Semaphore::new(HEALTH_CHECKS),
                streams: Streams::new(config),
                limits: Limits::new(config),
                call_timeout: config.call_timeout,
                trusted_proxies: config.trusted_proxies.clone(),
            }),
        }
    }

    /// `router` behind every step of [`ORDER`].
    pub fn wrap(&self, mut router: Router) -> Router {
        // The layer that is added last is the outermost.
        for step in ORDER.into_iter().rev() {
            let edge = self.clone();
            router = match step {
                Step::Protocol => router.layer(from_fn_with_state(edge, protocol)),
                Step::RequestId => router.layer(from_fn_with_state(edge, request_id)),
                Step::Trace => router.layer(from_fn_with_state(edge, trace)),
                Step::Metrics => router.layer(from_fn_with_state(edge, metrics)),
                Step::PanicGuard => router.layer(from_fn_with_state(edge, panic_guard)),
                Step::Malformed => router.layer(from_fn_with_state(edge, malformed)),
                Step::LoadShed => router.layer(from_fn_with_state(edge, load_shed)),
                Step::Deadline => router.layer(from_fn_with_state(edge, deadline)),
                Step::Authentication => router.layer(from_fn_with_state(edge, authentication)),
                Step::MessageSize => router.layer(from_fn_with_state(edge, message_size)),
            };
        }
        router
    }
}

fn refuse(fault: Fault) -> Response {
    Status::from(fault).into_http()
}

/// What a secret in a header is looked up by.
fn digest(request: &Request, header: &str) -> Option<[u8; 32]> {
    request.headers().get(header).map(|secret| opaque::digest(secret.as_bytes()))
}

async fn protocol(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    match protocol::refusal(&request) {
        Some((status, response)) => {
            edge.inner.metrics.not_grpc(status.as_u16());
            response
        }
        None => next.run(request).await,
    }
}

async fn request_id(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    let offered = request.headers().get(&CORRELATION_HEADER).and_then(|value| value.to_str().ok());
    // Only a UUID is taken over: the id lands in logs, where free text would be an invitation.
    let id = offered.and_then(|text| Uuid::try_parse(text).ok()).unwrap_or_else(|| edge.inner.context.new_id());
    let user_agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let user_agent = user_agent.map(|text| text.chars().take(512).collect());
    let call = Call {
        known_device: digest(&request, KNOWN_DEVICE_HEADER),
        step_up: digest(&request, STEP_UP_HEADER),
        ..Call::arriving(id, address(&request, &edge.inner.trusted_proxies), user_agent)
    };
    request.extensions_mut().insert(call);
    let mut response = CORRELATION.scope(id, next.run(request)).await;
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(CORRELATION_HEADER.clone(), value);
    }
    response
}

/// The peer of the connection; behind a configured proxy, the last address in `x-forwarded-for` that is not a proxy.
pub(super) fn address(request: &Request, proxies: &[Network]) -> Option<std::net::IpAddr> {
    let is_proxy = |address| proxies.iter().any(|network| network.contains(address));
    let peer = request.extensions().get::<Peer>()?.address.ip().to_canonical();
    if !is_proxy(peer) {
        return Some(peer);
    }
    let forwarded = request.headers().get_all("x-forwarded-for");
    let hops: Vec<&str> = forwarded.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).collect();
    for hop in hops.into_iter().rev() {
        match hop.trim().parse::<std::net::IpAddr>().map(|hop| hop.to_canonical()) {
            Ok(hop) if is_proxy(hop) => {}
            Ok(hop) => return Some(hop),
            // Whatever stands before something unreadable was not written by a proxy we know.
            Err(_) => break,
        }
    }
    Some(peer)
}

async fn trace(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let method = request.uri().path().to_owned();
    let correlation_id = CORRELATION.try_with(ToString::to_string).unwrap_or_default();
    let span = tracing::info_span!("rpc", method, correlation_id);
    async move {
        let begun = edge.inner.context.clock.instant();
        let response = next.run(request).await;
        let code = code_of(&response);
        let millis = begun.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(event = "call_answered", code = ?code, millis, "answered");
        response
    }
    .instrument(span)
    .await
}

/// The status that the response begins with; streams that end with an error later began well.
fn code_of(response: &Response) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

async fn metrics(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    // Only names from the contract become labels: a caller must not make up time series.
    let method = crate::access::policies()
        .binary_search_by_key(&request.uri().path(), |(path, _)| path)
        .map_or("other", |at| crate::access::policies()[at].0);
    let begun = edge.inner.context.clock.instant();
    let response = next.run(request).await;
    edge.inner.metrics.call(method, code_of(&response), begun.elapsed());
    response
}

async fn panic_guard(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            edge.inner.metrics.panics.inc();
            refuse(Fault::internal("a call panicked"))
        }
    }
}

/// The transport answers `INTERNAL` for what it could not read. A failure of ours always carries our details, so that
/// what carries none is the caller's.
async fn malformed(State(_): State<Edge>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let ours = response.headers().contains_key("grpc-status-details-bin");
    if code_of(&response) == Code::Internal && !ours {
        return refuse(Fault::new(Reason::MalformedRequest, "The request cannot be read."));
    }
    response
}

async fn load_shed(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    // A call that never sends its message holds its place until the deadline: anybody can make those, so whoever need not
    // sign in gets half of the places, and what verifies tokens goes on.
    let inner = &edge.inner;
    let places: &[&Semaphore] = match request.uri().path() {
        path if path.starts_with(layer::HEALTH) => &[&inner.places_of_health],
        path if layer::policy(&inner.gate, path) == Policy::Public => &[&inner.places, &inner.places_of_strangers],
        _ => &[&inner.places],
    };
    let taken: Result<Vec<_>, _> = places.iter().map(|places| places.try_acquire()).collect();
    let Ok(_taken) = taken else {
        let fault = Fault::new(Reason::Overloaded, "Too many calls are in work.");
        return refuse(fault.retry_after(edge.inner.context.entropy.jitter(Duration::from_millis(500))));
    };
    let address = request.extensions().get::<Call>().and_then(|call| call.address);
    let stream = match inner.streams.permit(request.uri().path(), address) {
        Ok(stream) => stream,
        Err(fault) => return refuse(fault),
    };
    let response = next.run(request).await;
    match stream {
        Some(permit) => inner.streams.hold(response, permit),
        None => response,
    }
}

async fn deadline(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let limit = edge.inner.call_timeout;
    let limit = match request.headers().get("grpc-timeout") {
        None => limit,
        Some(value) => match value.to_str().ok().and_then(grpc_timeout) {
            Some(asked) => asked.min(limit),
            None => return refuse(Fault::new(Reason::MalformedRequest, "The grpc-timeout header cannot be read.")),
        },
    };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => refuse(Fault::new(Reason::DeadlineExceeded, "The call took too long.")),
    }
}

/// At most eight digits and a unit, as the gRPC protocol says.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let in_bounds = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let amount: u64 = in_bounds.then(|| digits.parse().ok()).flatten()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

async fn authentication(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>();
    let holder = match peer.and_then(|peer| peer.certificates.as_deref()) {
        Some(chain) => edge.inner.authorities.holder(chain, edge.inner.context.now()),
        None => Ok(None),
    };
    match layer::admit(&edge.inner.gate, &mut request, holder).await {
        Ok(()) => next.run(request).await,
        Err(fault) => {
            edge.inner.metrics.denied(fault.reason());
            refuse(fault)
        }
    }
}

/// The last step, since only here it is known whether the caller has signed in; nothing reads the body before.
async fn message_size(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let inner = &edge.inner;
    let call = request.extensions().get::<Call>();
    let stranger = match call {
        Some(call) if call.principal.is_some() => None,
        call => Some(call.and_then(|call| call.address)),
    };
    let (parts, body) = request.into_parts();
    let connection = parts.extensions.get::<Peer>().map(|peer| &peer.bytes);
    let body = inner.limits.bound(parts.uri.path(), body, connection, stranger, &inner.context.entropy);
    next.run(Request::from_parts(parts, body)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_layers_is_what_the_house_says() {
        use Step::{
            Authentication, Deadline, LoadShed, Malformed, MessageSize, Metrics, PanicGuard, Protocol, RequestId, Trace,
        };
        assert_eq!(
            ORDER,
            [
                Protocol,
                RequestId,
                Trace,
                Metrics,
                PanicGuard,
                Malformed,
                LoadShed,
                Deadline,
                Authentication,
                MessageSize
            ]
        );
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_says() {
        assert_eq!(grpc_timeout("1S"), Some(Duration::from_secs(1)));
        assert_eq!(grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        for broken in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1é", "é"] {
            assert_eq!(grpc_timeout(broken), None, "{broken}");
        }
    }

    fn from(peer: &str, forwarded: &str, proxies: &[&str]) -> Option<String> {
        let mut request = Request::new(axum::body::Body::empty());
        request.extensions_mut().insert(Peer::at(format!("{peer}:1").parse().unwrap()));
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
        let proxies: Vec<Network> = proxies.iter().map(|p| p.parse().unwrap()).collect();
        address(&request, &proxies).map(|address| address.to_string())
    }

    #[test]
    fn forwarded_addresses_count_only_from_a_configured_proxy() {
        assert_eq!(from("192.0.2.1", "198.51.100.9", &[]).unwrap(), "192.0.2.1", "anybody can write the header");
        assert_eq!(from("192.0.2.1", "203.0.113.5, 198.51.100.9", &["192.0.2.1"]).unwrap(), "198.51.100.9");
        assert_eq!(from("192.0.2.1", "198.51.100.9, 192.0.2.2", &["192.0.2.1", "192.0.2.2"]).unwrap(), "198.51.100.9");
        assert_eq!(from("192.0.2.1", "198.51.100.9, nonsense", &["192.0.2.1"]).unwrap(), "192.0.2.1");
        assert_eq!(from("192.0.2.77", "198.51.100.9, 192.0.2.2", &["192.0.2.0/24"]).unwrap(), "198.51.100.9");
        assert_eq!(from("192.0.3.1", "198.51.100.9", &["192.0.2.0/24"]).unwrap(), "192.0.3.1");
    }
}
