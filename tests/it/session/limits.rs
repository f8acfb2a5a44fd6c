//! How long sessions last, how many a user may have, and when rows are purged.

use std::time::Duration;

use futures_util::future::join_all;
use sidle::proto;
use uuid::Uuid;

use super::{is_good, refresh, signed_in};
use crate::look::{event, reason};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, until};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn login(persistent: bool) -> proto::AuthenticatePasswordRequest {
    proto::AuthenticatePasswordRequest {
        identifier: "ann@example.com".to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        persistent,
        ..Default::default()
    }
}

async fn sign_in(server: &TestServer, persistent: bool) -> proto::TokenPair {
    crate::authenticate::ask(server, login(persistent)).await.unwrap().tokens.unwrap()
}

/// All sessions, newest first: id and, for revoked ones, the reason.
async fn sessions(server: &TestServer) -> Vec<(Uuid, String, Option<String>)> {
    let all = "SELECT session_id, status, revoke_reason FROM sessions ORDER BY session_id DESC";
    sqlx::query_as(all).fetch_all(server.sql()).await.unwrap()
}

/// Waits until the token is refused.
async fn ends(server: &TestServer, access_token: &str) {
    until("refused within the bound", async || !is_good(server, access_token).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_limit_the_session_used_longest_ago_ends_on_every_replica() {
    let setup = Setup::new().await.with("SESSIONS__PER_USER", "3");
    let (one, two) = (setup.start().await, setup.start().await);
    let (tenant, user, first) = signed_in(&one).await;
    one.user(tenant, "bob@example.com", "user").await;
    let bob = one.sign_in("bob@example.com").await;
    let second = one.sign_in("ann@example.com").await;
    let third = one.sign_in("ann@example.com").await;
    // The oldest has been used since, so that it is not the one to end.
    let first = refresh(&one, &first.refresh_token, None).await.unwrap().tokens.unwrap();
    assert!(is_good(&two, &second.access_token).await);
    let fourth = two.sign_in("ann@example.com").await;
    for server in [&one, &two] {
        ends(server, &second.access_token).await;
        for living in [&first, &third, &fourth, &bob] {
            assert!(is_good(server, &living.access_token).await);
        }
    }
    assert_eq!(reason(&refresh(&two, &second.refresh_token, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    let ended: Vec<_> = sessions(&one).await.into_iter().filter(|(_, status, _)| status == "revoked").collect();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].2.as_deref(), Some("session_limit"));
    let recorded = event(&one, "session.limit_reached").await;
    assert_eq!(recorded.target_id, Some(user.to_string()));
    assert_eq!(recorded.details["sessions"], serde_json::json!([ended[0].0]));
    let mut client = one.client(&first.access_token).session;
    let statuses = vec![proto::SessionStatus::Revoked.into()];
    let request = proto::ListSessionsRequest { statuses, ..Default::default() };
    let shown = client.list_sessions(request).await.unwrap().into_inner().sessions;
    assert_eq!(shown[0].revoke_reason(), proto::RevokeReason::SessionLimit);
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_at_once_do_not_pass_the_limit_and_zero_means_none() {
    let setup = Setup::new().await.with("SESSIONS__PER_USER", "2");
    let (one, two) = (setup.start().await, setup.start().await);
    signed_in(&one).await;
    join_all((0..8).map(|n| sign_in(if n % 2 == 0 { &one } else { &two }, false))).await;
    let living = sessions(&one).await.into_iter().filter(|(_, status, _)| status == "active").count();
    assert_eq!(living, 2);

    let unlimited = setup.with("SESSIONS__PER_USER", "0").start().await;
    for _ in 0..4 {
        sign_in(&unlimited, false).await;
    }
    let living = sessions(&one).await.into_iter().filter(|(_, status, _)| status == "active").count();
    assert_eq!(living, 6);
}

#[tokio::test]
async fn lapsed_sessions_take_no_place() {
    let server = Setup::new().await.with("SESSIONS__PER_USER", "2").start().await;
    signed_in(&server).await;
    sign_in(&server, false).await;
    server.context.clock.advance(8 * DAY);
    sign_in(&server, false).await;
    sign_in(&server, false).await;
    let revoked = sessions(&server).await.into_iter().filter(|(_, status, _)| status == "revoked").count();
    assert_eq!(revoked, 0, "the two before had ended by themselves");
}

#[tokio::test]
async fn sessions_end_by_idleness_and_by_age_and_remembered_ones_later() {
    let setup = Setup::new()
        .await
        .with("SESSIONS__IDLE_LIFETIME", "2d")
        .with("SESSIONS__ABSOLUTE_LIFETIME", "5d")
        .with("SESSIONS__REMEMBERED_IDLE_LIFETIME", "4d")
        .with("SESSIONS__REMEMBERED_ABSOLUTE_LIFETIME", "10d");
    // (remembered, pauses between refreshes in days, whether each is accepted)
    for (persistent, pauses) in [
        (false, &[(1, true), (2, false)][..]),
        (false, &[(1, true), (1, true), (1, true), (1, true), (1, false)]),
        (true, &[(3, true), (4, false)]),
        (true, &[(3, true), (3, true), (3, true), (1, false)]),
    ] {
        let server = setup.start_with(sidle::context::Context::system()).await;
        if sessions(&server).await.is_empty() {
            signed_in(&server).await;
        }
        let mut tokens = sign_in(&server, persistent).await;
        for (days, accepted) in pauses {
            server.context.clock.advance(*days * DAY);
            match refresh(&server, &tokens.refresh_token, None).await {
                Ok(next) if *accepted => tokens = next.tokens.unwrap(),
                Err(refused) if !accepted => assert_eq!(reason(&refused), "INVALID_REFRESH_TOKEN"),
                other => panic!("remembered {persistent}, {pauses:?}: {other:?}"),
            }
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn an_access_token_never_outlives_its_session() {
    let server = Setup::new().await.with("SESSIONS__ABSOLUTE_LIFETIME", "5m").start().await;
    let (_, _, tokens) = signed_in(&server).await;
    assert!(tokens.access_token_expires_at.unwrap().seconds <= server.context.now().timestamp() + 300);
    server.context.clock.advance(Duration::from_secs(306));
    assert!(!is_good(&server, &tokens.access_token).await);
}

#[tokio::test]
async fn what_ended_is_marked_kept_for_a_while_and_then_removed() {
    let server = Setup::new().await.with("SESSIONS__KEEP_ENDED", "10d").start().await;
    let (_, _, lapses) = signed_in(&server).await;
    let ended = server.sign_in("ann@example.com").await;
    let mut client = server.client(&ended.access_token).session;
    client.revoke_session(proto::RevokeSessionRequest::default()).await.unwrap();
    let purge_expired = async |later: Duration| {
        let at = server.context.now() + later;
        let sql = "SELECT expire_old_sessions($1, interval '10 days')";
        let marked: i64 = sqlx::query_scalar(sql).bind(at).fetch_one(&server.app().db).await.unwrap();
        (marked, sessions(&server).await.into_iter().map(|session| session.1).collect::<Vec<_>>())
    };
    assert_eq!(purge_expired(Duration::ZERO).await, (0, vec!["revoked".to_owned(), "active".to_owned()]));
    assert_eq!(
        purge_expired(8 * DAY).await,
        (1, vec!["revoked".to_owned(), "expired".to_owned()]),
        "idle for too long"
    );
    assert_eq!(purge_expired(11 * DAY).await, (0, vec!["expired".to_owned()]));
    assert_eq!(purge_expired(41 * DAY).await, (0, vec![]));
    let tokens: i64 = sqlx::query_scalar("SELECT count(*) FROM refresh_tokens").fetch_one(server.sql()).await.unwrap();
    assert_eq!(tokens, 0, "refresh tokens go with their sessions");
    assert_eq!(reason(&refresh(&server, &lapses.refresh_token, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
}

#[tokio::test]
async fn an_answer_to_a_repeated_call_is_removed_after_a_day() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let request = proto::CreateTenantRequest {
        request_id: Uuid::from_u128(7).to_string(),
        slug: "north".to_owned(),
        name: "North".to_owned(),
        ..Default::default()
    };
    admin.directory.clone().create_tenant(request).await.unwrap();
    let left = async |later: Duration| -> i64 {
        let sql = "SELECT expire_old_sessions($1, interval '90 days')";
        sqlx::query(sql).bind(server.context.now() + later).execute(&server.app().db).await.unwrap();
        sqlx::query_scalar("SELECT count(*) FROM request_answers").fetch_one(server.sql()).await.unwrap()
    };
    assert_eq!(left(DAY - Duration::from_secs(60)).await, 1);
    assert_eq!(left(DAY + Duration::from_secs(60)).await, 0);
}

#[tokio::test]
async fn a_fingerprint_is_a_keyed_digest_that_tells_devices_apart_and_opens_nothing() {
    let server = TestServer::start().await;
    signed_in(&server).await;
    let shown = async |device: proto::Device| {
        let signed_in = crate::authenticate::ask(&server, login(false).with(device)).await.unwrap();
        let mut client = server.client(&signed_in.tokens.unwrap().access_token).session;
        let session = client.get_session(proto::GetSessionRequest::default()).await.unwrap().into_inner().session;
        session.unwrap().device.unwrap().fingerprint
    };
    let told = |fingerprint: &str| proto::Device { fingerprint: fingerprint.to_owned(), ..Default::default() };
    let agent = |agent: &str| proto::Device { user_agent: agent.to_owned(), ..Default::default() };
    assert_eq!(shown(told("x")).await, shown(told("x")).await);
    assert_ne!(shown(told("x")).await, shown(told("y")).await);
    assert_eq!(
        shown(agent("Shop/3")).await,
        shown(agent("Shop/3")).await,
        "without one, what the device says of itself"
    );
    assert_ne!(shown(agent("Shop/3")).await, shown(agent("Shop/4")).await);
    // A caller with a known device's fingerprint, as sent or as shown, still needs the password.
    let shown = shown(told("x")).await;
    for copied in ["x", &shown] {
        let mut request = login(false).with(told(copied));
        request.password = "wrong".to_owned();
        assert_eq!(reason(&crate::authenticate::ask(&server, request).await.unwrap_err()), "INVALID_CREDENTIALS");
    }
    let stored: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT sessions::text FROM sessions WHERE device_fingerprint = $1")
            .bind(&shown)
            .fetch_all(server.sql())
            .await
            .unwrap();
    assert!(!stored.is_empty());
}

trait With {
    fn with(self, device: proto::Device) -> Self;
}

impl With for proto::AuthenticatePasswordRequest {
    fn with(self, device: proto::Device) -> Self {
        Self { device: Some(device), ..self }
    }
}
