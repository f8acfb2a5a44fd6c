//! `sidle kanidm`, which works without a service.

use clap::Subcommand;

use super::failure::{Failure, Result};
use super::output::Out;
use super::{ConfigFile, config};
use crate::context::Clock;
use crate::kanidm::{Kanidm, KanidmError, MailIndex};
use crate::metrics::Metrics;

/// Commands on the configured Kanidm.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Say whether Kanidm answers, takes the service account's token and is fit for a migration
    Check {
        #[command(flatten)]
        file: ConfigFile,
    },
}

impl Command {
    pub async fn run(self, out: &Out) -> Result<()> {
        let Self::Check { file } = self;
        let config = config::load(&file)?;
        // An error: it was chosen before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let Some(kanidm) = Kanidm::new(&config.kanidm, Clock::system(), Metrics::new())? else {
            return Err(Failure::new("no Kanidm is configured").remedy("Set kanidm.url and kanidm.token."));
        };
        let longest = config.migration.longest_call.max(config.kanidm.timeout);
        let found = kanidm.patient().within(longest).checkup().await.map_err(|error| unfit(&error))?;
        let version = found.version.as_deref().unwrap_or("(unknown release)");
        out.line(&format!("Kanidm {} answers at {} and takes the token.", printable(version), kanidm.origin()))?;
        match found.mail_index {
            MailIndex::Present(took) => {
                out.line(&format!("A search by address took {} ms.", took.as_millis()))?;
                out.line(
                    "If this server was never re-indexed it has no index of addresses, which shows with many persons: \
                     run `kanidmd database reindex` once.",
                )
            }
            MailIndex::Missing(took) => Err(Failure::new(format!(
                "a search by address is refused or reads every entry ({} ms): Kanidm has no index of addresses",
                took.as_millis()
            ))
            .remedy(
                "Run `kanidmd database reindex` on the Kanidm server; a fresh server has no such index until then, and a \
                 migration into it takes hours instead of minutes.",
            )),
        }
    }
}

fn unfit(error: &KanidmError) -> Failure {
    Failure::new(error.to_string())
        .remedy("See that Kanidm runs and that kanidm.url, kanidm.ca_file and kanidm.token are right.")
}

/// What another server says of itself, without what a terminal would act on.
fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(64).collect()
}
