//! Sessions, their renewal and their end.

mod limits;
mod manage;
mod model;
mod refresh;
mod rescope;
mod revocation;

use sidle::proto;
use tonic::Status;
use uuid::Uuid;

use crate::support::TestServer;

/// Exchanges a refresh token, in a call that can be repeated when it has an id.
async fn refresh(
    server: &TestServer,
    token: &str,
    request_id: Option<Uuid>,
) -> Result<proto::RefreshTokenResponse, Status> {
    let request = proto::RefreshTokenRequest {
        refresh_token: token.to_owned(),
        request_id: request_id.map(|id| id.to_string()).unwrap_or_default(),
        ..Default::default()
    };
    Ok(server.client("").authenticate.refresh_token(request).await?.into_inner())
}

/// Whether Sidle takes this access token.
async fn is_good(server: &TestServer, access_token: &str) -> bool {
    server.client(access_token).authenticate.who_am_i(proto::WhoAmIRequest {}).await.is_ok()
}

/// A user of a fresh tenant, signed in.
async fn signed_in(server: &TestServer) -> (Uuid, Uuid, proto::TokenPair) {
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    (tenant, user, server.sign_in("ann@example.com").await)
}
