//! Resetting a forgotten password through a message.

use std::time::Duration;

use sidle::context::Context;
use sidle::proto::*;
use sidle_dev::smtp::Smtp;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{ann, refused, server, smtp, with_mail};
use crate::authenticate::factors::{counted, enrol};
use crate::database::waiting_for_locks;
use crate::look::{event, reasons};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, eventually, within};

const NEW_PASSWORD: &str = "seven otters juggle walnuts";

async fn ask(server: &TestServer, identifier: &str) -> RequestPasswordResetResponse {
    let request = RequestPasswordResetRequest { identifier: identifier.to_owned() };
    server.client("").authenticate.request_password_reset(request).await.unwrap().into_inner()
}

async fn reset(server: &TestServer, token: &str, password: &str) -> Result<i32, tonic::Status> {
    reset_with(server, token, password, String::new()).await
}

async fn reset_with(
    server: &TestServer,
    token: &str,
    password: &str,
    second_factor_code: String,
) -> Result<i32, tonic::Status> {
    let (reset_token, new_password) = (token.to_owned(), password.to_owned());
    let request = ResetPasswordRequest { reset_token, new_password, second_factor_code };
    Ok(server.client("").authenticate.reset_password(request).await?.into_inner().sessions_revoked)
}

async fn sign_in(server: &TestServer, identifier: &str, password: &str) -> Result<(), String> {
    let request = AuthenticatePasswordRequest {
        identifier: identifier.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    server.client("").authenticate.authenticate_password(request).await.map(drop).map_err(|status| refused(&status))
}

/// The token for `email`, from a message that was asked for.
async fn token_for(server: &TestServer, smtp: &mut Smtp, email: &str) -> String {
    ask(server, email).await;
    within("a message with the token", async {
        loop {
            let message = smtp.message().await.unwrap();
            if let Some(token) = message.token().filter(|_| message.to == [email.to_owned()]) {
                return token;
            }
        }
    })
    .await
}

/// The whole reset: requests it, sets `password`, and reads the notice.
pub(super) async fn forgotten(server: &TestServer, smtp: &mut Smtp, email: &str, password: &str) {
    let token = token_for(server, smtp, email).await;
    reset(server, &token, password).await.unwrap();
    let notice = smtp.message().await.unwrap();
    assert_eq!(
        (notice.header("Subject").unwrap().as_str(), notice.to.as_slice()),
        ("Your password was changed", &[email.to_owned()][..])
    );
}

async fn set(server: &TestServer, user: Uuid, change: &str) {
    let change = format!("UPDATE users SET {change} WHERE user_id = $1");
    sqlx::query(sqlx::AssertSqlSafe(change)).bind(user).execute(server.sql()).await.unwrap();
}

#[tokio::test]
async fn a_forgotten_password_is_set_through_a_message_and_every_session_ends() {
    let (server, mut smtp) = server().await;
    ann(&server).await;
    let tokens = server.sign_in("ann@letters.example").await;
    let token = token_for(&server, &mut smtp, "ann@letters.example").await;
    let lines: Vec<String> =
        sqlx::query_scalar("SELECT one_time_tokens::text FROM one_time_tokens").fetch_all(server.sql()).await.unwrap();
    assert!(lines.len() == 1 && !lines[0].contains(&token), "{lines:?}");

    assert_eq!(reset(&server, &token, NEW_PASSWORD).await.unwrap(), 1);
    let notice = smtp.message().await.unwrap();
    assert_eq!(notice.header("Subject").unwrap(), "Your password was changed");
    assert_eq!(sign_in(&server, "ann@letters.example", ADMIN_PASSWORD).await.unwrap_err(), "INVALID_CREDENTIALS");
    sign_in(&server, "ann@letters.example", NEW_PASSWORD).await.unwrap();
    let refresh = RefreshTokenRequest { refresh_token: tokens.refresh_token, ..Default::default() };
    let refresh = server.client("").authenticate.refresh_token(refresh).await.unwrap_err();
    assert_eq!(refused(&refresh), "INVALID_REFRESH_TOKEN");
    let who = server.client(&tokens.access_token).authenticate.who_am_i(WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(refused(&who), "UNAUTHENTICATED");
    let again = reset(&server, &token, ADMIN_PASSWORD).await.unwrap_err();
    assert_eq!(refused(&again), "INVALID_CREDENTIALS", "a token is good once");
}

#[tokio::test]
async fn a_token_is_good_for_nothing_once_something_newer_has_happened() {
    let (context, mut smtp) = (Context::system(), smtp().await);
    let server = with_mail(Setup::new().await, smtp.port).start_with(context.clone()).await;
    let user = ann(&server).await;
    let mail = "ann@letters.example";
    let refusal = |token: String| {
        let server = &server;
        async move { refused(&reset(server, &token, NEW_PASSWORD).await.unwrap_err()) }
    };

    let older = token_for(&server, &mut smtp, mail).await;
    let newer = token_for(&server, &mut smtp, mail).await;
    assert_eq!(refusal(older).await, "INVALID_CREDENTIALS", "a newer token supersedes it");
    set(&server, user, "password_changed_at = now() + interval '1 minute'").await;
    assert_eq!(refusal(newer).await, "INVALID_CREDENTIALS", "the password was set in another way");
    set(&server, user, "password_changed_at = NULL").await;

    let token = token_for(&server, &mut smtp, mail).await;
    for (before, after) in [
        ("email_key = 'other@letters.example'", "email_key = 'ann@letters.example'"),
        ("status = 'disabled'", "status = 'active'"),
        ("verified_at = NULL", "verified_at = now()"),
        ("auth_method = 'kanidm', kanidm_user_id = user_id", "auth_method = 'password', kanidm_user_id = NULL"),
        ("deleted_at = now()", "deleted_at = NULL"),
    ] {
        set(&server, user, before).await;
        assert_eq!(refusal(token.clone()).await, "INVALID_CREDENTIALS", "{before}");
        set(&server, user, after).await;
    }
    context.clock.advance(Duration::from_secs(3601));
    assert_eq!(refusal(token).await, "INVALID_CREDENTIALS", "it has expired");
    sign_in(&server, mail, ADMIN_PASSWORD).await.unwrap();
}

#[tokio::test]
async fn nobody_but_an_active_user_with_a_confirmed_address_gets_a_token() {
    let (server, mut smtp) = server().await;
    let tenant = server.tenant("letters").await;
    for (name, change) in [
        ("pending", "status = 'pending_verification', verified_at = NULL"),
        ("unverified", "verified_at = NULL"),
        ("disabled", "status = 'disabled'"),
        ("deleted", "deleted_at = now()"),
    ] {
        let user = server.user(tenant, &format!("{name}@letters.example"), "user").await;
        set(&server, user, change).await;
    }
    let kanidm = server.user(tenant, "kanidm@letters.example", "user").await;
    set(
        &server,
        kanidm,
        "auth_method = 'kanidm', kanidm_user_id = user_id, password_hash = NULL, password_cost = NULL",
    )
    .await;
    server.user(tenant, "last@letters.example", "user").await;
    let mut answers = Vec::new();
    for name in ["nobody", "pending", "unverified", "disabled", "deleted", "kanidm", "last"] {
        answers.push(ask(&server, &format!("{name}@letters.example")).await);
    }
    assert!(answers.iter().all(|answer| answer.expires_at.is_some()));
    let told = smtp.message().await.unwrap();
    assert_eq!((told.to.as_slice(), told.token()), (&["kanidm@letters.example".to_owned()][..], None));
    assert!(told.body().contains("Kanidm"));
    let sent = smtp.message().await.unwrap();
    assert!(sent.to == ["last@letters.example"] && sent.token().is_some(), "nothing came in between");
    assert_eq!(smtp.taken().unwrap().len(), 2);
    let refusals = reasons(&server, "user.password_reset_sent", "refused").await;
    assert_eq!(refusals, ["unverified", "unverified", "disabled", "kanidm_only"], "and nothing of nobody");
    assert_eq!(reasons(&server, "user.password_reset_sent", "success").await, [""]);
    assert_eq!(reasons(&server, "user.password_reset_requested", "success").await.len(), 5);
}

#[tokio::test]
async fn an_imported_user_without_a_password_gets_one_by_username_as_well() {
    let (server, mut smtp) = server().await;
    let user = ann(&server).await;
    set(&server, user, "password_hash = NULL, password_cost = NULL, username = 'Ann', username_key = 'ann'").await;
    assert_eq!(sign_in(&server, "ann", NEW_PASSWORD).await.unwrap_err(), "INVALID_CREDENTIALS");
    ask(&server, "ANN").await;
    let token = smtp.message().await.unwrap().token().unwrap();
    reset(&server, &token, NEW_PASSWORD).await.unwrap();
    sign_in(&server, "ann", NEW_PASSWORD).await.unwrap();
}

#[tokio::test]
async fn a_reset_takes_an_automatic_lock_away_and_an_administrators_not() {
    let (server, mut smtp) = server().await;
    let user = ann(&server).await;
    for (reason, result) in [("too_many_failures", Ok(())), ("administrator", Err("INVALID_CREDENTIALS".to_owned()))] {
        let locked =
            format!("failed_login_attempts = 5, locked_until = now() + interval '1 hour', lock_reason = '{reason}'");
        set(&server, user, &locked).await;
        let password = format!("{NEW_PASSWORD} {reason}");
        forgotten(&server, &mut smtp, "ann@letters.example", &password).await;
        assert_eq!(sign_in(&server, "ann@letters.example", &password).await, result, "{reason}");
    }
}

/// The holder of the mailbox alone does not bypass a second factor.
#[tokio::test]
async fn a_user_with_a_second_factor_does_not_get_in_by_mail_alone() {
    let (server, mut smtp) = server().await;
    let user = ann(&server).await;
    let client = server.client(&server.sign_in("ann@letters.example").await.access_token);
    let (application, codes) = enrol(&server, &client).await;
    let token = token_for(&server, &mut smtp, "ann@letters.example").await;
    // Counted with the guesses at the login: the fifth locks, and then the right code is refused as well.
    for guess in ["", &application.wrong(server.context.now()), "0000-0000-0000-0000", "nonsense", ""] {
        let status = reset_with(&server, &token, NEW_PASSWORD, guess.to_owned()).await.unwrap_err();
        assert_eq!(refused(&status), "INVALID_CREDENTIALS");
    }
    assert_eq!(counted(&server, user).await, (5, true));
    let status = reset_with(&server, &token, NEW_PASSWORD, codes[0].clone()).await.unwrap_err();
    assert_eq!(refused(&status), "INVALID_CREDENTIALS");
    let changed: bool = sqlx::query_scalar("SELECT password_changed_at IS NOT NULL FROM users WHERE user_id = $1")
        .bind(user)
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert!(!changed);
    sqlx::query("UPDATE users SET failed_login_attempts = 0, locked_until = NULL, lock_reason = NULL")
        .execute(server.sql())
        .await
        .unwrap();
    let code = application.code(server.context.now(), 0);
    reset_with(&server, &token, NEW_PASSWORD, code).await.expect("mailbox and second factor");
}

#[tokio::test]
async fn a_password_that_breaks_the_rules_spends_nothing() {
    let (server, mut smtp) = server().await;
    ann(&server).await;
    let token = token_for(&server, &mut smtp, "ann@letters.example").await;
    for weak in ["short", "password1", "qwertyuiop"] {
        assert_eq!(refused(&reset(&server, &token, weak).await.unwrap_err()), "INVALID_FIELD", "{weak}");
    }
    reset(&server, &token, NEW_PASSWORD).await.unwrap();
}

/// The event that was stored with the request is about the user whom the worker found.
#[tokio::test]
async fn a_request_and_its_answer_are_recorded_about_the_user() {
    let (server, mut smtp) = server().await;
    let user = ann(&server).await;
    token_for(&server, &mut smtp, "ann@letters.example").await;
    let requested = event(&server, "user.password_reset_requested").await;
    let sent = event(&server, "user.password_reset_sent").await;
    let home: Uuid = sqlx::query_scalar("SELECT tenant_id FROM users WHERE user_id = $1")
        .bind(user)
        .fetch_one(server.sql())
        .await
        .unwrap();
    for event in [&requested, &sent] {
        assert_eq!((event.target_kind.as_deref(), event.target_id.clone()), (Some("user"), Some(user.to_string())));
        assert_eq!((event.tenant_id, event.actor_id), (Some(home), None));
    }
    assert_eq!(requested.correlation_id, sent.correlation_id, "the call that asked");
    let subject: Option<Uuid> = sqlx::query_scalar(
        "SELECT personal_subject FROM audit_events WHERE event_type = 'user.password_reset_requested'",
    )
    .fetch_one(server.sql())
    .await
    .unwrap();
    assert_eq!(subject, Some(user), "what was typed goes with the user");
}

/// Why a token was refused is recorded in the log only.
#[tokio::test]
async fn a_refused_token_is_recorded_with_its_reason_unless_nobody_ever_had_it() {
    let (context, mut smtp) = (Context::system(), smtp().await);
    // What has expired is not purged before it is used.
    let setup = with_mail(Setup::new().await, smtp.port).with("MAIL__POLL", "1h");
    let server = setup.start_with(context.clone()).await;
    let user = ann(&server).await;
    // A change of the user voids the token besides, and would come before every other reason.
    let quietly = "ALTER TABLE users DISABLE TRIGGER users_pending_void";
    sqlx::query(quietly).execute(server.sql()).await.unwrap();
    let token = token_for(&server, &mut smtp, "ann@letters.example").await;
    let nobodys = format!("sidle_pr_{}", "A".repeat(43));
    let refusal = async |token: &str| refused(&reset(&server, token, NEW_PASSWORD).await.unwrap_err());
    assert_eq!(refusal(&nobodys).await, "INVALID_CREDENTIALS");
    for (before, after) in [
        ("status = 'disabled'", "status = 'active'"),
        ("status = 'pending_verification'", "status = 'active'"),
        ("email_key = 'other@letters.example'", "email_key = 'ann@letters.example'"),
        ("auth_method = 'kanidm', kanidm_user_id = user_id", "auth_method = 'password', kanidm_user_id = NULL"),
        ("password_changed_at = now() + interval '1 minute'", "password_changed_at = NULL"),
    ] {
        set(&server, user, before).await;
        assert_eq!(refusal(&token).await, "INVALID_CREDENTIALS", "{before}");
        set(&server, user, after).await;
    }
    reset(&server, &token, NEW_PASSWORD).await.unwrap();
    assert_eq!(refusal(&token).await, "INVALID_CREDENTIALS", "it was used");
    let another = token_for(&server, &mut smtp, "ann@letters.example").await;
    context.clock.advance(Duration::from_secs(3601));
    assert_eq!(refusal(&another).await, "INVALID_CREDENTIALS");
    let recorded = reasons(&server, "user.password_reset", "refused").await;
    let expected = ["disabled", "unverified", "other_address", "kanidm_only", "superseded", "used", "expired"];
    assert_eq!(recorded, expected);
}

/// Data that a newer release has written is no reason to refuse a user, let alone to admit them.
#[tokio::test]
async fn a_status_that_this_release_does_not_know_is_an_error() {
    let (server, mut smtp) = server().await;
    let user = ann(&server).await;
    let token = token_for(&server, &mut smtp, "ann@letters.example").await;
    for change in
        ["ALTER TABLE users DISABLE TRIGGER users_pending_void", "ALTER TABLE users DROP CONSTRAINT users_status_check"]
    {
        sqlx::query(change).execute(server.sql()).await.unwrap();
    }
    set(&server, user, "status = 'on_probation'").await;
    assert_eq!(refused(&reset(&server, &token, NEW_PASSWORD).await.unwrap_err()), "INTERNAL");
    assert!(reasons(&server, "user.password_reset", "refused").await.is_empty());
    set(&server, user, "status = 'active'").await;
    reset(&server, &token, NEW_PASSWORD).await.unwrap();
}

/// A transaction that holds the user is waited for before the token is taken: others lock in that order as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_held_while_its_user_is_waited_for() {
    let (server, mut smtp) = server().await;
    let user = ann(&server).await;
    let token = token_for(&server, &mut smtp, "ann@letters.example").await;
    let mut holder = PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    sqlx::query("BEGIN").execute(&mut holder).await.unwrap();
    sqlx::query("SELECT FROM users WHERE user_id = $1 FOR UPDATE").bind(user).execute(&mut holder).await.unwrap();
    let (done, ()) = tokio::join!(reset(&server, &token, NEW_PASSWORD), async {
        eventually("the reset waits", async || (waiting_for_locks(&server).await >= 1).then_some(())).await;
        let take = "SELECT FROM one_time_tokens WHERE user_id = $1 FOR UPDATE NOWAIT";
        let taken = sqlx::query(take).bind(user).execute(&mut holder).await;
        assert_eq!(taken.expect("nobody holds the token").rows_affected(), 1);
        sqlx::query("COMMIT").execute(&mut holder).await.unwrap();
    });
    done.unwrap();
}

/// How long a request takes to answer depends on the identifier's user: no other call may be able to wait for its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_does_not_wait_for_the_answer_to_the_first() {
    let smtp = smtp().await;
    let server = with_mail(Setup::new().await, smtp.port).with("DATABASE__LOCK_TIMEOUT", "25s").start().await;
    let user = ann(&server).await;
    let mut holder = PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    sqlx::query("BEGIN").execute(&mut holder).await.unwrap();
    sqlx::query("SELECT FROM users WHERE user_id = $1 FOR UPDATE").bind(user).execute(&mut holder).await.unwrap();
    ask(&server, "ann@letters.example").await;
    eventually("the answer waits for the user", async || (waiting_for_locks(&server).await >= 1).then_some(())).await;
    let waiting = "SELECT pid, xact_start::text FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'sidle' AND wait_event_type = 'Lock'";
    let first: Vec<(i32, String)> = sqlx::query_as(waiting).fetch_all(server.sql()).await.unwrap();
    ask(&server, "ann@letters.example").await;
    let after: Vec<(i32, String)> = sqlx::query_as(waiting).fetch_all(server.sql()).await.unwrap();
    assert_eq!(after, first, "the same answer to the first still waits, and nothing else");
    sqlx::query("COMMIT").execute(&mut holder).await.unwrap();
    event(&server, "user.password_reset_sent").await;
}

/// Two concurrent uses of one token.
#[tokio::test]
async fn of_two_who_use_a_token_one_is_too_late() {
    let (server, mut smtp) = server().await;
    ann(&server).await;
    let token = token_for(&server, &mut smtp, "ann@letters.example").await;
    let (first, second) = tokio::join!(reset(&server, &token, NEW_PASSWORD), reset(&server, &token, ADMIN_PASSWORD));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
}
