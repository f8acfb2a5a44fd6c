//! Setting a password that was forgotten, with the token that was sent to the user's confirmed address.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Letter, RESET_PREFIX};
use crate::access::{Call, names};
use crate::audit::{Event, EventType, Outcome};
use crate::authenticate::account::Account;
use crate::authenticate::account::store::one_time::{self, Purpose};
use crate::authenticate::account::store::users::{self, AuthMethod, User, UserStatus};
use crate::authenticate::invalid_credentials;
use crate::authenticate::login::store::{factors, password};
use crate::change::Change;
use crate::credential::{Charge, RateLimitBucket, StoredHash};
use crate::db::{Connection, Scope};
use crate::fault::Result;
use crate::mail::{Kind, Message};
use crate::token::opaque;

/// Whose a reset token is.
struct Holder {
    user: User,
    has_factor: bool,
}

/// Why a token is not accepted, and of which user it was, if of any.
struct Refusal {
    user: Option<Uuid>,
    reason: &'static str,
}

impl Account {
    /// Asks for the way to a new password; says until when it will be good, whether or not there is such a user.
    ///
    /// # Errors
    /// `MAIL_NOT_CONFIGURED`, `THROTTLED`: neither has to do with whether there is such a user.
    pub(in crate::authenticate) async fn request_reset(&self, call: &Call, identifier: &str) -> Result<DateTime<Utc>> {
        self.may_send(call).await?;
        let change = self.changes.begin(Scope::Platform).await?;
        self.write_request_down(change, call, identifier).await?;
        self.asked.notify_one();
        Ok(self.context.now() + self.config.mail.reset_lifetime)
    }

    /// Records a request, without a look whose the name is.
    async fn write_request_down(&self, mut change: Change, call: &Call, identifier: &str) -> Result<()> {
        let event = Event::new(EventType::UserPasswordResetRequested, call).personal("identifier", identifier);
        let event = self.recorder.prepare(event);
        let (id, key, now) = (self.context.new_id(), names::identifier_key(identifier), change.now);
        one_time::insert_reset_request(&mut change.tx, id, &key, call.correlation_id, &event, now).await?;
        change.commit().await
    }

    /// Sends what the oldest request for a new password leads to, and says what; none when there is none.
    pub(super) async fn answer_reset(&self) -> Result<Option<&'static str>> {
        let mut change = self.changes.begin(Scope::Platform).await?;
        let tx = &mut change.tx;
        let Some(request) = one_time::lock_reset_request(tx).await? else { return Ok(None) };
        let user = if request.identifier_key.contains('@') {
            users::lock_by_email(tx, &request.identifier_key).await?
        } else {
            users::lock_by_username(tx, &request.identifier_key).await?
        };
        let Some(user) = user else {
            // Requests for unknown names fill no log.
            one_time::delete_reset_request(&mut change.tx, request.request_id).await?;
            change.commit().await?;
            return Ok(Some("unknown"));
        };
        let answer = self.send_reset(&mut change, &user).await?;
        let about = (user.user_id, user.tenant_id);
        self.recorder.record_kept(&mut change.tx, request.event, request.personal.as_deref(), about).await?;
        let event = Event::by_system(EventType::UserPasswordResetSent, request.correlation_id)
            .tenant(user.tenant_id)
            .target("user", user.user_id);
        change.record(if answer == "sent" { event } else { event.outcome(Outcome::Refused).reason(answer) }).await?;
        // Last: a call for the same name waits for the end of a deletion, and how long that takes must not tell it anything.
        one_time::delete_reset_request(&mut change.tx, request.request_id).await?;
        change.commit().await?;
        Ok(Some(answer))
    }

    /// Sends a user the way to a new password, or says why not.
    async fn send_reset(&self, change: &mut Change, user: &User) -> Result<&'static str> {
        if user.status == UserStatus::Disabled {
            return Ok("disabled");
        }
        if user.status != UserStatus::Active || user.verified_at.is_none() {
            return Ok("unverified");
        }
        if self.outbox.is_rate_limited(&mut change.tx, &user.email_key, Kind::PasswordReset).await? {
            return Ok("capped");
        }
        if user.auth_method == AuthMethod::Kanidm {
            change.notify(Message::to_user(Kind::KanidmSignIn, user.user_id)).await?;
            return Ok("kanidm_only");
        }
        let letter = Letter::new(&self.context, Kind::PasswordReset, RESET_PREFIX, self.config.mail.reset_lifetime);
        one_time::issue_reset(&mut change.tx, user.user_id, &user.email_key, &letter.token, change.now).await?;
        change.notify(letter.to_user(user.user_id)).await?;
        Ok("sent")
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
        let mut change = self.changes.begin(Scope::Platform).await?;
        let shown = match holder(&mut change.tx, &digest, change.now).await? {
            Ok(shown) => shown,
            Err(refusal) => return refuse_reset(change, call, refusal).await,
        };
        change.commit().await?;
        let user = &shown.user;
        let about = [user.email.as_str(), &user.full_name, user.username.as_deref().unwrap_or_default()];
        // Before the code, which is spent even if what follows fails: a code is for one attempt.
        let hash = self.hasher.new_password(charge, &self.policy, "new_password", &new, &about).await?;
        if shown.has_factor {
            self.login.check_second_factor(call, user.user_id, code).await?;
        }
        self.set_by_mail(call, &digest, shown.has_factor, &hash).await
    }

    async fn set_by_mail(
        &self,
        call: &Call,
        digest: &[u8; 32],
        shown_factor: bool,
        hash: &StoredHash,
    ) -> Result<usize> {
        let mut change = self.changes.begin(Scope::Platform).await?;
        // Once more, and held: much may have changed while the password was hashed, and of two who use a token one is
        // too late. A second factor that was enrolled meanwhile has not been shown.
        let user = match holder(&mut change.tx, digest, change.now).await? {
            Ok(Holder { user, has_factor }) if has_factor == shown_factor => user,
            Ok(Holder { user, .. }) => {
                let refusal = Refusal { user: Some(user.user_id), reason: "second_factor" };
                return refuse_reset(change, call, refusal).await;
            }
            Err(refusal) => return refuse_reset(change, call, refusal).await,
        };
        let (id, now, tx) = (user.user_id, change.now, &mut change.tx);
        password::set(tx, id, hash, now).await?;
        // No token of the user's is accepted any more, and no session goes on.
        one_time::void(tx, id, now).await?;
        // The user who follows the link reads what is sent to the address.
        users::verify_beyond_tenant(tx, id).await?;
        let epoch = users::revoke_tokens(tx, id).await?;
        let ended = users::end_sessions(tx, id, None, now).await?;
        let event = Event::new(EventType::UserPasswordReset, call)
            .by_user(id)
            .tenant(user.tenant_id)
            .target("user", id)
            .detail("tokens_valid_from", epoch.micros())
            .detail("principals", [id])
            .detail("sessions", &ended);
        change.record(event).await?;
        change.notify(Message::to_user(Kind::PasswordChanged, id)).await?;
        let sessions_revoked = ended.len();
        change.revoke_tokens(id, epoch);
        change.revoke_sessions(ended);
        change.commit().await?;
        tracing::info!(event = "password_reset", user_id = %id, sessions_revoked);
        Ok(sessions_revoked)
    }
}

