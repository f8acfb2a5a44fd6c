//! OAuth2 and OpenID Connect: the administration of clients, and the protocol.

use axum::extract::{Form, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use kanidm_proto::oauth2::AuthorisationResponse;
use kanidmd_lib::idm::oauth2::{
    AccessTokenIntrospectRequest, AccessTokenIntrospectResponse, AccessTokenRequest, AccessTokenResponse,
    AuthorisationRequest, AuthoriseResponse, JwkKeySet, Oauth2Error, OidcDiscoveryResponse, OidcToken,
    TokenRevokeRequest,
};
use kanidmd_lib::idm::server::IdmServerTransaction;
use kanidmd_lib::prelude::*;
use serde::Deserialize;

use crate::App;
use crate::auth::Caller;
use crate::entries::{self, OAUTH2_BASIC, target};
use crate::error::{ANY_ORIGIN, ApiError};

pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/oauth2", entries::list(OAUTH2_BASIC))
        .route("/v1/oauth2/_basic", entries::create(OAUTH2_BASIC))
        .route("/v1/oauth2/{id}", entries::one(OAUTH2_BASIC))
        .route("/v1/oauth2/{id}/_attr/{attr}", entries::added_and_removed(OAUTH2_BASIC))
        .route("/v1/oauth2/{id}/_basic_secret", get(secret))
        .route("/v1/oauth2/{id}/_scopemap/{group}", post(map_scopes).delete(unmap_scopes))
        .route("/oauth2/authorise", get(authorise))
        .route("/oauth2/authorise/permit", get(permit))
        .route("/oauth2/authorise/reject", get(reject))
        .route("/oauth2/token", post(token))
        .route("/oauth2/token/introspect", post(introspect))
        .route("/oauth2/token/revoke", post(revoke))
        .route("/oauth2/openid/{client}/.well-known/openid-configuration", get(discovery))
        .route("/oauth2/openid/{client}/public_key.jwk", get(keys))
        .route("/oauth2/openid/{client}/userinfo", get(userinfo).post(userinfo))
}

async fn secret(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<Json<Option<String>>, ApiError> {
    let filter = target(EntryClass::OAuth2ResourceServer, &id);
    let read = app.engine.read(caller, |ident, txn| {
        let qs = &mut txn.qs_read;
        let event = SearchEvent::from_internal_message(ident, &filter, None, qs)?;
        let found = qs.search_ext(&event)?.pop();
        Ok(found
            .and_then(|entry| entry.get_ava_single(Attribute::OAuth2RsBasicSecret))
            .and_then(|value| value.get_secret_str().map(str::to_string)))
    });
    Ok(Json(read.await?))
}

async fn map_scopes(
    State(app): State<App>,
    Caller(caller): Caller,
    Path((id, group)): Path<(String, String)>,
    Json(scopes): Json<Vec<String>>,
) -> Result<Json<()>, ApiError> {
    change_scopes(&app, caller, &id, &group, |group| {
        Value::new_oauthscopemap(group, scopes.into_iter().collect())
            .map(|map| ModifyList::new_append(Attribute::OAuth2RsScopeMap, map))
            .ok_or_else(|| OperationError::InvalidAttribute("Invalid Oauth Scope Map syntax".into()))
    })
    .await
}

async fn unmap_scopes(
    State(app): State<App>,
    Caller(caller): Caller,
    Path((id, group)): Path<(String, String)>,
) -> Result<Json<()>, ApiError> {
    change_scopes(&app, caller, &id, &group, |group| {
        let map = PartialValue::Refer(group);
        Ok(ModifyList::new_remove(Attribute::OAuth2RsScopeMap, map))
    })
    .await
}

async fn change_scopes(
    app: &App,
    caller: ClientAuthInfo,
    id: &str,
    group: &str,
    change: impl FnOnce(Uuid) -> Result<ModifyList<ModifyInvalid>, OperationError>,
) -> Result<Json<()>, ApiError> {
    let filter = target(EntryClass::OAuth2ResourceServer, id);
    let write = app.engine.write(caller, |ident, txn, _| {
        let changes = change(txn.qs_write.name_to_uuid(group)?)?;
        let event = ModifyEvent::from_internal_parts(ident, &changes, &filter, &txn.qs_write)?;
        txn.qs_write.modify(&event)
    });
    Ok(Json(write.await?))
}

/// The engine's decision on an authorisation request by this caller, who may be anonymous.
pub async fn consider(
    app: &App,
    caller: ClientAuthInfo,
    request: &AuthorisationRequest,
) -> Result<AuthoriseResponse, Oauth2Error> {
    let now = app.engine.clock.now();
    let mut txn = app.engine.idms.proxy_read().await.map_err(Oauth2Error::ServerError)?;
    let ident = txn.validate_client_auth_info_to_ident(caller, now).ok();
    txn.check_oauth2_authorisation(ident.as_ref(), request, now)
}

async fn authorise(
    State(app): State<App>,
    Caller(caller): Caller,
    Query(request): Query<AuthorisationRequest>,
) -> Response {
    match consider(&app, caller, &request).await {
        Ok(AuthoriseResponse::ConsentRequested { client_name, scopes, pii_scopes, consent_token }) => {
            unlabelled(&AuthorisationResponse::ConsentRequested { client_name, scopes, pii_scopes, consent_token })
        }
        Ok(AuthoriseResponse::Permitted(success)) => {
            let (status, headers) = found(&success.build_redirect_uri());
            let body = unlabelled(&AuthorisationResponse::Permitted);
            (status, headers, body).into_response()
        }
        Ok(AuthoriseResponse::AuthenticationRequired { .. }) | Err(Oauth2Error::AuthenticationRequired) => {
            ApiError::OAuth2(Oauth2Error::AuthenticationRequired).into_response()
        }
        Err(Oauth2Error::AccessDenied) => (StatusCode::FORBIDDEN, [ANY_ORIGIN]).into_response(),
        // Never a redirect: the redirect URL of a refused request is not trusted.
        Err(_) => (StatusCode::BAD_REQUEST, [ANY_ORIGIN]).into_response(),
    }
}

/// JSON without a content type, as Kanidm answers here.
fn unlabelled(body: &AuthorisationResponse) -> Response {
    Response::new(serde_json::to_string(body).unwrap_or_default().into())
}

fn found(to: &Url) -> (StatusCode, [(header::HeaderName, String); 2]) {
    let headers =
        [(header::LOCATION, to.to_string()), (header::ACCESS_CONTROL_ALLOW_ORIGIN, to.origin().ascii_serialization())];
    (StatusCode::FOUND, headers)
}

#[derive(Deserialize)]
struct Consent {
    token: String,
}

async fn permit(State(app): State<App>, Caller(caller): Caller, Query(consent): Query<Consent>) -> Response {
    match permitted(&app, caller, &consent.token).await {
        Ok(to) => found(&to).into_response(),
        Err(cause) => refused(cause),
    }
}

async fn reject(State(app): State<App>, Caller(caller): Caller, Query(consent): Query<Consent>) -> Response {
    match rejected(&app, caller, &consent.token).await {
        Ok(to) => {
            // Kanidm sends the location with a status of 200 here.
            let (_, headers) = found(&to);
            headers.into_response()
        }
        Err(cause) => refused(cause),
    }
}

fn refused(cause: OperationError) -> Response {
    match cause {
        OperationError::NotAuthenticated => ApiError::Operation(cause).into_response(),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, [ANY_ORIGIN]).into_response(),
    }
}

