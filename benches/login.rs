//! Password logins beside bare bcrypt verifications on the same cores at the same cost, and what `VerifyToken` feels of
//! them meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sidle::proto;

use crate::support::{ADMIN_PASSWORD, Setup};
use crate::{Row, median, row};

const COST: u32 = 10;
const USERS: usize = 24;
const LOGINS: usize = 8;
const ROUNDS: usize = 7;

pub async fn run() -> Row {
    let setup = Setup::new().await.with("PASSWORDS__COST", &COST.to_string()).with("PASSWORDS__MAX_WAIT", "60s");
    let server = setup.start().await;
    let tenant = server.tenant("bench").await;
    let hash = bcrypt::hash(ADMIN_PASSWORD, COST).unwrap();
    for user in 0..USERS {
        server.user(tenant, &format!("user{user}@bench.example"), "user").await;
    }
    server.user(tenant, "root@bench.example", "SYSTEM_ADMIN").await;
    let update = "UPDATE users SET password_hash = $1, password_cost = $2";
    sqlx::query(update).bind(&hash).bind(COST as i16).execute(server.sql()).await.unwrap();
    let caller = server.sign_in("root@bench.example").await.access_token;
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);

    let mut rounds = Vec::new();
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        let stop = AtomicBool::new(false);
        let begun = Instant::now();
        let logins = async {
            join_all((0..USERS).map(|user| {
                let client = server.client("");
                async move {
                    for _ in 0..LOGINS {
                        let request = proto::AuthenticatePasswordRequest {
                            identifier: format!("user{user}@bench.example"),
                            password: ADMIN_PASSWORD.to_owned(),
                            ..Default::default()
                        };
                        client.clone().authenticate.authenticate_password(request).await.expect("signed in");
                    }
                }
            }))
            .await;
            stop.store(true, Ordering::Relaxed);
            begun.elapsed()
        };
        let verifying = async {
            let mut client = server.client(&caller).authenticate;
            let mut delays = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let request = proto::VerifyTokenRequest { token: caller.clone(), audience: "sidle".to_owned() };
                let asked = Instant::now();
                client.verify_token(request).await.expect("verified");
                delays.push(asked.elapsed().as_secs_f64() * 1000.0);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            delays
        };
        let (took, mut seen) = tokio::join!(logins, verifying);
        delays.append(&mut seen);
        let ours = (USERS * LOGINS) as f64 / took.as_secs_f64();
        rounds.push((ours, bare(&hash, cores)));
    }
    delays.sort_by(f64::total_cmp);
    let p99 = delays[delays.len() * 99 / 100];
    let note = format!("VerifyToken meanwhile: median {:.1} ms, p99 {p99:.1} ms (aim < 10 ms)", median(&delays));
    row(&format!("Password login, cost {COST}"), &format!("bare bcrypt on {cores} threads"), "≥ 0.95", &rounds, note)
}

/// Bare verifications a second on `threads` threads.
fn bare(hash: &str, threads: usize) -> f64 {
    let each = USERS * LOGINS / threads;
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
