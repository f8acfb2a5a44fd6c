//! A person's requests in a browser, without the browser: use a reset link, sign in, consent to an application.

use serde_json::{Value, json};

use crate::Result;
use crate::kanidm::{Kanidm, answer};

/// Where a login ends: the redirect address of the application, with what Kanidm added.
#[derive(Clone, Debug)]
pub struct Returned {
    /// `code`.
    pub code: String,
    /// `state`.
    pub state: String,
}

/// Signs in with a password and returns the bearer token.
///
/// # Errors
/// When Kanidm refuses.
pub async fn sign_in(http: &reqwest::Client, url: &str, name: &str, password: &str) -> Result<String> {
    let mut session = None;
    let steps = [
        json!({ "step": { "init2": { "username": name, "issue": "token", "privileged": true } } }),
        json!({ "step": { "begin": "password" } }),
        json!({ "step": { "cred": { "password": password } } }),
    ];
    let mut state = Value::Null;
    for step in steps {
        let mut request = http.post(format!("{url}/v1/auth")).json(&step);
        if let Some(session) = &session {
            request = request.header("X-KANIDM-AUTH-SESSION-ID", session);
        }
        let response = request.send().await?;
        if let Some(header) = response.headers().get("X-KANIDM-AUTH-SESSION-ID") {
            session = Some(header.clone());
        }
        state = answer("POST /v1/auth", response).await?["state"].clone();
    }
    state["success"].as_str().map(str::to_owned).ok_or_else(|| format!("Kanidm did not let {name} in: {state}").into())
}

impl Kanidm {
    /// Sets a password with a reset link, as its owner would.
    ///
    /// # Errors
    /// When the link is used up or the password refused.
    pub async fn use_reset_link(&self, link: &str, password: &str) -> Result<()> {
        let call = async |path: &str, body: Value| -> Result<Value> {
            answer(path, self.http.post(format!("{}{path}", self.url)).json(&body).send().await?).await
        };
        let session = call("/v1/credential/_exchange_intent", json!(link)).await?[0].clone();
        call("/v1/credential/_update", json!([{ "password": password }, session])).await?;
        call("/v1/credential/_commit", session).await?;
        Ok(())
    }

    /// Signs a person in and returns the bearer token.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn sign_in(&self, name: &str, password: &str) -> Result<String> {
        sign_in(&self.http, &self.url, name, password).await
    }

    /// Follows an application's redirect to sign in, consents, and returns with the code.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn authorise(&self, bearer: &str, authorization_url: &str) -> Result<Returned> {
        // The page at /ui/oauth2 asks the same question of /oauth2/authorise on behalf of its visitor.
        let query = authorization_url.split_once('?').map(|(_, query)| query).ok_or("the address has no query")?;
        let get = async |path: &str| self.http.get(format!("{}{path}", self.url)).bearer_auth(bearer).send().await;
        let mut response = get(&format!("/oauth2/authorise?{query}")).await?;
        if response.status() == reqwest::StatusCode::OK {
            let asked = answer("GET /oauth2/authorise", response).await?;
            let consent = asked["ConsentRequested"]["consent_token"].as_str().ok_or(format!("unexpected: {asked}"))?;
            response = get(&format!("/oauth2/authorise/permit?token={consent}")).await?;
        }
        let location = response.headers().get("location").and_then(|value| value.to_str().ok());
        let location = location.ok_or(format!("Kanidm did not send the visitor back: {}", response.status()))?;
        let parameter = |name: &str| {
            let query = location.split_once('?').map_or("", |(_, query)| query);
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            pair.map(str::to_owned).ok_or(format!("no {name} in {location}"))
        };
        Ok(Returned { code: parameter("code")?, state: parameter("state")? })
    }
}
