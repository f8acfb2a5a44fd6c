//! The HTTP base that every call to Kanidm goes through: one origin, no redirects, TLS, time limits, bounded answers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Method, Url, redirect, retry};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::{Instrument as _, Span};
use zeroize::Zeroizing;

use super::breaker::Breaker;
use super::error::{KanidmError, Result};
use crate::config::{KanidmConfig, Secret, files};
use crate::context::Clock;
use crate::fault::{Fault, Result as FaultResult};
use crate::metrics::Circuit;
use crate::metrics::Metrics;
use crate::network::{Cause, Peer};
use crate::startup::StartFailure;
use crate::telemetry;

/// The largest answer that is read. Everything Sidle asks for is far smaller.
const LARGEST_ANSWER: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const VERSION: HeaderName = HeaderName::from_static("x-kanidm-version");
const SIGN_IN: HeaderName = HeaderName::from_static("x-kanidm-auth-session-id");

/// The client of Kanidm.
#[derive(Clone)]
pub struct Kanidm {
    inner: Arc<Inner>,
    /// None for a caller that waits by itself when Kanidm does not answer.
    breaker: Option<Arc<Breaker>>,
    /// The longest time a call may take.
    limit: Duration,
}

struct Inner {
    base: Url,
    http: reqwest::Client,
    token: Secret,
    metrics: Metrics,
    clock: Clock,
    /// Why the last call got no answer; none after one that did.
    trouble: Mutex<Option<String>>,
    /// What kept the last connection from being made.
    unconnected: Mutex<Option<Cause>>,
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Kanidm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kanidm({})", self.inner.base)
    }
}

/// As whom a call is made.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// Without credentials.
    None,
    /// As Sidle's service account.
    ServiceAccount,
    /// With somebody's session.
    Bearer(&'a Secret),
    /// A step of signing in, after the first one with what the step before answered.
    SignIn(Option<&'a HeaderValue>),
    /// As an OAuth2 client.
    Client {
        /// Name of the client.
        id: &'a str,
        secret: &'a Secret,
    },
}

/// What a call sends.
pub enum Body<'a> {
    /// Nothing.
    None,
    Json(&'a Value),
    /// JSON that holds a secret, wiped once it is sent.
    Secret(Zeroizing<Vec<u8>>),
    /// Fields of a form.
    Form(&'a [(&'a str, &'a str)]),
}

/// What came back, whatever its status.
pub struct Answer {
    pub status: u16,
    /// Body, of bounded size.
    pub body: Vec<u8>,
    /// Kanidm's release, where it is given.
    pub version: Option<String>,
    /// Kanidm's clock, in whole seconds.
    pub date: Option<DateTime<Utc>>,
    /// What the next step of signing in is made with.
    pub sign_in: Option<HeaderValue>,
}

impl Answer {
    /// What the headers say, with an empty body.
    fn of(status: u16, headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let version = text(&VERSION).map(str::to_owned);
        let date = text(&DATE).and_then(|date| DateTime::parse_from_rfc2822(date).ok()).map(|date| date.to_utc());
        Self { status, body: Vec::new(), version, date, sign_in: headers.get(SIGN_IN).cloned() }
    }

    /// The body of a success; what is not one becomes the error that it means.
    ///
    /// # Errors
    /// What the answer means, or `Nonsense`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        if !(200..300).contains(&self.status) {
            return Err(KanidmError::read(self.status, &self.body));
        }
        // The parser's message may quote the body.
        serde_json::from_slice(&self.body).map_err(|e| {
            KanidmError::Nonsense(format!("status {}, unexpected JSON at byte {}", self.status, e.column()))
        })
    }
}

