//! Passwords that are also set in Kanidm after a right login.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sidle_dev::kanidm::Fault;
use tracing_subscriber::fmt::MakeWriter;

use super::{Person, World};
use crate::authenticate::set;
use crate::look::{event, reasons};
use crate::support::{ADMIN_PASSWORD, Setup, eventually, until};

const COMMIT: &str = "POST /v1/credential/_commit";
const UPDATE: &str = "POST /v1/credential/_update";
const BEGIN: &str = "GET /v1/person/{id}/_credential/_update";

fn on(setup: Setup) -> Setup {
    setup.with("ENROLMENT__CARRY_OVER", "true")
}

impl World {
    /// The outcome of carrying over the person's password, once it has one.
    async fn carried_over(&self, person: &Person) -> String {
        let select = "SELECT carry_over_outcome FROM kanidm_enrolments WHERE person_id = $1 AND lease_id IS NULL
            AND carry_over_outcome IS NOT NULL";
        eventually("carrying over has ended", async || {
            sqlx::query_scalar(select).bind(person.person).fetch_optional(self.server.sql()).await.unwrap()
        })
        .await
    }

    async fn was_offered(&self, person: &Person) -> bool {
        self.count("SELECT count(*) FROM kanidm_enrolments WHERE person_id = $1", person.person).await > 0
    }

    async fn has_no_credential(&self, person: &Person) -> bool {
        let status = self.kanidm.get(&format!("/v1/person/{}/_credential/_status", person.person)).await.unwrap();
        status["creds"] == json!([])
    }
}

#[tokio::test]
async fn a_password_is_carried_over_after_a_complete_login() {
    let world = World::with(on).await;
    let ann = world.person("ann").await;
    world.login(&ann.email, "").await;
    assert_eq!(world.carried_over(&ann).await, "done");
    world.kanidm.sign_in(&ann.name, ADMIN_PASSWORD).await.expect("the same password there");
    let recorded = event(&world.server, "migration.password_carried_over").await;
    assert_eq!(recorded.target_id, Some(ann.user.to_string()));
    let told = "SELECT count(*) FROM mail_outbox WHERE kind = 'password_carried_over' AND user_id = $1";
    assert_eq!(world.count(told, ann.user).await, 1, "and the user is told");
    world.login(&ann.email, "").await;
    let completed = "SELECT count(*) FROM users WHERE user_id = $1 AND migration_completed_at IS NULL";
    assert_eq!(world.count(completed, ann.user).await, 1, "that is for the first login there");
}

#[tokio::test]
async fn what_is_carried_over_voids_the_invitation() {
    let both = |setup: Setup| on(setup).with("ENROLMENT__HINTS", "true");
    let world = World::with(both).await;
    let ann = world.person("ann").await;
    world.login(&ann.email, "").await;
    assert_eq!(world.carried_over(&ann).await, "done");
    assert_eq!(world.mailed(&ann.email).await.len(), 1);
    assert!(!world.has_invitation(ann.user).await);
}

#[tokio::test]
async fn it_is_off_by_default_and_for_listed_tenants() {
    let world = World::with(|setup| setup).await;
    let (ann, bob) = (world.person("ann").await, world.person("bob").await);
    world.login(&ann.email, "").await;
    let setup = on(world.server.setup.clone());
    let elsewhere = setup.clone().with("ENROLMENT__TENANTS", "b").start().await;
    super::login(&elsewhere, &ann.email, ADMIN_PASSWORD, "").await;
    let here = setup.with("ENROLMENT__TENANTS", "a").start().await;
    super::login(&here, &bob.email, ADMIN_PASSWORD, "").await;
    assert_eq!(world.carried_over(&bob).await, "done");
    assert!(!world.was_offered(&ann).await);
}

#[tokio::test]
async fn who_is_not_to_be_carried_over_is_not() {
    let world = World::with(on).await;
    for assignment in ["auth_method = 'password'", "must_change_password = true", "migration_completed_at = now()"] {
        let ann = world.person("ann").await;
        set(&world.server, ann.user, assignment).await;
        world.login(&ann.email, "").await;
        // Users who sign in later are carried over later.
        let bob = world.person("bob").await;
        world.login(&bob.email, "").await;
        assert_eq!(world.carried_over(&bob).await, "done");
        assert!(!world.was_offered(&ann).await && world.has_no_credential(&ann).await, "{assignment}");
    }
}

#[tokio::test]
async fn somebody_who_has_a_credential_keeps_it() {
    let world = World::with(on).await;
    let ann = world.person("ann").await;
    let link = world.kanidm.reset_link(&ann.person.to_string()).await.unwrap();
    world.kanidm.use_reset_link(&link, "a-password-of-Kanidms-4711").await.unwrap();
    world.login(&ann.email, "").await;
    assert_eq!(world.carried_over(&ann).await, "credential");
    world.kanidm.sign_in(&ann.name, "a-password-of-Kanidms-4711").await.expect("as it was");
}

