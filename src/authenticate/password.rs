//! Signing in with e-mail address or username and password.
//!
//! Two round trips with the hash between them: the first finds the user and reserves the attempt, before anything is
//! computed; the second begins the session, or writes down the refusal. A refusal costs the same and says the same
//! whatever its reason, and is answered at fixed intervals, so that neither text nor work nor time tells one from
//! another.

use std::time::{Duration, Instant};

use uuid::Uuid;
use zeroize::Zeroizing;

use super::bcrypt_hash::{BcryptHash, MAX_COST, MAX_PASSWORD, Unusable};
use super::hashing::Ticket;
use super::store::login::{self as store, Begun, Finished};
use super::{Authenticate, SignedIn, invalid_credentials, tenant_required};
use crate::access::{Call, input};
use crate::audit::{Event, EventType, Outcome};
use crate::fault::{Fault, Reason, Result};
use crate::metrics::{LoginMethod, LoginOutcome};
use crate::session::{Wish, no_tenant};

/// A call of `AuthenticatePassword`.
pub(super) struct Attempt {
    /// E-mail address or username.
    pub identifier: String,
    /// The password.
    pub password: Zeroizing<String>,
    /// What else is asked for.
    pub wish: Wish,
}

impl Authenticate {
    /// Signs a user in.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for every reason that would help somebody who guesses; after the right password also
    /// `NO_TENANT` and `TENANT_REQUIRED`; `OVERLOADED` before anything is done.
    pub(super) async fn password(&self, call: &Call, attempt: Attempt) -> Result<SignedIn> {
        let came_in = self.context.clock.instant();
        let answer = self.take_turn(call, attempt).await;
        let outcome = match &answer {
            Ok(_) => LoginOutcome::Success,
            Err(fault) => match fault.reason() {
                Reason::InvalidCredentials | Reason::NoTenant | Reason::TenantRequired => LoginOutcome::Refused,
                Reason::Overloaded => LoginOutcome::Shed,
                _ => LoginOutcome::Failed,
            },
        };
        self.metrics.login(LoginMethod::Password, outcome);
        if answer.as_ref().is_err_and(|fault| fault.reason() == Reason::InvalidCredentials) {
            self.wait_for_release(came_in).await;
        }
        answer
    }

    /// Waits for a turn, which the caller may leave; from then on the attempt is made to its end in any case, so that
    /// nobody guesses without its being counted and recorded.
    async fn take_turn(&self, call: &Call, attempt: Attempt) -> Result<SignedIn> {
        let key = input::key(&attempt.identifier);
        let place = self.gates.enter(&key).await?;
        let ticket = self.hasher.admit(self.hasher.cost())?;
        let (room, call) = (self.clone(), call.clone());
        let made = tokio::spawn(async move {
            let answer = room.attempt(&call, &key, attempt, ticket).await;
            drop(place);
            answer
        });
        made.await.map_err(Fault::internal)?
    }

    async fn attempt(&self, call: &Call, key: &str, attempt: Attempt, ticket: Ticket) -> Result<SignedIn> {
        let limits = &self.config.passwords;
        let begun =
            store::login_begin(self.db.pool(), key, self.context.now(), limits.max_attempts, limits.lock_duration)
                .await?;
        let (hash, refusal) = usable(&begun);
        // The highest cost anybody has: less work would tell that somebody is not among those who have it.
        let fill_to = self.hasher.cost().max(begun.highest_cost).min(MAX_COST);
        let matches = ticket.verify(attempt.password.clone(), hash.clone(), fill_to).await?;
        match (begun.user_id, begun.password_hash.as_deref(), hash) {
            (Some(user), Some(stored), Some(hash)) if matches => {
                let signed_in = self.finish(call, &attempt, user, stored).await?;
                self.rehash_later(call, user, stored, &hash, attempt.password);
                Ok(signed_in)
            }
            _ => {
                self.refuse(call, &attempt.identifier, &begun, refusal.unwrap_or("wrong_password")).await?;
                Err(invalid_credentials())
            }
        }
    }

    async fn finish(&self, call: &Call, attempt: &Attempt, user: Uuid, stored: &str) -> Result<SignedIn> {
        let opening = self.sessions.opener.open(call, &attempt.wish);
        let session_id = opening.session_id;
        let event =
            Event::new(EventType::UserAuthenticated, call).by_user(user).session(session_id).target("user", user);
        let event = self.recorder.prepare(event.detail("method", "password"));
        let refused =
            self.recorder.prepare(refused(call).target("user", user).personal("identifier", &attempt.identifier));
        let now = self.context.now();
        let tenant = attempt.wish.tenant_id;
        let finished =
            store::login_finish(self.db.pool(), user, stored, tenant, now, &opening.record(), &event, &refused).await?;
        self.recorder.nudge();
        let (rights, user) = match finished {
            Finished::SignedIn { rights, user } => (rights, user),
            Finished::Refused => return Err(invalid_credentials()),
            Finished::NoTenant => return Err(no_tenant()),
            Finished::TenantRequired(choices) => return Err(tenant_required(&choices)),
        };
        let tokens = self.sessions.opener.tokens(opening, user.user_id, &rights)?;
        tracing::info!(event = "user_authenticated", method = "password", user_id = %user.user_id, %session_id);
        let (tenant_id, must_change_password) = (rights.tenant_id, rights.must_change_password);
        Ok(SignedIn { tokens, session_id, tenant_id, user, must_change_password })
    }

