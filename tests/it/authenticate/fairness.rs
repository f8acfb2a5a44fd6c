//! The hashing threads are shared: a caller who comes with many calls makes only themselves wait.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use sidle::proto;
use sqlx::Connection as _;
use tonic::{Request, Status};

use super::set_hash;
use crate::look::reason;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, cheap_hash, until, within};

/// A server with one hashing thread that trusts the client addresses which the test sends.
async fn one_thread(queue: &str) -> Setup {
    let setup = Setup::new().await.with("SERVER__TRUSTED_PROXIES", "127.0.0.1").with("PASSWORDS__THREADS", "1");
    let setup = setup.with("PASSWORDS__QUEUE", queue).with("PASSWORDS__MAX_WAIT", "1h");
    setup.with("DATABASE__ACQUIRE_TIMEOUT", "60s").with("THROTTLE__PER_MINUTE", "0")
}

async fn attempt(server: &TestServer, address: &str, identifier: &str, password: &str) -> Result<(), Status> {
    let mut request = Request::new(proto::AuthenticatePasswordRequest {
        identifier: identifier.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    });
    request.metadata_mut().insert("x-forwarded-for", address.parse().unwrap());
    server.client("").authenticate.authenticate_password(request).await.map(drop)
}

/// One address with 80 streams of wrong passwords kept all other right ones out: 0 of 40 logins.
#[tokio::test(flavor = "multi_thread")]
async fn eighty_streams_of_guesses_from_one_address_keep_nobody_else_out() {
    let server = one_thread("8").await.start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    // One account is enough to make every guess as expensive as this.
    let dear = server.user(tenant, "dear@example.com", "user").await;
    set_hash(&server, dear, &cheap_hash(ADMIN_PASSWORD), 8).await;
    let (done, turned_away) = (AtomicBool::new(false), AtomicUsize::new(0));
    let guesses = (0..80).map(|stream| {
        let (server, done, turned_away) = (&server, &done, &turned_away);
        async move {
            within("the logins are done", async {
                while !done.load(Ordering::Relaxed) {
                    let name = format!("nobody{stream}@example.com");
                    let refused = attempt(server, "203.0.113.7", &name, "a guess").await.unwrap_err();
                    if reason(&refused) == "OVERLOADED" {
                        turned_away.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
            .await;
        }
    });
    let logins = async {
        until("the queue is full", async || turned_away.load(Ordering::Relaxed) >= 80).await;
        for login in 0..40 {
            let answer = attempt(&server, "198.51.100.1", "ann@example.com", ADMIN_PASSWORD).await;
            assert!(answer.is_ok(), "login {login}: {answer:?}");
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(join_all(guesses), logins);
}

/// What the queue refuses has been charged: an address cannot try it without end.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_charged_before_it_is_admitted() {
    let setup = one_thread("3").await.with("THROTTLE__PER_MINUTE", "1").with("THROTTLE__BURST", "10");
    let server = setup.start().await;
    // Admitted calls stay admitted while this is held.
    let mut held = sqlx::PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    let mut lock = held.begin().await.unwrap();
    sqlx::query("LOCK TABLE users, address_attempts IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let names: Vec<String> = (0..40).map(|n| format!("nobody{n}@example.com")).collect();
    let mut calls: FuturesUnordered<_> =
        names.iter().map(|name| attempt(&server, "203.0.113.7", name, "a guess")).collect();
    let mut reasons = Vec::new();
    // Two are admitted: half of one thread and a queue of three.
    for _ in 0..38 {
        reasons.push(reason(&within("an answer", calls.next()).await.unwrap().unwrap_err()));
    }
    lock.rollback().await.unwrap();
    within("whoever was admitted is answered", async {
        while let Some(answer) = calls.next().await {
            reasons.push(reason(&answer.unwrap_err()));
        }
    })
    .await;
    let count = |what: &str| reasons.iter().filter(|reason| *reason == what).count();
    let counted = (count("INVALID_CREDENTIALS"), count("OVERLOADED"), count("THROTTLED"));
    assert_eq!(counted, (2, 8, 30), "ten are charged, and thirty are not listened to");
    let refused = attempt(&server, "198.51.100.1", "nobody@example.com", "a guess").await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_CREDENTIALS", "another address is served");
}
