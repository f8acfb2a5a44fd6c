//! More concurrent logins than can be hashed.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sqlx::Connection as _;
use tonic_types::StatusExt as _;

use super::factors::counted;
use super::{attempt, set_hash, verifier_token, verify};
use crate::look::{reason, reasons};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, cheap_hash, until, within};

/// One thread and a queue of seven, of which one address has half: four concurrent logins.
const PLACES: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_whoever_gets_a_place_signs_in_and_the_rest_are_told_when_to_come_back() {
    let setup = Setup::new().await.with("PASSWORDS__THREADS", "1").with("PASSWORDS__QUEUE", "7");
    let server = setup.with("PASSWORDS__MAX_WAIT", "1h").with("DATABASE__ACQUIRE_TIMEOUT", "60s").start().await;
    let tenant = server.tenant("a").await;
    let names: Vec<String> = (0..PLACES * 10).map(|n| format!("user{n}@example.com")).collect();
    for name in &names {
        server.user(tenant, name, "user").await;
    }
    let caller = verifier_token(&server).await;
    let token = server.sign_in(&names[0]).await.access_token;

    // No login gets past its first statement while this is held, so the permits stay taken until it is released.
    let mut held = sqlx::PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    let mut lock = held.begin().await.unwrap();
    sqlx::query("LOCK TABLE users IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut storm: FuturesUnordered<_> = names.iter().map(|name| attempt(&server, name, ADMIN_PASSWORD)).collect();
    for turned_away in 0..names.len() - PLACES {
        let refused = within("an answer", storm.next()).await.unwrap().expect_err("nobody can have got through");
        assert_eq!(reason(&refused), "OVERLOADED", "after {turned_away}");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
    }
    // With every permit taken tokens are verified as ever.
    for _ in 0..20 {
        verify(&server, &caller, &token, "sidle").await.unwrap();
    }
    lock.rollback().await.unwrap();
    let mut signed_in = 0;
    within("every login is answered", async {
        while let Some(answer) = storm.next().await {
            answer.expect("whoever got a place signs in");
            signed_in += 1;
        }
    })
    .await;
    assert_eq!(signed_in, PLACES);
    assert!(reasons(&server, "user.login_refused", "refused").await.is_empty(), "who was turned away has not tried");
    attempt(&server, &names[0], ADMIN_PASSWORD).await.expect("the places are free again");
}

/// Statements that wait for the table of users.
async fn held_up(server: &TestServer) -> i64 {
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    sqlx::query_scalar(waiting).fetch_one(server.sql()).await.unwrap()
}

/// Verifying tokens waits neither for a hashing thread nor for the runtime, which is one thread here.
#[tokio::test]
async fn tokens_are_verified_while_every_thread_hashes() {
    const DEAREST: u32 = 13;
    let setup = Setup::new().await.with("PASSWORDS__THREADS", "2").with("DATABASE__ACQUIRE_TIMEOUT", "60s");
    // Otherwise they would wait for one another at the count of their address.
    let setup = setup.with("DATABASE__POOL_SIZE", "8").with("THROTTLE__PER_MINUTE", "0");
    let server = setup.start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    // One account is enough to make every refusal as expensive.
    let dear = server.user(tenant, "dear@example.com", "user").await;
    set_hash(&server, dear, &cheap_hash(ADMIN_PASSWORD), DEAREST as i16).await;
    let caller = verifier_token(&server).await;
    let (seen, new) = (server.sign_in("ann@example.com").await, server.sign_in("ann@example.com").await);
    verify(&server, &caller, &seen.access_token, "sidle").await.unwrap();

    // They arrive together: two hashes for the threads, two that wait for one.
    let (queue, units) = (&server.app().metrics.hash_queue, &server.app().metrics.hash_units);
    let (begun, names) = (units.get(), (0..4).map(|n| format!("nobody{n}@example.com")).collect::<Vec<_>>());
    let mut held = sqlx::PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    let mut lock = held.begin().await.unwrap();
    sqlx::query("LOCK TABLE users IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut storm: FuturesUnordered<_> = names.iter().map(|name| attempt(&server, name, "a guess")).collect();
    let busy = async {
        until("the logins wait for the table", async || held_up(&server).await >= 4).await;
        lock.rollback().await.unwrap();
        until("two hashes wait for a thread", async || queue.get() >= 2).await;
    };
    tokio::select! {
        answer = storm.next() => panic!("answered before the threads were busy: {answer:?}"),
        () = busy => {}
    }
    let before = units.get();
    for token in [&seen.access_token, &new.access_token] {
        verify(&server, &caller, token, "sidle").await.unwrap();
    }
    assert_eq!(units.get(), before, "answered before any of those hashes was done");

    within("every login is answered", async {
        while let Some(answer) = storm.next().await {
            assert_eq!(reason(&answer.expect_err("nobody")), "INVALID_CREDENTIALS");
        }
    })
    .await;
    assert_eq!(units.get() - begun, 4 << DEAREST);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_others_with_the_same_identifier_is_told_in_time_when_to_come_back() {
    const CALLERS: usize = 10;
    // So few attempts lock that one at a time is admitted; the queue has space for all the others.
    let setup = Setup::new().await.with("PASSWORDS__MAX_ATTEMPTS", "3").with("PASSWORDS__QUEUE", "100");
    let setup = setup.with("PASSWORDS__MAX_WAIT", "200ms").with("DATABASE__ACQUIRE_TIMEOUT", "60s");
    let server = setup.start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;

    // The admitted one stays there while this is held: without a bound the others would wait as long.
    let mut held = sqlx::PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    let mut lock = held.begin().await.unwrap();
    sqlx::query("LOCK TABLE users IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut storm: FuturesUnordered<_> =
        (0..CALLERS).map(|_| attempt(&server, "ann@example.com", ADMIN_PASSWORD)).collect();
    for turned_away in 0..CALLERS - 1 {
        let refused = within("an answer", storm.next()).await.unwrap().expect_err("nobody can have got through");
        assert_eq!(reason(&refused), "OVERLOADED", "after {turned_away}");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
    }
    lock.rollback().await.unwrap();
    within("an answer", storm.next()).await.unwrap().expect("whoever was let through signs in");
    assert!(reasons(&server, "user.login_refused", "refused").await.is_empty(), "who was turned away has not tried");
    assert_eq!(counted(&server, user).await, (0, false));
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.expect("the place is free again");
}
