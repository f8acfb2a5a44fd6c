//! Authentication.

mod api_key;
mod change_password;
mod dear_passwords;
mod equal_work;
pub mod factors;
mod fairness;
mod guessed_codes;
mod guessing;
mod known_device;
mod long_password;
mod lost_factor;
mod mfa;
mod names;
mod password;
mod pending;
mod pepper;
mod rehash;
mod second_factor;
mod step_up;
mod storm;
mod strangers;
mod throttle;
mod tokens;

use sidle::proto;
use tonic::Status;
use uuid::Uuid;

use crate::support::TestServer;

/// Tries to sign in.
pub async fn attempt(server: &TestServer, identifier: &str, password: &str) -> Result<proto::SignedIn, Status> {
    let request = proto::AuthenticatePasswordRequest {
        identifier: identifier.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    ask(server, request).await
}

/// Tries to sign in with exactly this request.
pub async fn ask(server: &TestServer, request: proto::AuthenticatePasswordRequest) -> Result<proto::SignedIn, Status> {
    let response = server.client("").authenticate.authenticate_password(request).await?.into_inner();
    match response.outcome {
        Some(proto::authenticate_password_response::Outcome::SignedIn(signed_in)) => Ok(signed_in),
        other => panic!("neither signed in nor refused: {other:?}"),
    }
}

/// Purges what has expired, once and now.
pub async fn tidy(server: &TestServer) {
    let stop = server.app().stop.child_token();
    stop.cancel();
    server.app().authenticate.clone().purge_expired(stop).await;
}

/// Changes a column of a user behind the server's back.
pub async fn set(server: &TestServer, user: Uuid, assignment: &str) {
    let update = format!("UPDATE users SET {assignment} WHERE user_id = $1");
    sqlx::query(sqlx::AssertSqlSafe(update)).bind(user).execute(server.sql()).await.unwrap();
}

/// Gives a user this hash.
pub async fn set_hash(server: &TestServer, user: Uuid, hash: &str, cost: i16) {
    let update = "UPDATE users SET password_hash = $2, password_cost = $3 WHERE user_id = $1";
    sqlx::query(update).bind(user).bind(hash).bind(cost).execute(server.sql()).await.unwrap();
}

/// Makes a service account with a key of these scopes, and returns the key.
pub async fn api_key(server: &TestServer, tenant: Option<Uuid>, permissions: &[&str], scopes: &[&str]) -> String {
    let (account, id) = (server.context.new_id(), server.context.new_id());
    let key = sidle::token::opaque::mint("sidle_ak_", &server.context.entropy).to_string();
    sqlx::query(
        "INSERT INTO service_accounts (service_account_id, tenant_id, name, permissions) VALUES ($1, $2, $3, $4)",
    )
    .bind(account)
    .bind(tenant)
    .bind(format!("program-{}", account.simple()))
    .bind(permissions.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>())
    .execute(server.sql())
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO api_keys (api_key_id, service_account_id, tenant_id, display_prefix, key_hash, scopes)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(id)
    .bind(account)
    .bind(tenant)
    .bind(&key[..14])
    .bind(sidle::token::opaque::digest(&key).to_vec())
    .bind(scopes.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>())
    .execute(server.sql())
    .await
    .unwrap();
    key
}

/// Exchanges an API key.
pub async fn exchange(server: &TestServer, key: &str) -> Result<proto::AuthenticateServiceAccountResponse, Status> {
    let request = proto::AuthenticateServiceAccountRequest { api_key: key.to_owned(), ..Default::default() };
    Ok(server.client("").authenticate.authenticate_service_account(request).await?.into_inner())
}

/// A token that may verify others'.
pub async fn verifier_token(server: &TestServer) -> String {
    let key = api_key(server, None, &["tokens.verify"], &[]).await;
    exchange(server, &key).await.unwrap().access_token
}

/// What `VerifyToken` says about a token, asked by `caller`.
pub async fn verify(
    server: &TestServer,
    caller: &str,
    token: &str,
    audience: &str,
) -> Result<proto::TokenClaims, Status> {
    let request = proto::VerifyTokenRequest { token: token.to_owned(), audience: audience.to_owned() };
    let response = server.client(caller).authenticate.verify_token(request).await?.into_inner();
    Ok(response.claims.expect("claims"))
}