    /// Writes the refusal down before it is answered, and the lock that this attempt led to.
    async fn refuse(&self, call: &Call, identifier: &str, begun: &Begun, reason: &'static str) -> Result<()> {
        let mut event = refused(call).reason(reason).tenant(begun.tenant_id).personal("identifier", identifier);
        if let Some(user) = begun.user_id {
            event = event.target("user", user);
        }
        let is_last = begun.attempt.is_some_and(|attempt| attempt >= self.config.passwords.max_attempts);
        let locked = begun.user_id.filter(|_| is_last).map(|user| {
            let event = Event::by_system(EventType::UserLocked, call.correlation_id).target("user", user);
            tracing::warn!(event = "user_locked", user_id = %user, "too many failures");
            self.recorder.prepare(event.tenant(begun.tenant_id).reason("too_many_failures"))
        });
        let event = self.recorder.prepare(event);
        store::login_refuse(self.db.pool(), &event, locked.as_ref()).await?;
        self.recorder.nudge();
        tracing::info!(event = "user_login_refused", method = "password", reason);
        Ok(())
    }

    /// Hashes anew what is weaker than today, once the answer is on its way.
    fn rehash_later(&self, call: &Call, user: Uuid, stored: &str, hash: &BcryptHash, password: Zeroizing<String>) {
        // A longer password was cut when it was hashed; whether it may stay is decided elsewhere.
        if !hash.is_weaker_than(self.hasher.cost()) || password.len() > MAX_PASSWORD {
            return;
        }
        let (room, call, stored) = (self.clone(), call.clone(), stored.to_owned());
        tokio::spawn(async move {
            let renewed = async {
                let new = room.hasher.rehash(password).await?;
                let event = Event::by_system(EventType::UserPasswordRehashed, call.correlation_id);
                let event = event.target("user", user).detail("cost", new.cost);
                store::replace_hash(&room.db, &room.recorder, user, &stored, &new, event).await
            };
            // There will be another login.
            if let Err(fault) = renewed.await {
                tracing::info!(event = "password_not_rehashed", %fault, user_id = %user);
            }
        });
    }

    /// Waits for the next multiple of the grid since the call came in.
    async fn wait_for_release(&self, came_in: Instant) {
        let passed = self.context.clock.instant().saturating_duration_since(came_in);
        tokio::time::sleep(until_release(passed, self.config.passwords.refusal_grid)).await;
    }
}

/// The hash to compare with, or why there is none.
fn usable(begun: &Begun) -> (Option<BcryptHash>, Option<&'static str>) {
    match begun.password_hash.as_deref().map(BcryptHash::parse) {
        Some(Ok(hash)) => (Some(hash), begun.refusal),
        Some(Err(Unusable::TooCostly)) => (None, Some("hash_too_costly")),
        Some(Err(Unusable::Malformed)) => (None, Some("hash_malformed")),
        None => (None, begun.refusal.or(Some("no_password"))),
    }
}

fn refused(call: &Call) -> Event {
    Event::new(EventType::UserLoginRefused, call).outcome(Outcome::Refused).detail("method", "password")
}

fn until_release(passed: Duration, grid: Duration) -> Duration {
    let (passed, grid) = (passed.as_micros(), grid.as_micros());
    let wait = passed.checked_rem(grid).map_or(0, |into| grid - into);
    Duration::from_micros(u64::try_from(wait).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_leave_on_the_grid() {
        let grid = Duration::from_millis(250);
        for (passed, wait) in [(0, 250), (1, 249), (249, 1), (250, 250), (251, 249), (760, 240)] {
            assert_eq!(until_release(Duration::from_millis(passed), grid), Duration::from_millis(wait), "{passed}");
        }
        assert_eq!(until_release(Duration::from_millis(7), Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_stored_hash_that_must_not_be_computed_is_refused_like_any_other() {
        let begun = |hash: Option<&str>, refusal| Begun {
            user_id: Some(Uuid::nil()),
            tenant_id: None,
            password_hash: hash.map(str::to_owned),
            attempt: Some(1),
            refusal,
            highest_cost: 4,
        };
        let costly = "$2b$31$abcdefghijklmnopqrstuu9e8nLPmmFoAJChRsFWf8OPekU0X1g4y";
        assert_eq!(usable(&begun(Some(costly), None)).1, Some("hash_too_costly"));
        assert_eq!(usable(&begun(Some("!"), None)).1, Some("hash_malformed"));
        assert_eq!(usable(&begun(None, Some("kanidm_only"))).1, Some("kanidm_only"));
        assert_eq!(usable(&begun(None, None)).1, Some("no_password"));
    }
}
