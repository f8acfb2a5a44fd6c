//! Verifies the tokens of requests.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use quick_cache::sync::Cache;
use sidle_token::{MAX_TOKEN_BYTES, Refusal, Token};
use tokio::task::AbortHandle;

use crate::caller::Caller;
use crate::keys::Keys;
use crate::link::Link;
use crate::proto::authenticate_service_client::AuthenticateServiceClient;
use crate::proto::token_verdict::Verdict;
use crate::proto::{Reason, VerifyTokensRequest, VerifyTokensResponse};
use crate::revocations::Revocations;
use crate::{Mode, Settings, SettingsError};

/// Verifies tokens. Clones are the same verifier; its background tasks end with the last of them.
#[derive(Clone)]
pub struct Verifier {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    leeway: TimeDelta,
    link: Link,
    keys: Keys,
    revocations: Revocations,
    /// By a digest of the whole token: a token that differs in any byte is another one.
    seen: Cache<[u8; 32], Arc<Seen>>,
    work: Vec<AbortHandle>,
}

/// A token whose signature and contents were verified.
struct Seen {
    token: Token,
    caller: Caller,
}

/// Why there is no [`Caller`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The token is not accepted: the presenter needs another one.
    Token,
    /// Tokens cannot be verified at the moment: the presenter may try again.
    Unavailable,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token => "the access token is not accepted",
            Self::Unavailable => "access tokens cannot be checked at the moment",
        })
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for tonic::Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Token => Self::unauthenticated(refused.to_string()),
            Refused::Unavailable => Self::unavailable(refused.to_string()),
        }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("audience", &self.inner.settings.audience).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.work.iter().for_each(AbortHandle::abort);
    }
}

impl Verifier {
    /// A verifier, which begins to fetch what it needs. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When a setting is missing.
    pub fn start(settings: Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        let link = Link::new(&settings.replicas, settings.api_key.clone(), settings.clock.clone());
        let (keys, revocations) = (Keys::new(link.clone()), Revocations::new(link.clone(), &settings));
        let work = match settings.mode {
            Mode::Local => vec![
                tokio::spawn(keys.clone().keep_current()).abort_handle(),
                tokio::spawn(revocations.clone().follow()).abort_handle(),
            ],
            Mode::Remote => Vec::new(),
        };
        let leeway = TimeDelta::from_std(settings.leeway).unwrap_or_default();
        let seen = Cache::new(settings.cache_size.max(1));
        Ok(Self { inner: Arc::new(Inner { settings, leeway, link, keys, revocations, seen, work }) })
    }

    /// Waits until tokens can be verified, so that a service need not begin with refusals.
    pub async fn ready(&self) {
        if self.inner.settings.mode == Mode::Local {
            self.inner.revocations.loaded().await;
            while self.inner.keys.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Age of the revocation snapshot; none before the first, and with [`Mode::Remote`].
    pub fn age(&self) -> Option<Duration> {
        self.inner.revocations.age()
    }

    /// How old it may become.
    pub fn bound(&self) -> Duration {
        self.inner.revocations.bound()
    }

    /// The caller who presents `token`.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn verify(&self, token: &str) -> Result<Caller, Refused> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refused::Token);
        }
        match self.inner.settings.mode {
            Mode::Local => self.inner.check(token).await,
            Mode::Remote => self.inner.ask(token).await,
        }
    }
}

impl Inner {
    async fn check(&self, token: &str) -> Result<Caller, Refused> {
        let digest = sidle_token::digest(token);
        let (seen, is_new) = match self.seen.get(&digest) {
            Some(seen) => (seen, false),
            None => (Arc::new(self.read(token).await?), true),
        };
        // All of this anew for every request.
        let audience = &self.settings.audience;
        seen.token.check(audience, self.link.clock().now(), self.leeway).map_err(|_| Refused::Token)?;
        if self.keys.find(seen.token.kid).is_none() || self.revocations.refuses(&seen.token) {
            return Err(Refused::Token);
        }
        if !self.revocations.is_usable() {
            return Err(Refused::Unavailable);
        }
        if is_new {
            self.seen.insert(digest, Arc::clone(&seen));
        }
        Ok(seen.caller.clone())
    }

    async fn read(&self, token: &str) -> Result<Seen, Refused> {
        let read = || sidle_token::read(token, &self.settings.issuer, |kid| self.keys.find(kid));
        let token = match read() {
            // A key that was just made.
            Err(Refusal::UnknownKey(kid)) => match self.keys.look_for(kid).await {
                Ok(true) => read(),
                Ok(false) => return Err(Refused::Token),
                Err(_) => return Err(Refused::Unavailable),
            },
            read => read,
        };
        let token = token.map_err(|_| Refused::Token)?;
        let caller = Caller::from_token(&token);
        Ok(Seen { token, caller })
    }

    async fn ask(&self, token: &str) -> Result<Caller, Refused> {
        // In a batch of one an invalid token does not fail the call, so that a failed call is never taken for an
        // invalid token.
        let batch = VerifyTokensRequest { tokens: vec![token.to_owned()], audience: self.settings.audience.clone() };
        let at = self.link.at();
        let asked = async {
            let request = self.link.request(batch).await?;
            AuthenticateServiceClient::new(self.link.channel()).verify_tokens(request).await
        };
        match self.link.patiently(asked).await {
            Ok(answer) => verdict(answer.into_inner()),
            Err(status) => {
                tracing::warn!(code = ?status.code(), "Sidle does not check tokens: {}", status.message());
                self.link.heed(&status).await;
                self.link.give_up(at);
                Err(Refused::Unavailable)
            }
        }
    }
}

/// The verdict on the one token that an answer is about; none when it makes no sense.
pub(crate) fn verdict(mut answer: VerifyTokensResponse) -> Result<Caller, Refused> {
    match answer.verdicts.pop().and_then(|verdict| verdict.verdict) {
        Some(Verdict::Claims(claims)) => Caller::from_claims(claims).ok_or(Refused::Unavailable),
        Some(Verdict::Refused(reason)) if reason == i32::from(Reason::InvalidToken) => Err(Refused::Token),
        // Some tokens cannot be verified at the moment, such as Kanidm's own while Kanidm is down.
        Some(Verdict::Refused(_)) | None => Err(Refused::Unavailable),
    }
}
