//! The benchmarks that docs/performance.md quotes: each compares a rate with its own limit, alternately in the same
//! run, and prints the median of the ratios. Machines are shared and noisy: nothing here fails for being slow.
//!
//! `./run bench [verify|login|refusals|refresh|import|migration]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "benchmarks measure the machine"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs, reason = "benchmarks talk to a person")]

mod import;
mod login;
mod migration;
mod refresh;
mod refusals;
mod verify;

#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod support;

/// One measured comparison.
pub struct Row {
    /// What was measured.
    pub work: String,
    /// Its rate, median over the rounds.
    pub rate: f64,
    /// The limit that it is compared with.
    pub limit: String,
    /// The limit's rate, median over the rounds.
    pub limit_rate: f64,
    /// Median of the ratios, round by round.
    pub ratio: f64,
    /// The lowest and the highest ratio.
    pub spread: (f64, f64),
    /// The design target.
    pub aim: &'static str,
    /// Other observations.
    pub note: String,
}

/// The median of some figures.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// A row from the rates of alternating rounds: (ours, the limit's).
pub fn row(work: &str, limit: &str, aim: &'static str, rounds: &[(f64, f64)], note: String) -> Row {
    let ratios: Vec<f64> = rounds.iter().map(|(ours, limit)| ours / limit).collect();
    Row {
        work: work.to_owned(),
        rate: median(&rounds.iter().map(|round| round.0).collect::<Vec<_>>()),
        limit: limit.to_owned(),
        limit_rate: median(&rounds.iter().map(|round| round.1).collect::<Vec<_>>()),
        ratio: median(&ratios),
        spread: (ratios.iter().copied().fold(f64::MAX, f64::min), ratios.iter().copied().fold(0.0, f64::max)),
        aim,
        note,
    }
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|choice| choice == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let rows = runtime.block_on(async {
        let mut rows = Vec::new();
        if wanted("verify") {
            rows.extend(verify::run().await);
        }
        if wanted("login") {
            rows.extend(login::run().await);
        }
        if wanted("refresh") {
            rows.push(refresh::run().await);
        }
        if wanted("refusals") {
            refusals::run().await;
        }
        if wanted("import") {
            rows.push(import::run().await);
        }
        if wanted("migration") {
            rows.push(migration::run().await);
        }
        rows
    });
    if rows.is_empty() {
        return;
    }
    println!(
        "\n| Work | per second | Limit | per second | Ratio (lowest to highest) | Aim | |\n|---|---|---|---|---|---|---|"
    );
    for row in rows {
        println!(
            "| {} | {:.0} | {} | {:.0} | {:.2} ({:.2} to {:.2}) | {} | {} |",
            row.work, row.rate, row.limit, row.limit_rate, row.ratio, row.spread.0, row.spread.1, row.aim, row.note
        );
    }
}
