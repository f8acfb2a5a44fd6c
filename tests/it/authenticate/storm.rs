//! More logins at once than can be hashed.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sqlx::Connection as _;
use tonic_types::StatusExt as _;

use super::{attempt, verifier_token, verify};
use crate::look::{reason, reasons};
use crate::support::{ADMIN_PASSWORD, Setup};

/// One thread and three places to wait: four logins at once.
const PLACES: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_whoever_gets_a_place_signs_in_and_the_rest_are_told_when_to_come_back() {
    let setup = Setup::new().await.with("PASSWORDS__THREADS", "1").with("PASSWORDS__QUEUE", "3");
    let server = setup.with("PASSWORDS__MAX_WAIT", "1h").with("DATABASE__ACQUIRE_TIMEOUT", "60s").start().await;
    let tenant = server.tenant("a").await;
    let names: Vec<String> = (0..PLACES * 10).map(|n| format!("user{n}@example.com")).collect();
    for name in &names {
        server.user(tenant, name, "user").await;
    }
    let caller = verifier_token(&server).await;
    let token = server.sign_in(&names[0]).await.access_token;

    // Nobody's login gets past its first statement while this holds, so the places stay taken until it is let go.
    let mut held = sqlx::PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    let mut lock = held.begin().await.unwrap();
    sqlx::query("LOCK TABLE users IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut storm: FuturesUnordered<_> = names.iter().map(|name| attempt(&server, name, ADMIN_PASSWORD)).collect();
    for turned_away in 0..names.len() - PLACES {
        let refused = storm.next().await.unwrap().expect_err("nobody can have got through");
        assert_eq!(reason(&refused), "OVERLOADED", "after {turned_away}");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
    }
    // With every place taken tokens are verified as ever.
    for _ in 0..20 {
        verify(&server, &caller, &token, "sidle").await.unwrap();
    }
    lock.rollback().await.unwrap();
    let mut signed_in = 0;
    while let Some(answer) = storm.next().await {
        answer.expect("whoever got a place signs in");
        signed_in += 1;
    }
    assert_eq!(signed_in, PLACES);
    assert!(reasons(&server, "user.login_refused", "refused").await.is_empty(), "who was turned away has not tried");
    attempt(&server, &names[0], ADMIN_PASSWORD).await.expect("the places are free again");
}
