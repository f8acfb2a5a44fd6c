//! Confirming an address with the token that was sent there.
//!
//! The token shows who has the mailbox. It does not show who chose the password: an attacker may have registered another user's
//! address and wait for its owner to confirm it. So the password of a registration is kept only when the secret comes along
//! that just the registering client got; otherwise it is removed, and the owner sets one by mail. For a user who was there
//! before and is confirmed for the first time, every credential and session is removed, and the user is told.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{REGISTRATION_PREFIX, VERIFY_PREFIX};
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::authenticate::account::Account;
use crate::authenticate::account::store::one_time::{self, Purpose};
use crate::authenticate::account::store::registrations::{self, Registration, State};
use crate::authenticate::account::store::users::{self, NewUser, User, UserStatus};
use crate::authenticate::invalid_credentials;
use crate::authenticate::login::store::factors;
use crate::change::Change;
use crate::credential::{RateLimitBucket, StoredHash};
use crate::db::Scope;
use crate::fault::{Fault, Result};
use crate::mail::{Kind, Message};
use crate::token::opaque;

/// An address that was confirmed.
#[derive(Debug)]
pub(in crate::authenticate) struct Verified {
    pub user_id: Uuid,
    pub verified_at: DateTime<Utc>,
    /// Whether the user has a password to sign in with.
    pub password_kept: bool,
}

impl Account {
    /// Confirms an address.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for every reason; `VALUE_CONTENDED` when too many wait for an import that may be writing their
    /// addresses, `DATABASE_UNAVAILABLE` for one that has waited; `THROTTLED`.
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
        let digest = opaque::digest(token);
        let mut change = self.changes.begin(Scope::Platform).await?;
        match registrations::of_token(&mut change.tx, &digest).await? {
            None => self.confirm_user(change, call, &digest).await,
            // The few permits to wait are for those who may have to: not for a made-up token or one that has been used.
            Some((State::Sent, tenant)) => {
                change.commit().await?;
                let change = self.changes.begin_contended_for(tenant).await?;
                self.confirm_registration(change, call, &digest, secret).await
            }
            Some(_) => self.confirm_registration(change, call, &digest, secret).await,
        }
    }

    /// Makes a registration a user.
    async fn confirm_registration(
        &self,
        mut change: Change,
        call: &Call,
        token: &[u8; 32],
        secret: Option<[u8; 32]>,
    ) -> Result<Verified> {
        let (now, tx) = (change.now, &mut change.tx);
        let found = registrations::lock_by_token(tx, token).await?.ok_or_else(invalid_credentials)?;
        if found.state == State::Verified && found.expires_at > now {
            return verified_before(&found);
        }
        if found.state != State::Sent
            || found.expires_at <= now
            || !registrations::is_open(tx, found.tenant_id, found.email_key.as_deref()).await?
        {
            return Err(invalid_credentials());
        }
        // The token shows who has the mailbox, not who chose the password: that is shown by the secret, which only the
        // client got that registered. Without it the password may be that of an attacker who registered another user's
        // address, and is removed.
        let password_kept = secret.is_some_and(|secret| found.secret_hash == secret);
        let (user, email_key) = (self.context.new_id(), found.email_key.clone().unwrap_or_default());
        if !insert(&mut change, user, &found, password_kept).await? {
            // The address has an account by now.
            return Err(invalid_credentials());
        }
        let (id, tenant, tx) = (found.registration_id, found.tenant_id, &mut change.tx);
        users::join(tx, self.context.new_id(), (user, tenant), now).await?;
        registrations::close(tx, &[id], State::Superseded).await?;
        registrations::become_user(tx, id, user, password_kept, now).await?;
        // One that has been sent since is left to itself: the address has an account by then.
        let others = registrations::lock_sent_and_free(tx, &email_key).await?;
        registrations::close(tx, &others, State::Superseded).await?;
        let event = Event::new(EventType::UserRegistered, call).by_user(user).tenant(tenant).target("user", user);
        change.record(event.detail("password_kept", password_kept)).await?;
        change.commit().await?;
        Ok(Verified { user_id: user, verified_at: now, password_kept })
    }

    /// Notes that the address of a user is theirs.
    async fn confirm_user(&self, mut change: Change, call: &Call, token: &[u8; 32]) -> Result<Verified> {
        let (now, tx) = (change.now, &mut change.tx);
        // The user before what is the user's, as everywhere.
        let holder = one_time::holder(tx, Purpose::VerifyEmail, token).await?.ok_or_else(invalid_credentials)?;
        let user = users::lock(tx, holder).await?.ok_or_else(invalid_credentials)?;
        let token = one_time::lock(tx, Purpose::VerifyEmail, token).await?.ok_or_else(invalid_credentials)?;
        if token.expires_at <= now || token.email_key != user.email_key || user.status == UserStatus::Disabled {
            return Err(invalid_credentials());
        }
        match (user.verified_at, token.used_at) {
            // Repeating it is harmless.
            (Some(verified_at), _) => {
                return Ok(Verified { user_id: user.user_id, verified_at, password_kept: user.has_password });
            }
            (None, Some(_)) => return Err(invalid_credentials()),
            (None, None) => {}
        }
        let is_first = user.status == UserStatus::PendingVerification;
        let password_kept = !is_first && user.has_password;
        users::verify(tx, user.user_id, now).await?;
        one_time::spend(tx, token.token_id, now).await?;
        let mut event = Event::new(EventType::UserEmailVerified, call)
            .by_user(user.user_id)
            .tenant(user.tenant_id)
            .target("user", user.user_id)
            .detail("first", is_first)
            .detail("password_kept", password_kept);
        if is_first {
            event = self.drop_credentials(&mut change, call, &user, event).await?;
        }
        change.record(event).await?;
        change.commit().await?;
        Ok(Verified { user_id: user.user_id, verified_at: now, password_kept })
    }

    /// Removes what gave access before the address was shown to be the user's; `event` is to record it. Whatever was
    /// set before this was set by a caller who had not shown that.
    async fn drop_credentials(&self, change: &mut Change, call: &Call, user: &User, event: Event) -> Result<Event> {
        let (id, now, tx) = (user.user_id, change.now, &mut change.tx);
        users::remove_password(tx, id).await?;
        let epoch = users::revoke_tokens(tx, id).await?;
        let had_factor = factors::has_totp(tx, id).await?;
        factors::remove(tx, id).await?;
        let sessions = users::end_sessions(tx, id, None, now).await?;
        // A user who had one is told that it was removed.
        if user.has_password || had_factor {
            // Where it came from, the event of the confirmation says.
            let removed = Event::by_system(EventType::UserCredentialsRemoved, call.correlation_id)
                .by_user(id)
                .tenant(user.tenant_id)
                .target("user", id)
                .detail("password", user.has_password)
                .detail("second_factor", had_factor);
            change.record(removed).await?;
            change.notify(Message::to_user(Kind::CredentialsRemoved, id)).await?;
        }
        let event =
            event.detail("sessions", &sessions).detail("principals", [id]).detail("tokens_valid_from", epoch.micros());
        change.revoke_tokens(id, epoch);
        change.revoke_sessions(sessions);
        Ok(event)
    }
}

