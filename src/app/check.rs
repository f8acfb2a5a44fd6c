//! What `sidle config check` does: makes every part as the start does, opens what the settings name, and goes on after a
//! failure, so that everything is reported together. Changes nothing, listens nowhere and sends nothing.

use crate::config::Config;
use crate::context::Context;
use crate::credential::Policy;
use crate::db::Db;
use crate::kanidm::{Kanidm, KanidmError, MailIndex};
use crate::mail::Mailer;
use crate::metrics::Metrics;
use crate::schema::{Schema, require_current};
use crate::server::{self, Authorities};
use crate::startup::{Result, StartFailure};
use crate::telemetry;

/// What was found.
#[derive(Debug, Default)]
pub struct Checked {
    /// What was looked at and is fine.
    pub fine: Vec<String>,
    /// What keeps the service from starting or from doing its work.
    pub failures: Vec<StartFailure>,
    /// What does not, and should be known.
    pub warnings: Vec<String>,
}

impl Checked {
    /// Notes how a part did. One failure for each setting: what follows from it says nothing new.
    fn note<T>(&mut self, what: impl Into<String>, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.fine.push(what.into());
                Some(value)
            }
            Err(failure) => {
                let is_known =
                    failure.key().is_some_and(|key| self.failures.iter().any(|known| known.key() == Some(key)));
                if !is_known {
                    self.failures.push(failure);
                }
                None
            }
        }
    }

    fn take(&mut self, other: Self) {
        self.fine.extend(other.fine);
        self.failures.extend(other.failures);
        self.warnings.extend(other.warnings);
    }
}

/// Tries everything that the configuration names; without the network where it is `offline`.
pub async fn check(config: &Config, context: &Context, offline: bool) -> Checked {
    let mut checked = Checked::default();
    settings(config, &mut checked);
    files(config, context, &mut checked).await;
    let mailer =
        checked.note("mail: the settings and templates", Mailer::new(&config.mail).map_err(StartFailure::from));
    let kanidm = Kanidm::new(&config.kanidm, context.clock.clone(), Metrics::new());
    let kanidm = checked.note("kanidm: the settings", kanidm.map_err(StartFailure::from));
    if offline {
        let settings = config.database.targets().map_err(StartFailure::from);
        checked.note("database: the addresses", settings);
        return checked;
    }
    let parts = tokio::join!(
        database(config, context),
        async {
            match kanidm.flatten() {
                Some(kanidm) => check_kanidm(config, &kanidm).await,
                None => Checked::default(),
            }
        },
        async {
            match mailer.flatten() {
                Some(mailer) => check_mail(config, &mailer).await,
                None => Checked::default(),
            }
        },
    );
    for part in <[Checked; 3]>::from(parts) {
        checked.take(part);
    }
    checked
}

fn settings(config: &Config, checked: &mut Checked) {
    if let Err(error) = config.check_serving() {
        checked.failures = error.problems().iter().map(StartFailure::from).collect();
    }
    if config.files.allow_loose_permissions {
        checked.warnings = config.loose_files().iter().map(ToString::to_string).collect();
    }
    if !config.mail.is_configured() {
        let text = "mail.host is not set: nobody is told of changes to their credentials, and nobody can register";
        checked.warnings.push(text.to_owned());
    }
}

/// What is read when the service starts, and never again.
async fn files(config: &Config, context: &Context, checked: &mut Checked) {
    let server = &config.server;
    if !server.plaintext && server.tls_certificate.is_some() && server.tls_key.is_some() {
        let expiry = checked.note("server: TLS", server::check_tls(server, context.clock.now()).await);
        checked.warnings.extend(expiry.flatten().map(|problem| format!("server.tls_certificate: {problem}")));
    }
    checked.note("server: authorities of client certificates", Authorities::load(server).await);
    checked.note("passwords: the rules and lists", Policy::new(&config.passwords).map_err(StartFailure::from));
    checked.note("telemetry: the settings", telemetry::check(&config.telemetry).map_err(StartFailure::from));
}

async fn database(config: &Config, context: &Context) -> Checked {
    let mut checked = Checked::default();
    if config.database.owner_url.is_some() {
        let owner = Schema::connect(&config.database, context.clock.clone()).await;
        checked.note("database.owner_url: Postgres takes the role", owner);
    }
    if config.database.url.is_empty() {
        return checked;
    }
    let Some(db) = checked.note("database: the addresses", Db::new(&config.database).map_err(StartFailure::from))
    else {
        return checked;
    };
    let all_is_well = async {
        db.reach().await?;
        db.check().await?;
        require_current(&db).await?;
        match config.seal.keyring() {
            Ok(keyring) => super::seal::check(&db, &keyring, &config.seal).await,
            // Reported with the settings.
            Err(_) => Ok(()),
        }
    };
    checked.note("database: Postgres takes the role, which row-level security holds; the schema is this release's; the sealing keys are the database's", all_is_well.await);
    db.close().await;
    checked
}

async fn check_kanidm(config: &Config, kanidm: &Kanidm) -> Checked {
    let mut checked = Checked::default();
    let longest = config.migration.longest_call.max(config.kanidm.timeout);
    let found = kanidm.patient().within(longest).checkup().await.map_err(|error| unfit(config, kanidm, &error));
    let found = checked.note(format!("kanidm: {} answers and takes the token", kanidm.origin()), found);
    if let Some(MailIndex::Missing(_)) = found.map(|found| found.mail_index) {
        checked.warnings.push(
            "kanidm: it has no index of addresses, which makes a migration slow: run `kanidmd database reindex` there"
                .to_owned(),
        );
    }
    checked
}

fn unfit(config: &Config, kanidm: &Kanidm, error: &KanidmError) -> StartFailure {
    let token = if config.kanidm.token.is_empty() { "kanidm.token_file" } else { "kanidm.token" };
    let failure = StartFailure::new(format!("work with Kanidm at {}", kanidm.origin()), error);
    match error {
        KanidmError::NotAuthenticated => failure.setting(token).remedy(
            "Make a token for the service account (`kanidm service-account api-token generate`), and give it here.",
        ),
        KanidmError::AccessDenied => {
            failure.setting(token).remedy("Put the service account into the groups that docs/kanidm.md names.")
        }
        KanidmError::Unavailable(_) => kanidm
            .unreachable()
            .unwrap_or_else(|| failure.setting("kanidm.url").remedy("See the log of Kanidm.").may_pass()),
        _ => failure
            .setting("kanidm.url")
            .remedy("See that kanidm.url is the address of Kanidm itself, and see its log."),
    }
}

async fn check_mail(config: &Config, mailer: &Mailer) -> Checked {
    let mut checked = Checked::default();
    let connected = mailer.connect().await.map_err(StartFailure::from);
    let what = format!("mail: {}:{} takes messages", config.mail.host, config.mail.port);
    if let Some(connection) = checked.note(what, connected) {
        connection.quit().await;
    }
    checked
}
