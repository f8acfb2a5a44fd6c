//! The HTTP port for operators: `/metrics`, `/healthz`, `/readyz`, and the published keys; and the one for everybody,
//! which has the keys and whether the service lives, and nothing else. Neither holds anything personal.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::accept::Acceptor;
use super::{Bound, Bounds};
use crate::app::App;
use crate::fault::{Fault, Result};

/// The pages.
#[derive(Clone)]
pub struct Ops {
    app: App,
}

impl Ops {
    /// Pages about `app`.
    pub fn new(app: App) -> Self {
        Self { app }
    }

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
/// When the transport fails.
pub async fn serve(bound: Bound, bounds: Bounds, ops: Ops, stop: CancellationToken) -> Result<()> {
    let port = port(bound, bounds, &ops.app);
    let serving = axum::serve(port, ops.router()).with_graceful_shutdown(stop.cancelled_owned());
    serving.await.map_err(Fault::internal)
}

/// Serves what is for everybody until `stop`.
///
/// # Errors
/// When the transport fails.
pub async fn serve_public(bound: Bound, bounds: Bounds, ops: Ops, stop: CancellationToken) -> Result<()> {
    let port = port(bound, bounds, &ops.app);
    let serving = axum::serve(port, ops.public_router()).with_graceful_shutdown(stop.cancelled_owned());
    serving.await.map_err(Fault::internal)
}

fn port(bound: Bound, bounds: Bounds, app: &App) -> Acceptor {
    let limits = (bounds.pages, (bounds.pages / 2).max(1));
    let (clock, metrics) = (app.context.clock.clone(), app.metrics.clone());
    Acceptor::new(bound.into_listener(), limits, &app.config.server, clock, metrics)
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let app = &ops.app;
    app.metrics.database(app.db.figures());
    app.metrics.revocation_age(app.verifier.revocation_age());
    if let Some(kanidm) = &app.kanidm {
        app.metrics.kanidm_circuit(kanidm.circuit().0);
    }
    match app.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Whether the process works at all: with the database's figures, but not failing for them, since a restart would not
/// bring a database back.
async fn healthz(State(ops): State<Ops>) -> Json<Value> {
    Json(json!({ "status": "healthy", "version": env!("CARGO_PKG_VERSION"), "database": database(&ops.app).await.1 }))
}

/// Whether calls should be sent here.
async fn readyz(State(ops): State<Ops>) -> Response {
    let app = &ops.app;
    let (database_ready, database) = database(app).await;
    let age = app.verifier.revocation_age();
    let revocations_ready = age.is_some_and(|age| age <= app.config.tokens.max_revocation_age);
    let ready = database_ready && revocations_ready && !app.stop.is_cancelled();
    let body = json!({
        "status": if ready { "ready" } else { "not ready" },
        "database": database,
        "revocations": { "status": if revocations_ready { "current" } else { "stale" }, "age_seconds": age.map(|age| age.as_secs_f64()) },
        // Told, and no reason to send calls elsewhere: whoever has a password signs in with it.
        "kanidm": app.kanidm.as_ref().map(|kanidm| json!({ "circuit": kanidm.circuit().0.as_str() })),
    });
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}

async fn database(app: &App) -> (bool, Value) {
    let answers =
        matches!(tokio::time::timeout(std::time::Duration::from_secs(2), app.reserved.health.ping()).await, Ok(Ok(())));
    let figures = app.db.figures();
    let value = json!({
        "status": if answers { "healthy" } else { "unreachable" },
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
    let keys = ops.app.verifier.jwks();
    ([(header::CACHE_CONTROL, "public, max-age=60")], Json(keys)).into_response()
}