/// Whose a reset token is, or why it is not accepted; locks the user until the transaction ends.
async fn holder(
    tx: &mut Connection,
    token: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<std::result::Result<Holder, Refusal>> {
    let unknown = Ok(Err(Refusal { user: None, reason: "unknown" }));
    // The user before what is the user's, as everywhere.
    let Some(id) = one_time::holder(tx, Purpose::PasswordReset, token).await? else { return unknown };
    let Some(user) = users::lock(tx, id).await? else { return unknown };
    let kept = one_time::lock(tx, Purpose::PasswordReset, token).await?;
    let reason = match kept {
        None => Some("unknown"),
        Some(token) if token.used_at.is_some() => Some("used"),
        Some(token) if token.expires_at <= now => Some("expired"),
        Some(_) if user.status == UserStatus::Disabled => Some("disabled"),
        Some(_) if user.status != UserStatus::Active || user.verified_at.is_none() => Some("unverified"),
        Some(token) if token.email_key != user.email_key => Some("other_address"),
        Some(_) if user.auth_method == AuthMethod::Kanidm => Some("kanidm_only"),
        // Set in another way since the token was made.
        Some(token) if user.password_changed_at.is_some_and(|at| at >= token.created_at) => Some("superseded"),
        Some(_) => None,
    };
    if let Some(reason) = reason {
        return Ok(Err(Refusal { user: Some(id), reason }));
    }
    // Asked now that the user is locked: enrolling a factor locks the user as well.
    let has_factor = factors::has_totp(tx, id).await?;
    Ok(Ok(Holder { user, has_factor }))
}

async fn refuse_reset(mut change: Change, call: &Call, refusal: Refusal) -> Result<usize> {
    let Refusal { user, reason } = refusal;
    // A token that never existed is noise; one that was a user's is recorded.
    if let Some(user) = user {
        let event = Event::new(EventType::UserPasswordReset, call).outcome(Outcome::Refused).reason(reason);
        change.record(event.target("user", user)).await?;
        change.commit().await?;
    }
    let address = call.address.map(tracing::field::display);
    tracing::info!(event = "password_reset_refused", reason, address);
    Err(invalid_credentials())
}
