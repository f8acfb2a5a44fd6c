//! `sidle kanidm check`.

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::Args;

use super::report::Report;
use super::target;
use crate::cli::failure::Result;
use crate::cli::output::Out;
use crate::cli::{ConfigFile, config};
use crate::config::{KanidmConfig, Secret};
use crate::context::Clock;
use crate::kanidm::{ApiToken, Kanidm, KanidmError, Known, MailIndex, Names, RIGHTS, Reached, Step, Whoami, known};

/// A token that ends sooner is worth a word.
const SOON: TimeDelta = TimeDelta::days(14);
/// What the header of an answer can be off by.
const DATE_PRECISION: TimeDelta = TimeDelta::seconds(1);
const NEW_TOKEN: &str = "Make one with `sidle kanidm setup --new-token` and the arguments it was run with before.";
const SECRET: &str = "Put what `kanidm system oauth2 show-basic-secret` prints into kanidm.client_secret_file.";

/// Reads the configuration and asks Kanidm; changes nothing. Ends with 1 when something is missing.
#[derive(Args)]
pub(in crate::cli) struct Check {
    #[command(flatten)]
    file: ConfigFile,
}

impl Check {
    pub async fn run(self, out: &Out) -> Result<ExitCode> {
        let config = config::load(&self.file)?;
        let mut report = Report::default();
        let settings = readable(&config.kanidm, &mut report);
        let longest = config.migration.longest_call.max(config.kanidm.timeout);
        let kanidm = target::client(&settings)?.patient().within(longest);
        match kanidm.reach().await {
            Ok(reached) => Checking { kanidm, settings, report: &mut report }.all(reached).await,
            Err(error) => report.missing(
                "answers",
                format!("Kanidm at {}: {error}", kanidm.origin()),
                "See that it runs, and that kanidm.url and kanidm.ca_file are right. Nothing else could be checked.",
            ),
        }
        report.print(out)
    }
}

/// The settings, with nothing for the secrets that cannot be read, so that the rest can be checked all the same.
fn readable(config: &KanidmConfig, report: &mut Report) -> KanidmConfig {
    let mut settings = config.clone();
    (settings.token_file, settings.client_secret_file) = (None, None);
    settings.token = config.token().unwrap_or_else(|error| {
        report.missing("token", error.to_string(), NEW_TOKEN);
        Secret::default()
    });
    settings.client_secret = config.client_secret().unwrap_or_else(|error| {
        report.missing("client_secret", error.to_string(), SECRET);
        Secret::default()
    });
    settings
}

struct Checking<'a> {
    kanidm: Kanidm,
    settings: KanidmConfig,
    report: &'a mut Report,
}

