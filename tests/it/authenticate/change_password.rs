//! Changing one's own password.

use futures_util::future::join;
use sidle::proto;
use tonic::Status;

use super::{attempt, set};
use crate::look::{event, reason, reasons};
use crate::support::{ADMIN_PASSWORD, Client, Setup, TestServer, until};

const ANN: &str = "ann@example.com";
const NEW: &str = "nine lives of a grey cat";

async fn change(client: &Client, current: &str, new: &str) -> Result<proto::ChangePasswordResponse, Status> {
    let request = proto::ChangePasswordRequest { current_password: current.to_owned(), new_password: new.to_owned() };
    Ok(client.clone().authenticate.change_password(request).await?.into_inner())
}

async fn who_am_i(server: &TestServer, token: &str) -> Result<proto::WhoAmIResponse, Status> {
    Ok(server.client(token).authenticate.who_am_i(proto::WhoAmIRequest {}).await?.into_inner())
}

async fn refresh(server: &TestServer, token: &str) -> Result<proto::RefreshTokenResponse, Status> {
    let request = proto::RefreshTokenRequest { refresh_token: token.to_owned(), ..Default::default() };
    Ok(server.client("").authenticate.refresh_token(request).await?.into_inner())
}

#[tokio::test]
async fn a_new_password_ends_every_other_session_and_every_token_of_this_one() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, ANN, "admin").await;
    let (here, elsewhere) = (server.sign_in(ANN).await, server.sign_in(ANN).await);
    let session = who_am_i(&server, &here.access_token).await.unwrap().claims.unwrap().session_id;
    let changed = change(&server.client(&here.access_token), ADMIN_PASSWORD, NEW).await.unwrap();
    assert_eq!(changed.sessions_revoked, 1);
    // A thief with a copy of any older token is locked out immediately.
    for old in [&here.access_token, &elsewhere.access_token] {
        assert_eq!(reason(&who_am_i(&server, old).await.unwrap_err()), "UNAUTHENTICATED");
    }
    for old in [&here.refresh_token, &elsewhere.refresh_token] {
        assert_eq!(reason(&refresh(&server, old).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    }
    let tokens = changed.tokens.unwrap();
    let claims = who_am_i(&server, &tokens.access_token).await.unwrap().claims.unwrap();
    assert_eq!((claims.session_id, claims.roles), (session.clone(), vec!["admin".to_owned()]));
    let refreshed = refresh(&server, &tokens.refresh_token).await.expect("the old token was no reuse of this one");
    assert_eq!(refreshed.session_id, session);
    let why: Vec<Option<String>> = sqlx::query_scalar("SELECT revoke_reason FROM sessions WHERE status = 'revoked'")
        .fetch_all(server.sql())
        .await
        .unwrap();
    assert_eq!(why, [Some("credential_changed".to_owned())]);
    let recorded = event(&server, "user.password_changed").await;
    assert_eq!((recorded.actor_id, recorded.target_id.clone()), (Some(user), Some(user.to_string())));
    let (ended, revoked): (String, i64) = sqlx::query_as(
        "SELECT session_id::text, (extract(epoch FROM tokens_valid_from) * 1000000)::bigint
         FROM sessions JOIN users USING (user_id) WHERE sessions.status = 'revoked'",
    )
    .fetch_one(server.sql())
    .await
    .unwrap();
    let told = serde_json::json!({ "sessions": [ended], "tokens_valid_from": revoked });
    assert_eq!(serde_json::Value::Object(recorded.details.clone()), told);

    assert_eq!(reason(&attempt(&server, ANN, ADMIN_PASSWORD).await.unwrap_err()), "INVALID_CREDENTIALS");
    attempt(&server, ANN, NEW).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_refuses_the_old_tokens_as_well() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let tenant = one.tenant("a").await;
    one.user(tenant, ANN, "user").await;
    let tokens = one.sign_in(ANN).await;
    who_am_i(&two, &tokens.access_token).await.unwrap();
    change(&one.client(&tokens.access_token), ADMIN_PASSWORD, NEW).await.unwrap();
    until("the other replica refuses the old token", async || who_am_i(&two, &tokens.access_token).await.is_err())
        .await;
}

#[tokio::test]
async fn whoever_must_change_the_password_gets_the_rights_by_doing_so() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, ANN, "SYSTEM_ADMIN").await;
    set(&server, user, "must_change_password = true").await;
    let seeded = attempt(&server, ANN, ADMIN_PASSWORD).await.unwrap();
    assert!(seeded.must_change_password);
    let token = seeded.tokens.unwrap().access_token;
    let claims = who_am_i(&server, &token).await.unwrap().claims.unwrap();
    assert!(claims.roles.is_empty() && claims.permissions.is_empty() && claims.platform_permissions.is_empty());
    // The seeded password is not accepted as a new one.
    let refused = change(&server.client(&token), ADMIN_PASSWORD, ADMIN_PASSWORD).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_FIELD");
    let tokens = change(&server.client(&token), ADMIN_PASSWORD, NEW).await.unwrap().tokens.unwrap();
    let me = who_am_i(&server, &tokens.access_token).await.unwrap();
    assert!(!me.must_change_password);
    assert_eq!(me.claims.unwrap().platform_permissions, ["*"]);
    assert!(!attempt(&server, ANN, NEW).await.unwrap().must_change_password);
}

