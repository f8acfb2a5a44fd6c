//! The correlation id of a call: in every log line that is written for it, and in every error.

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sidle::proto;
use sidle::proto::complete_mfa_request::Factor;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;
use uuid::Uuid;

use crate::authenticate::factors::{challenge, guarded, tick};
use crate::authenticate::{api_key, set_hash};
use crate::look::reason;
use crate::support::{ADMIN_PASSWORD, Setup, eventually};

/// What is logged on this thread from now on, down to `DEBUG`. A test's server runs on the test's own thread.
#[derive(Clone, Default)]
pub struct Logged {
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logged {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Logged {
    /// Begins to keep the log, until the guard is dropped.
    pub fn start() -> (Self, DefaultGuard) {
        Self::start_at(tracing::Level::DEBUG)
    }

    /// The same, down to this level.
    pub fn start_at(level: tracing::Level) -> (Self, DefaultGuard) {
        let logged = Self::default();
        let log = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(logged.clone())
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .finish();
        (logged, tracing::subscriber::set_default(log))
    }

    /// Forgets what was logged so far, such as while the server started.
    pub fn clear(&self) {
        self.bytes.lock().unwrap().clear();
    }

    /// Sidle's own lines so far.
    fn lines(&self) -> Vec<Value> {
        let bytes = self.bytes.lock().unwrap();
        let lines = std::str::from_utf8(&bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap());
        lines.filter(|line: &Value| line["target"].as_str().is_some_and(|target| target.starts_with("sidle"))).collect()
    }

    /// The lines that are logged under this id once `last` is among their events.
    pub async fn under(&self, id: Uuid, last: &str) -> Vec<Value> {
        eventually(&format!("{last} under {id}"), async || {
            let lines = self.lines().into_iter().filter(|line| line["span"]["correlation_id"] == id.to_string());
            let lines: Vec<Value> = lines.collect();
            lines.iter().any(|line| line["event"] == last).then_some(lines)
        })
        .await
    }

    /// The events that are logged under this id once `last` is among them; of the others it is none.
    pub async fn events(&self, id: Uuid, last: &str) -> Vec<String> {
        let lines = self.under(id, last).await;
        lines.into_iter().map(|line| line["event"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Fails when a line has no id, except those of work that no call began.
    pub fn assert_all_have_an_id(&self, of_workers: &[&str]) {
        let lines = self.lines();
        let is_of_a_call = |line: &&Value| !of_workers.iter().any(|event| line["event"] == *event);
        let without =
            |line: &&Value| line["span"]["correlation_id"].as_str().and_then(|id| Uuid::parse_str(id).ok()).is_none();
        let without: Vec<&Value> = lines.iter().filter(is_of_a_call).filter(without).collect();
        assert!(without.is_empty(), "{without:#?}");
    }
}

/// `message` as the request of a call with an id of its own.
pub fn call<T>(message: T) -> (Uuid, Request<T>) {
    let id = Uuid::new_v4();
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-correlation-id", id.to_string().parse().unwrap());
    (id, request)
}

/// The id that an error carries.
fn id_in(status: &Status) -> Option<Uuid> {
    let info = status.get_details_error_info()?;
    Uuid::parse_str(info.metadata.get("correlation_id")?).ok()
}

fn password(identifier: &str, password: &str) -> proto::AuthenticatePasswordRequest {
    let (identifier, password) = (identifier.to_owned(), password.to_owned());
    proto::AuthenticatePasswordRequest { identifier, password, ..Default::default() }
}

#[tokio::test]
async fn every_line_of_a_login_is_under_the_id_of_its_call() {
    let (logged, _guard) = Logged::start();
    let server = Setup::new().await.with("PASSWORDS__COST", "5").start().await;
    let tenant = server.tenant("a").await;
    let (ann, bob) =
        (server.user(tenant, "ann@example.com", "user").await, guarded(&server, tenant, "bob@example.com").await);
    let mut calls = server.client("").authenticate;
    logged.clear();

    // Its hash is of a lower cost than today's: it is rehashed after the answer, and fails at that on purpose.
    set_hash(&server, ann, &crate::support::cheap_hash(ADMIN_PASSWORD), 4).await;
    let (id, request) = call(password("ann@example.com", ADMIN_PASSWORD));
    let signed_in = calls.authenticate_password(request).await.unwrap().into_inner().outcome;
    let Some(proto::authenticate_password_response::Outcome::SignedIn(signed_in)) = signed_in else {
        panic!("signed in")
    };
    logged.events(id, "user_authenticated").await;

    let (id, request) = call(password("ann@example.com", "a guess"));
    let refused = calls.authenticate_password(request).await.unwrap_err();
    assert_eq!((reason(&refused).as_str(), id_in(&refused)), ("INVALID_CREDENTIALS", Some(id)));
    logged.events(id, "user_login_refused").await;

    let challenge = challenge(&server, bob.email).await.unwrap();
    let factor = |code: String| proto::CompleteMfaRequest {
        challenge_token: challenge.challenge_token.clone(),
        factor: Some(Factor::TotpCode(code)),
    };
    let (id, request) = call(factor(bob.wrong(&server)));
    assert_eq!(id_in(&calls.complete_mfa(request).await.unwrap_err()), Some(id));
    logged.events(id, "user_second_factor_refused").await;
    tick(&server);
    let (id, request) = call(factor(bob.code(&server)));
    calls.complete_mfa(request).await.unwrap();
    logged.events(id, "user_authenticated").await;

    let key = api_key(&server, Some(tenant), &["users.read"], &["users.read"]).await;
    let (id, request) = call(proto::AuthenticateServiceAccountRequest { api_key: key, ..Default::default() });
    calls.authenticate_service_account(request).await.unwrap();
    logged.events(id, "call_answered").await;
    let key = format!("sidle_ak_{}", "A".repeat(43));
    let (id, request) = call(proto::AuthenticateServiceAccountRequest { api_key: key, ..Default::default() });
    assert_eq!(id_in(&calls.authenticate_service_account(request).await.unwrap_err()), Some(id));
    logged.events(id, "call_answered").await;

    let refresh =
        proto::RefreshTokenRequest { refresh_token: signed_in.tokens.unwrap().refresh_token, ..Default::default() };
    let (id, request) = call(refresh);
    let refreshed = calls.refresh_token(request).await.unwrap().into_inner();
    logged.events(id, "call_answered").await;

    let step_up = proto::StepUpRequest {
        method: "sidle.v1.AuthenticateService/EnrollTotp".to_owned(),
        proof: Some(proto::step_up_request::Proof::Password("a guess".to_owned())),
        ..Default::default()
    };
    let (id, request) = call(step_up);
    let mut ann = server.client(&refreshed.tokens.unwrap().access_token).authenticate;
    assert_eq!(id_in(&ann.step_up(request).await.unwrap_err()), Some(id));
    logged.events(id, "user_reauthentication_failed").await;

    logged.assert_all_have_an_id(OF_WORKERS);
}

/// What work without a call logs.
pub const OF_WORKERS: &[&str] = &["audit_listening_works", "mail_server_failed"];

#[tokio::test]
async fn a_stream_that_is_refused_later_says_its_id_and_is_counted_when_it_ends() {
    let (logged, _guard) = Logged::start();
    let server = Setup::new().await.start().await;
    let admin = server.admin().await;
    let (id, request) = call(proto::StreamEventsRequest::default());
    let mut events = admin.audit.clone().stream_events(request).await.unwrap().into_inner();
    const METHOD: &str = "method=\"/sidle.v1.AuditService/StreamEvents\"";
    let counted = |name: &str| {
        let page = server.app().metrics.render().unwrap();
        page.lines()
            .filter(|line| line.starts_with(name) && line.contains(METHOD))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(counted("sidle_calls_total"), Vec::<String>::new(), "it goes on");
    assert_eq!(counted("sidle_calls_active"), [format!("sidle_calls_active{{{METHOD}}} 1")]);
    admin.session.clone().revoke_session(proto::RevokeSessionRequest::default()).await.unwrap();
    let refused = eventually("the stream ends", async || events.message().await.err()).await;
    assert_eq!((refused.code(), id_in(&refused)), (tonic::Code::Unauthenticated, Some(id)));
    let events = logged.events(id, "call_answered").await;
    assert!(events.contains(&"call_refused".to_owned()), "{events:?}");
    assert_eq!(counted("sidle_calls_total"), [format!("sidle_calls_total{{{METHOD},code=\"UNAUTHENTICATED\"}} 1")]);
    assert_eq!(counted("sidle_calls_active"), [format!("sidle_calls_active{{{METHOD}}} 0")]);
}
