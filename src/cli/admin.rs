//! `sidle admin`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::failure::Result;
use super::output::Out;
use super::{ConfigFile, config, prompt};
use crate::audit::Recorder;
use crate::context::Context;
use crate::credential::{Charge, Hasher, Policy};
use crate::db::Db;
use crate::directory::{FirstAdmin, bootstrap};
use crate::metrics::Metrics;

/// Commands on administrators.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Make the first administrator, who cannot be demoted, disabled or deleted
    Bootstrap(Bootstrap),
}

/// The first administrator. The password is asked for on the terminal, or comes from SIDLE_PASSWORD or the first line of
/// standard input.
#[derive(Args)]
pub(super) struct Bootstrap {
    #[command(flatten)]
    file: ConfigFile,
    /// E-mail address to sign in with
    #[arg(long)]
    email: String,
    /// Name shown to people
    #[arg(long, default_value = "")]
    full_name: String,
    /// Slug of the tenant to be at home in; made if there is none
    #[arg(long, default_value = "platform")]
    tenant_slug: String,
    /// Make up a password and print it, this once
    #[arg(long)]
    generate_password: bool,
}

impl Command {
    pub async fn run(self, out: &Out) -> Result<()> {
        match self {
            Self::Bootstrap(command) => command.run(out).await,
        }
    }
}

impl Bootstrap {
    async fn run(self, out: &Out) -> Result<()> {
        let config = config::load(&self.file)?;
        let context = Context::system();
        let recorder = Recorder::new(context.clone(), config.seal.keyring()?);
        let password = match self.generate_password {
            true => Zeroizing::new(URL_SAFE_NO_PAD.encode(*Zeroizing::new(context.entropy.array::<18>()))),
            false => prompt::password("Password of the administrator: ")?,
        };
        let policy = Policy::new(&config.passwords)?;
        let hasher = Hasher::new(config.passwords.clone(), &config.throttle, context.clone(), Metrics::new())?;
        let about = [self.email.as_str(), &self.full_name, &self.tenant_slug];
        let charge = Charge::operator();
        let hash = hasher.new_password(&charge, &policy, "password", &password, &about).await?;
        let first = FirstAdmin {
            tenant_slug: self.tenant_slug,
            email: self.email.clone(),
            full_name: self.full_name,
            password: hash,
            must_change_password: false,
        };
        let db = Db::new(&config.database)?;
        let made = bootstrap(&db, &context, &recorder, first).await?;
        let generated = self.generate_password.then_some(password);
        if out.is_json() {
            return out.json(&serde_json::json!({
                "user_id": made.user_id, "tenant_id": made.tenant_id, "password": generated.as_deref(),
            }));
        }
        out.note(&format!("{} administers the platform now.", self.email));
        match generated {
            Some(password) => {
                out.note("The password is shown this once:");
                out.line(&password)
            }
            None => Ok(()),
        }
    }
}