impl Kanidm {
    /// The client of the configured Kanidm; none when none is configured.
    ///
    /// # Errors
    /// When a setting cannot be used; the message names it.
    pub fn new(config: &KanidmConfig, clock: Clock, metrics: Metrics) -> FaultResult<Option<Self>> {
        if config.url.is_empty() {
            return Ok(None);
        }
        let base = base(&config.url)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("sidle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // A token must not follow a redirect to another place, nor go through a proxy that the environment names.
            .redirect(redirect::Policy::none())
            .no_proxy()
            // Whether a call may be repeated is for its caller to decide, who knows what it was about.
            .retry(retry::never());
        if let Some(path) = &config.ca_file {
            let unreadable = |e: &dyn fmt::Display| {
                Fault::field("kanidm.ca_file", format!("names {}, which cannot be used: {e}", path.display()))
            };
            let pem = std::fs::read(path).map_err(|e| unreadable(&files::unreadable(&e)))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|e| unreadable(&e))?;
            if certificates.is_empty() {
                return Err(unreadable(&"it holds no certificate"));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let token = config.token().map_err(|e| Fault::field("kanidm.token", e.to_string()))?;
        if token.expose().bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(Fault::field("kanidm.token", "must be one line of printable characters"));
        }
        let http = builder.build().map_err(Fault::internal)?;
        let breaker = Some(Arc::new(Breaker::new(config.breaker_failures, config.breaker_pause)));
        let inner = Arc::new(Inner {
            base,
            http,
            token,
            metrics,
            clock,
            trouble: Mutex::default(),
            unconnected: Mutex::default(),
        });
        Ok(Some(Self { inner, breaker, limit: config.timeout }))
    }

    /// The same client for a caller that can wait: past the breaker, and without an effect on it.
    #[must_use]
    pub fn patient(&self) -> Self {
        Self { breaker: None, ..self.clone() }
    }

    /// The same client with another time limit for each call.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self { limit, ..self.clone() }
    }

    /// The longest time a call may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether calls go through, and for how much longer not.
    pub fn circuit(&self) -> (Circuit, Duration) {
        let now = self.inner.clock.instant();
        self.breaker.as_ref().map_or((Circuit::Closed, Duration::ZERO), |breaker| breaker.circuit(now))
    }

