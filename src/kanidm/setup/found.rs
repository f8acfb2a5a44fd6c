//! What is in Kanidm under the names that setup is given, and how it is more than setup would make.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::administrator::Administrator;
use super::super::api_token::ApiToken;
use super::super::client::Body;
use super::super::error::{KanidmError, Result};
use super::super::persons::Entry;
use super::wanted::{MANAGER, RIGHTS, SCOPES, Wanted};

/// What has the names.
#[derive(Debug, Default)]
pub struct Found {
    pub(super) account: Option<Account>,
    /// What else has the account's name.
    pub(super) account_taken_by: Option<&'static str>,
    pub(super) client: Option<Client>,
    /// What else has the client's name.
    pub(super) client_taken_by: Option<&'static str>,
    /// Whether the group of those who may sign in is missing.
    pub lacks_persons: bool,
}

/// A service account.
#[derive(Debug)]
pub(super) struct Account {
    pub uuid: Uuid,
    /// Who may change it and make tokens for it.
    pub managers: Vec<String>,
    /// Groups that it is in itself.
    pub groups: Vec<String>,
    pub tokens: Vec<ApiToken>,
    /// Whether somebody can sign in as it with a password.
    pub has_credential: bool,
    /// Whether it has a beginning or an end.
    pub is_limited: bool,
}

/// An OAuth2 client.
#[derive(Debug)]
pub(super) struct Client {
    /// Whether it has a secret.
    pub is_basic: bool,
    pub landing: String,
    pub redirects: Vec<String>,
    /// Scopes of the members of groups.
    pub scopes: BTreeMap<String, BTreeSet<String>>,
    /// Groups whose members get scopes unasked.
    pub more_scopes: Vec<String>,
    /// Claims that are added to its tokens.
    pub claims: Vec<String>,
    pub works_without_pkce: bool,
    pub signs_with_rsa: bool,
    pub asks_consent: bool,
}

/// How an entry with the name is more than setup would have made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub says: String,
    /// Whether it stays a hindrance when the administrator accepts what is there.
    pub is_final: bool,
}

impl Found {
    /// Reads what is there.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn read(admin: &Administrator, wanted: &Wanted) -> Result<Self> {
        let names = &wanted.names;
        let (account, client) = (admin.account(&names.account).await?, admin.client(&names.client).await?);
        let account_taken_by = if account.is_none() { admin.holder(&names.account).await? } else { None };
        let client_taken_by = if client.is_none() { admin.holder(&names.client).await? } else { None };
        let persons: Option<Value> = admin.call(Method::GET, &["v1", "group", &names.persons], Body::None).await?;
        Ok(Self { account, account_taken_by, client, client_taken_by, lacks_persons: persons.is_none() })
    }

    /// Tokens of the account, the ones that have ended included.
    pub fn tokens(&self) -> &[ApiToken] {
        self.account.as_ref().map_or(&[], |account| &account.tokens)
    }

    /// Whether `token` is one of the account's.
    pub fn has_token(&self, token: &ApiToken) -> bool {
        let is_its = |account: &Account| account.uuid == token.account_id;
        self.account.as_ref().is_some_and(is_its) && self.tokens().iter().any(|one| one.token_id == token.token_id)
    }

    /// How what is there is more than what setup makes: whoever made it, or manages it, may have made it for this.
    /// `ours` is the token that the caller has.
    pub fn differences(&self, wanted: &Wanted, ours: Option<&ApiToken>) -> Vec<Difference> {
        let mut differences = Differences(Vec::new());
        let taken = [(self.account_taken_by, &wanted.names.account), (self.client_taken_by, &wanted.names.client)];
        for (holder, name) in taken {
            differences.add_final(holder.map(|holder| format!("the name {name} belongs to {holder}")));
        }
        if let Some(account) = &self.account {
            account.compare(&wanted.names.account, ours, &mut differences);
        }
        if let Some(client) = &self.client {
            client.compare(wanted, &mut differences);
        }
        differences.0
    }
}

struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, says: impl IntoIterator<Item = String>) {
        self.0.extend(says.into_iter().map(|says| Difference { says, is_final: false }));
    }

    fn add_final(&mut self, says: impl IntoIterator<Item = String>) {
        self.0.extend(says.into_iter().map(|says| Difference { says, is_final: true }));
    }
}

impl Account {
    fn compare(&self, name: &str, ours: Option<&ApiToken>, differences: &mut Differences) {
        if self.managers != [MANAGER] {
            let managers = if self.managers.is_empty() { "nobody".to_owned() } else { self.managers.join(", ") };
            differences.add([format!("{name} is managed by {managers}, who can make tokens for it, not by {MANAGER}")]);
        }
        let others = self.groups.iter().filter(|group| !RIGHTS.contains(&group.as_str()));
        differences.add(others.map(|group| format!("{name} is in {group}, which Sidle does not need")));
        if self.has_credential {
            differences.add([format!("somebody has a password with which to sign in as {name}")]);
        }
        if self.is_limited {
            differences.add([format!("{name} has a beginning or an end of its validity")]);
        }
        // Who holds a token gets the rights that are added.
        let gains = RIGHTS.iter().any(|right| !self.groups.iter().any(|group| group == right));
        let is_ours = |token: &&ApiToken| ours.is_some_and(|ours| ours.token_id == token.token_id);
        let gaining = self.tokens.iter().filter(|token| gains && !is_ours(token));
        differences.add(gaining.map(|token| {
            let id = token.token_id;
            format!("whoever holds the token {id} of {name} would get the rights that {name} still lacks")
        }));
    }
}