#[tokio::test]
async fn nothing_is_carried_over_beside_a_reset_link() {
    let world = World::with(on).await;
    let (ann, bob) = (world.person("ann").await, world.person("bob").await);
    let out = "INSERT INTO kanidm_enrolments (person_id, link_id, link_until)
        VALUES ($1, gen_random_uuid(), now() + interval '1 minute')";
    sqlx::query(out).bind(ann.person).execute(world.server.sql()).await.unwrap();
    world.login(&ann.email, "").await;
    world.login(&bob.email, "").await;
    assert_eq!(world.carried_over(&bob).await, "done");
    assert!(world.has_no_credential(&ann).await, "whoever has the link could take it over");
}

#[tokio::test]
async fn where_kanidm_asks_for_a_second_factor_nothing_is_set_and_it_is_not_asked_at_every_login() {
    let world = World::with(on).await;
    let ann = world.person("ann").await;
    let policy = "/v1/group/idm_all_persons/_attr/credential_type_minimum";
    world.kanidm.put(policy, &json!(["mfa"])).await.unwrap();
    world.login(&ann.email, "").await;
    assert_eq!(world.carried_over(&ann).await, "second_factor");
    assert_eq!(reasons(&world.server, "migration.password_not_carried_over", "failed").await, ["second_factor"]);
    assert!(world.has_no_credential(&ann).await);
    assert_eq!(world.kanidm.requests(COMMIT).await.unwrap(), 0);
    world.kanidm.put(policy, &json!(["any"])).await.unwrap();
    world.login(&ann.email, "").await;
    let bob = world.person("bob").await;
    world.login(&bob.email, "").await;
    assert_eq!(world.carried_over(&bob).await, "done");
    assert_eq!(world.kanidm.requests(BEGIN).await.unwrap(), 2, "ann once and bob once");
    world.server.context.clock.advance(Duration::from_secs(90_000));
    world.login(&ann.email, "").await;
    event(&world.server, "migration.password_carried_over").await;
    world.set_enrolment(ann.person, "lease_id = lease_id").await;
    until("the person has a credential", async || !world.has_no_credential(&ann).await).await;
}

#[tokio::test]
async fn a_password_too_weak_for_kanidm_stays_here() {
    let world = World::with(on).await;
    let ann = world.person("ann").await;
    set(&world.server, ann.user, &format!("password_hash = '{}'", crate::support::cheap_hash("weak"))).await;
    super::login(&world.server, &ann.email, "weak", "").await;
    assert_eq!(world.carried_over(&ann).await, "weak");
    assert_eq!(reasons(&world.server, "migration.password_not_carried_over", "failed").await, ["weak"]);
    assert!(world.has_no_credential(&ann).await);
    let page = world.server.app().metrics.render().unwrap();
    assert!(page.contains("sidle_passwords_carried_over_total{outcome=\"weak\"} 1"), "{page}");
}

#[tokio::test]
async fn with_kanidm_down_or_slow_the_login_answers_and_the_password_is_dropped() {
    let quick = |setup: Setup| on(setup).with("ENROLMENT__CARRY_OVER_TIMEOUT", "1s");
    let world = World::with(quick).await;
    for (fault, path, outcome) in [
        (Fault::Fail, "/v1", "unavailable"),
        (Fault::Garbage, "/v1/credential/_update", "unavailable"),
        (Fault::Stall, "/v1", "dropped"),
        (Fault::Stall, "/v1/credential/_commit", "dropped"),
    ] {
        let ann = world.person("ann").await;
        world.kanidm.fault(fault, path, 0, None).await.unwrap();
        world.login(&ann.email, "").await;
        assert_eq!(world.carried_over(&ann).await, outcome, "{fault:?} at {path}");
        world.kanidm.heal().await.unwrap();
    }
    assert!(reasons(&world.server, "migration.password_carried_over", "success").await.is_empty());
}

#[tokio::test]
async fn a_commit_whose_answer_got_lost_is_seen_at_the_next_login() {
    let world = World::with(on).await;
    let ann = world.person("ann").await;
    world.kanidm.fault(Fault::DropReply, "/v1/credential/_commit", 0, Some(1)).await.unwrap();
    world.login(&ann.email, "").await;
    assert_eq!(world.carried_over(&ann).await, "unavailable");
    world.set_enrolment(ann.person, "carry_over_outcome = NULL, carry_over_at = NULL").await;
    world.login(&ann.email, "").await;
    assert_eq!(world.carried_over(&ann).await, "credential");
    world.kanidm.sign_in(&ann.name, ADMIN_PASSWORD).await.expect("it was set");
}

