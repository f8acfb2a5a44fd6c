//! Comparing a password with what is kept of it: after an attempt was reserved, with as much work as any other, and with
//! the refusal written down before it is answered. Also for those who are signed in and show their password once more.

use uuid::Uuid;
use zeroize::Zeroizing;

use super::bcrypt_hash::{BcryptHash, MAX_COST, MAX_PASSWORD, Unusable};
use super::hashing::Ticket;
use super::store::login::{self, Reserved};
use super::store::password as store;
use super::{Authenticate, invalid_credentials};
use crate::access::Call;
use crate::audit::{Event, EventType, Outcome};
use crate::fault::{Fault, Result};

/// A password that was compared.
pub(super) struct Compared {
    pub matches: bool,
    /// Why it cannot match, for the record.
    pub refusal: Option<&'static str>,
    /// Whether more was typed than the hash was made of.
    pub overlong: bool,
    /// The pepper of the hash.
    pub pepper_id: Option<i16>,
    hash: Option<BcryptHash>,
}

/// A password that was shown by somebody who is signed in, and the hash that it is right for.
pub(super) struct Shown {
    pub password_hash: String,
}

impl Compared {
    /// Whether today one would hash differently.
    pub fn is_weaker_than(&self, cost: u32) -> bool {
        self.hash.as_ref().is_some_and(|hash| hash.is_weaker_than(cost))
    }
}

impl Authenticate {
    /// Has somebody who is signed in show their password once more. Counted, locked and refused like a login.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for every reason, on the grid; `OVERLOADED`.
    pub async fn check_password(&self, call: &Call, user: Uuid, password: Zeroizing<String>) -> Result<()> {
        self.show_password(call, user, password).await.map(|_| ())
    }

    /// As [`Self::check_password`], with the hash that the password is right for.
    pub(super) async fn show_password(&self, call: &Call, user: Uuid, password: Zeroizing<String>) -> Result<Shown> {
        let came_in = self.context.clock.instant();
        let answer = self.show_password_at_once(call, user, password).await;
        self.on_the_grid(came_in, answer).await
    }

    /// As [`Self::show_password`], for whoever holds the refusal back until the next point of the grid by themselves.
    pub(super) async fn show_password_at_once(
        &self,
        call: &Call,
        user: Uuid,
        password: Zeroizing<String>,
    ) -> Result<Shown> {
        let place = self.gates.enter(&user.to_string()).await?;
        let ticket = self.hasher.admit_comparison()?;
        let (room, call) = (self.clone(), call.clone());
        // To its end, also if the caller goes away: what was guessed is counted and recorded.
        let made = tokio::spawn(async move {
            let answer = room.compare_shown(&call, user, &password, ticket).await;
            drop(place);
            answer
        });
        made.await.map_err(Fault::internal)?
    }

    async fn compare_shown(
        &self,
        call: &Call,
        user: Uuid,
        password: &Zeroizing<String>,
        ticket: Ticket,
    ) -> Result<Shown> {
        let (now, device) = (self.context.now(), call.known_device.as_ref());
        let reserved = store::proof_begin(&self.db, user, now, &self.config.passwords, device).await?;
        let compared = self.compare(ticket, &reserved, password).await?;
        if let Some(password_hash) = reserved.password_hash.clone().filter(|_| compared.matches) {
            // Given back and no more: who holds a session must not make room for guesses at other secrets.
            store::refund(&self.db, user, device.filter(|_| reserved.known_device)).await?;
            return Ok(Shown { password_hash });
        }
        let reason = compared.refusal.unwrap_or("wrong_password");
        let event = Event::new(EventType::UserProofRefused, call).outcome(Outcome::Refused).reason(reason);
        self.refuse(call, event.detail("method", "password"), &reserved).await?;
        tracing::info!(event = "user_proof_refused", method = "password", reason);
        Err(invalid_credentials())
    }

    /// Compares a password with what was reserved for it. A refusal does as much work as the dearest hash in use.
    pub(super) async fn compare(
        &self,
        ticket: Ticket,
        reserved: &Reserved,
        password: &Zeroizing<String>,
    ) -> Result<Compared> {
        let (mut hash, mut refusal) = usable(reserved);
        let pepper_id = reserved.pepper_id;
        let is_cut = pepper_id.is_none() && password.len() > MAX_PASSWORD;
        // What is set here is never longer than bcrypt reads, so this is another password that begins like it.
        if is_cut && reserved.set_here {
            hash = None;
        }
        let mixed = self.hasher.peppers().mix(pepper_id, password);
        if mixed.is_none() {
            (hash, refusal) = (None, refusal.or(Some("pepper_missing")));
        }
        // The highest cost anybody has: less work would tell that somebody is not among those who have it.
        let fill_to = self.hasher.cost().max(reserved.highest_cost).min(MAX_COST);
        self.hasher.dearest(fill_to);
        let typed = mixed.unwrap_or_else(|| password.clone());
        let matches = ticket.verify(typed, hash.clone(), fill_to).await? && refusal.is_none();
        Ok(Compared { matches, refusal, overlong: is_cut, pepper_id, hash })
    }

    /// Writes a refusal down before it is answered, and the lock that this attempt led to.
    pub(super) async fn refuse(&self, call: &Call, event: Event, reserved: &Reserved) -> Result<()> {
        let mut event = event.tenant(reserved.tenant_id);
        if let Some(user) = reserved.user_id {
            event = event.target("user", user);
        }
        let is_last = reserved.attempt.is_some_and(|attempt| attempt >= self.config.passwords.max_attempts);
        let locked = reserved.user_id.filter(|_| is_last).map(|user| self.locked(call, user, reserved));
        let event = self.recorder.prepare(event);
        login::login_refuse(&self.db, &event, locked.as_ref()).await?;
        self.recorder.nudge();
        Ok(())
    }

    fn locked(&self, call: &Call, user: Uuid, reserved: &Reserved) -> crate::audit::Prepared {
        let what = if reserved.known_device { EventType::UserDeviceLocked } else { EventType::UserLocked };
        let event = Event::by_system(what, call.correlation_id).target("user", user);
        tracing::warn!(event = "user_locked", user_id = %user, known_device = reserved.known_device, "too many failures");
        self.recorder.prepare(event.tenant(reserved.tenant_id).reason("too_many_failures"))
    }
}

/// The hash to compare with, or why there is none.
fn usable(reserved: &Reserved) -> (Option<BcryptHash>, Option<&'static str>) {
    match reserved.password_hash.as_deref().map(BcryptHash::parse) {
        Some(Ok(hash)) => (Some(hash), reserved.refusal),
        Some(Err(Unusable::TooCostly)) => (None, Some("hash_too_costly")),
        Some(Err(Unusable::Malformed)) => (None, Some("hash_malformed")),
        None => (None, reserved.refusal.or(Some("no_password"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_hash_that_must_not_be_computed_is_refused_like_any_other() {
        let begun = |hash: Option<&str>, refusal| Reserved {
            user_id: Some(Uuid::nil()),
            tenant_id: None,
            password_hash: hash.map(str::to_owned),
            pepper_id: None,
            set_here: false,
            attempt: Some(1),
            known_device: false,
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
