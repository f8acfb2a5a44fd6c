//! Setting a password that was forgotten, with the token that was sent to the user's confirmed address.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::RESET_PREFIX;
use super::store::{self, Holder};
use crate::access::{Call, names};
use crate::audit::{Event, EventType, Outcome};
use crate::authenticate::account::Account;
use crate::authenticate::invalid_credentials;
use crate::authenticate::login::store::password;
use crate::credential::{Charge, RateLimitBucket, StoredHash};
use crate::db::Scope;
use crate::fault::Result;
use crate::mail::{Kind, Message};
use crate::token::opaque;

impl Account {
    /// Asks for the way to a new password; says until when it will be good, whether or not there is such a user.
    ///
    /// # Errors
    /// `MAIL_NOT_CONFIGURED`, `THROTTLED`: neither has to do with whether there is such a user.
    pub(in crate::authenticate) async fn request_reset(&self, call: &Call, identifier: &str) -> Result<DateTime<Utc>> {
        self.may_send(call).await?;
        let now = self.context.now();
        let request = json!({
            "request_id": self.context.new_id(),
            "identifier_key": names::identifier_key(identifier),
            "correlation_id": call.correlation_id,
        });
        let event = Event::new(EventType::UserPasswordResetRequested, call).personal("identifier", identifier);
        let event = self.recorder.prepare(event);
        store::ask_reset(&self.db, &request, now, &event).await?;
        self.recorder.wake();
        self.asked.notify_one();
        Ok(now + self.config.mail.reset_lifetime)
    }

    /// Sets a new password and ends every session; says how many there were.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for every reason why the token is not good or the second factor not right; `INVALID_FIELD`
    /// for a password that the policy refuses, which spends nothing; `THROTTLED`, `OVERLOADED`.
    pub(in crate::authenticate) async fn reset_password(
        &self,
        call: &Call,
        token: &str,
        new: Zeroizing<String>,
        code: Zeroizing<String>,
    ) -> Result<usize> {
        let charge = self.login.throttle(call, RateLimitBucket::MailToken).await?;
        let came_in = self.context.clock.instant();
        let answer = self.reset(call, &charge, token, new, code).await;
        self.login.pad_failure_latency(came_in, answer).await
    }

    async fn reset(
        &self,
        call: &Call,
        charge: &Arc<Charge>,
        token: &str,
        new: Zeroizing<String>,
        code: Zeroizing<String>,
    ) -> Result<usize> {
        if !opaque::is_plausible(RESET_PREFIX, token) {
            return Err(invalid_credentials());
        }
        let digest = opaque::digest(token);
        let holder = match store::reset_holder_now(&self.db, &digest, self.context.now()).await? {
            Ok(holder) => holder,
            Err((user, refusal)) => return self.refuse_reset(call, user, refusal).await,
        };
        let about = [holder.email.as_str(), &holder.full_name, holder.username.as_deref().unwrap_or_default()];
        // Before the code, which is spent even if what follows fails: a code is for one attempt.
        let hash = self.hasher.new_password(charge, &self.policy, "new_password", &new, &about).await?;
        if holder.has_factor {
            self.login.check_second_factor(call, holder.user_id, code).await?;
        }
        self.set_by_mail(call, &digest, &holder, &hash).await
    }

    async fn set_by_mail(&self, call: &Call, digest: &[u8; 32], shown: &Holder, hash: &StoredHash) -> Result<usize> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let now = self.context.now();
        // Once more, and held: much may have changed while the password was hashed, and of two who use a token one is
        // too late. A second factor that was enrolled meanwhile has not been shown.
        let holder = match store::reset_holder(&mut tx, digest, now).await? {
            Ok(holder) if holder.has_factor == shown.has_factor => holder,
            Ok(holder) => {
                tx.commit().await?;
                return self.refuse_reset(call, Some(holder.user_id), "second_factor").await;
            }
            Err((user, refusal)) => {
                tx.commit().await?;
                return self.refuse_reset(call, user, refusal).await;
            }
        };
        let user = holder.user_id;
        password::set(&mut tx, user, hash, now).await?;
        let (ended, epoch) = store::finish_reset(&mut tx, user, now).await?;
        let event = Event::new(EventType::UserPasswordReset, call)
            .by_user(user)
            .tenant(holder.tenant_id)
            .target("user", user)
            .detail("tokens_valid_from", epoch.micros())
            .detail("principals", [user])
            .detail("sessions", &ended);
        self.recorder.record(&mut tx, event).await?;
        self.outbox.enqueue(&mut tx, Message::to_user(Kind::PasswordChanged, user)).await?;
        tx.commit().await?;
        self.sessions.revocations.end_tokens(user, epoch);
        for session in &ended {
            self.sessions.revocations.end_session(*session);
        }
        tracing::info!(event = "password_reset", user_id = %user, sessions_revoked = ended.len());
        Ok(ended.len())
    }

    async fn refuse_reset(&self, call: &Call, user: Option<Uuid>, refusal: &'static str) -> Result<usize> {
        let mut event = Event::new(EventType::UserPasswordReset, call).outcome(Outcome::Refused).reason(refusal);
        // A token that nobody ever had is anybody's noise; what was somebody's is recorded.
        if let Some(user) = user {
            event = event.target("user", user);
            let mut tx = self.db.begin(Scope::Platform).await?;
            self.recorder.record(&mut tx, event).await?;
            tx.commit().await?;
        }
        tracing::info!(event = "password_reset_refused", reason = refusal);
        Err(invalid_credentials())
    }
}