#[tokio::test]
async fn logins_at_once_on_two_replicas_carry_over_once() {
    let world = World::with(on).await;
    let ann = world.person("ann").await;
    let replica = world.server.setup.start().await;
    tokio::join!(
        world.login(&ann.email, ""),
        super::login(&replica, &ann.email, ADMIN_PASSWORD, ""),
        world.login(&ann.email, ""),
        super::login(&replica, &ann.email, ADMIN_PASSWORD, ""),
    );
    assert_eq!(world.carried_over(&ann).await, "done");
    world.login(&ann.email, "").await;
    assert_eq!(world.kanidm.requests(BEGIN).await.unwrap(), 1);
    assert_eq!(world.kanidm.requests(COMMIT).await.unwrap(), 1);
}

#[tokio::test]
async fn what_changes_while_kanidm_is_asked_stops_it_before_the_last_step() {
    let world = World::with(on).await;
    let second_factor = "INSERT INTO user_totp (user_id, totp_id, secret, created_at, expires_at, confirmed_at)
        VALUES ($1, gen_random_uuid(), '\\x00', now(), now(), now())";
    let changes = [
        second_factor,
        "UPDATE users SET password_changed_at = now() WHERE user_id = $1",
        "UPDATE users SET status = 'disabled' WHERE user_id = $1",
        "UPDATE users SET locked_until = now() + interval '1 hour', lock_reason = 'administrator' WHERE user_id = $1",
        "UPDATE users SET auth_method = 'password' WHERE user_id = $1",
        "UPDATE users SET kanidm_user_id = NULL WHERE user_id = $1",
    ];
    for (asked, change) in (1..).zip(changes) {
        let ann = world.person("ann").await;
        world.kanidm.fault(Fault::Stall, "/v1/credential/_update", 0, Some(1)).await.unwrap();
        world.login(&ann.email, "").await;
        until("Kanidm is asked", async || world.kanidm.requests(UPDATE).await.unwrap() >= asked).await;
        sqlx::query(change).bind(ann.user).execute(world.server.sql()).await.unwrap();
        world.kanidm.heal().await.unwrap();
        assert_eq!(world.carried_over(&ann).await, "dropped", "{change}");
        assert!(world.has_no_credential(&ann).await, "{change}");
    }
    assert_eq!(world.kanidm.requests(COMMIT).await.unwrap(), 0);
}

#[tokio::test]
async fn only_so_many_are_under_way_at_once() {
    let few = |setup: Setup| on(setup).with("ENROLMENT__CARRY_OVER_AT_ONCE", "1");
    let world = World::with(few).await;
    let (ann, bob) = (world.person("ann").await, world.person("bob").await);
    world.kanidm.fault(Fault::Stall, "/v1/credential/_update", 0, Some(1)).await.unwrap();
    world.login(&ann.email, "").await;
    until("Kanidm is asked", async || world.kanidm.requests(UPDATE).await.unwrap() != 0).await;
    world.login(&bob.email, "").await;
    world.kanidm.heal().await.unwrap();
    assert_eq!(world.carried_over(&ann).await, "done");
    world.login(&bob.email, "").await;
    assert_eq!(world.carried_over(&bob).await, "done", "the next login did");
}

/// All logs, of every thread.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Written {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn the_password_is_in_no_table_and_no_log() {
    let written = Written::default();
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(written.clone())
        .with_ansi(false)
        .finish();
    // Before anything is logged: the test's server runs on this thread.
    let _log = tracing::subscriber::set_default(log);
    let world = World::with(on).await;
    let password = "only-for-this-test-Zx81-Qd57";
    let (ann, bob) = (world.person("ann").await, world.person("bob").await);
    for person in [&ann, &bob] {
        set(&world.server, person.user, &format!("password_hash = '{}'", crate::support::cheap_hash(password))).await;
    }
    super::login(&world.server, &ann.email, password, "").await;
    assert_eq!(world.carried_over(&ann).await, "done");
    if world.kanidm.is_dev() {
        for path in ["/v1/credential/_update", "/v1/credential/_commit"] {
            world.kanidm.fault(Fault::DropReply, path, 0, Some(1)).await.unwrap();
            super::login(&world.server, &bob.email, password, "").await;
            assert_eq!(world.carried_over(&bob).await, "unavailable");
            world.set_enrolment(bob.person, "carry_over_outcome = NULL, carry_over_at = NULL").await;
        }
    }
    // The outcome is written before it is logged.
    let log = eventually("the log was kept", async || {
        let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        log.contains("password_carry_over_ended").then_some(log)
    })
    .await;
    let tables = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(world.server.sql()).await.unwrap();
    let mut rows = 0;
    for table in &tables {
        let select = sqlx::AssertSqlSafe(format!("SELECT to_jsonb(t)::text FROM \"{table}\" t"));
        let all: Vec<String> = sqlx::query_scalar(select).fetch_all(world.server.sql()).await.unwrap();
        rows += all.len();
        let hex: String = password.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!all.iter().any(|row| row.contains(password) || row.contains(&hex)), "{table} holds the password");
    }
    assert!(rows > 20, "there was something to look at");
    assert!(!log.contains(password), "the log holds the password");
}
