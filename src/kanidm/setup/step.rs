//! One change in Kanidm, as it is told and as the command that makes it.

use super::wanted::{LABEL, MANAGER, Names, SCOPES};

/// A change in Kanidm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    MakeAccount,
    /// Puts the account into a group.
    Grant(&'static str),
    /// Makes the OAuth2 client, with this landing page.
    MakeClient {
        landing: String,
    },
    /// Lets logins return to this address.
    AddRedirect(String),
    /// Gives the persons what Sidle asks for at a login.
    MapScopes,
    RequirePkce,
    SignWithEcdsa,
    /// Asks no person whether Sidle may sign them in.
    SkipConsent,
    /// A token for the account, which may make changes.
    MakeToken,
    /// Shows the client's secret.
    ShowSecret,
}

impl Step {
    /// What it brings about.
    pub fn says(&self, names: &Names) -> String {
        let Names { account, client, persons } = names;
        match self {
            Self::MakeAccount => format!("service account {account}"),
            Self::Grant(group) => format!("{account} in {group}"),
            Self::MakeClient { landing } => format!("OAuth2 client {client}, landing page {landing}"),
            Self::AddRedirect(url) => format!("logins of {client} may return to {url}"),
            Self::MapScopes => format!("{client} gets {} of {persons}", SCOPES.join(", ")),
            Self::RequirePkce => format!("{client} requires PKCE"),
            Self::SignWithEcdsa => format!("tokens of {client} are signed with ES256"),
            Self::SkipConsent => format!("{client} signs in without a question for consent"),
            Self::MakeToken => format!("API token of {account}, read and write"),
            Self::ShowSecret => format!("secret of {client}"),
        }
    }

    /// The command of Kanidm's own tool (1.10 and 1.11) that does it.
    pub fn command(&self, names: &Names) -> String {
        let Names { account, client, persons } = names;
        let oauth2 = |command: &str, arguments: &[&str]| words(&[&["system", "oauth2", command, client], arguments]);
        match self {
            Self::MakeAccount => words(&[&["service-account", "create", account, "Sidle", MANAGER]]),
            Self::Grant(group) => words(&[&["group", "add-members", group, account]]),
            Self::MakeClient { landing } => oauth2("create", &["Sidle", landing]),
            Self::AddRedirect(url) => oauth2("add-redirect-url", &[url]),
            Self::MapScopes => oauth2("update-scope-map", &[&[persons.as_str()], &SCOPES[..]].concat()),
            Self::RequirePkce => oauth2("enable-pkce", &[]),
            Self::SignWithEcdsa => oauth2("disable-legacy-crypto", &[]),
            Self::SkipConsent => oauth2("disable-consent-prompt", &[]),
            Self::MakeToken => words(&[&["service-account", "api-token", "generate", "--readwrite", account, LABEL]]),
            Self::ShowSecret => oauth2("show-basic-secret", &[]),
        }
    }
}

/// A command line of Kanidm's tool, in which nothing is left for the shell to interpret.
fn words(words: &[&[&str]]) -> String {
    let quoted: Vec<String> = words.concat().into_iter().map(quote).collect();
    format!("kanidm {} -D idm_admin", quoted.join(" "))
}

fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@,=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
