//! New tokens for a session that lives on while all its old ones end.

use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::opening::{REFRESH_PREFIX, SessionFactory, Tokens};
use super::store::renewal::{self as store, NewTokens, Renewed};
use crate::db::Connection;
use crate::fault::Result;
use crate::token::opaque;

/// A session with new tokens, which no client has until the change is committed.
pub struct Renewal {
    access_jti: Uuid,
    refresh_token: Zeroizing<String>,
    session: Renewed,
}

impl SessionFactory {
    /// Replaces all tokens of a session by new ones; none when it has ended. For a transaction of the platform that has
    /// locked the user.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn renew(
        &self,
        tx: &mut Connection,
        user: Uuid,
        session: Uuid,
        now: DateTime<Utc>,
    ) -> Result<Option<Renewal>> {
        let access_jti = self.context.new_id();
        let refresh_token = opaque::mint(REFRESH_PREFIX, &self.context.entropy);
        let tokens = NewTokens {
            refresh_token_id: self.context.new_id(),
            refresh_token_hash: &opaque::digest(refresh_token.as_bytes()),
            access_jti,
            access_until: self.issuer.access_until(),
            idle: self.idle(false),
            persistent_idle: self.idle(true),
        };
        let session = store::renew(tx, user, session, &tokens, now).await?;
        Ok(session.map(|session| Renewal { access_jti, refresh_token, session }))
    }

    /// The tokens of a session that goes on after this revocation, once that is committed.
    ///
    /// # Errors
    /// When there is no key to sign with.
    pub fn renewed_tokens(&self, renewal: Renewal, epoch: Epoch) -> Result<Tokens> {
        let Renewal { access_jti, refresh_token, mut session } = renewal;
        session.rights.epoch = epoch;
        let grant = session.rights.grant(session.user_id, session.session_id, session.audience, session.expires_at);
        Ok(Tokens {
            access: self.issuer.issue(access_jti, &grant)?,
            refresh_token,
            refresh_expires_at: session.refresh_expires_at,
        })
    }
}