impl Client {
    fn compare(&self, wanted: &Wanted, differences: &mut Differences) {
        let name = &wanted.names.client;
        if !self.is_basic {
            differences.add_final([format!("{name} is a public client, without a secret")]);
        }
        let is_wanted = |url: &String| *url == wanted.landing || wanted.redirects.contains(url);
        let others = self.redirects.iter().chain([&self.landing]).filter(|url| !is_wanted(url));
        differences.add(others.map(|url| format!("logins of {name} may return to {url} too")));
        let group = &wanted.names.persons;
        let others = self.scopes.keys().filter(|other| *other != group);
        differences.add(others.map(|other| format!("members of {other} can use {name} too")));
        let more = self.scopes.get(group).into_iter().flatten().filter(|scope| !SCOPES.contains(&scope.as_str()));
        differences.add(more.map(|scope| format!("{name} gets the scope {scope} too")));
        differences.add(self.more_scopes.iter().map(|other| format!("members of {other} get scopes unasked")));
        differences.add(self.claims.iter().map(|claim| format!("tokens of {name} have the claim {claim} added")));
    }
}

impl Administrator {
    async fn account(&self, name: &str) -> Result<Option<Account>> {
        let Some(entry) = self.call::<Option<Entry>>(Method::GET, &["v1", "service_account", name], Body::None).await?
        else {
            return Ok(None);
        };
        let (uuid, path) = (entry.uuid()?, ["v1", "service_account", name]);
        let in_it = json!({"and": [{"eq": ["class", "group"]}, {"eq": ["member", uuid]}]});
        let groups =
            self.search(in_it).await?.iter().filter_map(|group| group.first("name").map(str::to_owned)).collect();
        let tokens = self.call(Method::GET, &[&path[..], &["_api_token"]].concat(), Body::None).await?;
        let credentials: Value =
            self.call(Method::GET, &[&path[..], &["_credential", "_status"]].concat(), Body::None).await?;
        Ok(Some(Account {
            uuid,
            managers: values(&entry, "entry_managed_by").map(|spn| before(spn, '@')).collect(),
            groups,
            tokens,
            // What cannot be read is not taken for none.
            has_credential: credentials["creds"].as_array().is_none_or(|creds| !creds.is_empty()),
            is_limited: entry.first("account_expire").or(entry.first("account_valid_from")).is_some(),
        }))
    }

    async fn client(&self, name: &str) -> Result<Option<Client>> {
        let entry: Option<Entry> = self.call(Method::GET, &["v1", "oauth2", name], Body::None).await?;
        Ok(entry.map(|entry| {
            let is_on = |attribute: &str| entry.first(attribute) == Some("true");
            Client {
                is_basic: values(&entry, "class").any(|class| class == "oauth2_resource_server_basic"),
                landing: entry.first("oauth2_rs_origin_landing").unwrap_or_default().to_owned(),
                redirects: values(&entry, "oauth2_rs_origin").map(str::to_owned).collect(),
                scopes: values(&entry, "oauth2_rs_scope_map").filter_map(scope_map).collect(),
                more_scopes: values(&entry, "oauth2_rs_sup_scope_map").map(|map| before(map, '@')).collect(),
                claims: values(&entry, "oauth2_rs_claim_map").map(|map| before(map, ':')).collect(),
                works_without_pkce: is_on("oauth2_allow_insecure_client_disable_pkce"),
                signs_with_rsa: is_on("oauth2_jwt_legacy_crypto_enable"),
                asks_consent: entry.first("oauth2_consent_prompt_enable") != Some("false"),
            }
        }))
    }

    /// What has a name; none when it is free.
    async fn holder(&self, name: &str) -> Result<Option<&'static str>> {
        let found = self.search(json!({"eq": ["name", name]})).await?;
        let Some(entry) = found.first() else { return Ok(None) };
        let kinds = [
            ("person", "a person"),
            ("service_account", "a service account"),
            ("oauth2_resource_server", "an OAuth2 client"),
            ("group", "a group"),
        ];
        let is = |kind: &str| values(entry, "class").any(|class| class == kind);
        Ok(Some(kinds.into_iter().find(|(kind, _)| is(kind)).map_or("another entry", |(_, says)| says)))
    }
}

fn values<'a>(entry: &'a Entry, attribute: &str) -> impl Iterator<Item = &'a str> {
    entry.attrs.get(attribute).into_iter().flatten().map(String::as_str)
}

fn before(text: &str, end: char) -> String {
    text.split(end).next().unwrap_or_default().to_owned()
}

/// Reads `idm_all_persons@localhost: {"email", "openid"}`.
fn scope_map(text: &str) -> Option<(String, BTreeSet<String>)> {
    let (group, scopes) = text.split_once(": ")?;
    let scopes = scopes.trim().strip_prefix('{')?.strip_suffix('}')?;
    let scopes = scopes.split(',').map(|scope| scope.trim().trim_matches('"').to_owned());
    Some((before(group, '@'), scopes.filter(|scope| !scope.is_empty()).collect()))
}

/// Why an account or client could not be read.
pub(super) fn gone() -> KanidmError {
    KanidmError::Nonsense("what was just made is not there".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_map_is_read_as_kanidm_writes_it() {
        let (group, scopes) = scope_map(r#"idm_all_persons@localhost: {"email", "groups", "openid"}"#).unwrap();
        assert_eq!(group, "idm_all_persons");
        assert_eq!(scopes.into_iter().collect::<Vec<_>>(), ["email", "groups", "openid"]);
        assert_eq!(scope_map("g@d: {}").unwrap().1, BTreeSet::new());
        assert!(scope_map("nothing").is_none());
    }
}
