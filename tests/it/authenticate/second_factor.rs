//! A right password of a user with a second factor.

use sidle::proto;
use sidle::proto::authenticate_password_response::Outcome;
use uuid::Uuid;

use super::attempt;
use crate::look::{event, reason};
use crate::support::{ADMIN_PASSWORD, TestServer};

async fn challenged(server: &TestServer, email: &str) -> proto::MfaChallenge {
    let request = proto::AuthenticatePasswordRequest {
        identifier: email.to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        ..Default::default()
    };
    let response = server.client("").authenticate.authenticate_password(request).await.unwrap().into_inner();
    match response.outcome {
        Some(Outcome::MfaChallenge(challenge)) => challenge,
        other => panic!("no challenge: {other:?}"),
    }
}

async fn with_totp(server: &TestServer) -> Uuid {
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    let insert = "INSERT INTO user_totp (user_id, totp_id, secret, created_at, expires_at, confirmed_at)
                  VALUES ($1, $1, 'sealed', now(), now(), now())";
    sqlx::query(insert).bind(user).execute(server.sql()).await.unwrap();
    user
}

async fn failures(server: &TestServer, user: Uuid) -> i32 {
    let count = "SELECT failed_login_attempts FROM users WHERE user_id = $1";
    sqlx::query_scalar(count).bind(user).fetch_one(server.sql()).await.unwrap()
}

#[tokio::test]
async fn a_right_password_begins_no_session_while_the_second_factor_is_missing() {
    let server = TestServer::start().await;
    let user = with_totp(&server).await;
    let challenge = challenged(&server, "ann@example.com").await;
    assert!(challenge.challenge_token.starts_with("sidle_mc_"));
    assert_eq!(challenge.factors, [i32::from(proto::SecondFactor::Totp)]);
    let sessions: i64 = sqlx::query_scalar("SELECT count(*) FROM sessions").fetch_one(server.sql()).await.unwrap();
    assert_eq!(sessions, 0);
    let (kept, owner): (Vec<u8>, Uuid) =
        sqlx::query_as("SELECT challenge_hash, user_id FROM mfa_challenges").fetch_one(server.sql()).await.unwrap();
    assert_eq!((kept, owner), (sidle::token::opaque::digest(&challenge.challenge_token).to_vec(), user));
    assert_eq!(event(&server, "user.second_factor_required").await.actor_id, Some(user));

    let code = "INSERT INTO recovery_codes (recovery_code_id, user_id, code_hash, created_at)
                VALUES ($1, $1, sha256('a'), now())";
    sqlx::query(code).bind(user).execute(server.sql()).await.unwrap();
    assert_eq!(challenged(&server, "ann@example.com").await.factors.len(), 2);
}

/// An attacker who knows the password must not get fresh guesses at the code by proving it again.
#[tokio::test]
async fn a_right_password_alone_never_forgets_the_failures() {
    let server = TestServer::start().await;
    let user = with_totp(&server).await;
    for _ in 0..4 {
        assert_eq!(reason(&attempt(&server, "ann@example.com", "a guess").await.unwrap_err()), "INVALID_CREDENTIALS");
    }
    for _ in 0..3 {
        challenged(&server, "ann@example.com").await;
        assert_eq!(failures(&server, user).await, 4, "given back, and not forgotten");
    }
    attempt(&server, "ann@example.com", "a guess").await.unwrap_err();
    assert_eq!(reason(&attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap_err()), "INVALID_CREDENTIALS");
}
