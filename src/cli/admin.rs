//! `sidle admin`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::failure::Result;
use super::output::Out;
use super::{ConfigFile, config, prompt};
use crate::app::check_sealing_keys;
use crate::audit::Recorder;
use crate::authenticate::{Operator, reset_administrator};
use crate::config::Config;
use crate::context::Context;
use crate::credential::{Charge, Hasher, Policy, StoredHash};
use crate::db::Db;
use crate::directory::{FirstAdmin, bootstrap};
use crate::mail::Outbox;
use crate::metrics::Metrics;

/// Commands on administrators.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Make the first administrator, who cannot be demoted, disabled or deleted
    Bootstrap(Bootstrap),
    /// Set a new password for an administrator of the platform who cannot sign in any more
    ResetPassword(ResetPassword),
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

/// The way back in for an administrator of the platform, on a machine that has the service's configuration. Ends all of the
/// administrator's sessions, removes any lock, is recorded in the audit log, and is told to them by mail. The password is
/// asked for on the terminal, twice, or comes from SIDLE_NEW_PASSWORD or the first line of standard input. Everybody else is
/// helped by an administrator.
#[derive(Args)]
pub(super) struct ResetPassword {
    #[command(flatten)]
    file: ConfigFile,
    /// E-mail address of the administrator
    #[arg(long)]
    email: String,
    /// Make up a password and print it, this once
    #[arg(long)]
    generate_password: bool,
    /// Remove the second factor as well, which the next login would ask for
    #[arg(long)]
    remove_mfa: bool,
}

impl Command {
    pub async fn run(self, out: &Out) -> Result<()> {
        match self {
            Self::Bootstrap(command) => command.run(out).await,
            Self::ResetPassword(command) => command.run(out).await,
        }
    }
}

impl Bootstrap {
    async fn run(self, out: &Out) -> Result<()> {
        let config = config::load(&self.file)?;
        let context = Context::system();
        let (keyring, db) = (config.seal.keyring()?, Db::new(&config.database)?);
        check_sealing_keys(&db, &keyring, &config.seal).await?;
        let recorder = Recorder::new(context.clone(), keyring);
        let about = [self.email.as_str(), &self.full_name, &self.tenant_slug];
        let asked = "SIDLE_PASSWORD";
        let (password, hash) = new_password(&config, &context, asked, self.generate_password, &about).await?;
        let first = FirstAdmin {
            tenant_slug: self.tenant_slug,
            email: self.email.clone(),
            full_name: self.full_name,
            password: hash,
            must_change_password: false,
        };
        let made = bootstrap(&db, &context, &recorder, first).await?;
        let generated = self.generate_password.then_some(password);
        if out.is_json() {
            return out.json(&serde_json::json!({
                "user_id": made.user_id, "tenant_id": made.tenant_id, "password": generated.as_deref(),
            }));
        }
        out.note(&format!("{} administers the platform now.", self.email));
        show(generated, out)
    }
}

impl ResetPassword {
    async fn run(self, out: &Out) -> Result<()> {
        let config = config::load(&self.file)?;
        let context = Context::system();
        let keyring = config.seal.keyring()?;
        let (recorder, db) = (Recorder::new(context.clone(), keyring.clone()), Db::new(&config.database)?);
        // The event and the message would be sealed under a key that nobody opens them with.
        check_sealing_keys(&db, &keyring, &config.seal).await?;
        let outbox = Outbox::new(context.clone(), keyring, &config.mail);
        let asked = "SIDLE_NEW_PASSWORD";
        let (password, hash) =
            new_password(&config, &context, asked, self.generate_password, &[self.email.as_str()]).await?;
        let operator = Operator { db: &db, context: &context, recorder: &recorder, outbox: &outbox };
        let done = reset_administrator(&operator, &self.email, &hash, self.remove_mfa).await?;
        let generated = self.generate_password.then_some(password);
        if out.is_json() {
            return out.json(&serde_json::json!({
                "user_id": done.user_id, "password": generated.as_deref(), "sessions_revoked": done.sessions_revoked,
                "second_factor_removed": done.second_factor_removed, "has_second_factor": done.has_second_factor,
            }));
        }
        let ended = done.sessions_revoked;
        out.note(&format!(
            "The password of {} is set; {ended} sessions have ended, and any lock is removed.",
            self.email
        ));
        match (done.second_factor_removed, done.has_second_factor) {
            (true, _) => out.note("The second factor is removed."),
            (_, true) => out.note("The login asks for the second factor as before; --remove-mfa removes that as well."),
            _ => {}
        }
        show(generated, out)
    }
}

/// A password for an administrator, made up or asked for, and its hash.
async fn new_password(
    config: &Config,
    context: &Context,
    variable: &str,
    generate: bool,
    about: &[&str],
) -> Result<(Zeroizing<String>, StoredHash)> {
    let password = match generate {
        true => Zeroizing::new(URL_SAFE_NO_PAD.encode(*Zeroizing::new(context.entropy.array::<18>()))),
        false => prompt::new_password(variable, "Password of the administrator: ")?,
    };
    let policy = Policy::new(&config.passwords)?;
    let hasher = Hasher::new(config.passwords.clone(), &config.throttle, context.clone(), Metrics::new())?;
    let hash = hasher.new_password(&Charge::operator(), &policy, "password", &password, about).await?;
    Ok((password, hash))
}

/// Prints a password that was made up.
fn show(generated: Option<Zeroizing<String>>, out: &Out) -> Result<()> {
    let Some(password) = generated else { return Ok(()) };
    out.note("The password is shown this once:");
    out.line(&password)
}
