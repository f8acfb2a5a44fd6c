//! The demonstration: legacy users are imported, sign in with their old password, are migrated to Kanidm under watch,
//! sign in through Kanidm, and all of it is in the audit log. Everything is called over gRPC at a `sidle serve` of its
//! own, and every number is compared with what the sample data expects. Started by `./run demo`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "talking to a person at a terminal is its purpose")]
#![allow(clippy::disallowed_methods, reason = "it measures real time and needs no clock that can be moved")]

mod check;
mod client;
mod expected;
mod output;
mod servers;
mod story;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::servers::Servers;
use crate::story::Ending;

/// Errors here are shown to a developer and end the demonstration, so that text is enough.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> ExitCode {
    let once = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--once") => true,
        Some(other) => {
            eprintln!("sidle-demo takes nothing or --once, not '{other}'");
            return ExitCode::from(2);
        }
    };
    let mut servers = Servers::default();
    let code = perform(&mut servers, once).await;
    servers.stop().await;
    code
}

/// Runs the demonstration, and waits after it, until it is interrupted.
async fn perform(servers: &mut Servers, once: bool) -> ExitCode {
    let interruption = match interruption() {
        Ok(interruption) => interruption,
        Err(error) => {
            eprintln!("cannot listen for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    tokio::pin!(interruption);
    let ending = tokio::select! {
        ending = story::tell(servers, once) => ending,
        () = &mut interruption => {
            eprintln!("\nInterrupted.");
            return ExitCode::from(130);
        }
    };
    let verdict = match ending {
        Ok(Ending::AsExpected) => ExitCode::SUCCESS,
        Ok(Ending::Different) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nThe demonstration cannot go on: {error}");
            eprintln!("{}", servers.where_to_look());
            return ExitCode::FAILURE;
        }
    };
    if once {
        return verdict;
    }
    output::line("Everything stays up until Ctrl-C.");
    tokio::select! {
        () = interruption => verdict,
        how = servers.service_ended() => {
            eprintln!("{how}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C, a request to end, or a terminal that was closed: the started programs must not outlive the demonstration.
fn interruption() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
