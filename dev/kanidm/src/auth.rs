//! Authentication: `/v1/auth` and related paths, and the caller of a request.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use compact_jwt::{Jws, JwsCompact, JwsSigner, JwsVerifier};
use kanidm_proto::constants::KSESSIONID;
use kanidm_proto::v1::{AuthRequest, AuthResponse, AuthState, UatStatus, WhoamiResponse};
use kanidmd_lib::event::WhoamiResult;
use kanidmd_lib::idm::AuthState as EngineState;
use kanidmd_lib::idm::account::{DestroySessionTokenEvent, ListUserAuthTokenEvent};
use kanidmd_lib::prelude::*;

use crate::App;
use crate::error::ApiError;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/auth", post(step))
        .route("/v1/auth/valid", get(valid))
        .route("/v1/self", get(whoami))
        .route("/v1/logout", get(logout))
        .route("/v1/account/{id}/_user_auth_token", get(sessions))
        .route("/v1/account/{id}/_user_auth_token/{token}", axum::routing::delete(end_session))
}

/// The credentials a request carries, unverified; the engine verifies them in the transaction that uses them.
pub struct Caller(pub ClientAuthInfo);

impl Caller {
    pub fn with_bearer(token: &str) -> Caller {
        Caller(client_auth_info(JwsCompact::from_str(token).ok(), None))
    }

    pub fn nobody() -> Caller {
        Caller(client_auth_info(None, None))
    }
}

fn client_auth_info(bearer: Option<JwsCompact>, basic: Option<String>) -> ClientAuthInfo {
    let loopback = Source::Https(IpAddr::V4(Ipv4Addr::LOCALHOST));
    ClientAuthInfo::new(loopback, None, bearer, basic)
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let authorization = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '));
        Ok(match authorization {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Caller::with_bearer(token),
            Some((scheme, secret)) if scheme.eq_ignore_ascii_case("basic") => {
                Caller(client_auth_info(None, Some(secret.to_string())))
            }
            _ => Caller::nobody(),
        })
    }
}

async fn step(
    State(app): State<App>,
    Caller(caller): Caller,
    headers: HeaderMap,
    Json(request): Json<AuthRequest>,
) -> Result<Response, ApiError> {
    let session = headers
        .get(KSESSIONID)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| JwsCompact::from_str(value).ok())
        .and_then(|signed| app.sessions.verify(&signed).ok())
        .and_then(|verified| verified.from_json::<Uuid>().ok());
    let result = app.engine.auth(session, request, caller).await?;
    let sessionid = result.sessionid;
    let (state, goes_on) = match result.state {
        EngineState::Choose(mechanisms) => (AuthState::Choose(mechanisms), true),
        EngineState::Continue(allowed) => (AuthState::Continue(allowed), true),
        EngineState::Denied(why) => (AuthState::Denied(why), false),
        EngineState::Success(token, _) => (AuthState::Success(token.to_string()), false),
    };
    let answer = Json(AuthResponse { sessionid, state });
    if !goes_on {
        return Ok(answer.into_response());
    }
    let session = Jws::into_json(&sessionid).map_err(|_| OperationError::InvalidSessionState)?;
    let signed = app.sessions.sign(&session);
    let signed = signed.map_err(|_| OperationError::InvalidSessionState)?;
    Ok(([(KSESSIONID, signed.to_string())], answer).into_response())
}

async fn valid(State(app): State<App>, Caller(caller): Caller) -> Result<Json<()>, ApiError> {
    Ok(Json(app.engine.read(caller, |_, _| Ok(())).await?))
}

async fn whoami(State(app): State<App>, Caller(caller): Caller) -> Result<Json<WhoamiResponse>, ApiError> {
    let answer = app.engine.read(caller, |ident, txn| {
        let search = SearchEvent::from_whoami_request(ident, &txn.qs_read)?;
        let me = txn.qs_read.search_ext(&search)?.pop();
        let me = me.ok_or(OperationError::NoMatchingEntries)?;
        WhoamiResult::new(&mut txn.qs_read, &me).map(WhoamiResult::response)
    });
    Ok(Json(answer.await?))
}

async fn logout(State(app): State<App>, Caller(caller): Caller) -> Result<Json<()>, ApiError> {
    let ended = app.engine.write(caller, |ident, txn, _| {
        if !ident.can_logout() {
            return Ok(());
        }
        let target = ident.get_uuid().ok_or(OperationError::InvalidState)?;
        let token_id = ident.get_session_id();
        txn.account_destroy_session_token(&DestroySessionTokenEvent { ident, target, token_id })
    });
    match ended.await {
        Ok(()) | Err(OperationError::SessionExpired | OperationError::NotAuthenticated) => Ok(Json(())),
        Err(cause) => Err(cause.into()),
    }
}

async fn sessions(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<Json<Vec<UatStatus>>, ApiError> {
    let list = app.engine.read(caller, |ident, txn| {
        let target = txn.qs_read.name_to_uuid(&id)?;
        txn.account_list_user_auth_tokens(&ListUserAuthTokenEvent { ident, target })
    });
    Ok(Json(list.await?))
}

async fn end_session(
    State(app): State<App>,
    Caller(caller): Caller,
    Path((id, token_id)): Path<(String, Uuid)>,
) -> Result<Json<()>, ApiError> {
    let ended = app.engine.write(caller, |ident, txn, _| {
        let target = txn.qs_write.name_to_uuid(&id)?;
        txn.account_destroy_session_token(&DestroySessionTokenEvent { ident, target, token_id })
    });
    Ok(Json(ended.await?))
}
