//! Confirming an address with the token that was sent there.
//!
//! The token shows who has the mailbox. It does not show who chose the password: somebody may have registered the
//! address of somebody else and wait for its owner to confirm it. So the password of a registration is kept only when the
//! secret comes along that just the registering client got; otherwise it goes, and the owner sets one by mail. For a
//! user who was there before and is confirmed for the first time, every credential and session goes, and the user is told.

use serde_json::json;

use super::store;
use super::{REGISTRATION_PREFIX, VERIFY_PREFIX};
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::authenticate::account::Account;
use crate::authenticate::account::store::by_mail::Verified;
use crate::authenticate::invalid_credentials;
use crate::credential::RateLimitBucket;
use crate::fault::Result;
use crate::mail::{Kind, Message};
use crate::token::opaque;

impl Account {
    /// Confirms an address.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for every reason; `THROTTLED`.
    pub(in crate::authenticate) async fn verify_email(
        &self,
        call: &Call,
        token: &str,
        secret: &str,
    ) -> Result<Verified> {
        self.login.throttle(call, RateLimitBucket::MailToken).await?;
        let came_in = self.context.clock.instant();
        let answer = self.confirm(call, token, secret).await;
        self.login.pad_failure_latency(came_in, answer).await
    }

    async fn confirm(&self, call: &Call, token: &str, secret: &str) -> Result<Verified> {
        if !opaque::is_plausible(VERIFY_PREFIX, token) {
            return Err(invalid_credentials());
        }
        let secret = opaque::is_plausible(REGISTRATION_PREFIX, secret).then(|| opaque::digest(secret));
        let user = json!({ "user_id": self.context.new_id(), "membership_id": self.context.new_id() });
        let event = self.recorder.prepare(Event::new(EventType::UserEmailVerified, call));
        let created = self.recorder.prepare(Event::new(EventType::UserRegistered, call));
        let now = self.context.now();
        let digest = opaque::digest(token);
        let told = store::Told {
            verified: event,
            created,
            removed: self.recorder.prepare(Event::new(EventType::UserCredentialsRemoved, call)).event,
            notice: self.outbox.prepare(Message::to_address(Kind::CredentialsRemoved, None, "")),
        };
        let confirmed = store::verify(&self.db, &digest, secret.as_ref(), now, &user, &told).await?;
        self.outbox.wake();
        let confirmed = confirmed.ok_or_else(invalid_credentials)?;
        self.recorder.wake();
        if let Some(epoch) = confirmed.epoch {
            self.sessions.revocations.end_tokens(confirmed.verified.user_id, epoch);
        }
        for session in confirmed.sessions {
            self.sessions.revocations.end_session(session);
        }
        Ok(confirmed.verified)
    }
}
