//! Kanidm as an OpenID provider: where to send a browser, what its code and its refresh tokens are exchanged for, and
//! whether what comes back is really about the login that was begun.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Method, Url};
use serde::Deserialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::client::{Body, Credential, Kanidm};
use super::error::{KanidmError, Result};
use super::id_token::{self, Expected, KeySet};
use crate::config::{KanidmConfig, Secret};
use crate::context::Context;
use crate::fault::{Fault, Result as FaultResult};

/// Keys are read again after this time.
const KEYS_LAST: Duration = Duration::from_secs(600);
/// And not more often than this, whatever key ids come along.
const KEYS_PAUSE: Duration = Duration::from_secs(5);
/// What Sidle asks for: who it is, and which groups. Names and addresses decide nothing here, so they stay away.
const SCOPE: &str = "openid groups";

/// Kanidm as an OpenID provider. Clones share the keys.
#[derive(Clone)]
pub struct Oidc {
    inner: Arc<Inner>,
}

struct Inner {
    kanidm: Kanidm,
    context: Context,
    client_id: String,
    client_secret: Secret,
    keys: Mutex<Cached>,
    /// Held while keys are read, so that many who miss a key wait for one reading.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Cached {
    keys: Arc<KeySet>,
    read_at: Option<Instant>,
}

/// What a login carries to Kanidm and back.
#[derive(Clone, Copy, Debug)]
pub struct Authorization<'a> {
    /// Where the browser comes back to.
    pub redirect_uri: &'a str,
    /// Comes back beside the code.
    pub state: &'a str,
    /// Comes back inside the ID token.
    pub nonce: &'a str,
    /// What the code will be exchanged with.
    pub verifier: &'a str,
}

/// What a code was exchanged for.
#[derive(Debug)]
pub struct SignedIn {
    /// `sub`: uuid of the person.
    pub person: Uuid,
    /// uuids of the person's groups.
    pub groups: Vec<Uuid>,
    /// The nonce of the ID token.
    pub nonce: Option<String>,
    /// Kanidm's session.
    pub session: Option<Uuid>,
    /// Kanidm's refresh token.
    pub refresh_token: Zeroizing<String>,
}

/// What a refresh token was exchanged for.
#[derive(Debug)]
pub struct Renewed {
    /// `sub`: uuid of the person.
    pub person: Uuid,
    /// uuids of the person's groups, as they are now.
    pub groups: Vec<Uuid>,
    /// The next refresh token; the one before is spent.
    pub refresh_token: Zeroizing<String>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
}

#[derive(Deserialize)]
struct TokenAnswer {
    id_token: String,
    access_token: String,
    refresh_token: String,
}

#[derive(Deserialize)]
struct TokenRefusal {
    error: String,
}

impl fmt::Debug for Oidc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Oidc({:?}, {})", self.inner.kanidm, self.inner.client_id)
    }
}

/// The refusal while Kanidm cannot be asked.
pub fn unavailable() -> Fault {
    KanidmError::Unavailable("it could not be asked".to_owned()).into()
}

