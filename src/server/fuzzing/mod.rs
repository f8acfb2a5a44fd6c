//! Fuzz targets of the edge: whole calls, from the bytes of the request to the bytes of the refusal, through every layer,
//! the codec and the validation of every RPC, up to its first question to the database, of which there is none.

mod certificates;
mod stub_database;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request};
use axum::response::Response;
use tokio::runtime::Runtime;
use tonic::Code;
use tower::ServiceExt as _;
use uuid::Uuid;

pub(crate) use self::certificates::certificates;
use super::authentication::Gate;
use super::certificates::Certificates;
use super::connection::Peer;
use super::layers::{CORRELATION_HEADER, address};
use super::{Authorities, Denials, Edge};
use crate::access::{Permissions, PrincipalKind, policies};
use crate::app::App;
use crate::config::Config;
use crate::context::Context;
use crate::fuzzing::Input;
use crate::session::fuzzing::make_ready;
use crate::token::Grant;

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

struct Service {
    runtime: Runtime,
    router: Router,
    app: App,
    /// Of an administrator of everything, and of a user who may do nothing.
    tokens: [String; 2],
}

fn service() -> &'static Mutex<Service> {
    static SERVICE: OnceLock<Mutex<Service>> = OnceLock::new();
    SERVICE.get_or_init(|| Mutex::new(Service::new()))
}

impl Service {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let database = runtime.block_on(stub_database::start()).expect("a port is free");
        let database = format!("postgres://nobody@{database}/nothing?sslmode=disable");
        let settings = [
            ("SERVER__PLAINTEXT", "true"),
            // Streams and other long calls are over soon.
            ("SERVER__CALL_TIMEOUT", "20ms"),
            ("SERVER__TRUSTED_PROXIES", "192.0.2.1,192.0.2.2"),
            ("DATABASE__URL", database.as_str()),
            ("DATABASE__ACQUIRE_TIMEOUT", "20ms"),
            ("SEAL__KEYS", "1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="),
            ("TOKENS__ACCESS_LIFETIME", "365d"),
            ("TOKENS__MAX_REVOCATION_AGE", "365d"),
            ("PASSWORDS__COST", "4"),
            ("PASSWORDS__THREADS", "1"),
        ];
        let settings = settings.map(|(name, value)| (format!("SIDLE_{name}"), value.to_owned()));
        let config = Config::load(None, settings).expect("the settings are good");
        let (app, router) = runtime.block_on(async {
            let app = App::new(config, Context::system()).await.expect("an app needs no database to be made");
            make_ready(&app.sessions);
            let certificates =
                Certificates::new(app.db.clone(), app.context.clone(), app.config.tokens.access_lifetime);
            let gate = Gate {
                certificates,
                verifier: app.verifier.clone(),
                audience: app.config.tokens.audience.as_str().into(),
                open_reflection: false,
            };
            let denials = Denials::new(app.db.clone(), app.recorder.clone(), app.context.clock.clone());
            let gate = (gate, Authorities::default());
            let edge = Edge::new(&app.config.server, app.context.clone(), app.metrics.clone(), gate, denials);
            let router = edge.wrap(
                app.services().register(app.config.server.max_message_bytes).expect("every service can be registered"),
            );
            (app, router)
        });
        let tokens = [("", "*"), ("", "")].map(|(own, platform)| token(&app, own, platform));
        Self { runtime, router, app, tokens }
    }

    /// Answers a call and checks the answer: whatever came in, nothing of ours failed.
    fn answer(&self, request: Request<Body>) -> Response {
        let path = request.uri().path().to_owned();
        let Ok(response) = self.runtime.block_on(self.router.clone().oneshot(request));
        assert_eq!(self.app.metrics.panics.get(), 0, "{path} panicked");
        let code = response.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
        let is_ours = matches!(code, Code::Internal | Code::Unknown | Code::DataLoss);
        assert!(!is_ours, "{path} answers {code:?}: {:?}", response.headers());
        let size: usize = response.headers().values().map(HeaderValue::len).sum();
        assert!(size < 16 * 1024, "{path} answers with {size} bytes of headers");
        let id = response.headers().get(&CORRELATION_HEADER).and_then(|id| id.to_str().ok());
        assert!(id.is_some_and(|id| Uuid::try_parse(id).is_ok()), "{path} answers without a correlation id");
        response
    }
}

fn token(app: &App, own: &str, platform: &str) -> String {
    let grant = Grant {
        kind: PrincipalKind::User,
        subject: Uuid::from_u128(1),
        session_id: Some(Uuid::from_u128(2)),
        tenant_id: Some(Uuid::from_u128(3)),
        audience: app.config.tokens.audience.clone(),
        roles: crate::token::RoleNames::default(),
        permissions: Permissions::parse(own),
        platform_permissions: Permissions::parse(platform).on_platform(),
        epoch: sidle_token::Epoch::FIRST,
        not_after: None,
    };
    app.sessions.issuer.issue(app.context.new_id(), &grant).expect("a key signs").token
}

fn request(path: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = axum::http::Method::POST;
    *request.uri_mut() = path.parse().expect("the path of an RPC is a URI");
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("te", HeaderValue::from_static("trailers"));
    request.extensions_mut().insert(Peer::at(SocketAddr::from((PROXY, 4711))));
    request
}

/// The path of the RPC that a line names by its end; another line stands for any of them.
fn method(line: &[u8]) -> &'static str {
    let named = policies().iter().find(|(path, _)| line.len() > 8 && path.as_bytes().ends_with(line));
    let any = line.iter().map(|byte| usize::from(*byte)).sum::<usize>() % policies().len();
    named.map_or(policies()[any].0, |(path, _)| path)
}

/// A line that names the RPC, a byte that chooses the caller and the framing, then the message.
pub(crate) fn calls(data: &[u8]) {
    let service = service().lock().unwrap_or_else(PoisonError::into_inner);
    let mut input = Input::new(data);
    let mut request = request(method(input.line()));
    let how = input.byte();
    let message = input.rest();
    if let Some(token) = service.tokens.get(usize::from(how % 4)) {
        let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a token is text");
        request.headers_mut().insert("authorization", value);
    }
    *request.body_mut() = if how & 0x80 == 0 {
        let length = u32::try_from(message.len()).unwrap_or_default();
        Body::from([&[0], length.to_be_bytes().as_slice(), message].concat())
    } else {
        // The fuzzer's own frames: several of them, cut ones, lengths that lie.
        Body::from(message.to_vec())
    };
    service.answer(request);
}

/// A line that names the RPC, then lines of `name: value`.
pub(crate) fn metadata(data: &[u8]) {
    let service = service().lock().unwrap_or_else(PoisonError::into_inner);
    let mut input = Input::new(data);
    let mut request = request(method(input.line()));
    for line in input.rest().split(|byte| *byte == b'\n').take(32) {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        let name = HeaderName::from_bytes(name);
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii());
        // With another content type it is no call, and is answered as HTTP.
        if let (Ok(name), Ok(value)) = (name, value)
            && name != "content-type"
        {
            request.headers_mut().append(name, value);
        }
    }
    let proxies = &service.app.config.server.trusted_proxies;
    let from = address(&request, proxies).expect("a connection has a peer");
    assert!(
        from == PROXY || !proxies.iter().any(|proxy| proxy.contains(from)),
        "a proxy passes for the caller: {from}"
    );
    // Without a trusted proxy the header says nothing.
    assert_eq!(address(&request, &[]), Some(PROXY));
    service.answer(request);
}
