//! New tokens for a session that lives on while all its old ones end.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::opening::{REFRESH_PREFIX, Rights, SessionFactory, Tokens, hex};
use crate::fault::Result;
use crate::token::opaque;

/// Tokens that are about to take the place of a session's old ones.
pub struct Renewal {
    access_jti: Uuid,
    refresh_token: Zeroizing<String>,
    /// What the database is to keep of them.
    pub record: Value,
    /// How long the session goes on without being refreshed.
    pub idle: TimeDelta,
    /// The same for one that is to be remembered.
    pub persistent_idle: TimeDelta,
}

/// A session that goes on.
pub struct Renewed {
    /// SessionOwner it is.
    pub user_id: Uuid,
    pub session_id: Uuid,
    /// Audience of its tokens.
    pub audience: String,
    /// What the user may do in it.
    pub rights: Rights,
    /// When it ends however much it is used.
    pub expires_at: DateTime<Utc>,
    /// When its new refresh token ends.
    pub refresh_expires_at: DateTime<Utc>,
}

impl SessionFactory {
    /// Decides everything about a session's new tokens that the database need not be asked for.
    pub fn renewal(&self) -> Renewal {
        let access_jti = self.context.new_id();
        let refresh_token = opaque::mint(REFRESH_PREFIX, &self.context.entropy);
        let record = json!({
            "access_token_jti": access_jti,
            "access_until": self.issuer.access_until(),
            "refresh_token_id": self.context.new_id(),
            "refresh_token_hash": hex(&opaque::digest(refresh_token.as_bytes())),
        });
        let idle = |persistent| TimeDelta::from_std(self.idle(persistent)).unwrap_or_default();
        let (idle, persistent_idle) = (idle(false), idle(true));
        Renewal { access_jti, refresh_token, record, idle, persistent_idle }
    }

    /// The tokens of a session that goes on.
    ///
    /// # Errors
    /// When there is no key to sign with.
    pub fn renewed_tokens(&self, renewal: Renewal, session: Renewed) -> Result<Tokens> {
        let grant = session.rights.grant(session.user_id, session.session_id, session.audience, session.expires_at);
        Ok(Tokens {
            access: self.issuer.issue(renewal.access_jti, &grant)?,
            refresh_token: renewal.refresh_token,
            refresh_expires_at: session.refresh_expires_at,
        })
    }
}
