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
use tonic::{Code, Status};
use tracing::Instrument as _;
use tracing::field::Empty;
use uuid::Uuid;

use super::authentication::{self as layer, Gate};
use super::body::{Limits, Sender};
use super::connection::Peer;
use super::denials::Denials;
use super::observed::{Observed, status_in};
use super::quota::{Full, Quota};
use super::refusals::{ANSWERING, Answering, Refusals};
use super::streams::Streams;
use super::{Authorities, protocol};
use crate::access::{Call, Policy};
use crate::config::{Network, ServerConfig};
use crate::context::Context;
use crate::correlation;
use crate::fault::{Fault, Reason};
use crate::metrics::Metrics;
use crate::telemetry;
use crate::token::opaque;

/// Name of the header that carries the correlation id, both ways.
pub static CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

/// Name of the header that carries the fresh proof for a sensitive call.
const STEP_UP_HEADER: &str = "sidle-step-up";
/// Name of the header that carries the secret by which the device is known that a call comes from.
const KNOWN_DEVICE_HEADER: &str = "sidle-known-device";

/// Concurrent health checks, and those of one address.
const HEALTH_CHECKS: (usize, usize) = (512, 8);
/// Longest time until a health check is answered, its request included: a client that sends none must not keep the permit
/// of one that does.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Of a path that is not in the contract so many bytes are shown in the log: a caller may make up any.
const LONGEST_PATH: usize = 100;

/// A step that every call passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Refuses what is no gRPC at all.
    Protocol,
    /// Accepts or makes the correlation id, and notes the peer.
    RequestId,
    /// One span, one line in the log, and the metrics, for the whole of the call.
    Trace,
    /// Answers a panic in place of tearing the connection down.
    PanicGuard,
    /// Turns unreadable requests from our failure into the caller's.
    Malformed,
    /// Sheds calls beyond the limit of concurrent ones.
    LoadShed,
    /// Gives up when the caller has, or when it takes too long.
    Deadline,
    /// Authenticates the caller and checks their permission.
    Authentication,
    /// Bounds the messages of the request.
    MessageSize,
}

/// The steps, the outermost first.
pub const ORDER: [Step; 9] = [
    Step::Protocol,
    Step::RequestId,
    Step::Trace,
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
    /// Concurrent calls, by address.
    places: Quota,
    /// Of these, those that need no login.
    anonymous_permits: Quota,
    /// Of these, those of callers who have signed in, by caller: an account with many addresses is one all the same.
    caller_permits: Quota,
    /// Besides these, for health checks: calls must not make a healthy replica look dead.
    health_permits: Quota,
    streams: Streams,
    limits: Limits,
    refusals: Refusals,
    denials: Denials,
    call_timeout: Duration,
    trusted_proxies: Vec<Network>,
}