/// The redirect after consent.
pub async fn permitted(app: &App, caller: ClientAuthInfo, consent: &str) -> Result<Url, OperationError> {
    let write = app.engine.write(caller, |ident, txn, now| txn.check_oauth2_authorise_permit(&ident, consent, now));
    Ok(write.await?.build_redirect_uri())
}

/// The redirect after consent was refused.
pub async fn rejected(app: &App, caller: ClientAuthInfo, consent: &str) -> Result<Url, OperationError> {
    let now = app.engine.clock.now();
    let read = app.engine.read(caller, |ident, txn| txn.check_oauth2_authorise_reject(&ident, consent, now));
    Ok(read.await?.build_redirect_uri())
}

async fn token(
    State(app): State<App>,
    Caller(caller): Caller,
    Form(request): Form<AccessTokenRequest>,
) -> Result<Json<AccessTokenResponse>, ApiError> {
    let now = app.engine.clock.now();
    let mut txn = app.engine.idms.proxy_write(now).await?;
    let issued = txn.check_oauth2_token_exchange(&caller, &request, now);
    // A reused refresh token is refused, and ends its session: that must be kept as well.
    if matches!(issued, Ok(_) | Err(Oauth2Error::InvalidGrant)) {
        txn.commit()?;
    }
    Ok(Json(issued?))
}

async fn introspect(
    State(app): State<App>,
    Caller(caller): Caller,
    Form(request): Form<AccessTokenIntrospectRequest>,
) -> Result<Json<AccessTokenIntrospectResponse>, ApiError> {
    let now = app.engine.clock.now();
    let mut txn = app.engine.idms.proxy_read().await?;
    let answer = txn.check_oauth2_token_introspect(&caller, &request, now)?;
    Ok(Json(answer))
}

async fn revoke(
    State(app): State<App>,
    Caller(caller): Caller,
    Form(request): Form<TokenRevokeRequest>,
) -> Result<(), ApiError> {
    let now = app.engine.clock.now();
    let mut txn = app.engine.idms.proxy_write(now).await?;
    txn.oauth2_token_revoke(&caller, &request, now)?;
    Ok(txn.commit()?)
}

async fn discovery(
    State(app): State<App>,
    Path(client): Path<String>,
) -> Result<Json<OidcDiscoveryResponse>, ApiError> {
    let txn = app.engine.idms.proxy_read().await?;
    Ok(Json(txn.oauth2_openid_discovery(&client)?))
}

async fn keys(State(app): State<App>, Path(client): Path<String>) -> Result<Json<JwkKeySet>, ApiError> {
    let txn = app.engine.idms.proxy_read().await?;
    Ok(Json(txn.oauth2_openid_publickey(&client)?))
}

async fn userinfo(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(client): Path<String>,
) -> Result<Json<OidcToken>, ApiError> {
    let token = caller.bearer_token().ok_or(Oauth2Error::AuthenticationRequired)?;
    let now = app.engine.clock.now();
    let mut txn = app.engine.idms.proxy_read().await?;
    Ok(Json(txn.oauth2_openid_userinfo(&client, token, now)?))
}
