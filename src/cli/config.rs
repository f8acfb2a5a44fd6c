//! `sidle config`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::ConfigFile;
use super::failure::{Result, exit};
use super::output::Out;
use crate::app::{self, Checked};
use crate::config::{Config, ConfigError, DEFAULTS};
use crate::context::Context;
use crate::startup::StartFailure;

/// Commands on the configuration.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Try the configuration: read every setting, open every file, connect to the database, to Kanidm and to the mail server,
    /// and say everything that is wrong
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Connect to nothing
        #[arg(long)]
        offline: bool,
    },
    /// Print every key with its meaning and default
    Defaults,
}

impl Command {
    pub async fn run(self, out: &Out) -> Result<ExitCode> {
        match self {
            Self::Check { file, offline } => {
                // An error: it was chosen before.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let checked = match read(&file) {
                    Ok(config) => app::check(&config, &Context::system(), offline).await,
                    Err(error) => Checked {
                        failures: error.problems().iter().map(StartFailure::from).collect(),
                        ..Checked::default()
                    },
                };
                report(&checked, out)?;
                Ok(if checked.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
            }
            Self::Defaults => {
                DEFAULTS.lines().try_for_each(|line| out.line(line))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn report(checked: &Checked, out: &Out) -> Result<()> {
    let Checked { fine, failures, warnings } = checked;
    if out.is_json() {
        let error = |failure: &StartFailure| json!({ "setting": failure.key(), "message": failure.to_string(), "remedy": failure.what_to_do() });
        return out.json(&json!({
            "usable": failures.is_empty(),
            "errors": failures.iter().map(error).collect::<Vec<_>>(),
            "warnings": warnings,
            "checked": fine,
        }));
    }
    fine.iter().try_for_each(|what| out.line(&format!("ok       {what}")))?;
    warnings.iter().try_for_each(|what| out.line(&format!("warning  {what}")))?;
    for failure in failures {
        out.note(&format!("error    {failure}"));
        if let Some(key) = failure.key().filter(|_| !failure.is_of_setting()) {
            out.note(&format!("         setting: {key}"));
        }
        if let Some(remedy) = failure.what_to_do() {
            out.note(&format!("         remedy: {remedy}"));
        }
    }
    match failures.len() {
        0 => out.line("The configuration can be used.")?,
        1 => out.note("1 error: the configuration cannot be used like this."),
        count => out.note(&format!("{count} errors: the configuration cannot be used like this.")),
    }
    Ok(())
}

/// The configuration, from the file and the environment.
pub(super) fn load(file: &ConfigFile) -> Result<Config> {
    Ok(read(file)?)
}

fn read(file: &ConfigFile) -> Result<Config, ConfigError> {
    // Not `vars`, which gives up on a variable that is not text.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::load(file.config.as_deref(), environment)
}
