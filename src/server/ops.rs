//! The HTTP port for operators: `/metrics`, `/healthz`, `/readyz`, and the published keys; and the public one,
//! which has the keys and whether the service lives, and nothing else. Neither holds anything personal.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::accept::Acceptor;
use super::http::{self, Times};
use super::{Bound, Bounds};
use crate::config::ServerConfig;
use crate::context::Clock;
use crate::db::Db;
use crate::fault::Result;
use crate::kanidm::Kanidm;
use crate::metrics::Metrics;
use crate::token::Verifier;

/// The pages, and what they show.
#[derive(Clone)]
pub struct Ops {
    /// How connections are taken in.
    pub server: Arc<ServerConfig>,
    /// Up to which age the snapshot of revocations counts as current.
    pub max_revocation_age: Duration,
    pub clock: Clock,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// The pool whose figures are reported.
    pub db: Db,
    /// The connections of readiness, which calls cannot exhaust.
    pub health: Db,
    /// The published keys, and how old the snapshot of revocations is.
    pub verifier: Verifier,
    /// The client of Kanidm, where one is configured.
    pub kanidm: Option<Kanidm>,
    /// Cancelled when the service is to stop.
    pub stop: CancellationToken,
}

impl Ops {
    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/.well-known/jwks.json", get(jwks))
            .with_state(self)
    }

    /// What may be shown to anybody: no figures, no versions.
    fn public_router(self) -> Router {
        Router::new()
            .route("/healthz", get(async || Json(json!({ "status": "healthy" }))))
            .route("/.well-known/jwks.json", get(jwks))
            .with_state(self)
    }
}

/// Serves the pages until `stop`.
///
/// # Errors
/// None: as a part of the service it could have some.
pub async fn serve(bound: Bound, bounds: Bounds, ops: Ops, stop: CancellationToken) -> Result<()> {
    let port = port(bound, bounds, &ops);
    http::serve(port, ops.router(), Times::PAGES, stop).await;
    Ok(())
}

/// Serves the public pages until `stop`.
///
/// # Errors
/// None: as a part of the service it could have some.
pub async fn serve_public(bound: Bound, bounds: Bounds, ops: Ops, stop: CancellationToken) -> Result<()> {
    let port = port(bound, bounds, &ops);
    http::serve(port, ops.public_router(), Times::PAGES, stop).await;
    Ok(())
}

fn port(bound: Bound, bounds: Bounds, ops: &Ops) -> Acceptor {
    let limits = (bounds.pages, bounds.pages_each);
    Acceptor::new(bound.into_listener(), limits, &ops.server, ops.clock.clone(), ops.metrics.clone())
}

async fn metrics(State(ops): State<Ops>) -> Response {
    ops.metrics.database(ops.db.figures());
    ops.metrics.revocation_age(ops.verifier.revocation_age());
    if let Some(kanidm) = &ops.kanidm {
        ops.metrics.kanidm_circuit(kanidm.circuit().0);
    }
    match ops.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Whether the process works at all: with the database's figures, but not failing for them, since a restart would not
/// bring a database back.
async fn healthz(State(ops): State<Ops>) -> Json<Value> {
    Json(json!({ "status": "healthy", "version": env!("CARGO_PKG_VERSION"), "database": database(&ops).await.1 }))
}

/// Whether calls should be sent here.
async fn readyz(State(ops): State<Ops>) -> Response {
    let (database_ready, database) = database(&ops).await;
    let age = ops.verifier.revocation_age();
    let revocations_ready = age.is_some_and(|age| age <= ops.max_revocation_age);
    let ready = database_ready && revocations_ready && !ops.stop.is_cancelled();
    let body = json!({
        "status": if ready { "ready" } else { "not ready" },
        "database": database,
        "revocations": { "status": if revocations_ready { "current" } else { "stale" }, "age_seconds": age.map(|age| age.as_secs_f64()) },
        // Reported, and no reason to send calls elsewhere: users with a password sign in with it.
        "kanidm": ops.kanidm.as_ref().map(|kanidm| json!({
            "circuit": kanidm.circuit().0.as_str(), "failure": kanidm.trouble(),
        })),
    });
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}

async fn database(ops: &Ops) -> (bool, Value) {
    let failure = match tokio::time::timeout(std::time::Duration::from_secs(2), ops.health.ping()).await {
        Ok(Ok(())) => None,
        Ok(Err(fault)) => Some(fault.cause().map_or_else(|| fault.message().to_owned(), ToString::to_string)),
        Err(_) => Some("there was no answer in time".to_owned()),
    };
    let answers = failure.is_none();
    let figures = ops.db.figures();
    let value = json!({
        "status": if answers { "healthy" } else { "unreachable" },
        "failure": failure,
        "pool_stats": {
            "size": figures.size,
            "checked_in": figures.checked_in,
            "checked_out": figures.checked_out,
            "overflow": figures.overflow,
            "limit": figures.limit,
        },
    });
    (answers, value)
}

async fn jwks(State(ops): State<Ops>) -> Response {
    let keys = ops.verifier.jwks();
    ([(header::CACHE_CONTROL, "public, max-age=60")], Json(keys)).into_response()
}
