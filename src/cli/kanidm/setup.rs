//! `sidle kanidm setup`.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;

use super::administrator::{As, Session};
use super::files::{Change, Folder, Section};
use super::target;
use crate::cli::failure::{Failure, Result};
use crate::cli::output::Out;
use crate::config::Secret;
use crate::context::Clock;
use crate::kanidm::{Administrator, ApiToken, Found, KanidmError, LoginAddress, Names, Step, Wanted};

const TOKEN_FILE: &str = "kanidm-token";
const SECRET_FILE: &str = "kanidm-client-secret";

/// Makes a service account with three rights and a token, and an OAuth2 client. May be repeated: what is there already
/// stays as it is. Without --write the section is printed.
#[derive(Args)]
pub(in crate::cli) struct Setup {
    /// Kanidm's address, which is the `origin` of its configuration
    #[arg(long)]
    url: String,
    /// PEM file with the authority of Kanidm's certificate, where the system does not know it
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Address that a login returns to, of an application or of `sidle login --kanidm`; may be repeated
    #[arg(long = "redirect-uri", value_name = "URI", required = true)]
    redirect_uris: Vec<String>,
    /// Where Kanidm's list of applications leads, and logins may return to too [default: the root of the first redirect
    /// address]
    #[arg(long, value_name = "URL")]
    landing: Option<String>,
    /// Name of the service account
    #[arg(long, value_name = "NAME", default_value = "sidle_service")]
    account: String,
    /// Name of the OAuth2 client; in Kanidm no two entries have one name
    #[arg(long, value_name = "NAME", default_value = "sidle")]
    client_id: String,
    /// Group whose members may sign in through Kanidm
    #[arg(long, value_name = "GROUP", default_value = "idm_all_persons")]
    group: String,
    #[command(flatten)]
    admin: As,
    /// How long the token is good for, such as 365d; without it, until it is revoked
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    token_lifetime: Option<Duration>,
    /// Make another token though the account has one. The one before goes on working until it is revoked
    #[arg(long)]
    new_token: bool,
    /// Use what has the names already, though it is more than would have been made
    #[arg(long)]
    adopt: bool,
    /// Configuration file to put the `[kanidm]` section into
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Folder for the files with the token and the client's secret [default: the one of --write, else this one]
    #[arg(long, value_name = "DIR")]
    secrets: Option<PathBuf>,
    /// Print the token and the client's secret in the section, this once, instead of keeping them in files
    #[arg(long, conflicts_with_all = ["write", "secrets"])]
    print_secrets: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Only print the commands of Kanidm's own tool that do the same; Kanidm is not asked
    #[arg(long)]
    print_commands: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text).map_err(|e| format!("{e}; such as 365d"))
}

/// What is to be done about the token.
enum TokenPlan {
    /// The one in the file is good.
    Keep,
    Make,
}

impl Setup {
    pub async fn run(self, out: &Out) -> Result<()> {
        let wanted = self.wanted()?;
        // Before anything is asked or made: a password goes nowhere over plain HTTP but to this machine.
        let kanidm = target::client(&target::settings(&self.url, self.ca_file.clone())?)?;
        if self.print_commands {
            return self.commands(&wanted, &kanidm.origin(), out);
        }
        let folder = if self.print_secrets || self.dry_run { None } else { Some(self.folder()?) };
        let section = self.section()?;
        let change = self.write.as_deref().map(|path| section.change(path)).transpose()?;
        let session = self.admin.sign_in(&kanidm).await?;
        let done = Doing { setup: &self, wanted, admin: &session, folder, out }.all(section, change).await;
        session.end().await;
        done
    }

