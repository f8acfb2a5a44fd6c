//! The `sidle` command: `serve` runs the service, the rest are an operator's tools. Those speak gRPC to a running service,
//! except for what must work without one: configuration, schema, keys, the first administrator.

mod admin;
mod api_keys;
mod audit;
mod calls;
mod change_password;
mod config;
mod connect;
mod credentials;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod global;
mod import;
mod jwks;
mod kanidm;
mod kanidm_login;
mod keygen;
mod keys;
mod login;
mod login_request;
mod lookup;
mod loopback;
mod mail;
mod memberships;
mod mfa;
mod migrate;
mod names;
mod output;
mod prompt;
mod proof;
mod roles;
mod schema;
mod serve;
mod service_accounts;
mod sessions;
mod tenants;
mod token;
mod tokens;
mod users;
mod watch;
mod whoami;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::failure::{Failure, Result};
use self::global::{ConfigFile, Global};
use self::output::Out;

/// Moves an organisation's users from bcrypt passwords to Kanidm, and is the identity service meanwhile and after.
#[derive(Parser)]
#[command(name = "sidle", version, about, long_about = None, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service
    Serve(serve::Serve),
    /// Sign in, and stay signed in
    Login(login::Login),
    /// End the session of `login`
    Logout,
    /// Show who is signed in and what they may do
    Whoami,
    /// Change your password
    ChangePassword,
    /// Your second factor: an authenticator application, recovery codes
    #[command(subcommand)]
    Mfa(mfa::Command),
    /// Access tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Print the public keys that access tokens are checked with
    Jwks,
    /// Sessions
    #[command(subcommand)]
    Sessions(sessions::Command),
    /// The audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Users
    #[command(subcommand)]
    Users(users::Command),
    /// Tenants and their groups in Kanidm
    #[command(subcommand)]
    Tenants(tenants::Command),
    /// Roles
    #[command(subcommand)]
    Roles(roles::Command),
    /// Who has which role where
    #[command(subcommand)]
    Memberships(memberships::Command),
    /// Service accounts
    #[command(subcommand)]
    ServiceAccounts(service_accounts::Command),
    /// API keys of service accounts
    #[command(subcommand)]
    ApiKeys(api_keys::Command),
    /// The keys that sign access tokens
    #[command(subcommand)]
    Keys(keys::Command),
    /// Move users to Kanidm: plan, start, watch
    #[command(subcommand)]
    Migrate(migrate::Command),
    /// Kanidm: set it up for Sidle, say what is missing there, get a credential there
    #[command(subcommand)]
    Kanidm(kanidm::Command),
    /// The schema of the database; works without a service
    #[command(subcommand)]
    Schema(schema::Command),
    /// The first administrator, and an administrator's way back in; works without a service
    #[command(subcommand)]
    Admin(admin::Command),
    /// Mail: look at messages, try the mail server; works without a service
    #[command(subcommand)]
    Mail(mail::Command),
    /// The configuration of the service
    #[command(subcommand)]
    Config(config::Command),
    /// Make a key for `seal.keys`
    Keygen(keygen::Keygen),
}

/// Commands that speak to no service.
const SERVERLESS: [&str; 7] = ["serve", "kanidm", "schema", "admin", "mail", "config", "keygen"];

/// The command line. What only commands that speak to a service take is hidden from the help of the others; before the
/// command, as in `sidle --server URL users list`, it is taken all the same.
fn command() -> clap::Command {
    let command = Cli::command();
    let is_of_calls = |argument: &&clap::Arg| ["server", "ca", "allow_plaintext"].contains(&argument.get_id().as_str());
    let hidden: Vec<_> =
        command.get_arguments().filter(is_of_calls).map(|argument| argument.clone().hide(true)).collect();
    SERVERLESS.into_iter().fold(command, |command, name| command.mut_subcommand(name, |it| it.args(hidden.clone())))
}

fn parse() -> Cli {
    Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit())
}

/// Parses the command line and runs the command.
pub fn run() -> ExitCode {
    let cli = parse();
    let out = Out::new(cli.global.output);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return out.failure(&Failure::new(format!("cannot start: {error}"))),
    };
    let result = runtime.block_on(cli.command.run(&cli.global, &out));
    // A prompt or a file that is still being read must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => out.failure(&failure),
    }
}

impl Command {
    async fn run(self, global: &Global, out: &Out) -> Result<ExitCode> {
        match self {
            Self::Serve(command) => command.run().await?,
            Self::Login(command) => command.run(global, out).await?,
            Self::Logout => login::logout(global, out).await?,
            Self::Whoami => whoami::run(global, out).await?,
            Self::ChangePassword => change_password::run(global, out).await?,
            Self::Mfa(command) => command.run(global, out).await?,
            Self::Token(command) => command.run(global, out).await?,
            Self::Jwks => jwks::run(global, out).await?,
            Self::Sessions(command) => command.run(global, out).await?,
            Self::Audit(command) => command.run(global, out).await?,
            Self::Users(command) => return command.run(global, out).await,
            Self::Tenants(command) => command.run(global, out).await?,
            Self::Roles(command) => command.run(global, out).await?,
            Self::Memberships(command) => command.run(global, out).await?,
            Self::ServiceAccounts(command) => command.run(global, out).await?,
            Self::ApiKeys(command) => command.run(global, out).await?,
            Self::Keys(command) => command.run(global, out).await?,
            Self::Migrate(command) => return command.run(global, out).await,
            Self::Kanidm(command) => return command.run(global, out).await,
            Self::Schema(command) => command.run(out).await?,
            Self::Admin(command) => command.run(out).await?,
            Self::Mail(command) => command.run(out).await?,
            Self::Config(command) => return command.run(out).await,
            Self::Keygen(command) => command.run(out)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn what_only_calls_take_stands_in_no_other_help() {
        let help = |path: &[&str]| {
            let mut command = command();
            command.build();
            let found = path.iter().fold(&mut command, |command, name| command.find_subcommand_mut(name).unwrap());
            found.render_long_help().to_string()
        };
        for path in [
            &["serve"][..],
            &["schema", "up"],
            &["keygen"],
            &["config", "check"],
            &["admin", "bootstrap"],
            &["mail", "test"],
        ] {
            let help = help(path);
            assert!(
                !help.contains("--server") && !help.contains("--ca ") && !help.contains("--allow-plaintext"),
                "{help}"
            );
            assert!(help.contains("--output"), "{help}");
        }
        let help = help(&["users", "list"]);
        assert!(help.contains("--server") && help.contains("--ca ") && help.contains("--allow-plaintext"), "{help}");
        let cli =
            Cli::from_arg_matches(&command().get_matches_from(["sidle", "--server", "http://a:1", "whoami"])).unwrap();
        assert_eq!(cli.global.server.as_deref(), Some("http://a:1"));
    }

    #[test]
    fn secrets_are_never_arguments() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let id = argument.get_id().as_str();
                assert!(
                    !["password", "secret", "api_key", "refresh_token", "code", "totp_code", "recovery_code"]
                        .contains(&id),
                    "{} --{id}: other users of the machine see arguments",
                    command.get_name()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
