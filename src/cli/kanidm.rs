//! Kanidm from the command line. Signing in: the person opens an address in a browser, wherever that is, and brings back
//! the address that the browser was sent to. And `sidle kanidm`, which works without a service.

use std::io::{BufRead as _, Write as _};

use clap::Subcommand;

use super::connect::Caller;
use super::failure::{Failure, Result};
use super::output::Out;
use super::{ConfigFile, config};
use crate::context::Clock;
use crate::kanidm::{Kanidm, KanidmError, MailIndex};
use crate::metrics::Metrics;
use crate::proto::{CompleteKanidmLoginRequest, Device, DeviceType, SignedIn, StartKanidmLoginRequest};

/// Commands on the configured Kanidm.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Say whether Kanidm answers, takes the service account's token and is fit for a migration
    Check {
        #[command(flatten)]
        file: ConfigFile,
    },
}

impl Command {
    pub async fn run(self, out: &Out) -> Result<()> {
        let Self::Check { file } = self;
        let config = config::load(&file)?;
        // An error: it was chosen before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let Some(kanidm) = Kanidm::new(&config.kanidm, Clock::system(), Metrics::new())? else {
            return Err(Failure::new("no Kanidm is configured").remedy("Set kanidm.url and kanidm.token."));
        };
        let longest = config.migration.longest_call.max(config.kanidm.timeout);
        let found = kanidm.patient().within(longest).checkup().await.map_err(|error| unfit(&error))?;
        let version = found.version.as_deref().unwrap_or("(unknown release)");
        out.line(&format!("Kanidm {} answers at {} and takes the token.", printable(version), kanidm.origin()))?;
        match found.mail_index {
            MailIndex::Present(took) => {
                out.line(&format!("A search by address took {} ms.", took.as_millis()))?;
                out.line(
                    "If this server was never re-indexed it has no index of addresses, which shows with many persons: \
                     run `kanidmd database reindex` once.",
                )
            }
            MailIndex::Missing(took) => Err(Failure::new(format!(
                "a search by address is refused or reads every entry ({} ms): Kanidm has no index of addresses",
                took.as_millis()
            ))
            .remedy(
                "Run `kanidmd database reindex` on the Kanidm server; a fresh server has no such index until then, and a \
                 migration into it takes hours instead of minutes.",
            )),
        }
    }
}

fn unfit(error: &KanidmError) -> Failure {
    Failure::new(error.to_string())
        .remedy("See that Kanidm runs and that kanidm.url, kanidm.ca_file and kanidm.token are right.")
}

/// What another server says of itself, without what a terminal would act on.
fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(64).collect()
}

/// Signs in by way of a browser. `redirect_uri` is one of those that the service has configured.
pub(super) async fn sign_in(caller: &Caller, redirect_uri: String, tenant_id: String) -> Result<SignedIn> {
    let request = StartKanidmLoginRequest {
        redirect_uri,
        tenant_id,
        device: Some(Device {
            r#type: DeviceType::Desktop.into(),
            platform: std::env::consts::OS.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let begun = caller.anonymous().start_kanidm_login(request).await?.into_inner();
    // To standard error: what is printed there is no result.
    let mut err = std::io::stderr();
    writeln!(err, "Open this address in a browser and sign in:\n\n  {}\n", begun.authorization_url)?;
    write!(err, "Then paste the address that the browser ended at: ")?;
    err.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let code = code(line.trim(), &begun.state)?;
    let request = CompleteKanidmLoginRequest { state: begun.state, code, login_secret: begun.login_secret };
    let answer = caller.anonymous().complete_kanidm_login(request).await?.into_inner();
    answer.signed_in.ok_or_else(|| Failure::new("the service answered no tokens"))
}

/// The code in the address that the browser ended at, when it belongs to the login that was begun.
fn code(address: &str, state: &str) -> Result<String> {
    let query = address.split_once('?').map(|(_, query)| query.split('#').next().unwrap_or(query));
    let parameter =
        |name: &str| query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    if let Some(error) = parameter("error") {
        let word: String = error.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
        return Err(Failure::new(format!("Kanidm did not sign anybody in: {word}")));
    }
    match (parameter("code"), parameter("state")) {
        // The address of another login would sign in another user.
        (Some(code), Some(back)) if back == state => Ok(code),
        (Some(_), Some(_)) => Err(Failure::new("the address belongs to another login")),
        _ => {
            Err(Failure::new("the address holds no code").remedy("Paste the whole address, from https:// to the end."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn the_code_is_read_from_an_address_of_this_login_only() {
        assert_eq!(code("https://app.example/cb?code=abc-1&state=s", "s").unwrap(), "abc-1");
        assert_eq!(code("https://app.example/cb?state=s&code=abc#top", "s").unwrap(), "abc");
        for bad in [
            "",
            "abc",
            "https://app.example/cb",
            "https://app.example/cb?state=s",
            "https://app.example/cb?code=abc&state=other",
            "https://app.example/cb?error=access_denied&state=s",
        ] {
            assert!(code(bad, "s").is_err(), "{bad}");
        }
    }
}
