//! Password logins, compared with bare bcrypt verifications on the same cores at the same cost, and their effect on the
//! latency of `VerifyToken`. Both sides run with the same caller of `VerifyToken`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sidle::proto;
use sidle::proto::authenticate_password_response::Outcome;

use crate::support::{ADMIN_PASSWORD, Setup, TestServer};
use crate::{Row, median, row};

const USERS: usize = 24;
const ROUNDS: usize = 7;

/// At the cost of most old hashes, with eight logins for each user, and at that of new ones, with three.
pub async fn run() -> Vec<Row> {
    vec![measured(10, 8).await, measured(12, 3).await]
}

async fn measured(cost: u32, logins_each: usize) -> Row {
    let setup = Setup::new().await.with("PASSWORDS__COST", &cost.to_string()).with("PASSWORDS__MAX_WAIT", "60s");
    let server = setup.with("THROTTLE__PER_MINUTE", "0").start().await;
    let tenant = server.tenant("bench").await;
    let hash = bcrypt::hash(ADMIN_PASSWORD, cost).unwrap();
    for user in 0..USERS {
        server.user(tenant, &format!("user{user}@bench.example"), "user").await;
    }
    server.user(tenant, "root@bench.example", "SYSTEM_ADMIN").await;
    let update = "UPDATE users SET password_hash = $1, password_cost = $2";
    sqlx::query(update).bind(&hash).bind(cost as i16).execute(server.sql()).await.unwrap();
    let caller = server.sign_in("root@bench.example").await.access_token;
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);

    let mut rounds = Vec::new();
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        let (ours, mut seen) = beside_a_verifier(&server, &caller, logins(&server, logins_each)).await;
        delays.append(&mut seen);
        // The same caller verifies beside the bare hashing, which then shares its cores with the same work.
        let hash = hash.clone();
        let bare = async move { tokio::task::spawn_blocking(move || bare(&hash, logins_each, cores)).await.unwrap() };
        rounds.push((ours, beside_a_verifier(&server, &caller, bare).await.0));
    }
    delays.sort_by(f64::total_cmp);
    let p99 = delays[delays.len() * 99 / 100];
    let note = format!("VerifyToken meanwhile: median {:.1} ms, p99 {p99:.1} ms (aim < 10 ms)", median(&delays));
    row(&format!("Password login, cost {cost}"), &format!("bare bcrypt on {cores} threads"), "≥ 0.95", &rounds, note)
}

/// Logins a second, of all users concurrently.
async fn logins(server: &TestServer, each: usize) -> f64 {
    let begun = Instant::now();
    join_all((0..USERS).map(|user| {
        let client = server.client("");
        async move {
            let mut device = String::new();
            for _ in 0..each {
                let request = proto::AuthenticatePasswordRequest {
                    identifier: format!("user{user}@bench.example"),
                    password: ADMIN_PASSWORD.to_owned(),
                    known_device_token: device.clone(),
                    ..Default::default()
                };
                let answer = client.clone().authenticate.authenticate_password(request).await.expect("signed in");
                // As a client that keeps its known-device token.
                if let Some(Outcome::SignedIn(signed_in)) = answer.into_inner().outcome
                    && !signed_in.known_device_token.is_empty()
                {
                    device = signed_in.known_device_token;
                }
            }
        }
    }))
    .await;
    (USERS * each) as f64 / begun.elapsed().as_secs_f64()
}

/// The rate of some work while a caller verifies a token every two milliseconds, and how long that took in ms.
async fn beside_a_verifier(server: &TestServer, caller: &str, work: impl Future<Output = f64>) -> (f64, Vec<f64>) {
    let stop = AtomicBool::new(false);
    let working = async {
        let rate = work.await;
        stop.store(true, Ordering::Relaxed);
        rate
    };
    let verifying = async {
        let mut client = server.client(caller).authenticate;
        let mut delays = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let request = proto::VerifyTokenRequest { token: caller.to_owned(), audience: "sidle".to_owned() };
            let asked = Instant::now();
            client.verify_token(request).await.expect("verified");
            delays.push(asked.elapsed().as_secs_f64() * 1000.0);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        delays
    };
    tokio::join!(working, verifying)
}

/// Bare verifications a second on `threads` threads.
fn bare(hash: &str, logins_each: usize, threads: usize) -> f64 {
    let each = USERS * logins_each / threads;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..each {
                    assert!(bcrypt::verify(ADMIN_PASSWORD, hash).unwrap());
                }
            });
        }
    });
    (each * threads) as f64 / begun.elapsed().as_secs_f64()
}
