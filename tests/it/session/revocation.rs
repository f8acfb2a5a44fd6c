//! A revoked token is refused, on every replica.

use sidle::audit::{Event, EventType};
use sidle::db::Scope;
use sidle::proto;
use uuid::Uuid;

use super::{is_good, settled, signed_in};
use crate::support::{Setup, TestServer};

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_is_refused_at_once_here_and_soon_elsewhere() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let (_, _, tokens) = signed_in(&one).await;
    assert!(is_good(&two, &tokens.access_token).await, "and is remembered there");
    let mut client = one.client(&tokens.access_token).session;
    client.revoke_session(proto::RevokeSessionRequest::default()).await.unwrap();
    assert!(!is_good(&one, &tokens.access_token).await);
    settled(&two, &one, "session.revoked").await;
    assert!(!is_good(&two, &tokens.access_token).await, "refused from the moment on that the log has told of it");
    let three = setup.start().await;
    assert!(three.app().verifier.revocation_age().is_some(), "it verifies tokens from its first call on");
    assert!(!is_good(&three, &tokens.access_token).await, "a replica that starts later knows it from the tables");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_from_before_a_change_of_rights_are_refused_everywhere_and_new_ones_are_not() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let (_, user, tokens) = signed_in(&one).await;
    assert!(is_good(&two, &tokens.access_token).await);
    // As every module does that changes rights.
    let (app, now) = (one.app(), one.context.now());
    let mut tx = app.db.begin(Scope::Platform).await.unwrap();
    let update = "UPDATE users SET tokens_valid_from = $2 WHERE user_id = $1";
    sqlx::query(update).bind(user).bind(now).execute(&mut *tx).await.unwrap();
    let event = Event::by_system(EventType::UserUpdated, Uuid::nil()).target("user", user);
    let event = event.detail("tokens_valid_from", now.timestamp_micros());
    app.recorder.record(&mut tx, event).await.unwrap();
    tx.commit().await.unwrap();
    for server in [&one, &two] {
        settled(server, &one, "user.updated").await;
        assert!(!is_good(server, &tokens.access_token).await);
    }
    let refresh = super::refresh(&two, &tokens.refresh_token, None).await.unwrap().tokens.unwrap();
    for server in [&one, &two, &setup.start().await] {
        assert!(is_good(server, &refresh.access_token).await, "issued after the change");
        assert!(!is_good(server, &tokens.access_token).await, "issued before it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_principals_named_in_one_event_all_end() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let mut tokens = Vec::new();
    let mut users = Vec::new();
    for name in ["ann", "bob", "cyd"] {
        users.push(server.user(tenant, &format!("{name}@example.com"), "user").await);
        tokens.push(server.sign_in(&format!("{name}@example.com")).await);
    }
    let mut client = server.client(&tokens[2].access_token).session;
    let session = client.get_session(proto::GetSessionRequest::default()).await.unwrap().into_inner().session.unwrap();
    let app = server.app();
    let mut tx = app.db.begin(Scope::Platform).await.unwrap();
    let event = Event::by_system(EventType::RoleUpdated, Uuid::nil())
        .detail("principals", &users[..2])
        .detail("tokens_valid_from", server.context.now().timestamp_micros())
        .detail("sessions", [&session.session_id]);
    app.recorder.record(&mut tx, event).await.unwrap();
    tx.commit().await.unwrap();
    settled(&server, &server, "role.updated").await;
    for tokens in &tokens {
        assert!(!is_good(&server, &tokens.access_token).await);
    }
}
