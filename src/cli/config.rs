//! `sidle config`.

use clap::Subcommand;

use super::ConfigFile;
use super::failure::Result;
use super::output::Out;
use crate::config::{Config, DEFAULTS};
use crate::mail::Mailer;

/// Commands on the configuration.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Say whether the configuration can be used, and what is wrong with it
    Check {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Print every key with its meaning and default
    Defaults,
}

impl Command {
    pub fn run(self, out: &Out) -> Result<()> {
        match self {
            Self::Check { file } => {
                let config = load(&file)?;
                config.seal.keyring()?;
                config.check_serving()?;
                crate::db::Db::new(&config.database)?;
                Mailer::new(&config.mail)?;
                out.line("The configuration can be used.")
            }
            Self::Defaults => DEFAULTS.lines().try_for_each(|line| out.line(line)),
        }
    }
}

/// The configuration, from the file and the environment.
pub(super) fn load(file: &ConfigFile) -> Result<Config> {
    // Not `vars`, which gives up on a variable that is not text.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(Config::load(file.config.as_deref(), environment)?)
}
