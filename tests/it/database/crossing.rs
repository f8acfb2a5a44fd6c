//! Callers with short deadlines beside others: what the others are told was committed is, and only within their own
//! scope.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidle::proto;
use tonic::Request;
use tonic::transport::Endpoint;
use uuid::Uuid;

use crate::support::{ADMIN_PASSWORD, Client, Setup, TestServer, within};

/// Makes calls of every kind whose deadlines expire midway, until told to stop.
async fn hurry(caller: Client, anybody: Client, seed: u64, stop: Arc<AtomicBool>) {
    let mut deadline = seed;
    within("the others are done", async {
        while !stop.load(Ordering::Acquire) {
            // 0.3 to 50 ms, in no particular order.
            deadline = deadline.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let timeout = Duration::from_micros(300 + (deadline >> 33) % 50_000);
            match deadline % 3 {
                0 => {
                    let mut request = Request::new(proto::ListSessionsRequest::default());
                    request.set_timeout(timeout);
                    drop(caller.session.clone().list_sessions(request).await);
                }
                1 => {
                    let mut request = Request::new(proto::ListUsersRequest::default());
                    request.set_timeout(timeout);
                    drop(caller.directory.clone().list_users(request).await);
                }
                _ => {
                    let mut request = Request::new(proto::AuthenticatePasswordRequest {
                        identifier: "nobody@example.com".into(),
                        password: "wrong".into(),
                        ..Default::default()
                    });
                    request.set_timeout(timeout);
                    drop(anybody.authenticate.clone().authenticate_password(request).await);
                }
            }
        }
    })
    .await;
}

async fn refresh(server: &TestServer, token: &str) -> String {
    let request = proto::RefreshTokenRequest { refresh_token: token.to_owned(), ..Default::default() };
    let answer = server.client("").authenticate.refresh_token(request).await.expect("an acknowledged refresh was kept");
    answer.into_inner().tokens.unwrap().refresh_token
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_of_some_lose_no_writes_of_others_and_open_no_tenant() {
    let setup = Setup::new().await.with("DATABASE__POOL_SIZE", "3").with("DATABASE__ACQUIRE_TIMEOUT", "60s");
    let setup = setup.with("SESSIONS__PER_USER", "0").with("THROTTLE__PER_MINUTE", "0");
    let setup = setup.with("THROTTLE__SESSION_REFRESH_PER_MINUTE", "0");
    let server = setup.with("PASSWORDS__MAX_WAIT", "1h").start().await;
    let (one, two) = (server.tenant("one").await, server.tenant("two").await);
    server.user(one, "admin@one.example", "admin").await;
    server.user(one, "user@one.example", "user").await;
    let foreign = server.user(two, "user@two.example", "user").await;
    let platform = server.admin().await;
    let tenant_admin = server.client(&server.sign_in("admin@one.example").await.access_token);

    let stop = Arc::new(AtomicBool::new(false));
    let hurried: Vec<_> = (0..6)
        .map(|seed| {
            // On a connection of their own: the server closes one that cancels too many calls.
            let channel = Endpoint::from_shared(server.grpc_url()).unwrap().connect_lazy();
            let caller = if seed % 2 == 0 { &platform } else { &tenant_admin };
            let (caller, anybody) = (caller.on(channel.clone()), Client::new(channel, ""));
            tokio::spawn(hurry(caller, anybody, seed, Arc::clone(&stop)))
        })
        .collect();

    let reads = async {
        for _ in 0..120 {
            let answer = tenant_admin.directory.clone().list_users(proto::ListUsersRequest::default()).await.unwrap();
            for user in answer.into_inner().users {
                assert_eq!(user.tenant_id, one.to_string(), "a tenant's administrator sees the tenant's own users");
            }
            let request = proto::LockUserRequest { user_id: foreign.to_string(), ..Default::default() };
            tenant_admin.directory.clone().lock_user(request).await.expect_err("another tenant's user");
        }
    };
    let refreshes = async {
        let mut token = server.sign_in("user@one.example").await.refresh_token;
        for _ in 0..120 {
            token = refresh(&server, &token).await;
        }
    };
    let logins = async {
        for _ in 0..60 {
            let request = proto::AuthenticatePasswordRequest {
                identifier: "user@two.example".into(),
                password: ADMIN_PASSWORD.into(),
                ..Default::default()
            };
            let answer = server.client("").authenticate.authenticate_password(request).await.unwrap().into_inner();
            let Some(proto::authenticate_password_response::Outcome::SignedIn(signed_in)) = answer.outcome else {
                panic!("signed in");
            };
            let session: Uuid = signed_in.session_id.parse().unwrap();
            let kept = sqlx::query_scalar("SELECT EXISTS (SELECT FROM sessions WHERE session_id = $1)");
            assert!(
                kept.bind(session).fetch_one(server.sql()).await.unwrap_or(false),
                "an acknowledged login was kept"
            );
        }
    };
    let refusals = async {
        for number in 0..60 {
            let request = proto::AuthenticatePasswordRequest {
                identifier: format!("nobody{number}@example.com"),
                password: "wrong".into(),
                ..Default::default()
            };
            server.client("").authenticate.authenticate_password(request).await.expect_err("nobody");
        }
    };
    tokio::join!(reads, refreshes, logins, refusals);
    stop.store(true, Ordering::Release);
    for task in hurried {
        task.await.unwrap();
    }
    let locked: bool = sqlx::query_scalar("SELECT locked_until IS NOT NULL FROM users WHERE user_id = $1")
        .bind(foreign)
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert!(!locked);
}
