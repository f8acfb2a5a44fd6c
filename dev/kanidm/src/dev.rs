//! Development controls that no real Kanidm has: a clock that can be advanced, faults on demand, and counts of
//! requests.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::App;
use crate::serve::hangup;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/_dev/clock", post(clock))
        .route("/_dev/fault", post(add_fault).delete(clear_faults))
        .route("/_dev/requests", get(requests))
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// Answer `status` and `body` without performing the request.
    Fail,
    /// Hold the request, then perform it.
    Stall,
    /// Answer 200 with bytes that are not JSON, without performing the request.
    Garbage,
    /// Perform the request, then close the connection without an answer.
    DropReply,
    /// Close the connection without performing the request.
    Close,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    mode: Mode,
    path_prefix: String,
    method: Option<String>,
    /// This many matching requests pass first.
    #[serde(default)]
    after: u64,
    /// This many are hit then; without it, all until cleared.
    count: Option<u64>,
    #[serde(default = "unavailable")]
    status: u16,
    /// The answer's body where it fails.
    #[serde(default)]
    body: String,
    /// Only requests whose body contains this text are hit.
    body_contains: Option<String>,
    /// Without it, a stall lasts until the faults are cleared.
    stall_ms: Option<u64>,
    /// So much longer for each entry that a create holds.
    #[serde(default)]
    stall_ms_per_entry: u64,
}

impl Fault {
    fn matches(&self, method: &Method, path: &str, body: &[u8]) -> bool {
        path.starts_with(&self.path_prefix)
            && self.method.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method.as_str()))
            && self.body_contains.as_ref().is_none_or(|text| holds(body, text))
    }

    /// How long it stalls a request; none for until the faults are cleared.
    fn stall(&self, body: &[u8]) -> Option<Duration> {
        if self.stall_ms.is_none() && self.stall_ms_per_entry == 0 {
            return None;
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let entries = body["entries"].as_array().map_or(1, Vec::len) as u64;
        Some(Duration::from_millis(self.stall_ms.unwrap_or(0) + self.stall_ms_per_entry * entries))
    }
}

fn holds(body: &[u8], text: &str) -> bool {
    !text.is_empty() && body.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Largest body that faults look into; the largest create that any test sends is far smaller.
const LARGEST_BODY: usize = 32 << 20;

fn unavailable() -> u16 {
    503
}

#[derive(Default)]
pub struct Faults {
    active: Mutex<Vec<Fault>>,
    counts: Mutex<BTreeMap<String, u64>>,
    /// Changes when the faults are cleared.
    cleared: watch::Sender<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Faults {
    fn count(&self, method: &Method, path: &str) {
        *lock(&self.counts).entry(format!("{method} {path}")).or_default() += 1;
    }

    /// The fault this request runs into. The receiver is taken under the lock: clearing after that releases it.
    fn hit(&self, method: &Method, path: &str, body: &[u8]) -> Option<(Fault, watch::Receiver<()>)> {
        let mut active = lock(&self.active);
        for fault in active.iter_mut() {
            if !fault.matches(method, path, body) || fault.count == Some(0) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            if let Some(left) = fault.count.as_mut() {
                *left -= 1;
            }
            return Some((fault.clone(), self.cleared.subscribe()));
        }
        None
    }
}

pub async fn faults(State(app): State<App>, request: Request, next: Next) -> Response {
    let template = request.extensions().get::<MatchedPath>().map_or("(no such path)", MatchedPath::as_str);
    let template = template.to_owned();
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LARGEST_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let hit = app.faults.hit(&parts.method, parts.uri.path(), &body);
    // Counted after its fault is settled: a test that sees the count knows the request is held.
    app.faults.count(&parts.method, &template);
    let request = Request::from_parts(parts, axum::body::Body::from(body.clone()));
    let Some((fault, mut cleared)) = hit else {
        return next.run(request).await;
    };
    match fault.mode {
        Mode::Fail => {
            let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            (status, fault.body).into_response()
        }
        Mode::Garbage => ([(header::CONTENT_TYPE, "application/json")], "<!-- this is not JSON").into_response(),
        Mode::Close => hangup(),
        Mode::DropReply => {
            next.run(request).await;
            hangup()
        }
        Mode::Stall => {
            match fault.stall(&body) {
                Some(limit) => drop(tokio::time::timeout(limit, cleared.changed()).await),
                None => drop(cleared.changed().await),
            }
            next.run(request).await
        }
    }
}

async fn add_fault(State(app): State<App>, Json(fault): Json<Fault>) -> StatusCode {
    if StatusCode::from_u16(fault.status).is_err() {
        return StatusCode::BAD_REQUEST;
    }
    lock(&app.faults.active).push(fault);
    StatusCode::NO_CONTENT
}

async fn clear_faults(State(app): State<App>) -> StatusCode {
    lock(&app.faults.active).clear();
    app.faults.cleared.send_replace(());
    StatusCode::NO_CONTENT
}

async fn requests(State(app): State<App>) -> Json<BTreeMap<String, u64>> {
    Json(lock(&app.faults.counts).clone())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_seconds: u64,
}

async fn clock(State(app): State<App>, Json(by): Json<Advance>) -> Result<Json<Value>, StatusCode> {
    if !app.engine.clock.advance(by.advance_seconds) {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(Json(json!({ "now": app.engine.clock.now().as_secs() })))
}
