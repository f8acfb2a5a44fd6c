//! Kanidm's own access tokens, presented to a service that asks `VerifyToken`: they say who the caller is, and nothing
//! of what they may do, which is read from Sidle's tables. A token is looked up once and cached for a while; whether
//! its key is still Kanidm's, and whether its user was disabled or its rights ended, is checked every time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use quick_cache::sync::Cache;
use sidle_token::Epoch;

use super::store::kanidm_token as store;
pub use super::store::kanidm_token::TokenUser;
use super::verifier::MAX_TOKEN_BYTES;
use super::{Revocations, opaque};
use crate::config::{KanidmConfig, TokenConfig};
use crate::context::Context;
use crate::db::Db;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::{AccessClaims, KanidmError, Oidc};

/// How long a look-up is cached: what no revocation reports, such as a link that was removed, is noticed after this.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Verifies tokens of Kanidm's own. Clones share the cache.
#[derive(Clone)]
pub struct KanidmTokens {
    inner: Arc<Inner>,
}

struct Inner {
    kanidm: Oidc,
    db: Db,
    revocations: Revocations,
    context: Context,
    /// Audiences for which they are accepted besides Sidle's own client.
    audiences: Vec<String>,
    leeway: TimeDelta,
    tokens: Arc<TokenConfig>,
    /// By a digest of the whole token.
    cache: Cache<[u8; 32], Arc<CachedToken>>,
}

struct CachedToken {
    claims: AccessClaims,
    /// None where no user may sign in as the person.
    user: Option<TokenUser>,
    since: Instant,
}

/// A token of Kanidm's that is good now.
#[derive(Clone, Debug)]
pub struct KanidmVerified {
    /// Whom it stands for.
    pub user: TokenUser,
    /// `jti`; empty where Kanidm gives none.
    pub token_id: String,
    /// `iss`.
    pub issuer: String,
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

impl fmt::Debug for KanidmTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KanidmTokens({:?})", self.inner.kanidm)
    }
}

impl KanidmTokens {
    pub fn new(
        kanidm: Oidc,
        db: Db,
        revocations: Revocations,
        context: Context,
        config: &KanidmConfig,
        tokens: Arc<TokenConfig>,
    ) -> Self {
        let cache = Cache::new(tokens.cache_size.max(1));
        let audiences = config.token_audiences.clone();
        let leeway = TimeDelta::from_std(config.leeway).unwrap_or_default();
        Self { inner: Arc::new(Inner { kanidm, db, revocations, context, audiences, leeway, tokens, cache }) }
    }

    /// Whether `token` calls itself one of Kanidm's, which proves nothing.
    pub fn claims_to_be(&self, token: &str) -> bool {
        token.len() <= MAX_TOKEN_BYTES && self.inner.kanidm.is_named_in(token)
    }

    /// Whom `token` stands for, if it is good for `audience` now.
    ///
    /// # Errors
    /// `INVALID_TOKEN`; `KANIDM_UNAVAILABLE` when its keys could not be confirmed for long; `REVOCATIONS_STALE`.
    pub async fn verify(&self, token: &str, audience: &str) -> Result<KanidmVerified> {
        let inner = &*self.inner;
        // A token is for our client. Further audiences that may accept it are named by the operator.
        let is_for = audience == inner.kanidm.client_id() || inner.audiences.iter().any(|a| a == audience);
        if !is_for || token.len() > MAX_TOKEN_BYTES {
            return Err(refused());
        }
        let digest = opaque::digest(token);
        let now = inner.context.clock.instant();
        let known = inner.cache.get(&digest).filter(|cached| now.saturating_duration_since(cached.since) < REMEMBERED);
        let cached = match known {
            Some(cached) if inner.kanidm.still_has_key_of(token) => cached,
            _ => {
                let claims = inner.kanidm.access_claims(token).await.map_err(|error| match error {
                    KanidmError::Nonsense(_) => refused(),
                    error => error.into(),
                })?;
                let user = store::user(&inner.db, claims.sub).await?;
                let cached = Arc::new(CachedToken { claims, user, since: now });
                inner.cache.insert(digest, Arc::clone(&cached));
                cached
            }
        };
        self.check_now(&cached)
    }

    /// Whether a token that was good is good now.
    fn check_now(&self, cached: &CachedToken) -> Result<KanidmVerified> {
        let inner = &*self.inner;
        let user = cached.user.as_ref().ok_or_else(refused)?;
        let time = |seconds| DateTime::from_timestamp(seconds, 0).ok_or_else(refused);
        let (issued_at, expires_at) = (time(cached.claims.iat)?, time(cached.claims.exp)?);
        let leeway = inner.leeway;
        if inner.context.now() >= expires_at + leeway {
            return Err(refused());
        }
        if inner.revocations.age().is_none_or(|age| age > inner.tokens.max_revocation_age) {
            let text = "Revocations are not known well enough to verify a token.";
            return Err(Fault::new(Reason::RevocationsStale, text).retry_after(Duration::from_secs(1)));
        }
        // Kanidm's tokens name no revocation, so here clocks decide: its own may be ahead by as much as is tolerated.
        let epoch = Epoch::of(user.tokens_valid_from).max(inner.revocations.epoch(user.user_id));
        if !epoch.is_first() && issued_at <= epoch.time() + leeway {
            return Err(refused());
        }
        let token_id = cached.claims.jti.clone().unwrap_or_default();
        Ok(KanidmVerified { user: user.clone(), token_id, issuer: inner.kanidm.issuer(), issued_at, expires_at })
    }
}

/// One text for every cause, the same as for Sidle's own tokens.
fn refused() -> Fault {
    Fault::new(Reason::InvalidToken, "The token is not accepted.")
}