impl Checking<'_> {
    async fn all(mut self, reached: Reached) {
        self.version(reached.version.as_deref());
        self.clock(reached.ahead);
        match reached.whoami {
            Ok(whoami) => {
                self.token(&whoami);
                self.rights(&whoami);
                self.mail_index().await;
            }
            Err(error) => self.no_token(&error),
        }
        self.oauth2().await;
    }

    fn version(&mut self, version: Option<&str>) {
        let (report, origin) = (&mut *self.report, self.kanidm.origin());
        let name = version.map_or_else(|| "of a release that it does not tell".to_owned(), printable);
        report.good("answers", format!("Kanidm {name} answers at {origin}"));
        let Some(known) = version.and_then(known) else {
            let says = "what is known about this release cannot be looked up without its number";
            return report.unknown("version", says, "Sidle is tested with 1.10.5 and 1.11.1.");
        };
        for fact in known {
            match fact {
                Known::ForgeableGroups => report.warning(
                    "version",
                    "in this release any signed-in account can change groups, also those that make administrators \
                     (GHSA-xxwr-vvr3-2g9f)",
                    "Upgrade to 1.9.4, 1.10.5 or 1.11 before anybody is migrated; until then no group proves anything.",
                ),
                Known::ExhaustibleStack => report.warning(
                    "version",
                    "in this release a crafted search can bring the server down",
                    "Upgrade to 1.10.5 or 1.11.",
                ),
                Known::NoAuthTime => report.warning(
                    "version",
                    "this release does not say when a person authenticated: a login through it is no fresh proof",
                    "Upgrade to 1.11 if administrators shall give fresh proofs through Kanidm.",
                ),
            }
        }
    }

    fn clock(&mut self, ahead: Option<TimeDelta>) {
        let Some(ahead) = ahead else {
            let remedy = "See that both machines follow a time server.";
            return self.report.unknown("clock", "Kanidm does not tell its time", remedy);
        };
        let leeway = TimeDelta::from_std(self.settings.leeway).unwrap_or(TimeDelta::MAX);
        let direction = if ahead < TimeDelta::zero() { "behind" } else { "ahead of" };
        let seconds = ahead.abs().num_seconds();
        if ahead.abs() <= leeway + DATE_PRECISION {
            return self.report.good("clock", format!("the clocks agree to within {} s", seconds + 1));
        }
        self.report.missing(
            "clock",
            format!("Kanidm's clock is {seconds} s {direction} this machine's: its tokens will be refused"),
            "Set both clocks by a time server; kanidm.leeway is what may remain.",
        );
    }

    fn no_token(&mut self, error: &KanidmError) {
        if self.settings.token.is_empty() {
            return self.report.missing("token", "no token is configured (kanidm.token_file)", NEW_TOKEN);
        }
        let over = ApiToken::read(&self.settings.token).filter(|token| token.is_over(Clock::system().now()));
        let why = match over.and_then(|token| token.expires_at()) {
            Some(end) => format!("the token ended at {}", time(end)),
            None => format!("the token in kanidm.token or kanidm.token_file is not accepted: {error}"),
        };
        self.report.missing("token", why, NEW_TOKEN);
        self.report.unknown(
            "rights",
            "rights and index cannot be checked without a token",
            "Repeat the check with one.",
        );
    }

    fn token(&mut self, whoami: &Whoami) {
        let name = printable(&whoami.name);
        self.report.good("token", format!("it takes the token, as {name}"));
        let Some(token) = ApiToken::read(&self.settings.token) else {
            let says = "a compact token does not say whether it may make changes, nor when it ends";
            let remedy = format!("`kanidm service-account api-token status {name} -D idm_admin` does.");
            return self.report.unknown("token_purpose", says, remedy);
        };
        if !token.is_read_write() {
            self.report.missing("token_purpose", "the token may not make changes", NEW_TOKEN);
        }
        match token.expires_at() {
            Some(end) if end - Clock::system().now() < SOON => {
                self.report.warning("token_end", format!("the token ends at {}", time(end)), NEW_TOKEN);
            }
            Some(end) => self.report.good("token_end", format!("the token may make changes until {}", time(end))),
            None if token.is_read_write() => {
                self.report.good("token_end", "the token may make changes, without an end")
            }
            None => {}
        }
    }

    fn rights(&mut self, whoami: &Whoami) {
        let names = Names { account: printable(&whoami.name), client: String::new(), persons: String::new() };
        let Some(groups) = &whoami.groups else {
            let remedy = format!("Look whether {} is in {}.", names.account, RIGHTS.join(", "));
            return self.report.unknown("rights", "the account may not see its groups", remedy);
        };
        for right in RIGHTS {
            if groups.iter().any(|group| group == right) {
                self.report.good("rights", format!("{} is in {right}", names.account));
            } else {
                let says = format!("{} is not in {right}", names.account);
                self.report.missing("rights", says, Step::Grant(right).command(&names));
            }
        }
        // What every account, and every account with rights like these, is in.
        let usual = ["idm_all_accounts", "idm_high_privilege"];
        let is_more = |group: &&String| !RIGHTS.contains(&group.as_str()) && !usual.contains(&group.as_str());
        for group in groups.iter().filter(is_more).map(|group| printable(group)) {
            let account = &names.account;
            self.report.warning(
                "rights",
                format!("{account} is in {group} too, which Sidle does not need"),
                format!("kanidm group remove-members {group} {account} -D idm_admin"),
            );
        }
    }

    async fn mail_index(&mut self) {
        let reindex =
            "Run `kanidmd database reindex` on the Kanidm server: a fresh server has no such index until then.";
        match self.kanidm.mail_index().await {
            Ok(MailIndex::Present(took)) => self.report.good(
                "mail_index",
                format!(
                    "a search by address took {} ms (a server that was never re-indexed has no index of addresses, which \
                     shows with many persons: run `kanidmd database reindex` once)",
                    took.as_millis()
                ),
            ),
            Ok(MailIndex::Missing(took)) => self.report.missing(
                "mail_index",
                format!(
                    "a search by address is refused or reads every entry ({} ms): there is no index of addresses, and a \
                     migration takes hours instead of minutes",
                    took.as_millis()
                ),
                reindex,
            ),
            Err(error) => self.report.unknown("mail_index", format!("a search by address failed: {error}"), reindex),
        }
    }

    async fn oauth2(&mut self) {
        if self.settings.redirect_uris.is_empty() {
            let says = "kanidm.redirect_uris is empty: nobody can sign in through Kanidm";
            return self.report.missing("redirect_uris", says, "Name the addresses that logins return to.");
        }
        if let Err(error) = self.client().await {
            let says = format!("the OAuth2 client could not be checked: {error}");
            self.report.unknown("client", says, "Repeat the check when Kanidm answers as it should.");
        }
    }

    async fn client(&mut self) -> Result<(), KanidmError> {
        let id = self.settings.client_id.clone();
        let names = Names { account: String::new(), client: id.clone(), persons: "idm_all_persons".to_owned() };
        let Some(published) = self.kanidm.published(&id).await? else {
            let (says, origin) = (format!("Kanidm has no OAuth2 client {id}"), self.settings.redirect_uris[0].clone());
            self.report.missing("client", says, Step::MakeClient { landing: origin }.command(&names));
            return Ok(());
        };
        let issuer = format!("{}/oauth2/openid/{id}", self.kanidm.origin());
        if published.issuer == issuer && published.authorization_endpoint.starts_with(&self.kanidm.origin()) {
            self.report.good("client", format!("the OAuth2 client {id} is there"));
        } else {
            self.report.missing(
                "issuer",
                format!("Kanidm calls itself {}, which is not kanidm.url", printable(&published.issuer)),
                "Set kanidm.url to Kanidm's `origin`, as its server.toml has it.",
            );
        }
        let has = |list: &[String], wanted: &str| list.iter().any(|one| one == wanted);
        let lacks: Vec<&str> = ["openid", "email", "profile", "groups"]
            .into_iter()
            .filter(|scope| !has(&published.scopes_supported, scope))
            .collect();
        match lacks.is_empty() {
            true => self.report.good("scopes", "persons can be given the scopes that Sidle asks for"),
            false => {
                let says = format!("nobody gets the scopes {} of {id}", lacks.join(", "));
                self.report.missing("scopes", says, Step::MapScopes.command(&names));
            }
        }
        if !has(&published.id_token_signing_alg_values_supported, "ES256") {
            let says = format!("tokens of {id} are not signed with ES256");
            self.report.missing("signature", says, Step::SignWithEcdsa.command(&names));
        }
        self.secret(&names).await?;
        self.redirects(&names).await
    }

    async fn secret(&mut self, names: &Names) -> Result<(), KanidmError> {
        let remedy = format!("Put what `{}` prints into kanidm.client_secret_file.", Step::ShowSecret.command(names));
        if self.settings.client_secret.is_empty() {
            self.report.missing("client_secret", "no secret of the OAuth2 client is configured", remedy);
        } else if self.kanidm.takes_client_secret(&names.client, &self.settings.client_secret).await? {
            self.report.good("client_secret", "its secret is the configured one");
        } else {
            self.report.missing(
                "client_secret",
                "the OAuth2 client has another secret than the configured one",
                remedy,
            );
        }
        Ok(())
    }

    async fn redirects(&mut self, names: &Names) -> Result<(), KanidmError> {
        let mut works = None;
        for url in self.settings.redirect_uris.clone() {
            if self.kanidm.returns_to(&names.client, &url).await? {
                self.report.good("redirect_uris", format!("logins may return to {url}"));
                works = Some(url);
            } else {
                let says = format!("Kanidm lets no login of {} return to {url}", names.client);
                self.report.missing("redirect_uris", says, Step::AddRedirect(url).command(names));
            }
        }
        let Some(url) = works else { return Ok(()) };
        if self.kanidm.works_without_pkce(&names.client, &url).await? {
            let says = "Kanidm does not insist on PKCE for this client";
            self.report.warning("pkce", says, Step::RequirePkce.command(names));
        } else {
            self.report.good("pkce", "PKCE is required");
        }
        Ok(())
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// What another server says, as far as it can be a name: it goes into commands that are to be pasted.
fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(*c)).take(128).collect()
}
