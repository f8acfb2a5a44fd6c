//! `sidle mail`: works without a service, from its configuration.

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde_json::{Map, Value};

use super::failure::{Failure, Result};
use super::output::Out;
use super::{ConfigFile, config};
use crate::config::MailConfig;
use crate::context::Context;
use crate::mail::{Kind, Letter, Mailer, Renderer, sample};
use crate::startup::StartFailure;

/// Commands on mail.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Print a message as its template makes it, with sample values
    Preview {
        /// Kind of message, such as password_reset
        #[arg(value_parser = kind)]
        kind: Kind,
        /// The HTML part instead of the text
        #[arg(long)]
        html: bool,
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Send a test message through the configured mail server
    Test {
        /// Address that it goes to
        address: String,
        #[command(flatten)]
        file: ConfigFile,
    },
}

fn kind(name: &str) -> std::result::Result<Kind, String> {
    let known = || Kind::all().iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    Kind::parse(name).ok_or_else(|| format!("the kinds are {}", known()))
}

impl Command {
    pub async fn run(self, out: &Out) -> Result<()> {
        let context = Context::system();
        match self {
            Self::Preview { kind, html, file } => {
                let renderer = Renderer::new(&with_origin(config::load(&file)?.mail))?;
                let rendered = renderer.render(&letter(&context, kind, "ann@example.com")).map_err(failed)?;
                out.line(&format!("Subject: {}", rendered.subject))?;
                out.line("")?;
                (if html { rendered.html } else { rendered.text }).lines().try_for_each(|line| out.line(line))
            }
            Self::Test { address, file } => {
                let mailer = mailer(&file)?;
                let composed = mailer.compose(&letter(&context, Kind::Test, &address)).map_err(failed)?;
                let mut connection = mailer.connect().await.map_err(StartFailure::from)?;
                mailer.send(&mut connection, &composed).await.map_err(failed)?;
                connection.quit().await;
                out.line("The mail server has taken the message.")
            }
        }
    }
}

/// A message can be looked at before there is a place that its links lead to.
fn with_origin(config: MailConfig) -> MailConfig {
    let origin =
        if config.origin.is_empty() { "https://accounts.example.com".to_owned() } else { config.origin.clone() };
    MailConfig { origin, ..config }
}

fn failed(failure: crate::mail::Failure) -> Failure {
    Failure::new(failure.to_string())
}

fn mailer(file: &ConfigFile) -> Result<Mailer> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = config::load(file)?;
    Mailer::new(&config.mail)?.ok_or_else(|| {
        Failure::new("mail.host is not set: there is no mail server")
            .remedy("Set mail.host, and what docs/mail.md says besides.")
    })
}

/// A message with sample values, except for those that the configuration gives.
fn letter(context: &Context, kind: Kind, recipient: &str) -> Letter {
    let mut parameters = match sample(kind) {
        Value::Object(values) => values,
        _ => Map::new(),
    };
    // The link is made from the token, on the configured origin.
    if parameters.remove("link").is_some() {
        parameters.insert("token".to_owned(), Value::String("sidle_sample".to_owned()));
        let expires_at: DateTime<Utc> = context.now();
        parameters.insert("expires_at".to_owned(), Value::String(expires_at.to_rfc3339()));
    }
    Letter {
        mail_id: context.new_id(),
        kind,
        recipient: recipient.to_owned(),
        name: if kind == Kind::Test { String::new() } else { "Ann Lee".to_owned() },
        created_at: context.now(),
        parameters,
    }
}
