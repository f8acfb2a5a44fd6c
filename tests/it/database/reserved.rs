//! What must continue whatever calls do with their connections: the sequencer, the revocation snapshot, and the
//! readiness check.

use sidle::db::Scope;
use sidle::proto;

use crate::authenticate::{verifier_token, verify};
use crate::look::reason;
use crate::support::{Setup, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_hold_every_connection_keep_neither_events_nor_revocations_nor_readiness_waiting() {
    let setup = Setup::new().await;
    let other = setup.start().await;
    let full = setup.clone().with("DATABASE__POOL_SIZE", "2").start().await;
    let tenant = other.tenant("acme").await;
    other.user(tenant, "ann@example.com", "user").await;
    let (caller, tokens) = (verifier_token(&other).await, other.sign_in("ann@example.com").await);
    verify(&full, &caller, &tokens.access_token, "sidle").await.expect("a good token");

    let held =
        [full.app().db.begin(Scope::Platform).await.unwrap(), full.app().db.begin(Scope::Platform).await.unwrap()];
    let mut client = other.client(&tokens.access_token).session;
    client.revoke_session(proto::RevokeSessionRequest::default()).await.unwrap();
    let refused = eventually("the revocation is known", async || {
        verify(&full, &caller, &tokens.access_token, "sidle").await.err()
    })
    .await;
    assert_eq!(reason(&refused), "INVALID_TOKEN");
    // Alone, it gives positions as well.
    let head = "SELECT max(position) FROM audit_head";
    let head = async || sqlx::query_scalar::<_, i64>(head).fetch_one(full.sql()).await.unwrap();
    other.stop().await;
    let before = head().await;
    let record = "SELECT set_config('sidle.platform', 'on', true), audit_record(jsonb_build_object('event_id',
        gen_random_uuid(), 'event_type', 'user.locked', 'outcome', 'success', 'occurred_at', now(), 'actor_kind', 'system',
        'correlation_id', gen_random_uuid(), 'source', NULL), NULL)";
    sqlx::query(record).execute(full.sql()).await.unwrap();
    eventually("the event has its position", async || (head().await > before).then_some(())).await;
    assert_eq!(reqwest::get(format!("{}/readyz", full.ops_url())).await.unwrap().status(), 200);
    drop(held);
}
