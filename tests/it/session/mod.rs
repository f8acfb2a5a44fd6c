//! Sessions, their refresh and their end.

mod epoch;
mod failover;
mod forged;
mod fork;
mod gates;
mod hs256;
mod keys;
mod limits;
mod manage;
mod model;
mod partition;
pub mod refresh;
mod rescope;
mod revocation;
mod streams;
mod watch;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sidle::audit::{Filter, Page};
use sidle::db::Scope;
use sidle::proto;
use tonic::Status;
use uuid::Uuid;

use crate::support::{TestServer, until, within};

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

/// Whether Sidle accepts this access token.
async fn is_good(server: &TestServer, access_token: &str) -> bool {
    server.client(access_token).authenticate.who_am_i(proto::WhoAmIRequest {}).await.is_ok()
}

/// A user of a fresh tenant, signed in.
async fn signed_in(server: &TestServer) -> (Uuid, Uuid, proto::TokenPair) {
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    (tenant, user, server.sign_in("ann@example.com").await)
}

/// The key id in a token's header.
pub fn kid(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

/// Waits until the newest event of this type is in the log, and in `server`'s revocation snapshot, together with all
/// that was recorded at `writer` before.
pub async fn settled(server: &TestServer, writer: &TestServer, event_type: &str) {
    // The inbox is empty once every committed event has its position in the log.
    let waiting = "SELECT count(*) FROM audit_inbox";
    until("every event has its position", async || {
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(writer.sql()).await.unwrap() == 0
    })
    .await;
    let page = Page { size: i64::MAX, newest_first: true, ..Page::default() };
    let events = writer.app().log.list(&Filter::new(Scope::Platform), page).await.unwrap();
    let newest = events.iter().find(|event| event.event_type == event_type).expect("there was such an event");
    within("the feed has read it", server.app().sessions.revocations.reached(newest.position)).await;
}
