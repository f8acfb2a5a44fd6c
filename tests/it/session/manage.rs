//! Listing and ending sessions.

use sidle::proto;
use uuid::Uuid;

use sqlx::{Connection as _, PgConnection};

use super::{is_good, refresh, signed_in};
use crate::database::waiting_for_locks;
use crate::look::{reason, reasons};
use crate::support::{ADMIN_PASSWORD, Client, TestServer, eventually};

fn by_id(session_id: &str) -> proto::GetSessionRequest {
    proto::GetSessionRequest { session_id: session_id.to_owned() }
}

async fn session_of(client: &mut Client) -> proto::Session {
    client.session.get_session(by_id("")).await.unwrap().into_inner().session.unwrap()
}

#[tokio::test]
async fn a_session_shows_where_it_came_from() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    let request = proto::AuthenticatePasswordRequest {
        identifier: "ann@example.com".to_owned(),
        password: crate::support::ADMIN_PASSWORD.to_owned(),
        persistent: true,
        device: Some(proto::Device {
            device_id: "d1".to_owned(),
            r#type: proto::DeviceType::Phone.into(),
            platform: "Android 16".to_owned(),
            user_agent: "Shop/3".to_owned(),
            location: "Bern".to_owned(),
            fingerprint: "canvas:ab12".to_owned(),
        }),
        ..Default::default()
    };
    let signed_in = crate::authenticate::ask(&server, request.clone()).await.unwrap();
    let mut client = server.client(&signed_in.tokens.unwrap().access_token);
    let session = session_of(&mut client).await;
    assert_eq!((&session.session_id, &session.user_id), (&signed_in.session_id, &user.to_string()));
    let mut told = request.device.clone().unwrap();
    let shown = session.device.clone().unwrap();
    // The fingerprint is shown as a digest under a key of ours, never as it was sent.
    told.fingerprint.clone_from(&shown.fingerprint);
    assert_eq!(shown, told);
    assert!(
        shown.fingerprint.len() == 64
            && shown.fingerprint != data_encoding::HEXLOWER.encode(&sidle::token::opaque::digest("canvas:ab12"))
    );
    assert!(session.current && session.persistent && session.ip_address == "127.0.0.1");
    assert_eq!(session.status(), proto::SessionStatus::Active);
    assert_eq!(session.auth_method(), proto::SessionAuthMethod::Jwt);
    let days = |s: &proto::Session| (s.expires_at.unwrap().seconds - s.created_at.unwrap().seconds) / 86400;
    assert_eq!(days(&session), 90);
    let brief = server.sign_in("ann@example.com").await;
    assert_eq!(days(&session_of(&mut server.client(&brief.access_token)).await), 30);
}

