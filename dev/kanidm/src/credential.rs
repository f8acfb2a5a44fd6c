//! Credentials of persons: their status, reset links, and the sessions in which they are changed.

use std::str::FromStr;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use compact_jwt::JweCompact;
use kanidm_proto::internal::{CUIntentToken, CURequest, CUSessionToken, CUStatus, CredentialStatus};
use kanidmd_lib::idm::credupdatesession::{
    CredentialUpdateIntentTokenExchange, CredentialUpdateSessionToken, InitCredentialUpdateEvent,
    InitCredentialUpdateIntentEvent,
};
use kanidmd_lib::idm::event::CredentialStatusEvent;
use kanidmd_lib::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value as JsonValue;

use crate::App;
use crate::auth::Caller;
use crate::engine::{Engine, Fallible};
use crate::error::ApiError;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/person/{id}/_credential/_status", get(credentials))
        .route("/v1/service_account/{id}/_credential/_status", get(credentials))
        .route("/v1/person/{id}/_credential/_update", get(begin))
        .route("/v1/person/{id}/_credential/_update_intent", get(intent))
        .route("/v1/person/{id}/_credential/_update_intent/{ttl}", get(intent_for))
        .route("/v1/credential/_exchange_intent", post(exchange))
        .route("/v1/credential/_status", post(status))
        .route("/v1/credential/_update", post(update))
        .route("/v1/credential/_commit", post(commit))
        .route("/v1/credential/_cancel", post(cancel))
}

async fn credentials(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<Json<CredentialStatus>, ApiError> {
    let read = app.engine.read(caller, |ident, txn| {
        let target = txn.qs_read.name_to_uuid(&id)?;
        txn.get_credentialstatus(&CredentialStatusEvent::from_parts(ident, target)?)
    });
    match read.await {
        Ok(status) => Ok(Json(status)),
        // The engine's answer about a person without any credential.
        Err(OperationError::NoMatchingAttributes) => Ok(Json(CredentialStatus { creds: Vec::new() })),
        Err(cause) => Err(cause.into()),
    }
}

async fn begin(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<Json<(CUSessionToken, CUStatus)>, ApiError> {
    let write = app.engine.write(caller, |ident, txn, now| {
        let target = txn.qs_write.name_to_uuid(&id)?;
        txn.init_credential_update(&InitCredentialUpdateEvent::new(ident, target), now)
    });
    let (session, status) = write.await?;
    Ok(Json((handed_out(&session), status.into())))
}

async fn intent(app: State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<CUIntentToken>, ApiError> {
    new_intent(app, caller, &id, None).await
}

async fn intent_for(
    app: State<App>,
    caller: Caller,
    Path((id, ttl)): Path<(String, u64)>,
) -> Result<Json<CUIntentToken>, ApiError> {
    new_intent(app, caller, &id, Some(Duration::from_secs(ttl))).await
}

async fn new_intent(
    State(app): State<App>,
    Caller(caller): Caller,
    id: &str,
    ttl: Option<Duration>,
) -> Result<Json<CUIntentToken>, ApiError> {
    let write = app.engine.write(caller, |ident, txn, now| {
        let target = txn.qs_write.name_to_uuid(id)?;
        let event = InitCredentialUpdateIntentEvent::new(ident, target, ttl);
        txn.init_credential_update_intent(&event, now)
    });
    let intent = write.await?;
    Ok(Json(CUIntentToken { token: intent.intent_id, expiry_time: intent.expiry_time }))
}

async fn exchange(
    State(app): State<App>,
    Json(intent): Json<String>,
) -> Result<Json<(CUSessionToken, CUStatus)>, ApiError> {
    Ok(Json(exchange_intent(&app.engine, intent).await?))
}

/// The holder of the intent may change the person's credentials; there is no other check.
pub async fn exchange_intent(engine: &Engine, intent_id: String) -> Fallible<(CUSessionToken, CUStatus)> {
    let now = engine.clock.now();
    let mut txn = engine.idms.proxy_write(now).await?;
    let intent = CredentialUpdateIntentTokenExchange { intent_id };
    let (session, status) = txn.exchange_intent_credential_update(intent, now)?;
    txn.commit()?;
    Ok((handed_out(&session), status.into()))
}

async fn status(State(app): State<App>, Json(session): Json<CUSessionToken>) -> Result<Json<CUStatus>, ApiError> {
    let session = taken_back(&session)?;
    let txn = app.engine.idms.cred_update_transaction().await?;
    let status = txn.credential_update_status(&session, app.engine.clock.now())?;
    Ok(Json(status.into()))
}

async fn update(State(app): State<App>, Json(body): Json<Vec<JsonValue>>) -> Result<Json<CUStatus>, ApiError> {
    let request = element(&body, 0)?;
    let session: CUSessionToken = element(&body, 1)?;
    Ok(Json(apply(&app.engine, &session, request).await?))
}

fn element<T: DeserializeOwned>(body: &[JsonValue], index: usize) -> Result<T, ApiError> {
    let value = body.get(index).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|e| ApiError::Malformed(format!("element {index}: {e}")))
}

pub async fn apply(engine: &Engine, session: &CUSessionToken, request: CURequest) -> Fallible<CUStatus> {
    let session = &taken_back(session)?;
    let now = engine.clock.now();
    let txn = engine.idms.cred_update_transaction().await?;
    let status = match request {
        CURequest::Password(password) => txn.credential_primary_set_password(session, now, &password),
        CURequest::PrimaryRemove => txn.credential_primary_delete(session, now),
        CURequest::TotpGenerate => txn.credential_primary_init_totp(session, now),
        CURequest::TotpVerify(code, label) => txn.credential_primary_check_totp(session, now, code, &label),
        CURequest::TotpAcceptSha1 => txn.credential_primary_accept_sha1_totp(session, now),
        CURequest::TotpRemove(label) => txn.credential_primary_remove_totp(session, now, &label),
        CURequest::CancelMFAReg => txn.credential_update_cancel_mfareg(session, now),
        CURequest::BackupCodeGenerate => txn.credential_primary_init_backup_codes(session, now),
        CURequest::BackupCodeRemove => txn.credential_primary_remove_backup_codes(session, now),
        // Passkeys, Unix passwords and SSH keys are not offered here; see README.md.
        _ => Err(OperationError::InvalidRequestState),
    }?;
    Ok(status.into())
}

async fn commit(State(app): State<App>, Json(session): Json<CUSessionToken>) -> Result<Json<()>, ApiError> {
    Ok(Json(commit_session(&app.engine, &session).await?))
}

pub async fn commit_session(engine: &Engine, session: &CUSessionToken) -> Fallible<()> {
    let session = taken_back(session)?;
    let now = engine.clock.now();
    let mut txn = engine.idms.proxy_write(now).await?;
    txn.commit_credential_update(&session, now)?;
    txn.commit()
}

async fn cancel(State(app): State<App>, Json(session): Json<CUSessionToken>) -> Result<Json<()>, ApiError> {
    let session = taken_back(&session)?;
    let now = app.engine.clock.now();
    let mut txn = app.engine.idms.proxy_write(now).await?;
    txn.cancel_credential_update(&session, now)?;
    Ok(Json(txn.commit()?))
}

fn handed_out(session: &CredentialUpdateSessionToken) -> CUSessionToken {
    CUSessionToken { token: session.token_enc.to_string() }
}

fn taken_back(session: &CUSessionToken) -> Fallible<CredentialUpdateSessionToken> {
    JweCompact::from_str(&session.token)
        .map(|token_enc| CredentialUpdateSessionToken { token_enc })
        .map_err(|_| OperationError::InvalidRequestState)
}