    fn wanted(&self) -> Result<Wanted> {
        for (option, name) in [("--account", &self.account), ("--client-id", &self.client_id), ("--group", &self.group)]
        {
            let fits =
                |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
            if !fits(name) || name.len() > 64 || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
                return Err(Failure::new(format!("{option} {name} is no name in Kanidm"))
                    .remedy("Names begin with a letter and have 1 to 64 of a-z, 0-9, '.', '_' and '-'."));
            }
        }
        if self.account == self.client_id {
            return Err(Failure::new("the service account and the OAuth2 client cannot have one name"));
        }
        let redirects = self.redirect_uris.iter().map(|uri| address(uri)).collect::<Result<Vec<_>>>()?;
        let landing = match &self.landing {
            Some(landing) => address(landing)?.whole,
            None => redirects.iter().map(|redirect| redirect.root.clone()).next().unwrap_or_default(),
        };
        let names =
            Names { account: self.account.clone(), client: self.client_id.clone(), persons: self.group.clone() };
        Ok(Wanted { names, landing, redirects: redirects.into_iter().map(|redirect| redirect.whole).collect() })
    }

    fn folder_path(&self) -> PathBuf {
        let beside = self.write.as_deref().and_then(|file| file.parent()).map(PathBuf::from);
        let path = self.secrets.clone().or(beside).unwrap_or_default();
        if path.as_os_str().is_empty() { PathBuf::from(".") } else { path }
    }

    fn folder(&self) -> Result<Folder> {
        Folder::open(&self.folder_path())
    }

    /// The section, without what only the secrets themselves can give.
    fn section(&self) -> Result<Section> {
        let text = |path: PathBuf| -> Result<toml::Value> {
            let path = std::path::absolute(path)?.into_os_string().into_string();
            path.map(toml::Value::from).map_err(|path| Failure::new(format!("{} is not UTF-8", path.display())))
        };
        let mut section = vec![("url", self.url.clone().into())];
        if let Some(file) = &self.ca_file {
            section.push(("ca_file", text(file.clone())?));
        }
        if !self.print_secrets {
            section.push(("token_file", text(self.folder_path().join(TOKEN_FILE))?));
        }
        section.push(("client_id", self.client_id.clone().into()));
        if !self.print_secrets {
            section.push(("client_secret_file", text(self.folder_path().join(SECRET_FILE))?));
        }
        section.push(("redirect_uris", self.redirect_uris.clone().into()));
        Ok(Section(section))
    }

    fn commands(&self, wanted: &Wanted, origin: &str, out: &Out) -> Result<()> {
        let (names, section) = (&wanted.names, self.section()?.text());
        let steps = wanted.all_steps().into_iter().chain([Step::MakeToken, Step::ShowSecret]);
        let commands: Vec<String> = std::iter::once("kanidm login -D idm_admin".to_owned())
            .chain(steps.map(|step| step.command(names)))
            .collect();
        if out.is_json() {
            return out.json(&serde_json::json!({"commands": commands, "section": *section}));
        }
        out.line(&format!("# Where Kanidm's own tool does not know its server yet: export KANIDM_URL={origin}"))?;
        commands.iter().try_for_each(|command| out.line(command))?;
        out.line("")?;
        out.line(
            "# Put what the last two commands print into the two files named below (umask 077 first), and into the",
        )?;
        out.line("# configuration of Sidle:")?;
        section.lines().try_for_each(|line| out.line(line))
    }
}

fn address(text: &str) -> Result<LoginAddress> {
    LoginAddress::read(text).map_err(|why| {
        Failure::new(format!("{text} cannot be an address that a login returns to: {why}"))
            .remedy("Use an https address, or http://127.0.0.1:PORT/PATH for a program on the person's own machine.")
    })
}

struct Doing<'a> {
    setup: &'a Setup,
    wanted: Wanted,
    admin: &'a Session,
    /// Where the secrets go; none where they are printed, or nothing is done.
    folder: Option<Folder>,
    out: &'a Out,
}