#[tokio::test]
async fn lists_are_paged_and_a_page_token_is_good_for_its_list_only() {
    let server = TestServer::start().await;
    let (tenant, user, first) = signed_in(&server).await;
    server.user(tenant, "boss@example.com", "admin").await;
    for _ in 0..4 {
        server.sign_in("ann@example.com").await;
    }
    let mut client = server.client(&first.access_token).session;
    let page = |page_token: &str| proto::ListSessionsRequest {
        page_size: 2,
        page_token: page_token.to_owned(),
        ..Default::default()
    };
    let (mut seen, mut token) = (Vec::new(), String::new());
    // One page more than there are, so that pages without an end fail.
    for _ in 0..4 {
        let answer = client.list_sessions(page(&token)).await.unwrap().into_inner();
        assert!(answer.sessions.len() <= 2);
        seen.extend(answer.sessions.into_iter().map(|session| session.session_id));
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let mut sorted = seen.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    sorted.dedup();
    assert_eq!((seen.len(), &seen), (5, &sorted), "each once, newest first");

    let token = client.list_sessions(page("")).await.unwrap().into_inner().next_page_token;
    let other_filter =
        proto::ListSessionsRequest { statuses: vec![proto::SessionStatus::Revoked.into()], ..page(&token) };
    assert_eq!(reason(&client.list_sessions(other_filter).await.unwrap_err()), "INVALID_PAGE_TOKEN");
    let boss = server.sign_in("boss@example.com").await;
    let mut boss = server.client(&boss.access_token).session;
    let theirs = proto::ListSessionsRequest { user_id: user.to_string(), ..page(&token) };
    assert_eq!(reason(&boss.list_sessions(theirs).await.unwrap_err()), "INVALID_PAGE_TOKEN");
    assert_eq!(reason(&client.list_sessions(page("x")).await.unwrap_err()), "INVALID_PAGE_TOKEN");
}

#[tokio::test]
async fn others_sessions_take_the_permission_and_reach_no_other_tenant() {
    let server = TestServer::start().await;
    let (tenant, user, ann) = signed_in(&server).await;
    let elsewhere = server.tenant("b").await;
    server.user(tenant, "bob@example.com", "user").await;
    server.user(tenant, "boss@example.com", "admin").await;
    server.user(elsewhere, "eve@example.com", "super_admin").await;
    let client = async |email: &str| server.client(&server.sign_in(email).await.access_token);
    let (mut bob, mut boss, mut eve) =
        (client("bob@example.com").await, client("boss@example.com").await, client("eve@example.com").await);
    let session = session_of(&mut server.client(&ann.access_token)).await.session_id;
    let revoke = || proto::RevokeSessionRequest { session_id: session.clone() };
    let list = |user: &str| proto::ListSessionsRequest { user_id: user.to_owned(), ..Default::default() };

    for stranger in [&mut bob, &mut eve] {
        assert_eq!(reason(&stranger.session.get_session(by_id(&session)).await.unwrap_err()), "NOT_FOUND");
        assert_eq!(reason(&stranger.session.revoke_session(revoke()).await.unwrap_err()), "NOT_FOUND");
    }
    assert_eq!(reason(&bob.session.list_sessions(list("-")).await.unwrap_err()), "PERMISSION_DENIED");
    let of_user = list(&user.to_string());
    assert_eq!(reason(&bob.session.list_sessions(of_user.clone()).await.unwrap_err()), "PERMISSION_DENIED");
    assert_eq!(eve.session.list_sessions(of_user.clone()).await.unwrap().into_inner().sessions.len(), 0);
    assert_eq!(eve.session.list_sessions(list("-")).await.unwrap().into_inner().sessions.len(), 1, "her own");
    let foreign = proto::ListSessionsRequest { tenant_id: tenant.to_string(), ..list("-") };
    assert_eq!(reason(&eve.session.list_sessions(foreign).await.unwrap_err()), "PERMISSION_DENIED");
    let all = proto::RevokeAllSessionsRequest { user_id: user.to_string(), keep_current: false };
    assert_eq!(reason(&eve.session.revoke_all_sessions(all.clone()).await.unwrap_err()), "NOT_FOUND");
    assert_eq!(reason(&bob.session.revoke_all_sessions(all).await.unwrap_err()), "PERMISSION_DENIED");
    assert!(is_good(&server, &ann.access_token).await);

    assert_eq!(boss.session.list_sessions(of_user).await.unwrap().into_inner().sessions.len(), 1);
    let ended = boss.session.revoke_session(revoke()).await.unwrap().into_inner().session.unwrap();
    assert_eq!(ended.revoke_reason(), proto::RevokeReason::Administrator);
    assert!(!is_good(&server, &ann.access_token).await);
    let again = boss.session.revoke_session(revoke()).await.unwrap().into_inner().session.unwrap();
    assert_eq!(again, ended, "a repeat changes nothing");
    assert_eq!(reasons(&server, "session.revoked", "success").await, ["administrator"], "and is not recorded");
}

/// What a tenant ends includes a session that has just moved to another tenant, as long as it holds tokens for this
/// one.
#[tokio::test]
async fn a_session_that_was_switched_away_does_not_escape_the_tenant_it_holds_tokens_for() {
    let server = TestServer::start().await;
    let (home, user, _) = signed_in(&server).await;
    let (left, other) = (server.tenant("left").await, server.tenant("other").await);
    for tenant in [left, other] {
        super::refresh::join(&server, tenant, user).await;
        server.user(tenant, &format!("boss@{tenant}.example"), "super_admin").await;
    }
    let switch = async |token: &str, tenant: Uuid| {
        let request = proto::RefreshTokenRequest {
            refresh_token: token.to_owned(),
            tenant_id: tenant.to_string(),
            ..Default::default()
        };
        server.client("").authenticate.refresh_token(request).await.unwrap().into_inner().tokens.unwrap()
    };
    // One that was in the tenant, over a second one, and one that never was.
    let there = switch(&server.sign_in("ann@example.com").await.refresh_token, left).await;
    let away = switch(&switch(&there.refresh_token, other).await.refresh_token, home).await;
    let never = server.sign_in("ann@example.com").await;
    let client = server.client(&there.access_token);
    let stands_in = client.authenticate.clone().who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(stands_in.claims.unwrap().tenant_id, left.to_string(), "its old token is for the tenant that it left");

    let boss = server.client(&server.sign_in(&format!("boss@{left}.example")).await.access_token);
    let all = proto::RevokeAllSessionsRequest { user_id: user.to_string(), keep_current: false };
    let ended = boss.session.clone().revoke_all_sessions(all.clone()).await.unwrap().into_inner().sessions_revoked;
    assert_eq!(ended, 1);
    assert!(!is_good(&server, &there.access_token).await, "the token for the tenant that revoked");
    assert_eq!(reason(&refresh(&server, &away.refresh_token, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    assert!(is_good(&server, &never.access_token).await, "what was never the tenant's is not for it to end");

    // Once its tokens have expired, a session that moved is not the tenant's any more.
    let there = switch(&never.refresh_token, left).await;
    let away = switch(&there.refresh_token, other).await;
    server.context.clock.advance(std::time::Duration::from_secs(20 * 60));
    let boss = server.client(&server.sign_in(&format!("boss@{left}.example")).await.access_token);
    let ended = boss.session.clone().revoke_all_sessions(all).await.unwrap().into_inner().sessions_revoked;
    assert_eq!(ended, 0);
    refresh(&server, &away.refresh_token, None).await.expect("lives on");
}

#[tokio::test]
async fn a_logout_ends_its_own_session_and_revoke_all_the_others() {
    let server = TestServer::start().await;
    let (_, _, first) = signed_in(&server).await;
    let (second, third) = (server.sign_in("ann@example.com").await, server.sign_in("ann@example.com").await);
    let mut client = server.client(&third.access_token).session;
    client.revoke_session(proto::RevokeSessionRequest::default()).await.unwrap();
    assert!(!is_good(&server, &third.access_token).await && is_good(&server, &first.access_token).await);

    let mut client = server.client(&first.access_token).session;
    let others = proto::RevokeAllSessionsRequest { user_id: String::new(), keep_current: true };
    assert_eq!(client.revoke_all_sessions(others.clone()).await.unwrap().into_inner().sessions_revoked, 1);
    assert!(!is_good(&server, &second.access_token).await && is_good(&server, &first.access_token).await);
    assert_eq!(reason(&refresh(&server, &second.refresh_token, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    assert_eq!(client.revoke_all_sessions(others).await.unwrap().into_inner().sessions_revoked, 0);
    let nobody = proto::RevokeAllSessionsRequest { user_id: Uuid::nil().to_string(), keep_current: false };
    assert_eq!(reason(&client.revoke_all_sessions(nobody).await.unwrap_err()), "PERMISSION_DENIED");
}

/// A transaction on a connection of its own.
async fn begin(server: &TestServer) -> PgConnection {
    let mut connection = PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
    connection
}

async fn blocked(server: &TestServer, many: i64) {
    eventually("they wait for a row", async || (waiting_for_locks(server).await >= many).then_some(())).await;
}

/// A login that is about to begin its session holds the user's row, and its session is not visible yet to any other
/// transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_under_way_does_not_survive_signing_out_everywhere() {
    let server = TestServer::start().await;
    let (_, user, tokens) = signed_in(&server).await;
    let mut login = begin(&server).await;
    sqlx::query("SELECT FROM users WHERE user_id = $1 FOR NO KEY UPDATE").bind(user).execute(&mut login).await.unwrap();
    let open =
        "INSERT INTO sessions SELECT (jsonb_populate_record(s, jsonb_build_object('session_id', gen_random_uuid()))).*
                FROM sessions s WHERE user_id = $1";
    sqlx::query(open).bind(user).execute(&mut login).await.unwrap();

    let mut client = server.client(&tokens.access_token).session;
    let all = proto::RevokeAllSessionsRequest::default();
    let revoking = tokio::spawn(async move { client.revoke_all_sessions(all).await });
    // It does not wait for the login.
    eventually("it waits for the login", async || {
        (revoking.is_finished() || waiting_for_locks(&server).await >= 1).then_some(())
    })
    .await;
    sqlx::query("COMMIT").execute(&mut login).await.unwrap();
    let ended = revoking.await.unwrap().unwrap().into_inner().sessions_revoked;
    let living: i64 = sqlx::query_scalar("SELECT count(*) FROM sessions WHERE status = 'active' AND user_id = $1")
        .bind(user)
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert_eq!((ended, living), (2, 0));
}

/// A user who changes the password and signs out everywhere concurrently gets both, in whichever order.
#[tokio::test(flavor = "multi_thread")]
async fn signing_out_everywhere_and_changing_the_password_do_not_wait_for_one_another() {
    let server = TestServer::start().await;
    let (_, _, older) = signed_in(&server).await;
    let newer = server.sign_in("ann@example.com").await;
    // A pending login, which a change of the password voids after it has locked its own session.
    server.client(&older.access_token).prove("sidle.v1.AuthenticateService/DisableTotp", "").await;
    let mut holder = begin(&server).await;
    sqlx::query("SELECT FROM step_up_tokens FOR UPDATE").execute(&mut holder).await.unwrap();

    let mut client = server.client(&newer.access_token).authenticate;
    let change = proto::ChangePasswordRequest {
        current_password: ADMIN_PASSWORD.to_owned(),
        new_password: "seven otters juggle walnuts".to_owned(),
    };
    let changing = tokio::spawn(async move { client.change_password(change).await });
    blocked(&server, 1).await;
    let mut client = server.client(&older.access_token).session;
    let all = proto::RevokeAllSessionsRequest::default();
    let revoking = tokio::spawn(async move { client.revoke_all_sessions(all).await });
    blocked(&server, 2).await;
    sqlx::query("COMMIT").execute(&mut holder).await.unwrap();

    let changed = changing.await.unwrap().expect("changed").into_inner().tokens.unwrap();
    revoking.await.unwrap().expect("signed out");
    for token in [&older.access_token, &newer.access_token, &changed.access_token] {
        assert!(!is_good(&server, token).await);
    }
}
