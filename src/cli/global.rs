//! What many commands take.

use std::path::PathBuf;

use clap::Args;

use super::output::Format;

/// What every command that speaks to a service takes.
#[derive(Args, Clone, Debug)]
pub(super) struct Global {
    /// Address of the service, such as https://sidle.example.com:50051 [default: the one signed in to last, else
    /// http://127.0.0.1:50051]
    #[arg(long, global = true, env = "SIDLE_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// PEM file with the authority of the service's certificate, where the system does not know it
    #[arg(long, global = true, env = "SIDLE_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Send credentials unencrypted to a service on another machine
    #[arg(long, global = true, env = "SIDLE_ALLOW_PLAINTEXT")]
    pub allow_plaintext: bool,
    /// How to print: tables for people, or JSON for programs
    #[arg(long, global = true, env = "SIDLE_OUTPUT", value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// Where the configuration of the service is.
#[derive(Args, Clone, Debug)]
pub(super) struct ConfigFile {
    /// Configuration file; `SIDLE_SECTION__KEY` of the environment wins over it
    #[arg(long, env = "SIDLE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}
