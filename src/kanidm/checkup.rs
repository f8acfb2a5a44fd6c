//! What can be checked about a Kanidm before it is used, without changing anything in it.

use std::time::Duration;

use chrono::TimeDelta;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Answer, Body, Credential, Kanidm};
use super::error::{KanidmError, Result};
use super::persons::Entry;
use crate::config::Secret;

/// A search by address that takes longer reads every entry.
const SLOW: Duration = Duration::from_millis(500);
/// A PKCE challenge that nobody has the verifier of.
const CHALLENGE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Whether addresses are found by an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailIndex {
    /// A search took so long.
    Present(Duration),
    /// A search by address was refused, or read everything: it took so long.
    Missing(Duration),
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Checkup {
    /// Release; none where Kanidm does not say.
    pub version: Option<String>,
    /// Whether addresses are found by an index.
    pub mail_index: MailIndex,
}

/// An answer of Kanidm's to the question who is calling.
#[derive(Debug)]
pub struct Reached {
    /// Release; none where Kanidm does not say.
    pub version: Option<String>,
    /// By how much Kanidm's clock is ahead of ours, to about a second; none where it does not say.
    pub ahead: Option<TimeDelta>,
    /// Whose token it is, if Kanidm takes it.
    pub whoami: Result<Whoami>,
}

/// The account of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whoami {
    /// Name of the account.
    pub name: String,
    /// Names of its groups, without their domain; none where it may not see them.
    pub groups: Option<Vec<String>>,
}

/// What Kanidm publishes about an OAuth2 client.
#[derive(Debug, Deserialize)]
pub struct Published {
    pub issuer: String,
    pub authorization_endpoint: String,
    #[serde(default)]
    pub scopes_supported: Vec<String>,
    #[serde(default)]
    pub id_token_signing_alg_values_supported: Vec<String>,
}

impl Kanidm {
    /// Looks whether it answers, takes the service account's token and has an index of addresses.
    ///
    /// # Errors
    /// As [`KanidmError`] says, where it does not answer or does not take the token.
    pub async fn checkup(&self) -> Result<Checkup> {
        let reached = self.reach().await?;
        reached.whoami?;
        Ok(Checkup { version: reached.version, mail_index: self.mail_index().await? })
    }

    /// Asks it who is calling with the service account's token.
    ///
    /// # Errors
    /// As [`KanidmError`] says, where it does not answer.
    pub async fn reach(&self) -> Result<Reached> {
        let (before, since) = (self.clock().now(), self.clock().stopwatch());
        let answer = self.send(Method::GET, self.url(&["v1", "self"]), Credential::ServiceAccount, Body::None).await?;
        // Half of the time is the way there; the other half of a second is what the header leaves out.
        let then = before + TimeDelta::from_std(since.elapsed() / 2).unwrap_or_default();
        let ahead = answer.date.map(|date| date + TimeDelta::milliseconds(500) - then);
        let whoami = whoami(&answer);
        // Refusals of a token are an answer; something else in Kanidm's place is none.
        match whoami {
            Err(error) if error.is_outcome_unknown() => Err(error),
            whoami => Ok(Reached { version: answer.version, ahead, whoami }),
        }
    }

    /// Whether it has an index of addresses. A fresh server has none until `kanidmd database reindex`: then each batch with
    /// a taken address reads all persons, once for every entry.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn mail_index(&self) -> Result<MailIndex> {
        let since = self.clock().stopwatch();
        // For the address alone, as Kanidm itself asks when it makes sure that an address is unique.
        let found = self.search_for(json!({"eq": ["mail", "nobody@sidle.invalid"]})).await;
        let took = since.elapsed();
        match found {
            Ok(_) if took < SLOW => Ok(MailIndex::Present(took)),
            Ok(_) | Err(KanidmError::Failing(_) | KanidmError::TooMuch) => Ok(MailIndex::Missing(took)),
            Err(error) => Err(error),
        }
    }

    /// What it publishes about an OAuth2 client; none when there is no client of this name.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn published(&self, client: &str) -> Result<Option<Published>> {
        let url = self.url(&["oauth2", "openid", client, ".well-known", "openid-configuration"]);
        match self.send(Method::GET, url, Credential::None, Body::None).await?.json() {
            Ok(published) => Ok(Some(published)),
            Err(KanidmError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it takes the secret of an OAuth2 client. It is asked to exchange a refresh token that nobody ever had,
    /// which it looks at only after the secret.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn takes_client_secret(&self, client: &str, secret: &Secret) -> Result<bool> {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", "none")];
        let credential = Credential::Client { id: client, secret };
        let answer = self.send(Method::POST, self.url(&["oauth2", "token"]), credential, Body::Form(&fields)).await?;
        match answer.status {
            // An error of the standard's: the secret was right, the token is not.
            400 if answer_field(&answer, "error") => Ok(true),
            401 => Ok(false),
            _ => Err(unexpected(&answer)),
        }
    }

    /// Whether a login of the OAuth2 client may return to this address. Kanidm looks at the address before it asks who
    /// wants to sign in, so that nobody needs to.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn returns_to(&self, client: &str, redirect: &str) -> Result<bool> {
        self.authorises(client, redirect, &[("code_challenge", CHALLENGE), ("code_challenge_method", "S256")]).await
    }

    /// Whether the OAuth2 client can be used without PKCE.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn works_without_pkce(&self, client: &str, redirect: &str) -> Result<bool> {
        self.authorises(client, redirect, &[]).await
    }

    async fn authorises(&self, client: &str, redirect: &str, more: &[(&str, &str)]) -> Result<bool> {
        let mut url = self.url(&["oauth2", "authorise"]);
        let fields = [("response_type", "code"), ("client_id", client), ("redirect_uri", redirect)];
        url.query_pairs_mut()
            .extend_pairs(fields)
            .extend_pairs([("scope", "openid"), ("state", "0")])
            .extend_pairs(more);
        let answer = self.send(Method::GET, url, Credential::None, Body::None).await?;
        match answer.status {
            401 => Ok(true),
            400 => Ok(false),
            _ => Err(unexpected(&answer)),
        }
    }
}

fn whoami(answer: &Answer) -> Result<Whoami> {
    #[derive(Deserialize)]
    struct WhoamiAnswer {
        youare: Entry,
    }
    let me = answer.json::<WhoamiAnswer>()?.youare;
    let without_domain = |spn: &String| spn.split('@').next().unwrap_or_default().to_owned();
    let groups = me.attrs.get("memberof").map(|groups| groups.iter().map(without_domain).collect());
    Ok(Whoami { name: me.first("name").unwrap_or_default().to_owned(), groups })
}

fn answer_field(answer: &Answer, name: &str) -> bool {
    serde_json::from_slice::<Value>(&answer.body).is_ok_and(|body| body[name].is_string())
}

fn unexpected(answer: &Answer) -> KanidmError {
    match answer.status {
        200..300 => KanidmError::Nonsense(format!("status {} where a refusal was due", answer.status)),
        status => KanidmError::read(status, &answer.body),
    }
}