impl Doing<'_> {
    async fn all(self, mut section: Section, change: Option<Change>) -> Result<()> {
        let found = Found::read(self.admin(), &self.wanted).await.map_err(|error| {
            Failure::new(format!("cannot read what is in Kanidm: {error}"))
                .remedy("See that the administrator is in idm_admins, and the session neither over nor read-only.")
        })?;
        let ours = self.ours(&found)?;
        self.compare(&found, ours.as_ref())?;
        let token = self.token_plan(&found, ours.as_ref())?;
        let steps = self.wanted.steps(&found);
        self.tell_what_is_there(&steps);
        if self.setup.dry_run {
            return self.tell_what_would_be_done(&steps, &token);
        }
        // Before anything is made that could not be kept.
        let file = match (&token, &self.folder) {
            (TokenPlan::Make, Some(folder)) => Some(folder.reserve(TOKEN_FILE)?),
            _ => None,
        };
        for step in &steps {
            let done = self.admin().apply(step, &self.wanted.names).await.map_err(|error| self.stopped(step, error))?;
            let says = step.says(&self.wanted.names);
            self.out.note(&if done { format!("made: {says}") } else { format!("not in this release: {says}") });
        }
        self.token(token, file, &mut section, &found).await?;
        self.secret(&mut section).await?;
        self.finish(&section, change)
    }

    fn admin(&self) -> &Administrator {
        &self.admin.admin
    }

    /// The token in the file, when it is one of the account's and good.
    fn ours(&self, found: &Found) -> Result<Option<ApiToken>> {
        let folder = match self.setup.dry_run {
            true if self.setup.folder_path().is_dir() => Some(self.setup.folder()?),
            _ => None,
        };
        let Some(folder) = self.folder.as_ref().or(folder.as_ref()) else { return Ok(None) };
        let token = folder.read(TOKEN_FILE)?.as_ref().and_then(ApiToken::read);
        let now = Clock::system().now();
        let is_good = |token: &ApiToken| found.has_token(token) && token.is_read_write() && !token.is_over(now);
        Ok(token.filter(is_good))
    }

    /// Nothing is taken over that somebody else may have made for the purpose.
    fn compare(&self, found: &Found, ours: Option<&ApiToken>) -> Result<()> {
        let persons = &self.wanted.names.persons;
        if found.lacks_persons {
            return Err(Failure::new(format!("{} sees no group {persons} in Kanidm", self.setup.admin.name()))
                .remedy("Name another group with --group, and an administrator who is in idm_admins with --admin."));
        }
        let differences = found.differences(&self.wanted, ours);
        if differences.iter().all(|difference| self.setup.adopt && !difference.is_final) {
            differences.iter().for_each(|difference| self.out.note(&format!("accepted: {}", difference.says)));
            return Ok(());
        }
        differences.iter().for_each(|difference| self.out.note(&format!("differs: {}", difference.says)));
        let failure = Failure::new("what has these names in Kanidm is not what setup makes; nothing was changed");
        Err(match differences.iter().any(|difference| difference.is_final) {
            true => failure.remedy("Choose other names with --account and --client-id."),
            false => failure.remedy(
                "If you know who made it and why, put it right or accept it with --adopt; otherwise choose other names with \
                 --account and --client-id.",
            ),
        })
    }

    fn token_plan(&self, found: &Found, ours: Option<&ApiToken>) -> Result<TokenPlan> {
        let now = Clock::system().now();
        let live = found.tokens().iter().filter(|token| !token.is_over(now)).count();
        if self.setup.new_token || (ours.is_none() && live == 0) {
            return Ok(TokenPlan::Make);
        }
        if ours.is_some() {
            return Ok(TokenPlan::Keep);
        }
        let account = &self.wanted.names.account;
        Err(Failure::new(format!("{account} has a token already, which is not in {}", self.token_path()))
            .remedy("Kanidm shows a token only once. Name the folder where it is with --secrets, or make another with --new-token."))
    }

    fn token_path(&self) -> String {
        let path = self.setup.folder_path().join(TOKEN_FILE);
        std::path::absolute(&path).unwrap_or(path).display().to_string()
    }

    fn tell_what_is_there(&self, steps: &[Step]) {
        for step in self.wanted.all_steps().iter().filter(|step| !steps.contains(step)) {
            self.out.note(&format!("is there already: {}", step.says(&self.wanted.names)));
        }
    }

    fn tell_what_would_be_done(&self, steps: &[Step], token: &TokenPlan) -> Result<()> {
        let token = matches!(token, TokenPlan::Make).then_some(&Step::MakeToken);
        let says: Vec<String> = steps.iter().chain(token).map(|step| step.says(&self.wanted.names)).collect();
        if self.out.is_json() {
            return self.out.json(&serde_json::json!({"would_make": says}));
        }
        says.iter().try_for_each(|says| self.out.line(&format!("would make: {says}")))
    }

    fn stopped(&self, step: &Step, error: KanidmError) -> Failure {
        Failure::new(format!("cannot make {}: {error}", step.says(&self.wanted.names))).remedy(
            "What was made before it stays; repeat the command when the cause is gone. The administrator has to be in \
             idm_admins, with a session that may make changes.",
        )
    }

    async fn token(
        &self,
        plan: TokenPlan,
        file: Option<super::files::Reserved>,
        section: &mut Section,
        found: &Found,
    ) -> Result<()> {
        let says = Step::MakeToken.says(&self.wanted.names);
        if matches!(plan, TokenPlan::Keep) {
            self.out.note(&format!("is there already: {says}, in {}", self.token_path()));
            return self.close(TOKEN_FILE);
        }
        let made = self.admin().make_token(&self.wanted.names, self.token_end()).await;
        let token = made.map_err(|error| self.stopped(&Step::MakeToken, error))?;
        match file {
            None => section.0.push(("token", token.expose().to_owned().into())),
            Some(file) => {
                if let Err(failure) = file.keep(&token) {
                    // Nobody has it, so nobody is to be able to use it.
                    self.revoke(&token).await;
                    return Err(failure);
                }
                self.out.note(&format!("made and written: {says}, in {}", self.token_path()));
            }
        }
        for old in found.tokens() {
            let (account, id) = (&self.wanted.names.account, old.token_id);
            self.out.note(&format!(
                "The token {id} is still good, too. When nothing uses it any more: \
                 kanidm service-account api-token destroy {account} {id} -D idm_admin"
            ));
        }
        Ok(())
    }

    fn token_end(&self) -> Option<DateTime<Utc>> {
        let lifetime = TimeDelta::from_std(self.setup.token_lifetime?).ok()?;
        Clock::system().now().checked_add_signed(lifetime)
    }

    async fn revoke(&self, token: &Secret) {
        if let Some(made) = ApiToken::read(token) {
            let _ = self.admin().revoke_token(&self.wanted.names, made.token_id).await;
        }
    }

    async fn secret(&self, section: &mut Section) -> Result<()> {
        let read = self.admin().client_secret(&self.wanted.names).await;
        let secret = read.map_err(|error| self.stopped(&Step::ShowSecret, error))?;
        let Some(folder) = &self.folder else {
            section.0.push(("client_secret", secret.expose().to_owned().into()));
            return Ok(());
        };
        let (says, path) = (Step::ShowSecret.says(&self.wanted.names), folder.path(SECRET_FILE));
        if folder.read(SECRET_FILE)?.is_some_and(|kept| kept.expose() == secret.expose()) {
            self.out.note(&format!("is there already: {says}, in {}", path.display()));
            return self.close(SECRET_FILE);
        }
        folder.reserve(SECRET_FILE)?.keep(&secret)?;
        self.out.note(&format!("written: {says}, in {}", path.display()));
        Ok(())
    }

    /// Makes a file its owner's alone.
    fn close(&self, name: &str) -> Result<()> {
        let Some(folder) = self.folder.as_ref().filter(|folder| folder.is_open(name)) else { return Ok(()) };
        let Some(secret) = folder.read(name)? else { return Ok(()) };
        folder.reserve(name)?.keep(&secret)?;
        self.out.note(&format!("{} could be read by others, and cannot any more.", folder.path(name).display()));
        Ok(())
    }

    fn finish(&self, section: &Section, change: Option<Change>) -> Result<()> {
        if let (Some(path), Some(change)) = (&self.setup.write, &change) {
            section.write(path, change)?;
            let path = path.display();
            self.out.note(&match change {
                Change::Nothing => format!("is there already: [kanidm] in {path}"),
                Change::Create | Change::Append => format!("written: [kanidm] in {path}"),
            });
            return self.out.line("Kanidm is set up. `sidle kanidm check` says whether it is fit.");
        }
        if self.out.is_json() {
            let values: serde_json::Map<_, _> =
                section.0.iter().map(|(key, value)| ((*key).to_owned(), serde_json::json!(value))).collect();
            return self.out.json(&serde_json::json!({ "kanidm": values }));
        }
        section.text().lines().try_for_each(|line| self.out.line(line))
    }
}