    /// Why the last call got no answer; none after one that did.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.inner.trouble).clone()
    }

    /// Why there is no connection, in words for whoever set it up; none where there is one, or none was tried yet.
    pub fn unreachable(&self) -> Option<StartFailure> {
        let cause = lock(&self.inner.unconnected).clone()?;
        Some(StartFailure::of_connection(&self.peer(), &cause))
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// The origin, without a slash at the end.
    pub fn origin(&self) -> String {
        self.inner.base.origin().ascii_serialization()
    }

    /// Address of a resource. The parts are escaped, so that no id can name another resource.
    pub fn url(&self, path: &[&str]) -> Url {
        let mut url = self.inner.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// Makes a call and reads the whole answer.
    ///
    /// # Errors
    /// `Resting` when Kanidm did not answer of late; `Unavailable` or `Nonsense` when there is no answer of a readable
    /// size, or no JSON where there was success.
    pub async fn send(&self, method: Method, url: Url, credential: Credential<'_>, body: Body<'_>) -> Result<Answer> {
        let clock = &self.inner.clock;
        if let Some(breaker) = &self.breaker {
            breaker.admit(clock.instant()).map_err(KanidmError::Resting)?;
        }
        let answer = self.send_traced(method, url, credential, body).await;
        let failed = match &answer {
            Ok(answer) => answer.status >= 500 && KanidmError::read(answer.status, &answer.body).is_outcome_unknown(),
            Err(_) => true,
        };
        match (&self.breaker, failed) {
            (Some(breaker), true) => breaker.failed(clock.instant()),
            (Some(breaker), false) => breaker.succeeded(),
            (None, _) => {}
        }
        let trouble = answer.as_ref().err().map(ToString::to_string);
        if trouble.is_none() {
            *lock(&self.inner.unconnected) = None;
        }
        *lock(&self.inner.trouble) = trouble;
        if failed {
            self.inner.metrics.kanidm_failures.inc();
        }
        answer
    }

    async fn send_traced(
        &self,
        method: Method,
        url: Url,
        credential: Credential<'_>,
        body: Body<'_>,
    ) -> Result<Answer> {
        // Without the path, in which there may be a person's id.
        let span =
            tracing::debug_span!(target: "sidle::otel", "kanidm", otel.kind = "client", otel.name = method.as_str());
        let (name, host) = (method.clone(), url.host_str().unwrap_or_default().to_owned());
        let (port, begun) = (url.port_or_known_default().unwrap_or_default(), self.inner.clock.stopwatch());
        let answer = self.send_uncounted(method, url, credential, body).instrument(span.clone()).await;
        let ended = answer.as_ref().map(|answer| answer.status).map_err(KanidmError::kind);
        telemetry::http_ended(&span, name.as_str(), &host, port, ended, begun.elapsed());
        answer
    }

    async fn send_uncounted(
        &self,
        method: Method,
        url: Url,
        credential: Credential<'_>,
        body: Body<'_>,
    ) -> Result<Answer> {
        let mut trace = HeaderMap::new();
        telemetry::pass_trace_on(&Span::current(), &mut trace);
        let mut request = self.inner.http.request(method, url).timeout(self.limit).headers(trace);
        request = match credential {
            Credential::None => request,
            Credential::ServiceAccount => request.bearer_auth(self.inner.token.expose()),
            Credential::Bearer(token) => request.bearer_auth(token.expose()),
            Credential::SignIn(None) => request,
            Credential::SignIn(Some(session)) => request.header(SIGN_IN, session),
            Credential::Client { id, secret } => request.basic_auth(id, Some(secret.expose())),
        };
        request = match body {
            Body::None => request,
            Body::Json(value) => request.json(value),
            Body::Secret(json) => request.header(CONTENT_TYPE, "application/json").body(bytes::Bytes::from_owner(json)),
            Body::Form(fields) => request.form(fields),
        };
        let mut response = request.send().await.map_err(|e| self.unavailable(&e))?;
        let status = response.status().as_u16();
        let empty = Answer::of(status, response.headers());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unavailable(&e))? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(KanidmError::Nonsense(format!("an answer of more than {LARGEST_ANSWER} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        // Something else in Kanidm's place, such as a proxy's page, must not pass for an answer.
        let is_sensible = body.is_empty() || serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
        if (200..300).contains(&status) && !is_sensible {
            return Err(KanidmError::Nonsense(format!("status {status} with a body that is no JSON")));
        }
        Ok(Answer { body, ..empty })
    }

    /// Where it is looked for.
    fn peer(&self) -> Peer {
        let (host, port) = (self.inner.base.host_str(), self.inner.base.port_or_known_default());
        let address = format!("{}:{}", host.unwrap_or_default(), port.unwrap_or_default());
        Peer {
            what: "Kanidm",
            address,
            setting: "kanidm.url",
            authority: "kanidm.ca_file",
            encryption: "the scheme of kanidm.url",
        }
    }

    /// Only what went wrong: the error's own text has the address of the call, in which there may be a person's id.
    fn unavailable(&self, error: &reqwest::Error) -> KanidmError {
        // Only where it was reached: a smaller batch is no help against an address that does not answer.
        if error.is_timeout() && !error.is_connect() {
            return KanidmError::TimedOut;
        }
        let peer = self.peer();
        if error.is_connect() {
            let cause = if error.is_timeout() { Cause::TimedOut } else { Cause::of(error) };
            let text = format!("no connection to {}: {cause}. {}", peer.address, cause.remedy(&peer));
            *lock(&self.inner.unconnected) = Some(cause);
            return KanidmError::Unavailable(text);
        }
        let what = if error.is_body() || error.is_decode() { "the answer broke off" } else { "the connection broke" };
        KanidmError::Unavailable(format!("{what}, from {}", peer.address))
    }

    /// A call of the service account whose answer is JSON.
    pub(super) async fn call<T: DeserializeOwned>(&self, method: Method, path: &[&str], body: Body<'_>) -> Result<T> {
        self.send(method, self.url(path), Credential::ServiceAccount, body).await?.json()
    }
}

/// Plain HTTP would reveal the token, except on the machine itself.
fn base(url: &str) -> FaultResult<Url> {
    let problem = "must be the https URL of Kanidm, such as https://idm.example.com (http on this machine only)";
    let base = Url::parse(url).map_err(|_| Fault::field("kanidm.url", problem))?;
    let is_here = matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let has_extras = base.query().is_some() || base.fragment().is_some() || !base.username().is_empty();
    if has_extras || !(base.scheme() == "https" || (base.scheme() == "http" && is_here)) {
        return Err(Fault::field("kanidm.url", problem));
    }
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_or_this_machine_is_accepted() {
        for good in
            ["https://idm.example.com", "https://idm.example.com:8443/", "http://localhost:8080", "http://[::1]:1"]
        {
            assert!(base(good).is_ok(), "{good}");
        }
        for bad in [
            "http://idm.example.com",
            "idm.example.com",
            "ftp://localhost",
            "https://a@b.example",
            "https://a.example?x=1",
        ] {
            assert!(base(bad).is_err(), "{bad}");
        }
    }
}
