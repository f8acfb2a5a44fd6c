//! Guessing at many accounts from few addresses.

use std::time::Duration;

use futures_util::future::join_all;
use sidle::context::Context;
use sidle::proto;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use crate::look::{reason, reasons};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

/// A server that believes what the test says about addresses: ten attempts at once, one a minute.
async fn few_attempts() -> Setup {
    let setup = Setup::new().await.with("SERVER__TRUSTED_PROXIES", "127.0.0.1");
    setup.with("THROTTLE__PER_MINUTE", "1").with("THROTTLE__BURST", "10")
}

async fn guess(server: &TestServer, address: &str, identifier: &str, password: &str) -> Result<(), Status> {
    let mut request = Request::new(proto::AuthenticatePasswordRequest {
        identifier: identifier.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    });
    request.metadata_mut().insert("x-forwarded-for", address.parse().unwrap());
    server.client("").authenticate.authenticate_password(request).await.map(|_| ())
}

fn is_throttled(answer: &Result<(), Status>) -> bool {
    answer.as_ref().is_err_and(|status| reason(status) == "THROTTLED")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_as_many_attempts_over_all_replicas_as_over_one() {
    let setup = few_attempts().await;
    let context = Context::system();
    let (one, two) = (setup.start_with(context.clone()).await, setup.start_with(context.clone()).await);
    let names: Vec<String> = (0..40).map(|n| format!("user{n}@example.com")).collect();
    let guesses = names.iter().enumerate().map(|(n, name)| {
        let server = if n % 2 == 0 { &one } else { &two };
        guess(server, "203.0.113.7", name, "a guess")
    });
    let answers = join_all(guesses).await;
    let throttled: Vec<&Status> = answers.iter().filter(|a| is_throttled(a)).filter_map(|a| a.as_ref().err()).collect();
    assert_eq!(throttled.len(), 30, "ten of forty were attempts");
    for status in throttled {
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        // Never longer than it takes to pay everything off, whichever of them came first.
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(10 * 60), "{wait:?}");
    }
    assert_eq!(reasons(&one, "user.login_refused", "refused").await.len(), 10);
    // Everybody else is served, and the address again when it has rested.
    assert!(!is_throttled(&guess(&one, "203.0.113.8", "ann@example.com", "a guess").await));
    context.clock.advance(Duration::from_secs(61));
    assert!(!is_throttled(&guess(&two, "203.0.113.7", "ann@example.com", "a guess").await));
    assert!(is_throttled(&guess(&one, "203.0.113.7", "ann@example.com", "a guess").await));
}

#[tokio::test]
async fn who_owns_a_network_of_ipv6_gains_nothing_by_its_addresses() {
    let server = few_attempts().await.start().await;
    for n in 0..10 {
        let answer = guess(&server, &format!("2001:db8:1:2::{n}"), "nobody@example.com", "a guess").await;
        assert!(!is_throttled(&answer), "{n}");
    }
    assert!(is_throttled(&guess(&server, "2001:db8:1:2:ffff::1", "nobody@example.com", "a guess").await));
    assert!(!is_throttled(&guess(&server, "2001:db8:1:3::1", "nobody@example.com", "a guess").await));
}

/// A throttled call tells nothing, counts against nobody and costs nothing: not even the right password changes that.
#[tokio::test]
async fn what_is_throttled_was_no_attempt() {
    let server = few_attempts().await.start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    for _ in 0..10 {
        guess(&server, "203.0.113.7", "nobody@example.com", "a guess").await.unwrap_err();
    }
    let units = server.app().metrics.hash_units.get();
    for (identifier, password) in
        [("ann@example.com", ADMIN_PASSWORD), ("ann@example.com", "a guess"), ("nobody@example.com", "a guess")]
    {
        let refused = guess(&server, "203.0.113.7", identifier, password).await.unwrap_err();
        assert_eq!(
            (reason(&refused).as_str(), refused.message()),
            ("THROTTLED", "Too many attempts from this address.")
        );
    }
    assert_eq!(server.app().metrics.hash_units.get(), units);
    let failures: i32 = sqlx::query_scalar("SELECT failed_login_attempts FROM users WHERE user_id = $1")
        .bind(user)
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert_eq!(failures, 0);
}

/// A header of the client's own is worth nothing unless a configured proxy brings it.
#[tokio::test]
async fn an_address_cannot_be_made_up() {
    let server = Setup::new().await.with("THROTTLE__PER_MINUTE", "1").with("THROTTLE__BURST", "3").start().await;
    for n in 0..3 {
        guess(&server, &format!("203.0.113.{n}"), "nobody@example.com", "a guess").await.unwrap_err();
    }
    assert!(is_throttled(&guess(&server, "203.0.113.99", "nobody@example.com", "a guess").await));
}

#[tokio::test]
async fn what_is_paid_off_is_removed() {
    let server = few_attempts().await.start().await;
    guess(&server, "203.0.113.7", "nobody@example.com", "a guess").await.unwrap_err();
    let counted = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM address_attempts").fetch_one(server.sql()).await.unwrap()
    };
    let tidy = async |by: u64| {
        let now = server.context.now() + chrono::TimeDelta::seconds(by as i64);
        sqlx::query("SELECT guessing_tidy($1)").bind(now).execute(server.sql()).await.unwrap();
    };
    tidy(1).await;
    assert_eq!(counted().await, 1);
    tidy(61).await;
    assert_eq!(counted().await, 0);
}
