//! What is kept of an event: facts permanently, personal data as long as its subject's key exists.

use sha2::{Digest, Sha256};
use sidle::audit::{Event, EventType, Key, Outcome};
use sidle::db::Scope;
use uuid::Uuid;

use super::{Parts, call, numbered, superuser};
use crate::support::Setup;

const SECRETS: [&str; 4] = ["ann@example.com", "Ann Lee", "203.0.113.7", "agent/1.0"];

fn telling(user: Uuid) -> Event {
    Event::new(EventType::UserUpdated, &call())
        .by_user(user)
        .target("user", user)
        .personal("email", "ann@example.com")
        .old_new(serde_json::json!({"full_name": "Ann"}), serde_json::json!({"full_name": "Ann Lee"}))
        .detail("fields", ["full_name"])
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// Every byte that a dump of the table would hold.
async fn raw(setup: &Setup, table: &str) -> Vec<u8> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT column_name::text, data_type::text FROM information_schema.columns WHERE table_name = $1",
    )
    .bind(table)
    .fetch_all(&superuser(setup))
    .await
    .unwrap();
    let parts = columns.iter().map(|(name, kind)| match kind.as_str() {
        "bytea" => format!("coalesce({name}, '')"),
        _ => format!("coalesce(convert_to({name}::text, 'UTF8'), '')"),
    });
    let sql = format!("SELECT {} FROM {table}", parts.collect::<Vec<_>>().join(" || "));
    let rows: Vec<Vec<u8>> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&superuser(setup)).await.unwrap();
    rows.concat()
}

#[tokio::test]
async fn personal_data_is_readable_in_no_column_and_by_every_reader_with_the_keys() {
    let setup = Setup::new().await;
    let parts = Parts::new(&setup);
    let user = Uuid::from_u128(5);
    let ids = parts.record([telling(user)]).await;
    let waiting = raw(&setup, "audit_inbox").await;
    assert!(contains(&waiting, "user.updated") && SECRETS.iter().all(|secret| !contains(&waiting, secret)));
    parts.sequence().await;
    let stored = raw(&setup, "audit_events").await;
    assert!(contains(&stored, "user.updated") && contains(&stored, "full_name"));
    for secret in SECRETS {
        assert!(!contains(&stored, secret), "{secret} lies open");
    }

    let event = parts.log.get(Scope::Platform, Key::Id(ids[0])).await.unwrap();
    let opened = event.open(&parts.keyring);
    let (origin, personal) = (opened.origin.as_ref().unwrap(), opened.personal.as_ref().unwrap());
    assert_eq!((origin.subject, personal.subject, opened.erased), (user, user, false));
    assert_eq!((&origin.data["ip_address"], &origin.data["user_agent"]), (&"203.0.113.7".into(), &"agent/1.0".into()));
    assert_eq!(
        (&personal.data["email"], &personal.data["new"]["full_name"]),
        (&"ann@example.com".into(), &"Ann Lee".into())
    );
    // The leaf holds the commitments, so a reader who is shown the openings can check them.
    for part in [origin, personal] {
        let commitment = part.commitment();
        assert!(event.leaf.windows(32).any(|window| window == commitment));
    }
}

#[tokio::test]
async fn an_erased_person_is_forgotten_and_the_log_still_verifies() {
    let setup = Setup::new().await;
    let parts = Parts::new(&setup);
    let (user, admin) = (Uuid::from_u128(5), Uuid::from_u128(6));
    let change = telling(user).by_user(admin);
    let ids = parts.record([telling(user), change]).await;
    parts.sequence().await;
    let before = parts.log.get(Scope::Platform, Key::Id(ids[0])).await.unwrap();
    sqlx::query("UPDATE audit_subject_keys SET wrapped_key = NULL, erased_at = now() WHERE subject_id = $1")
        .bind(user)
        .execute(&superuser(&setup))
        .await
        .unwrap();

    let after = parts.log.get(Scope::Platform, Key::Id(ids[0])).await.unwrap();
    let opened = after.open(&parts.keyring);
    assert!(opened.erased && opened.origin.is_none() && opened.personal.is_none());
    assert_eq!(after.leaf, before.leaf);
    let digest: [u8; 32] = Sha256::new().chain_update([0]).chain_update(&after.leaf).finalize().into();
    assert_eq!(after.leaf_hash, digest);
    // The administrator's own address belongs to the administrator, and stays.
    let by_admin = parts.log.get(Scope::Platform, Key::Id(ids[1])).await.unwrap();
    let opened = by_admin.open(&parts.keyring);
    assert!(opened.erased && opened.personal.is_none());
    assert_eq!(opened.origin.as_ref().unwrap().data["ip_address"], "203.0.113.7");

    // Later events are recorded without the erased subject's personal data.
    let later = parts.record([telling(user)]).await;
    parts.sequence().await;
    let later = parts.log.get(Scope::Platform, Key::Id(later[0])).await.unwrap();
    assert!(later.open(&parts.keyring).erased);
    let state: String = sqlx::query_scalar("SELECT personal_state FROM audit_events WHERE event_id = $1")
        .bind(later.event_id)
        .fetch_one(&superuser(&setup))
        .await
        .unwrap();
    assert_eq!(state, "erased");
}