/// What confirming a registration led to before; repeating it is harmless.
fn verified_before(found: &Registration) -> Result<Verified> {
    let missing = || Fault::internal(format!("registrations.user_id of {} is missing", found.registration_id));
    Ok(Verified {
        user_id: found.user_id.ok_or_else(missing)?,
        verified_at: found.verified_at.ok_or_else(missing)?,
        password_kept: found.password_kept,
    })
}

/// Inserts the user that a registration becomes; false when the address has an account.
async fn insert(change: &mut Change, user: Uuid, from: &Registration, password_kept: bool) -> Result<bool> {
    let missing = || Fault::internal(format!("registration {} has lost what it asked for", from.registration_id));
    let username_key = match from.username_key.as_deref() {
        // A user who has taken the name since keeps it, and the new user has none.
        Some(key) if users::has_username(&mut change.tx, key).await? => None,
        key => key,
    };
    let password = match (from.password_hash.clone(), from.password_cost) {
        (Some(hash), Some(cost)) if password_kept => {
            Some(StoredHash { hash, cost, pepper_id: from.password_pepper_id })
        }
        _ => None,
    };
    let new = NewUser {
        user_id: user,
        tenant_id: from.tenant_id,
        email: from.email.as_deref().ok_or_else(missing)?,
        email_key: from.email_key.as_deref().ok_or_else(missing)?,
        username: username_key.and(from.username.as_deref()),
        username_key,
        full_name: from.full_name.as_deref().ok_or_else(missing)?,
        password: password.as_ref(),
        now: change.now,
    };
    users::insert(&mut change.tx, &new).await
}
