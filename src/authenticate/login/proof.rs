//! Comparing a password with what is kept of it: after an attempt was reserved, with as much work as any other, and with
//! the refusal written down before it is answered. Also for those who are signed in and show their password once more.

use std::sync::Arc;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::Login;
use super::attempt::ToItsEnd;
use super::store::login::Reserved;
use super::store::password as store;
use super::store::types::AttemptRefusal;
use crate::access::Call;
use crate::audit::{Event, EventType, Outcome};
use crate::authenticate::invalid_credentials;
use crate::credential::Charge;
use crate::credential::bcrypt_hash::{BcryptHash, MAX_COST, MAX_PASSWORD, Unusable};
use crate::credential::hashing::Permit;
use crate::fault::Result;

/// A password that was compared.
pub(in crate::authenticate) struct Compared {
    pub matches: bool,
    /// Why it cannot match, for the record.
    pub refusal: Option<&'static str>,
    /// Whether more was typed than the hash was made of.
    pub overlong: bool,
    /// The pepper of the hash.
    pub pepper_id: Option<i16>,
    hash: Option<BcryptHash>,
}

/// A password that was shown by a signed-in user: which one it is.
pub(in crate::authenticate) struct Shown {
    pub password_version: i64,
}

impl Compared {
    /// Whether today one would hash differently.
    pub fn is_weaker_than(&self, cost: u32) -> bool {
        self.hash.as_ref().is_some_and(|hash| hash.is_weaker_than(cost))
    }
}

impl Login {
    /// Has a signed-in user show their password once more. Charged to them; counted, locked and refused like a login.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for every reason, padded to the failure latency quantum; `THROTTLED`, `OVERLOADED`.
    pub async fn check_password(&self, call: &Call, user: Uuid, password: Zeroizing<String>) -> Result<()> {
        let charge = self.hasher.charges().principal(user)?;
        self.show_password(call, &charge, user, password).await.map(|_| ())
    }

    /// As [`Self::check_password`] for a call that was charged, with the password that was right.
    pub(in crate::authenticate) async fn show_password(
        &self,
        call: &Call,
        charge: &Arc<Charge>,
        user: Uuid,
        password: Zeroizing<String>,
    ) -> Result<Shown> {
        let came_in = self.context.clock.instant();
        let answer = self.verify_password_unpadded(call, charge, user, password).await;
        self.pad_failure_latency(came_in, answer).await
    }

    /// As [`Self::show_password`], for callers that pad the refusal to the failure latency quantum themselves.
    pub(in crate::authenticate) async fn verify_password_unpadded(
        &self,
        call: &Call,
        charge: &Arc<Charge>,
        user: Uuid,
        password: Zeroizing<String>,
    ) -> Result<Shown> {
        let identifier_permit = self.identifiers.acquire(&user.to_string()).await?;
        let permit = self.hasher.admit_comparison(charge)?;
        let call = call.clone();
        self.to_its_end(|room, end| async move {
            let answer = room.compare_shown(&end, &call, user, &password, permit).await;
            drop(identifier_permit);
            answer
        })
        .await
    }

    async fn compare_shown(
        &self,
        end: &ToItsEnd,
        call: &Call,
        user: Uuid,
        password: &Zeroizing<String>,
        permit: Permit,
    ) -> Result<Shown> {
        let (now, device) = (self.context.now(), call.known_device.as_ref());
        let reserved = store::proof_begin(&self.db, end, user, now, &self.config.passwords, device).await?;
        let compared = self.compare(permit, &reserved, password).await?;
        if let Some(password_version) = reserved.password_version.filter(|_| compared.matches) {
            // Given back and no more: the holder of a session must not gain guesses at other secrets.
            store::refund(&self.db, user, device.filter(|_| reserved.known_device), now).await?;
            return Ok(Shown { password_version });
        }
        let reason = compared.refusal.unwrap_or("wrong_password");
        let event = Event::new(EventType::UserReauthenticationFailed, call).outcome(Outcome::Refused).reason(reason);
        self.refuse(call, event.detail("method", "password"), &reserved).await?;
        let address = call.address.map(tracing::field::display);
        tracing::info!(event = "user_reauthentication_failed", method = "password", user_id = %user, reason, address);
        Err(invalid_credentials())
    }

    /// Compares a password with what was reserved for it. A refusal does as much work as the most expensive hash in use.
    pub(in crate::authenticate) async fn compare(
        &self,
        permit: Permit,
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
        // The highest cost of any user: less work would reveal that a user is not among those who have it.
        let fill_to = self.hasher.cost().max(reserved.highest_cost).min(MAX_COST);
        self.hasher.dearest(fill_to);
        let typed = mixed.unwrap_or_else(|| password.clone());
        let matches = permit.verify(typed, hash.clone(), fill_to).await? && refusal.is_none();
        Ok(Compared { matches, refusal, overlong: is_cut, pepper_id, hash })
    }
}

/// The hash to compare with, or why there is none.
fn usable(reserved: &Reserved) -> (Option<BcryptHash>, Option<&'static str>) {
    let refusal = reserved.refusal.map(AttemptRefusal::as_str);
    match reserved.password_hash.as_deref().map(BcryptHash::parse) {
        Some(Ok(hash)) => (Some(hash), refusal),
        Some(Err(Unusable::TooCostly)) => (None, Some("hash_too_costly")),
        Some(Err(Unusable::Malformed)) => (None, Some("hash_malformed")),
        None => (None, refusal.or(Some(AttemptRefusal::NoPassword.as_str()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_hash_that_must_not_be_computed_is_refused_like_any_other() {
        let begun = |hash: Option<&str>, refusal| Reserved {
            user_id: Some(Uuid::nil()),
            password_hash: hash.map(str::to_owned),
            password_version: Some(1),
            attempt: Some(1),
            refusal,
            highest_cost: 4,
            ..Reserved::default()
        };
        let costly = "$2b$31$abcdefghijklmnopqrstuu9e8nLPmmFoAJChRsFWf8OPekU0X1g4y";
        assert_eq!(usable(&begun(Some(costly), None)).1, Some("hash_too_costly"));
        assert_eq!(usable(&begun(Some("!"), None)).1, Some("hash_malformed"));
        assert_eq!(usable(&begun(None, Some(AttemptRefusal::KanidmOnly))).1, Some("kanidm_only"));
        assert_eq!(usable(&begun(None, None)).1, Some("no_password"));
    }
}