#[tokio::test]
async fn personal_data_that_does_not_open_holds_up_nothing() {
    let setup = Setup::new().await;
    let parts = Parts::new(&setup);
    let prepared = parts.recorder.prepare(telling(Uuid::from_u128(5)));
    let mut tx = parts.db.begin(Scope::Platform).await.unwrap();
    sqlx::query("SELECT audit_record($1, $2)")
        .bind(&prepared.event)
        .bind(b"sealed by nobody".as_slice())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    parts.record([numbered(None, 1)]).await;
    parts.sequence().await;
    assert_eq!(parts.log.head().await.unwrap(), 2);
    let event = parts.log.get(Scope::Platform, Key::Id(prepared.event_id())).await.unwrap();
    assert!(event.open(&parts.keyring).erased);
    assert_eq!(event.event_type, "user.updated");
    assert_eq!(parts.metrics.audit_personal_lost.get(), 1);
}

#[tokio::test]
async fn an_event_that_a_writer_records_twice_is_two_events() {
    let parts = Parts::new(&Setup::new().await);
    let prepared = parts.recorder.prepare(telling(Uuid::from_u128(5)));
    for repeat in 0..3 {
        let mut tx = parts.db.begin(Scope::Platform).await.unwrap();
        let record = "SELECT audit_record($1, $2)";
        sqlx::query(record).bind(&prepared.event).bind(&prepared.personal).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        // Two of them in one batch, one after it.
        if repeat > 0 {
            parts.sequence().await;
        }
    }
    let mut ids = Vec::new();
    for position in 1..=3 {
        let event = parts.log.get(Scope::Platform, Key::Position(position)).await.unwrap();
        assert_eq!(event.open(&parts.keyring).personal.as_ref().unwrap().data["email"], "ann@example.com");
        ids.push(event.event_id);
    }
    assert_eq!(ids[0], prepared.event_id());
    assert!(ids[1] != ids[0] && ids[2] != ids[0] && ids[1] != ids[2]);
}

#[tokio::test]
async fn a_database_function_may_say_what_only_it_knows() {
    let parts = Parts::new(&Setup::new().await);
    let (tenant, user) = (Uuid::from_u128(1), Uuid::from_u128(5));
    let event = Event::new(EventType::UserAuthenticated, &call()).personal("identifier", "ann");
    let prepared = parts.recorder.prepare(event);
    let known = serde_json::json!({"event_type": "user.login_refused", "outcome": "refused", "reason": "locked",
        "tenant_id": tenant, "personal_subject": user, "target_kind": "user", "target_id": user});
    let mut tx = parts.db.begin(Scope::Tenant(tenant)).await.unwrap();
    sqlx::query("SELECT audit_record($1 || $2, $3)")
        .bind(&prepared.event)
        .bind(known)
        .bind(&prepared.personal)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    parts.sequence().await;
    let event = parts.log.get(Scope::Tenant(tenant), Key::Id(prepared.event_id())).await.unwrap();
    assert_eq!((event.event_type.as_str(), event.outcome), ("user.login_refused", Outcome::Refused));
    assert_eq!(
        (event.reason.as_deref(), event.target_id.as_deref()),
        (Some("locked"), Some(user.to_string().as_str()))
    );
    let opened = event.open(&parts.keyring);
    // The caller is not authenticated, so address and agent belong to the user whom the attempt was about.
    let subjects = [&opened.origin, &opened.personal].map(|part| part.as_ref().unwrap().subject);
    assert_eq!(subjects, [user, user]);
}