#[tokio::test]
async fn a_refused_change_changes_nothing() {
    let breached = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(breached.path(), "correct donkey battery staple\n").unwrap();
    let setup = Setup::new().await.with("PASSWORDS__BREACHED_FILE", &breached.path().to_string_lossy());
    let server = setup.start().await;
    let tenant = server.tenant("grand-hotel").await;
    let user = server.user(tenant, ANN, "user").await;
    set(&server, user, "full_name = 'Ann Zebralution'").await;
    let tokens = server.sign_in(ANN).await;
    let client = server.client(&tokens.access_token);
    for (new, what) in [
        ("short", "too short"),
        ("correct donkey battery staple", "on the list"),
        ("password123", "guessed by anybody"),
        ("zebralution.1", "guessed by whoever knows the name"),
        ("grand-hotel!", "guessed by whoever knows the tenant"),
        ("nine lives of\0 a grey cat", "NUL"),
    ] {
        assert_eq!(reason(&change(&client, ADMIN_PASSWORD, new).await.unwrap_err()), "INVALID_FIELD", "{what}");
    }
    assert_eq!(reason(&change(&client, "not the password", NEW).await.unwrap_err()), "INVALID_CREDENTIALS");
    assert_eq!(reasons(&server, "user.reauthentication_failed", "refused").await, ["wrong_password"]);
    refresh(&server, &tokens.refresh_token).await.unwrap();
    attempt(&server, ANN, ADMIN_PASSWORD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_at_once_one_wins() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, ANN, "user").await;
    let (one, two) = (server.sign_in(ANN).await, server.sign_in(ANN).await);
    let (one, two) = (server.client(&one.access_token), server.client(&two.access_token));
    let (first, second) =
        join(change(&one, ADMIN_PASSWORD, NEW), change(&two, ADMIN_PASSWORD, "ten green bottles by the well")).await;
    assert_eq!([&first, &second].iter().filter(|answer| answer.is_ok()).count(), 1);
    let kept = if first.is_ok() { NEW } else { "ten green bottles by the well" };
    attempt(&server, ANN, kept).await.unwrap();
}

/// The token is valid for a moment longer than the session, as when another replica has ended that.
#[tokio::test]
async fn a_session_that_has_ended_changes_no_password() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, ANN, "user").await;
    let (here, elsewhere) = (server.sign_in(ANN).await, server.sign_in(ANN).await);
    let session = who_am_i(&server, &here.access_token).await.unwrap().claims.unwrap().session_id;
    let end = "UPDATE sessions SET status = 'revoked', revoked_at = now(), revoke_reason = 'user' WHERE session_id = $1::uuid";
    sqlx::query(end).bind(session).execute(server.sql()).await.unwrap();
    let before = kept(&server, user).await;
    let refused = change(&server.client(&here.access_token), ADMIN_PASSWORD, NEW).await.unwrap_err();
    assert_eq!(reason(&refused), "UNAUTHENTICATED");
    assert_eq!(kept(&server, user).await, before, "neither password nor revocation");
    refresh(&server, &elsewhere.refresh_token).await.expect("no other session ended");
    attempt(&server, ANN, ADMIN_PASSWORD).await.unwrap();
    assert!(reasons(&server, "user.password_changed", "success").await.is_empty());
}

/// The columns of a user that a change of the password writes.
async fn kept(server: &TestServer, user: uuid::Uuid) -> (String, Option<chrono::DateTime<chrono::Utc>>) {
    sqlx::query_as("SELECT password_hash, tokens_valid_from FROM users WHERE user_id = $1")
        .bind(user)
        .fetch_one(server.sql())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_program_has_no_password_to_change() {
    let server = TestServer::start().await;
    let token = super::verifier_token(&server).await;
    assert_eq!(reason(&change(&server.client(&token), ADMIN_PASSWORD, NEW).await.unwrap_err()), "USER_REQUIRED");
}

/// A password that an administrator sets obeys the same rules.
#[tokio::test]
async fn a_first_password_obeys_the_policy_as_well() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    let create = |password: &str| proto::CreateUserRequest {
        request_id: server.context.new_id().to_string(),
        email: "berta.zebralution@example.com".to_owned(),
        initial_password: password.to_owned(),
        ..Default::default()
    };
    for weak in ["short", "password123", "zebralution.1"] {
        let refused = admin.directory.create_user(create(weak)).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_FIELD", "{weak}");
    }
    admin.directory.create_user(create(NEW)).await.unwrap();
}
