//! Doing the steps.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use super::super::administrator::Administrator;
use super::super::client::Body;
use super::super::error::{KanidmError, Result};
use super::found::gone;
use super::step::Step;
use super::wanted::{DESCRIPTION, LABEL, MANAGER, Names, SCOPES};
use crate::config::Secret;

impl Administrator {
    /// Does a step. False where this release of Kanidm knows no such setting and does as its age does.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn apply(&self, step: &Step, names: &Names) -> Result<bool> {
        let client = ["v1", "oauth2", names.client.as_str()];
        let patch = async |attribute: &str, value: bool| {
            let values = json!({"attrs": {attribute: [value.to_string()]}});
            self.change(Method::PATCH, &client, &values).await
        };
        match step {
            Step::MakeAccount => self.make_account(&names.account).await?,
            Step::Grant(group) => {
                let member = json!([names.account]);
                self.change(Method::POST, &["v1", "group", group, "_attr", "member"], &member).await?;
            }
            Step::MakeClient { landing } => self.make_client(&names.client, landing).await?,
            Step::AddRedirect(url) => {
                let path = [&client[..], &["_attr", "oauth2_rs_origin"]].concat();
                self.change(Method::POST, &path, &json!([url])).await?;
            }
            Step::MapScopes => {
                let path = [&client[..], &["_scopemap", &names.persons]].concat();
                self.change(Method::POST, &path, &json!(SCOPES)).await?;
            }
            Step::RequirePkce => patch("oauth2_allow_insecure_client_disable_pkce", false).await?,
            Step::SignWithEcdsa => patch("oauth2_jwt_legacy_crypto_enable", false).await?,
            Step::SkipConsent => match patch("oauth2_consent_prompt_enable", false).await {
                // Since 1.8. Before it, each person is asked once.
                Err(KanidmError::Invalid(_)) => return Ok(false),
                done => done?,
            },
            // These have a result, and functions of their own.
            Step::MakeToken | Step::ShowSecret => return Ok(false),
        }
        Ok(true)
    }

    async fn make_account(&self, name: &str) -> Result<()> {
        let account = json!({"attrs": {
            "name": [name], "displayname": ["Sidle"], "description": [DESCRIPTION], "entry_managed_by": [MANAGER],
        }});
        self.change(Method::POST, &["v1", "service_account"], &account).await
    }

    async fn make_client(&self, name: &str, landing: &str) -> Result<()> {
        let client = json!({"attrs": {
            "name": [name], "displayname": ["Sidle"], "description": [DESCRIPTION],
            "oauth2_rs_origin_landing": [landing], "oauth2_strict_redirect_uri": ["true"],
        }});
        self.change(Method::POST, &["v1", "oauth2", "_basic"], &client).await
    }

    /// Makes a token for the service account, which may make changes.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn make_token(&self, names: &Names, until: Option<DateTime<Utc>>) -> Result<Secret> {
        let until = until.map(|until| until.timestamp());
        let token = json!({"label": LABEL, "expiry": until, "read_write": true, "compact": false});
        self.call(Method::POST, &["v1", "service_account", &names.account, "_api_token"], Body::Json(&token)).await
    }

    /// Revokes a token of the service account.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn revoke_token(&self, names: &Names, token_id: uuid::Uuid) -> Result<()> {
        let (account, id) = (names.account.as_str(), token_id.to_string());
        let path = ["v1", "service_account", account, "_api_token", &id];
        self.call::<Value>(Method::DELETE, &path, Body::None).await.map(drop)
    }

    /// The secret of the OAuth2 client.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn client_secret(&self, names: &Names) -> Result<Secret> {
        let path = ["v1", "oauth2", &names.client, "_basic_secret"];
        self.call::<Option<Secret>>(Method::GET, &path, Body::None).await?.ok_or_else(gone)
    }
}
