//! What the database itself refuses, whichever caller asks.

use sidle::audit::{Filter, Key, Page};
use sidle::db::Scope;
use sidle::fault::Reason;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use super::{Parts, numbered};
use crate::support::Setup;

/// SQLSTATE that `statement` fails with in a transaction of the application role.
async fn attempt(setup: &Setup, scope: &str, statement: &str) -> Result<u64, String> {
    let mut connection = PgConnection::connect(&setup.database().app_url).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    sqlx::query(AssertSqlSafe(scope.to_owned())).execute(&mut *tx).await.unwrap();
    match sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut *tx).await {
        Ok(done) => Ok(done.rows_affected()),
        Err(error) => Err(error.as_database_error().unwrap().code().unwrap().into_owned()),
    }
}

const PLATFORM: &str = "SET LOCAL sidle.platform = 'on'";
const DENIED: &str = "42501";

#[tokio::test]
async fn the_service_can_add_to_the_log_and_take_nothing_away() {
    let setup = Setup::new().await;
    let parts = Parts::new(&setup);
    parts.record([numbered(None, 1)]).await;
    parts.sequence().await;
    for statement in [
        "UPDATE audit_events SET outcome = 'failed'",
        "UPDATE audit_events SET leaf = ''",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "DELETE FROM audit_head",
        "TRUNCATE audit_inbox",
        "UPDATE audit_inbox SET outcome = 'failed'",
        "DELETE FROM audit_subject_keys",
        "ALTER TABLE audit_events DISABLE ROW LEVEL SECURITY",
    ] {
        assert_eq!(attempt(&setup, PLATFORM, statement).await, Err(DENIED.to_owned()), "{statement}");
    }
    assert_eq!(parts.log.head().await.unwrap(), 1);
}

#[tokio::test]
async fn a_tenant_reads_its_own_events_and_writes_none_for_others() {
    let setup = Setup::new().await;
    let parts = Parts::new(&setup);
    let (own, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let ids = parts.record([numbered(Some(own), 1), numbered(Some(other), 2), numbered(None, 3)]).await;
    parts.sequence().await;

    let scope = format!("SET LOCAL sidle.tenant_id = '{own}'");
    assert_eq!(attempt(&setup, &scope, "SELECT FROM audit_events").await, Ok(1));
    assert_eq!(attempt(&setup, PLATFORM, "SELECT FROM audit_events").await, Ok(3));
    assert_eq!(attempt(&setup, "SELECT 1", "SELECT FROM audit_events").await, Ok(0), "no scope sees nothing");

    let page = Page { size: 10, ..Page::default() };
    let found = parts.log.list(&Filter::new(Scope::Tenant(own)), page).await.unwrap();
    assert_eq!(found.iter().map(|event| event.event_id).collect::<Vec<_>>(), ids[..1]);
    let refused = parts.log.get(Scope::Tenant(own), Key::Id(ids[1])).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::NotFound);

    let record = |tenant: &str| {
        format!(
            "SELECT audit_record(jsonb_build_object('event_id', gen_random_uuid(), 'event_type', 'user.locked', 'outcome',
             'success', 'occurred_at', now(), 'actor_kind', 'system', 'tenant_id', {tenant}), NULL)"
        )
    };
    assert_eq!(attempt(&setup, &scope, &record(&format!("'{own}'"))).await, Ok(1));
    assert_eq!(attempt(&setup, &scope, &record("NULL::text")).await, Ok(1));
    assert_eq!(attempt(&setup, &scope, &record(&format!("'{other}'"))).await, Err(DENIED.to_owned()));
    assert_eq!(attempt(&setup, "SELECT 1", &record(&format!("'{own}'"))).await, Err(DENIED.to_owned()));
    let insert =
        "INSERT INTO audit_events (position, event_id, event_type, outcome, occurred_at, recorded_at, tenant_id,
        actor_kind, details, origin_state, personal_state, leaf, leaf_hash) VALUES (9, gen_random_uuid(), 'user.locked',
        'success', now(), now(), sidle_tenant(), 'system', '{}', 'none', 'none', '', decode(repeat('00', 32), 'hex'))";
    assert_eq!(attempt(&setup, &scope, insert).await, Err(DENIED.to_owned()));
    assert_eq!(attempt(&setup, PLATFORM, insert).await, Ok(1), "the statement itself is right");
}

#[tokio::test]
async fn what_could_hold_up_the_log_is_refused_in_the_writers_transaction() {
    let setup = Setup::new().await;
    let record = |change: &str| {
        format!(
            "SELECT audit_record(jsonb_build_object('event_id', gen_random_uuid(), 'event_type', 'user.locked', 'outcome',
             'success', 'occurred_at', now(), 'actor_kind', 'system') || '{change}', NULL)"
        )
    };
    assert_eq!(attempt(&setup, PLATFORM, &record("{}")).await, Ok(1));
    for change in [
        r#"{"event_type": "User Locked"}"#,
        r#"{"event_type": "ext.order.cancelled"}"#,
        r#"{"source": "billing"}"#,
        r#"{"outcome": "perhaps"}"#,
        r#"{"reason": "a sentence about somebody"}"#,
        r#"{"actor_kind": "user"}"#,
        r#"{"actor_id": "00000000-0000-0000-0000-000000000001"}"#,
        r#"{"target_kind": "user"}"#,
        r#"{"details": [1]}"#,
    ] {
        assert_eq!(attempt(&setup, PLATFORM, &record(change)).await, Err("23514".to_owned()), "{change}");
    }
    assert_eq!(attempt(&setup, PLATFORM, &record(r#"{"event_id": null}"#)).await, Err("23502".to_owned()));
}
