//! Attempts, locks and their events.

use std::time::Duration;

use futures_util::future::join_all;
use sidle::context::Context;
use sidle::proto;

use super::{attempt, set};
use crate::look::{event, reason, reasons};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn fifty_guesses_at_once_get_five_answers_over_all_replicas_and_names() {
    let setup = Setup::new().await;
    let context = Context::system();
    let (one, two) = (setup.start_with(context.clone()).await, setup.start_with(context.clone()).await);
    let tenant = one.tenant("a").await;
    let user = one.user(tenant, "ann@example.com", "user").await;
    set(&one, user, "username = 'ann', username_key = 'ann'").await;
    let guesses = (0..50).map(|n| {
        let server = if n % 2 == 0 { &one } else { &two };
        let identifier = if n % 4 < 2 { "ann@example.com" } else { "ann" };
        attempt(server, identifier, "a guess")
    });
    for guess in join_all(guesses).await {
        assert_eq!(reason(&guess.unwrap_err()), "INVALID_CREDENTIALS");
    }
    let written = reasons(&one, "user.login_refused", "refused").await;
    let compared = written.iter().filter(|why| *why == "wrong_password").count();
    let locked = written.iter().filter(|why| *why == "locked").count();
    assert_eq!((compared, locked), (5, 45), "no more passwords are compared than may be tried");
    assert_eq!(event(&one, "user.locked").await.target_id, Some(user.to_string()));

    assert_eq!(reason(&attempt(&two, "ann", ADMIN_PASSWORD).await.unwrap_err()), "INVALID_CREDENTIALS", "locked");
    context.clock.advance(Duration::from_secs(15 * 60 + 1));
    attempt(&two, "ann", ADMIN_PASSWORD).await.unwrap();
    let left: i32 = sqlx::query_scalar("SELECT failed_login_attempts FROM users WHERE user_id = $1")
        .bind(user)
        .fetch_one(one.sql())
        .await
        .unwrap();
    assert_eq!(left, 0, "a success begins a new count");
}

/// CVE-2025-24806 counted for each alias, CVE-2025-64102, CVE-2026-9798 and CVE-2026-16103 not on every path.
#[tokio::test]
async fn every_alias_and_every_path_share_one_count() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "Ann@example.com", "user").await;
    set(&server, user, "username = 'Ann', username_key = 'ann'").await;
    let mut session = server.client(&server.sign_in("ann@example.com").await.access_token).authenticate;
    let mut change = async |current: &str| {
        let request = proto::ChangePasswordRequest {
            current_password: current.to_owned(),
            new_password: "nine lives of a grey cat".to_owned(),
        };
        session.change_password(request).await
    };
    for alias in ["ann@example.com", " ANN@Example.COM ", "aNN"] {
        assert_eq!(reason(&attempt(&server, alias, "a guess").await.unwrap_err()), "INVALID_CREDENTIALS", "{alias}");
    }
    for _ in 0..2 {
        assert_eq!(reason(&change("a guess").await.unwrap_err()), "INVALID_CREDENTIALS");
    }
    assert_eq!(event(&server, "user.locked").await.target_id, Some(user.to_string()));
    for alias in ["ann@example.com", "ann"] {
        attempt(&server, alias, ADMIN_PASSWORD).await.expect_err("locked by way of every alias and path");
    }
    assert_eq!(reason(&change(ADMIN_PASSWORD).await.unwrap_err()), "INVALID_CREDENTIALS", "and on every path");
    let compared = reasons(&server, "user.reauthentication_failed", "refused").await;
    assert_eq!(compared, ["wrong_password", "wrong_password", "locked"]);
}

/// A right password on another path gives back its own attempt and no other.
#[tokio::test]
async fn a_password_shown_in_a_session_makes_no_room_for_guesses() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    for _ in 0..4 {
        attempt(&server, "ann@example.com", "a guess").await.unwrap_err();
    }
    let call = sidle::access::Call::internal(server.context.new_id());
    for _ in 0..3 {
        let password = zeroize::Zeroizing::new(ADMIN_PASSWORD.to_owned());
        server.app().authenticate.check_password(&call, user, password).await.unwrap();
    }
    attempt(&server, "ann@example.com", "a guess").await.unwrap_err();
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.expect_err("that was the fifth");
}

