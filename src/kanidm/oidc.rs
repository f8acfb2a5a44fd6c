//! Kanidm as an OpenID provider: where to send a browser, what its code and its refresh tokens are exchanged for, and
//! whether what comes back is really about the login that was begun.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::client::{Body, Credential, Kanidm};
use super::error::{KanidmError, Result};
use super::id_token::{self, Expected};
use super::provider::Provider;
use crate::config::{KanidmConfig, Secret};
use crate::context::Context;
use crate::fault::{Fault, Result as FaultResult};

pub use super::id_token::AccessClaims;

/// What Sidle asks for: who it is, and which groups. Names and addresses decide nothing here, so they are left out ...
const SCOPE: &str = "openid groups";
/// ... unless the person may have to become a user.
const SCOPE_OF_NEW: &str = "openid email profile groups";

/// Kanidm as an OpenID provider. Clones share what is kept of it.
#[derive(Clone)]
pub struct Oidc {
    inner: Arc<Inner>,
}

struct Inner {
    provider: Provider,
    context: Context,
    client_secret: Secret,
    leeway: TimeDelta,
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
    /// Whether the person is to authenticate anew, however recently they did.
    pub anew: bool,
    /// Whether address and name are asked for.
    pub about_person: bool,
}

/// What a code was exchanged for.
pub struct SignedIn {
    /// `sub`: uuid of the person.
    pub person: Uuid,
    /// uuids of the person's groups.
    pub groups: Vec<Uuid>,
    /// The nonce of the ID token.
    pub nonce: Option<String>,
    /// When the person authenticated, where Kanidm says.
    pub authenticated_at: Option<DateTime<Utc>>,
    /// Address, where it was asked for. Proves nothing.
    pub email: Option<String>,
    /// Name shown to people, where it was asked for.
    pub name: Option<String>,
    /// Kanidm's session.
    pub session: Option<Uuid>,
    /// Kanidm's refresh token.
    pub refresh_token: Zeroizing<String>,
}

/// What a refresh token was exchanged for.
pub struct Renewed {
    /// `sub`: uuid of the person.
    pub person: Uuid,
    /// uuids of the person's groups, as they are now.
    pub groups: Vec<Uuid>,
    /// The next refresh token; the one before is spent.
    pub refresh_token: Zeroizing<String>,
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
        write!(f, "Oidc({:?})", self.inner.provider)
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
        let leeway = TimeDelta::from_std(config.leeway).unwrap_or_default();
        let provider = Provider::new(kanidm, context.clone(), config.client_id.clone(), config.metadata_refresh);
        Ok(Self { inner: Arc::new(Inner { provider, context, client_secret, leeway }) })
    }

    /// Keeps discovery and keys current until `stop`.
    pub async fn keep_current(self, stop: CancellationToken) {
        self.inner.provider.keep(stop).await;
    }

    /// Whether Kanidm says when a person authenticated, so that a login there can serve as a fresh proof.
    pub fn tells_auth_time(&self) -> bool {
        self.inner.provider.tells_auth_time()
    }

    /// `iss` of Kanidm's tokens for our client.
    pub fn issuer(&self) -> String {
        self.inner.provider.issuer()
    }

    /// Name of our client, which is the audience of its tokens.
    pub fn client_id(&self) -> &str {
        self.inner.provider.client_id()
    }

    /// Where to send the browser.
    ///
    /// # Errors
    /// When Kanidm does not say where that is, or names an address that is not its own.
    pub async fn authorization_url(&self, login: Authorization<'_>) -> Result<Url> {
        let mut url = self.inner.provider.authorization_endpoint().await?;
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", self.client_id())
            .append_pair("redirect_uri", login.redirect_uri)
            .append_pair("scope", if login.about_person { SCOPE_OF_NEW } else { SCOPE })
            .append_pair("state", login.state)
            .append_pair("nonce", login.nonce)
            .append_pair("code_challenge", &challenge(login.verifier))
            .append_pair("code_challenge_method", "S256");
        if login.anew {
            url.query_pairs_mut().append_pair("prompt", "login").append_pair("max_age", "0");
        }
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
        let session = self.access_claims(&answer.access_token).await.ok().and_then(|claims| claims.session_id);
        let authenticated_at = claims.auth_time.and_then(|at| DateTime::from_timestamp(at, 0));
        self.inner.provider.saw_auth_time(authenticated_at.is_some());
        Ok(SignedIn {
            person: claims.sub,
            groups: claims.groups(),
            authenticated_at,
            nonce: claims.nonce,
            email: claims.email,
            name: claims.name,
            session,
            refresh_token: Zeroizing::new(answer.refresh_token),
        })
    }

    /// Exchanges a refresh token; none when Kanidm does not confirm the person any more.
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
        let kanidm = self.inner.provider.kanidm();
        let client = Credential::Client { id: self.client_id(), secret: &self.inner.client_secret };
        kanidm.send(Method::POST, kanidm.url(&["oauth2", "token"]), client, Body::Form(fields)).await
    }

    async fn claims(&self, token: &str) -> Result<id_token::Claims> {
        let keys = self.inner.provider.keys_with(&id_token::key_id(token)?).await?;
        id_token::verify(token, &keys, &self.expected(&self.issuer()))
    }

    /// Whether a token calls itself one of Kanidm's for our client, which proves nothing.
    pub fn is_named_in(&self, token: &str) -> bool {
        id_token::issuer(token).is_some_and(|issuer| issuer == self.issuer())
    }

    /// What an access token of Kanidm's for our client says, if it is good now.
    ///
    /// # Errors
    /// `Nonsense` for any other token; when the keys cannot be read, or were not confirmed for long.
    pub async fn access_claims(&self, token: &str) -> Result<AccessClaims> {
        let keys = self.inner.provider.keys_for_presented(&id_token::key_id(token)?).await?;
        if !self.inner.provider.is_current() {
            return Err(KanidmError::Unavailable("its keys could not be confirmed for long".to_owned()));
        }
        id_token::verify_access(token, &keys, &self.expected(&self.issuer()))
    }

    /// Whether what [`Self::access_claims`] said of a token still holds as far as its key is concerned: Kanidm still has
    /// it, and was asked lately enough.
    pub fn still_has_key_of(&self, token: &str) -> bool {
        let provider = &self.inner.provider;
        provider.is_current() && id_token::key_id(token).is_ok_and(|kid| provider.has_key(&kid))
    }

    fn expected<'a>(&'a self, issuer: &'a str) -> Expected<'a> {
        Expected { issuer, client: self.client_id(), now: self.inner.context.now(), leeway: self.inner.leeway }
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
    use super::super::provider::Discovery;
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
