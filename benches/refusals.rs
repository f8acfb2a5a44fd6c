//! Whether the time of a refused login reveals the kind of account: each kind is asked in turn, over and over, and its
//! times are compared with those of a wrong password, by the Kolmogorov-Smirnov and the Mann-Whitney test. The right
//! password is measured as well, to show that the tests see a difference where there is one. Once as the service
//! answers, at multiples of the failure latency quantum, and once without it, to see what work it has to hide.

use std::time::Instant;

use sidle::proto;

use crate::median;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

const COST: u32 = 8;
const SAMPLES: usize = 60;
/// The kind that the others are compared with.
const BASELINE: &str = "wrong password, cost 8";
const CONTROL: &str = "right password (control)";

pub async fn run() {
    for (quantum, name) in [("250ms", "failure latency quantum of 250 ms"), ("0s", "without a quantum")] {
        compare(quantum, name).await;
    }
}

async fn compare(quantum: &str, name: &str) {
    let server = server(quantum).await;
    let kinds = kinds(&server).await;
    let mut times: Vec<Vec<f64>> = kinds.iter().map(|_| Vec::with_capacity(SAMPLES)).collect();
    for round in 0..SAMPLES {
        for turn in 0..kinds.len() {
            // Each begins a round as often as any other, so that a drift affects all of them.
            let kind = (round + turn) % kinds.len();
            let (_, identifier, password) = kinds[kind];
            times[kind].push(ask(&server, identifier, password).await);
        }
    }
    let baseline = kinds.iter().position(|(name, ..)| *name == BASELINE).unwrap();
    // One chance in a thousand to be wrong about any of them.
    let level = 0.001 / (kinds.len() - 2) as f64;
    println!(
        "\n| Refused, {name} | median ms | Kolmogorov-Smirnov D, p | Mann-Whitney z, p | Verdict |\n|---|---|---|---|---|"
    );
    for (kind, (name, ..)) in kinds.iter().enumerate() {
        if kind == baseline {
            println!("| {name} | {:.2} | | | what the others are compared with |", median(&times[kind]));
            continue;
        }
        let ((distance, ks), (z, mw)) =
            (kolmogorov_smirnov(&times[kind], &times[baseline]), mann_whitney(&times[kind], &times[baseline]));
        let differs = ks < level || mw < level;
        let verdict = match (differs, *name == CONTROL) {
            (true, true) => "told apart, as it must be",
            (false, true) => "NOT told apart: there are too few samples to see anything",
            (true, false) => "TOLD APART",
            (false, false) => "not told apart",
        };
        println!("| {name} | {:.2} | {distance:.2}, {ks:.3} | {z:.1}, {mw:.3} | {verdict} |", median(&times[kind]));
    }
    println!("\n{SAMPLES} of each in turn; told apart when p < {level:.5}");
}

async fn server(quantum: &str) -> TestServer {
    let setup = Setup::new()
        .await
        .with("PASSWORDS__COST", &COST.to_string())
        .with("PASSWORDS__FAILURE_LATENCY_QUANTUM", quantum);
    setup.with("PASSWORDS__MAX_ATTEMPTS", "1000000").with("THROTTLE__PER_MINUTE", "0").start().await
}

/// Name, identifier and password of every kind.
async fn kinds(server: &TestServer) -> Vec<(&'static str, &'static str, &'static str)> {
    let tenant = server.tenant("bench").await;
    let hash = |cost| bcrypt::hash(ADMIN_PASSWORD, cost).unwrap();
    for (name, cost, change) in [
        ("right", COST, "status = 'active'"),
        ("four", 4, "status = 'active'"),
        ("eight", COST, "status = 'active'"),
        ("ten", 10, "status = 'active'"),
        ("locked", COST, "locked_until = 'infinity', lock_reason = 'administrator'"),
        ("disabled", COST, "status = 'disabled'"),
        ("kanidm", COST, "auth_method = 'kanidm', kanidm_user_id = gen_random_uuid()"),
        ("unverified", COST, "status = 'pending_verification'"),
        ("none", COST, "password_hash = NULL, password_cost = NULL"),
    ] {
        let user = server.user(tenant, &format!("{name}@bench.example"), "user").await;
        let update = "UPDATE users SET password_hash = $2, password_cost = $3 WHERE user_id = $1";
        sqlx::query(update).bind(user).bind(hash(cost)).bind(cost as i16).execute(server.sql()).await.unwrap();
        let update = format!("UPDATE users SET {change} WHERE user_id = $1");
        sqlx::query(sqlx::AssertSqlSafe(update)).bind(user).execute(server.sql()).await.unwrap();
    }
    vec![
        (BASELINE, "eight@bench.example", "a guess"),
        ("wrong password, cost 4", "four@bench.example", "a guess"),
        ("wrong password, cost 10", "ten@bench.example", "a guess"),
        ("unknown", "nobody@bench.example", "a guess"),
        ("locked", "locked@bench.example", ADMIN_PASSWORD),
        ("disabled", "disabled@bench.example", ADMIN_PASSWORD),
        ("Kanidm only", "kanidm@bench.example", ADMIN_PASSWORD),
        ("unverified", "unverified@bench.example", ADMIN_PASSWORD),
        ("no password", "none@bench.example", ADMIN_PASSWORD),
        (CONTROL, "right@bench.example", ADMIN_PASSWORD),
    ]
}

/// Milliseconds until the answer.
async fn ask(server: &TestServer, identifier: &str, password: &str) -> f64 {
    let request = proto::AuthenticatePasswordRequest {
        identifier: identifier.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    let mut client = server.client("").authenticate;
    let asked = Instant::now();
    let _ = client.authenticate_password(request).await;
    asked.elapsed().as_secs_f64() * 1000.0
}

/// The largest distance between two distributions, and how likely it is when they are the same.
fn kolmogorov_smirnov(one: &[f64], two: &[f64]) -> (f64, f64) {
    let share = |of: &[f64], at: f64| of.iter().filter(|time| **time <= at).count() as f64 / of.len() as f64;
    let distance = one.iter().chain(two).map(|at| (share(one, *at) - share(two, *at)).abs()).fold(0.0, f64::max);
    let effective = (one.len() * two.len()) as f64 / (one.len() + two.len()) as f64;
    let lambda = (effective.sqrt() + 0.12 + 0.11 / effective.sqrt()) * distance;
    let term = |k: i32| f64::from(if k % 2 == 1 { 2 } else { -2 }) * (-2.0 * f64::from(k * k) * lambda * lambda).exp();
    let probability = if lambda < 0.2 { 1.0 } else { (1..=100).map(term).sum() };
    (distance, f64::clamp(probability, 0.0, 1.0))
}

/// By how many standard deviations one kind is slower than the other, and how likely that is when they are the same.
fn mann_whitney(one: &[f64], two: &[f64]) -> (f64, f64) {
    let wins: f64 = one
        .iter()
        .flat_map(|a| two.iter().map(move |b| if a > b { 1.0 } else { f64::from(u8::from(a == b)) / 2.0 }))
        .sum();
    let (n, m) = (one.len() as f64, two.len() as f64);
    let z = (wins - n * m / 2.0) / (n * m * (n + m + 1.0) / 12.0).sqrt();
    (z, two_sided(z))
}

/// Both tails of the normal distribution, by a series with an error below 2e-7.
fn two_sided(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    series.iter().fold(0.0, |sum, factor| (sum + factor) * t) * (-x * x).exp()
}
