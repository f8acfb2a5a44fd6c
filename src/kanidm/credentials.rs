//! How a person gets a credential: a link at which they set one themselves, or a session in which their password is set
//! for them. What is secret here stays in memory that is wiped.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::client::{Body, Credential, Kanidm};
use super::error::{KanidmError, Result};

/// The shortest time that Kanidm lets a reset link live.
pub const SHORTEST_LINK: Duration = Duration::from_secs(300);

/// A link at which a person sets a credential. Its holder owns the account.
pub struct ResetLink {
    /// Address of the page.
    pub url: Zeroizing<String>,
    /// When it stops working, by Kanidm's clock.
    pub expires_at: DateTime<Utc>,
}

/// A session in which a person's credentials are changed; nothing is changed before it is committed.
pub struct Update {
    token: Zeroizing<String>,
}

/// What a change would lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateStatus {
    /// Whether Kanidm would accept it.
    pub can_commit: bool,
    /// Whether it asks for a second factor.
    pub needs_second_factor: bool,
}

#[derive(Deserialize)]
struct Intent {
    #[serde(deserialize_with = "wiped")]
    token: Zeroizing<String>,
    expiry_time: i64,
}

#[derive(Deserialize)]
struct StartedUpdate {
    #[serde(deserialize_with = "wiped")]
    token: Zeroizing<String>,
}

#[derive(Serialize)]
struct Session<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
struct Status {
    can_commit: bool,
    #[serde(default)]
    warnings: Vec<serde_json::Value>,
}

#[derive(Serialize)]
struct Password<'a> {
    password: &'a str,
}

fn wiped<'de, D: serde::Deserializer<'de>>(value: D) -> std::result::Result<Zeroizing<String>, D::Error> {
    String::deserialize(value).map(Zeroizing::new)
}

impl From<Status> for UpdateStatus {
    fn from(status: Status) -> Self {
        let needs_second_factor = status.warnings.iter().any(|warning| warning == "MfaRequired");
        Self { can_commit: status.can_commit, needs_second_factor }
    }
}

impl Kanidm {
    /// Makes a reset link that lives as briefly as Kanidm allows. Another one that was made stays valid beside it.
    ///
    /// # Errors
    /// As [`KanidmError`] says. After one whose outcome is unknown there may be a link that nobody has.
    pub async fn reset_link(&self, person: Uuid) -> Result<ResetLink> {
        let (id, seconds) = (person.to_string(), SHORTEST_LINK.as_secs().to_string());
        let path = ["v1", "person", &id, "_credential", "_update_intent", &seconds];
        let intent: Intent = self.call_for_secret(Method::GET, &path, Body::None).await?;
        let nonsense = |what: &str| KanidmError::Nonsense(format!("a reset link {what}"));
        let expires_at =
            DateTime::from_timestamp(intent.expiry_time, 0).ok_or_else(|| nonsense("without an expiry"))?;
        if intent.token.is_empty() || intent.token.len() > 512 {
            return Err(nonsense("without a token"));
        }
        let mut url = self.url(&["ui", "reset"]);
        url.query_pairs_mut().append_pair("token", &intent.token);
        Ok(ResetLink { url: Zeroizing::new(url.into()), expires_at })
    }

    /// Begins to change a person's credentials.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn begin_update(&self, person: Uuid) -> Result<Update> {
        let id = person.to_string();
        let path = ["v1", "person", &id, "_credential", "_update"];
        let (session, _): (StartedUpdate, Status) = self.call_for_secret(Method::GET, &path, Body::None).await?;
        Ok(Update { token: session.token })
    }

    /// Puts a password into the change.
    ///
    /// # Errors
    /// `Refused` for a password that is too weak; otherwise as [`KanidmError`] says.
    pub async fn set_password(&self, update: &Update, password: &str) -> Result<UpdateStatus> {
        let body = secret_json(&(Password { password }, Session { token: &update.token }), password.len())?;
        let status: Status = self.call(Method::POST, &["v1", "credential", "_update"], Body::Secret(body)).await?;
        Ok(status.into())
    }

    /// Commits the change.
    ///
    /// # Errors
    /// As [`KanidmError`] says. After one whose outcome is unknown the change may have been made.
    pub async fn commit_update(&self, update: &Update) -> Result<()> {
        self.end_update("_commit", update).await
    }

    /// Drops the change.
    ///
    /// # Errors
    /// As [`KanidmError`] says; what is not dropped lapses by itself.
    pub async fn cancel_update(&self, update: &Update) -> Result<()> {
        self.end_update("_cancel", update).await
    }

    async fn end_update(&self, how: &str, update: &Update) -> Result<()> {
        let body = secret_json(&Session { token: &update.token }, 0)?;
        self.call::<serde_json::Value>(Method::POST, &["v1", "credential", how], Body::Secret(body)).await?;
        Ok(())
    }

    /// As `call`, for an answer that holds a secret.
    async fn call_for_secret<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Body<'_>,
    ) -> Result<T> {
        let mut answer = self.send(method, self.url(path), Credential::ServiceAccount, body).await?;
        let read = answer.json();
        zeroize::Zeroize::zeroize(&mut answer.body);
        read
    }
}

/// `value` as JSON, in memory that is wiped and never moved while it is filled: six bytes for each of the secret's are
/// the most that escaping makes of it, and session tokens take less than 4 kB.
fn secret_json(value: &impl Serialize, secret: usize) -> Result<Zeroizing<Vec<u8>>> {
    let mut json = Zeroizing::new(Vec::with_capacity(secret * 6 + 8192));
    serde_json::to_writer(&mut *json, value)
        .map_err(|_| KanidmError::Nonsense("a session without a token".to_owned()))?;
    Ok(json)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_status_says_is_read_in_the_words_of_every_release() {
        let read = |status| UpdateStatus::from(serde_json::from_value::<Status>(status).unwrap());
        let refused = read(json!({"can_commit": false, "warnings": ["MfaRequired"], "primary": null}));
        assert_eq!(refused, UpdateStatus { can_commit: false, needs_second_factor: true });
        let accepted = read(json!({"can_commit": true, "warnings": [{"Other": 1}], "dirty": true}));
        assert_eq!(accepted, UpdateStatus { can_commit: true, needs_second_factor: false });
        assert!(read(json!({"can_commit": true})).can_commit);
    }

    #[test]
    fn no_password_outgrows_the_memory_that_is_wiped() {
        let password = "\u{1}".repeat(1024);
        let json =
            secret_json(&(Password { password: &password }, Session { token: &"x".repeat(4000) }), 1024).unwrap();
        assert!(json.len() <= 1024 * 6 + 8192, "{}", json.len());
        let read: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(read[0]["password"], password.as_str());
    }
}