/// CVE-2026-119128: an account without any credential was given to the first caller who asked.
#[tokio::test]
async fn an_account_without_a_password_is_nobodys_to_claim() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    let tokens = server.sign_in("ann@example.com").await;
    set(&server, user, "password_hash = NULL, password_cost = NULL").await;
    for password in [ADMIN_PASSWORD, " ", "null", "NULL"] {
        let refused = attempt(&server, "ann@example.com", password).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_CREDENTIALS", "{password:?}");
        // Not even from within an active session.
        let request = proto::ChangePasswordRequest {
            current_password: password.to_owned(),
            new_password: "nine lives of a grey cat".to_owned(),
        };
        let refused = server.client(&tokens.access_token).authenticate.change_password(request).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_CREDENTIALS", "{password:?}");
    }
    let kept: Option<String> = sqlx::query_scalar("SELECT password_hash FROM users WHERE user_id = $1")
        .bind(user)
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert_eq!(kept, None);
}

#[tokio::test]
async fn the_fifth_attempt_still_counts_and_the_sixth_does_not() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    for _ in 0..4 {
        attempt(&server, "ann@example.com", "a guess").await.unwrap_err();
    }
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap();
    for _ in 0..5 {
        attempt(&server, "ann@example.com", "a guess").await.unwrap_err();
    }
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap_err();
}

#[tokio::test]
async fn after_a_lock_has_run_out_there_are_as_many_attempts_as_before() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    for _ in 0..2 {
        for _ in 0..5 {
            attempt(&server, "ann@example.com", "a guess").await.unwrap_err();
        }
        server.context.clock.advance(Duration::from_secs(15 * 60 + 1));
    }
    for _ in 0..4 {
        attempt(&server, "ann@example.com", "a guess").await.unwrap_err();
    }
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap();
}

#[tokio::test]
async fn an_automatic_lock_ends_no_living_session() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    let tokens = server.sign_in("ann@example.com").await;
    for _ in 0..6 {
        attempt(&server, "ann@example.com", "a guess").await.unwrap_err();
    }
    let mut client = server.client(&tokens.access_token);
    client.authenticate.who_am_i(proto::WhoAmIRequest {}).await.unwrap();
    let refresh = proto::RefreshTokenRequest { refresh_token: tokens.refresh_token, ..Default::default() };
    client.authenticate.refresh_token(refresh).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_right_logins_at_once_all_succeed() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    for login in join_all((0..20).map(|_| attempt(&server, "ann@example.com", ADMIN_PASSWORD))).await {
        login.unwrap();
    }
}

#[tokio::test]
async fn a_user_of_kanidm_is_never_let_in_by_an_old_hash() {
    let setup = Setup::new().await.with("KANIDM__URL", "http://127.0.0.1:9").with("KANIDM__TOKEN", "t");
    let server = setup.start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    set(&server, user, "auth_method = 'dual', kanidm_user_id = gen_random_uuid()").await;
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap();
    set(&server, user, "auth_method = 'kanidm'").await;
    let refused = attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_CREDENTIALS");
}

/// The last attempt locks before anything is compared. When the refusal cannot be written, the lock exists without its
/// event: that is written later, once, by any replica that looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_gets_its_event_although_the_database_failed_in_between() {
    let setup = Setup::new().await;
    let server = setup.start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    let other = server.user(tenant, "bob@example.com", "user").await;
    for email in ["ann@example.com", "bob@example.com"] {
        for _ in 0..4 {
            attempt(&server, email, "a guess").await.unwrap_err();
        }
    }
    let fail = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
                CREATE TRIGGER fail BEFORE INSERT ON audit_inbox FOR EACH ROW
                    WHEN (NEW.event_type IN ('user.login_refused', 'user.locked')) EXECUTE FUNCTION fail()";
    sqlx::raw_sql(fail).execute(server.sql()).await.unwrap();
    assert_eq!(reason(&attempt(&server, "ann@example.com", "a guess").await.unwrap_err()), "INTERNAL");
    sqlx::raw_sql("DROP TRIGGER fail ON audit_inbox").execute(server.sql()).await.unwrap();
    let locked: bool = sqlx::query_scalar("SELECT locked_until > now() FROM users WHERE user_id = $1")
        .bind(user)
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert!(locked && reasons(&server, "user.locked", "success").await.is_empty(), "a lock, and no event of it");
    // Beside a lock whose event was written.
    attempt(&server, "bob@example.com", "a guess").await.unwrap_err();
    assert_eq!(event(&server, "user.locked").await.target_id, Some(other.to_string()));

    let later = Context::system();
    later.clock.advance(Duration::from_secs(10 * 60));
    let (one, two) = (setup.start_with(later.clone()).await, setup.start_with(later).await);
    let recorded = async || reasons(&one, "user.locked", "success").await;
    eventually("it is written", async || (recorded().await.len() > 1).then_some(())).await;
    two.stop().await;
    one.stop().await;
    assert_eq!(reasons(&server, "user.locked", "success").await, ["too_many_failures", "too_many_failures"]);
}