impl Edge {
    /// The edge of a service.
    pub fn new(
        config: &ServerConfig,
        context: Context,
        metrics: Metrics,
        (gate, authorities): (Gate, Authorities),
        denials: Denials,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                refusals: Refusals::new(context.clock.clone()),
                denials,
                context,
                metrics,
                gate,
                authorities,
                places: Quota::quartered(config.max_concurrent_calls),
                anonymous_permits: Quota::quartered((config.max_concurrent_calls / 2).max(1)),
                caller_permits: Quota::quartered(config.max_concurrent_calls),
                health_permits: Quota::new(HEALTH_CHECKS.0, HEALTH_CHECKS.1),
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

impl Edge {
    /// The refusal of a call for which there is no permit.
    fn shed(&self, full: Full) -> Response {
        let message = match full {
            Full::Total => "Too many calls are in work.",
            Full::Client => "Too many calls of this client are in work.",
        };
        let wait = self.inner.context.entropy.jitter(Duration::from_millis(500));
        refuse(Fault::new(Reason::Overloaded, message).retry_after(wait))
    }
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
    let address = address(&request, &edge.inner.trusted_proxies);
    let call = Call {
        known_device: digest(&request, KNOWN_DEVICE_HEADER),
        step_up: digest(&request, STEP_UP_HEADER),
        ..Call::arriving(id, address, user_agent)
    };
    request.extensions_mut().insert(call);
    let answering = Answering::new(edge.inner.refusals.clone(), address);
    let mut response = correlation::scope(id, ANSWERING.scope(answering, next.run(request))).await;
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
    let path = request.uri().path();
    // Only names from the contract become labels: a caller must not make up time series.
    let known = crate::access::policies().binary_search_by_key(&path, |(path, _)| path);
    let method = known.map_or("other", |at| crate::access::policies()[at].0);
    let id = correlation::current().unwrap_or_default();
    // Of the highest level, so that whatever is logged of the call carries its id.
    let shown = if known.is_ok() { path } else { &path[..path.floor_char_boundary(LONGEST_PATH)] };
    let span = tracing::error_span!("rpc", method = shown, correlation_id = %id, otel.kind = Empty, otel.name = Empty);
    telemetry::rpc_begun(&span, method, request.headers());
    let inner = &edge.inner;
    let answering = ANSWERING.get();
    let (clock, metrics) = (&inner.context.clock, &inner.metrics);
    let call = Observed::begin(method, span.clone(), (id, answering), Some(inner.denials.clone()), clock, metrics);
    let response = next.run(request).instrument(span).await;
    call.answered(response).await
}

/// The status that the response begins with; streams that end with an error later began well.
fn code_of(response: &Response) -> Code {
    status_in(response.headers()).unwrap_or(Code::Ok)
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

/// The transport answers `INTERNAL` for what it could not read, and `UNIMPLEMENTED` for what there is not. A failure of ours
/// always carries our details, so that what carries none is the caller's.
async fn malformed(State(_): State<Edge>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.headers().contains_key("grpc-status-details-bin") {
        return response;
    }
    match code_of(&response) {
        Code::Internal => refuse(Fault::new(Reason::MalformedRequest, "The request cannot be read.")),
        // With that header it is the answer to a compression that is not read, and says which are.
        Code::Unimplemented if !response.headers().contains_key("grpc-accept-encoding") => {
            refuse(Fault::new(Reason::NoSuchMethod, "There is no RPC of this name."))
        }
        _ => response,
    }
}

async fn load_shed(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    // A call that never sends its message holds its permit until the deadline: anybody can make those, so calls without a
    // login get half of the permits, and what verifies tokens goes on; and one address gets a part of either.
    let inner = &edge.inner;
    let address = request.extensions().get::<Call>().and_then(|call| call.address);
    let places: &[&Quota] = match request.uri().path() {
        path if path.starts_with(layer::HEALTH) => &[&inner.health_permits],
        path if layer::policy(&inner.gate, path) == Policy::Public => &[&inner.places, &inner.anonymous_permits],
        _ => &[&inner.places],
    };
    let taken: Result<Vec<_>, _> = places.iter().map(|places| places.take(address, 1)).collect();
    let _taken = match taken {
        Ok(taken) => taken,
        Err(full) => return edge.shed(full),
    };
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
    let mut limit = edge.inner.call_timeout;
    if request.uri().path().starts_with(layer::HEALTH) {
        limit = limit.min(HEALTH_TIMEOUT);
    }
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
    let admitted = layer::admit(&edge.inner.gate, &mut request, holder).await;
    if let Some(call) = request.extensions().get::<Call>() {
        let _ = ANSWERING.try_with(|answering| answering.identified(call));
    }
    if let Err(fault) = admitted {
        edge.inner.metrics.denied(fault.reason());
        return refuse(fault);
    }
    // Only from here on it is known whose call it is.
    let caller = request.extensions().get::<Call>().and_then(|call| call.principal.as_ref()).map(|known| known.id);
    match caller.map(|caller| edge.inner.caller_permits.take_as(caller, 1)).transpose() {
        Ok(_taken) => next.run(request).await,
        Err(full) => edge.shed(full),
    }
}

/// The last step, since only here it is known whether the caller has signed in; nothing reads the body before.
async fn message_size(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let inner = &edge.inner;
    let call = request.extensions().get::<Call>();
    let sender = match call.and_then(|call| call.principal.as_ref()) {
        Some(principal) => Sender::SignedIn(principal.id),
        None => Sender::Stranger(call.and_then(|call| call.address)),
    };
    let (parts, body) = request.into_parts();
    let connection = parts.extensions.get::<Peer>().map(|peer| &peer.bytes);
    let body = inner.limits.bound(parts.uri.path(), body, connection, sender, &inner.context.entropy);
    next.run(Request::from_parts(parts, body)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_layers_is_fixed() {
        use Step::{
            Authentication, Deadline, LoadShed, Malformed, MessageSize, PanicGuard, Protocol, RequestId, Trace,
        };
        assert_eq!(
            ORDER,
            [Protocol, RequestId, Trace, PanicGuard, Malformed, LoadShed, Deadline, Authentication, MessageSize]
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
