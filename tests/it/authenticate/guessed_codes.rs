//! Guesses at second factors by an attacker who has the password: counted and recorded also when the call is cancelled,
//! with ever longer locks, and a message to the user.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sidle::access::Call;
use sidle::authenticate::Service;
use sidle::proto::authenticate_service_server::AuthenticateService as _;
use sidle::proto::complete_mfa_request::Factor;
use sidle::proto::{CompleteMfaRequest, MfaChallenge};
use sqlx::Connection as _;
use tonic::Request;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::factors::*;
use crate::look::reasons;
use crate::support::{Setup, TestServer, eventually, until};

/// Statements that wait for the table of users.
async fn held_up(server: &TestServer) -> i64 {
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    sqlx::query_scalar(waiting).fetch_one(server.sql()).await.unwrap()
}

/// Makes a call and cancels it while its attempt is being reserved.
async fn hang_up(server: &TestServer, call: impl Future) {
    let mut held = sqlx::PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    let mut lock = held.begin().await.unwrap();
    sqlx::query("LOCK TABLE users IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let reserving = async {
        until("the call waits for the table", async || held_up(server).await != 0).await;
    };
    let mut call = Box::pin(call);
    tokio::select! {
        _ = &mut call => panic!("answered before the attempt was reserved"),
        () = reserving => {}
    }
    drop(call);
    lock.rollback().await.unwrap();
}

/// Waits for as many refusals as there were guesses.
async fn until_recorded(server: &TestServer, event_type: &str, many: usize) -> Vec<String> {
    eventually("what is counted is recorded", async || {
        let reasons = reasons(server, event_type, "refused").await;
        (reasons.len() >= many).then_some(reasons)
    })
    .await
}

async fn complete(server: &TestServer, asked: &MfaChallenge, code: String) {
    let factor = Some(Factor::TotpCode(code));
    let mut request = Request::new(CompleteMfaRequest { challenge_token: asked.challenge_token.clone(), factor });
    request.extensions_mut().insert(Call::internal(server.context.new_id()));
    let _ = Service::new(server.app().authenticate.clone()).complete_mfa(request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_on_a_guess_leaves_its_event_and_the_locks() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let asked = challenge(&server, ann.email).await.unwrap();
    for guess in 1..=5 {
        hang_up(&server, complete(&server, &asked, ann.wrong(&server))).await;
        assert_eq!(until_recorded(&server, "user.login_refused", guess).await, vec!["wrong_code"; guess]);
        assert_eq!(counted(&server, ann.user).await, (guess as i32, guess == 5));
    }
    assert_eq!(reasons(&server, "user.locked", "success").await, ["too_many_failures"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_on_a_proof_leaves_its_event_and_a_right_code_is_spent() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let call = Call::internal(server.context.new_id());
    let room = &server.app().authenticate;
    hang_up(&server, room.check_second_factor(&call, ann.user, Zeroizing::new(ann.wrong(&server)))).await;
    assert_eq!(until_recorded(&server, "user.reauthentication_failed", 1).await, ["wrong_code"]);
    let code = Zeroizing::new(ann.code(&server));
    hang_up(&server, room.check_second_factor(&call, ann.user, code.clone())).await;
    // The same code once more is a replay as soon as it is used, and until then the call itself uses it.
    until("a code is for one use", async || room.check_second_factor(&call, ann.user, code.clone()).await.is_err())
        .await;
}

async fn locked_for(server: &TestServer, user: Uuid) -> TimeDelta {
    let select = "SELECT locked_until FROM users WHERE user_id = $1";
    let until: Option<DateTime<Utc>> = sqlx::query_scalar(select).bind(user).fetch_one(server.sql()).await.unwrap();
    until.expect("locked") - server.context.now()
}

async fn failures(server: &TestServer, user: Uuid) -> i32 {
    let select = "SELECT second_factor_failures FROM users WHERE user_id = $1";
    sqlx::query_scalar(select).bind(user).fetch_one(server.sql()).await.unwrap()
}

/// 120 wrong codes after the right password went on at the same pace, and the user was not notified.
#[tokio::test]
async fn guesses_without_end_meet_longer_locks_and_the_user_is_told_once() {
    // No mail server listens: messages stay in the outbox, where the test can read them.
    let setup = Setup::new().await.with("MAIL__HOST", "127.0.0.1").with("MAIL__PORT", "1").with("MAIL__TLS", "none");
    let setup = setup.with("MAIL__FROM", "sidle@example.com").with("MAIL__ORIGIN", "https://accounts.example");
    let server = setup.with("THROTTLE__PER_MINUTE", "0").start().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let mut longest = TimeDelta::zero();
    for round in 0..24 {
        let asked = challenge(&server, ann.email).await.expect("the lock is over");
        for _ in 0..5 {
            answer_code(&server, &asked, ann.wrong(&server)).await.unwrap_err();
        }
        let lock = locked_for(&server, ann.user).await;
        let expected = (TimeDelta::minutes(15) * 2_i32.pow(round.min(10))).min(TimeDelta::days(7));
        // The clock goes on between the guess and the check.
        assert!(lock <= expected && lock > expected - TimeDelta::minutes(2), "round {round}: {lock}");
        longest = longest.max(lock);
        server.context.clock.advance(lock.to_std().unwrap() + Duration::from_secs(1));
    }
    assert!(longest > TimeDelta::days(6));
    assert_eq!(failures(&server, ann.user).await, 120);
    let told = "SELECT count(*) FROM mail_outbox WHERE kind = 'second_factor_guessed' AND user_id = $1";
    let told: i64 = sqlx::query_scalar(told).bind(ann.user).fetch_one(server.sql()).await.unwrap();
    assert_eq!(told, 1);

    // A complete login begins anew.
    let asked = challenge(&server, ann.email).await.unwrap();
    answer_code(&server, &asked, ann.code(&server)).await.unwrap();
    assert_eq!(failures(&server, ann.user).await, 0);
}
