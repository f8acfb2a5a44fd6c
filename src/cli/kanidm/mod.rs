//! `sidle kanidm`, most of which works without a service.

mod administrator;
mod check;
mod enrol;
mod files;
mod report;
mod setup;
mod target;

use std::process::ExitCode;

use clap::Subcommand;

use super::Global;
use super::failure::Result;
use super::output::Out;

/// Commands on Kanidm.
#[derive(Subcommand)]
pub(in crate::cli) enum Command {
    /// Make in Kanidm what Sidle needs there, and the `[kanidm]` section that uses it
    Setup(Box<setup::Setup>),
    /// Say everything that is missing in the configured Kanidm, with the command that mends it
    Check(check::Check),
    /// Get the page where a migrated user sets a credential in Kanidm; needs a running service
    Enrol(enrol::Enrol),
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<ExitCode> {
        // An error: it was chosen before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        match self {
            Self::Setup(command) => command.run(out).await.map(|()| ExitCode::SUCCESS),
            Self::Check(command) => command.run(out).await,
            Self::Enrol(command) => command.run(global, out).await.map(|()| ExitCode::SUCCESS),
        }
    }
}