impl Oidc {
    /// The provider as whose client Sidle is configured.
    ///
    /// # Errors
    /// When the client's secret cannot be read.
    pub fn new(kanidm: Kanidm, config: &KanidmConfig, context: Context) -> FaultResult<Self> {
        let client_secret = config.client_secret().map_err(|e| Fault::field("kanidm.client_secret", e.to_string()))?;
        let client_id = config.client_id.clone();
        let (keys, reading) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { inner: Arc::new(Inner { kanidm, context, client_id, client_secret, keys, reading }) })
    }

    /// Where to send the browser. Asks Kanidm, so that nobody is sent to a place that is not there.
    ///
    /// # Errors
    /// When Kanidm does not answer, or points elsewhere.
    pub async fn authorization_url(&self, login: Authorization<'_>) -> Result<Url> {
        let kanidm = &self.inner.kanidm;
        let path = ["oauth2", "openid", &self.inner.client_id, ".well-known", "openid-configuration"];
        let answer = kanidm.send(Method::GET, kanidm.url(&path), Credential::None, Body::None).await?;
        let discovery: Discovery = answer.json()?;
        if discovery.issuer != self.issuer() {
            return Err(KanidmError::Nonsense("discovery names another issuer".to_owned()));
        }
        let mut url = Url::parse(&discovery.authorization_endpoint)
            .ok()
            .filter(|url| url.origin().ascii_serialization() == kanidm.origin())
            .ok_or_else(|| KanidmError::Nonsense("discovery points to another origin".to_owned()))?;
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.inner.client_id)
            .append_pair("redirect_uri", login.redirect_uri)
            .append_pair("scope", SCOPE)
            .append_pair("state", login.state)
            .append_pair("nonce", login.nonce)
            .append_pair("code_challenge", &challenge(login.verifier))
            .append_pair("code_challenge_method", "S256");
        Ok(url)
    }

    /// Exchanges the code that came back.
    ///
    /// # Errors
    /// `Refused` when Kanidm does not know the code or the verifier is another; `Nonsense` for an ID token that is not
    /// Kanidm's, for us, and of now.
    pub async fn exchange(&self, code: &str, redirect_uri: &str, verifier: &str) -> Result<SignedIn> {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        let answer: TokenAnswer = self.token(&fields).await?.json()?;
        let claims = self.claims(&answer.id_token).await?;
        let session = id_token::session(&answer.access_token, &self.keys());
        let groups = claims.groups();
        let refresh_token = Zeroizing::new(answer.refresh_token);
        Ok(SignedIn { person: claims.sub, groups, nonce: claims.nonce, session, refresh_token })
    }

    /// Exchanges a refresh token; none when Kanidm does not vouch for the person any more.
    ///
    /// # Errors
    /// When Kanidm does not answer, or does not accept us as its client, which says nothing about the person.
    pub async fn renew(&self, refresh_token: &str) -> Result<Option<Renewed>> {
        let answer = self.token(&[("grant_type", "refresh_token"), ("refresh_token", refresh_token)]).await?;
        if answer.status == 400 {
            let refusal: Option<TokenRefusal> = serde_json::from_slice(&answer.body).ok();
            // Nothing else of the request comes from the person: what is invalid is the token.
            if refusal.is_some_and(|refusal| matches!(refusal.error.as_str(), "invalid_grant" | "invalid_request")) {
                return Ok(None);
            }
        }
        let answer: TokenAnswer = answer.json()?;
        let claims = self.claims(&answer.id_token).await?;
        let (groups, refresh_token) = (claims.groups(), Zeroizing::new(answer.refresh_token));
        Ok(Some(Renewed { person: claims.sub, groups, refresh_token }))
    }

    async fn token(&self, fields: &[(&str, &str)]) -> Result<super::client::Answer> {
        let kanidm = &self.inner.kanidm;
        let client = Credential::Client { id: &self.inner.client_id, secret: &self.inner.client_secret };
        kanidm.send(Method::POST, kanidm.url(&["oauth2", "token"]), client, Body::Form(fields)).await
    }

    async fn claims(&self, token: &str) -> Result<id_token::Claims> {
        let kid = id_token::key_id(token)?;
        if !self.keys().has(&kid) || self.is_older_than(KEYS_LAST) {
            self.read_keys(&kid).await?;
        }
        let (issuer, now) = (self.issuer(), self.inner.context.now());
        id_token::verify(token, &self.keys(), &Expected { issuer: &issuer, client: &self.inner.client_id, now })
    }

    /// Reads the keys unless somebody else just did. Keys that are merely old still serve while Kanidm is away.
    async fn read_keys(&self, kid: &str) -> Result<()> {
        let _one_at_a_time = self.inner.reading.lock().await;
        if !self.is_older_than(KEYS_PAUSE) {
            return Ok(());
        }
        let kanidm = &self.inner.kanidm;
        let url = kanidm.url(&["oauth2", "openid", &self.inner.client_id, "public_key.jwk"]);
        let read = async { kanidm.send(Method::GET, url, Credential::None, Body::None).await?.json() };
        match read.await {
            Ok(keys) => {
                let read_at = Some(self.inner.context.clock.instant());
                *self.cached() = Cached { keys: Arc::new(KeySet::new(keys)), read_at };
                Ok(())
            }
            Err(_) if self.keys().has(kid) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn issuer(&self) -> String {
        format!("{}/oauth2/openid/{}", self.inner.kanidm.origin(), self.inner.client_id)
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.cached().keys)
    }

    fn is_older_than(&self, age: Duration) -> bool {
        let now = self.inner.context.clock.instant();
        self.cached().read_at.is_none_or(|at| now.saturating_duration_since(at) >= age)
    }

    fn cached(&self) -> MutexGuard<'_, Cached> {
        self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The PKCE challenge (S256) of a verifier.
fn challenge(verifier: &str) -> String {
    use sha2::{Digest as _, Sha256};
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing {
    use super::super::client::Answer;
    use super::*;

    /// Reads an answer as everything that it could be here; what it is not, it is not for these reasons.
    pub(in crate::kanidm) fn answers(answer: &Answer) -> Vec<KanidmError> {
        let (discovery, tokens) = (answer.json::<Discovery>().err(), answer.json::<TokenAnswer>().err());
        let refusal = answer.json::<TokenRefusal>().err();
        discovery.into_iter().chain(tokens).chain(refusal).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_that_of_the_standard() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
