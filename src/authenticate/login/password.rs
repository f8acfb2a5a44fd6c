//! Signing in with e-mail address or username and password.
//!
//! Two round trips with the hash between them: the first finds the user and reserves the attempt, before anything is
//! computed; the second begins the session, asks for the second factor, or writes down the refusal. A refusal costs the
//! same and says the same whatever its reason, and is answered at fixed intervals, so that neither text nor work nor
//! time tells one from another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use data_encoding::HEXLOWER;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Login;
use super::attempt::ToItsEnd;
use super::proof::Compared;
use super::store::login::{self as store, Begin, Begun, Finish, Finished, Reserved};
use crate::access::{Call, names};
use crate::audit::{self, Event, EventType};
use crate::authenticate::login::store::types::NewChallenge;
use crate::authenticate::{Challenge, Factor, Outcome, SignedIn, invalid_credentials, tenant_required};
use crate::correlation;
use crate::credential::hashing::Permit;
use crate::credential::{Charge, MAX_PASSWORD, RateLimitBucket, network};
use crate::fault::{Fault, Reason, Result};
use crate::metrics::{LoginMethod, LoginOutcome};
use crate::session::{PendingSession, SessionRequest, no_tenant};
use crate::token::opaque;

/// Prefix of the secrets that a login is completed with.
pub(in crate::authenticate) const CHALLENGE_PREFIX: &str = "sidle_mc_";

/// A call of `AuthenticatePassword`.
pub(in crate::authenticate) struct Attempt {
    /// E-mail address or username.
    pub identifier: String,
    pub password: Zeroizing<String>,
    /// What the known device is looked up by that the call says it comes from.
    pub known_device: Option<[u8; 32]>,
    /// What else is asked for.
    pub session_request: SessionRequest,
}

/// The password that was right, as it was kept when it was compared.
struct Stored {
    user: Uuid,
    hash: String,
    /// Stays when the same password is hashed anew.
    version: i64,
}

impl Login {
    /// Signs a user in, or asks for the second factor.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for every reason that would help somebody who guesses; after the right password also
    /// `NO_TENANT` and `TENANT_REQUIRED`; `OVERLOADED` and `THROTTLED` before anything is done.
    pub(in crate::authenticate) async fn password(&self, call: &Call, attempt: Attempt) -> Result<Outcome> {
        let came_in = self.context.clock.instant();
        let answer = self.run_with_permit(call, attempt).await;
        let outcome = match answer.as_ref().map_err(Fault::reason) {
            Ok(Outcome::SignedIn(_)) => LoginOutcome::Success,
            Ok(Outcome::MfaRequired(_)) => LoginOutcome::SecondFactor,
            Err(Reason::InvalidCredentials | Reason::NoTenant | Reason::TenantRequired) => LoginOutcome::Refused,
            Err(Reason::Overloaded) => LoginOutcome::Shed,
            Err(Reason::Throttled) => LoginOutcome::Throttled,
            Err(_) => LoginOutcome::Failed,
        };
        self.metrics.login(LoginMethod::Password, outcome);
        self.pad_failure_latency(came_in, answer).await
    }

    /// Waits for a turn, which the caller may leave; from then on the attempt is made to its end in any case, so that
    /// nobody guesses without its being counted and recorded.
    async fn run_with_permit(&self, call: &Call, attempt: Attempt) -> Result<Outcome> {
        // In memory, before the call holds anything that others wait for; the exact count is taken with the attempt.
        let charge = self.hasher.charges().address(call, RateLimitBucket::Password)?;
        let key = names::identifier_key(&attempt.identifier);
        // A known device has a line of its own: whoever guesses at its user must not keep it waiting.
        let device = attempt.known_device.map(|device| HEXLOWER.encode(&device)).unwrap_or_default();
        let identifier_permit = self.identifiers.acquire(&format!("{key} {device}")).await?;
        let permit = self.hasher.admit_comparison(&charge)?;
        let call = call.clone();
        self.to_its_end(|room, end| async move {
            let answer = room.attempt(&end, &call, &key, attempt, charge, permit).await;
            drop(identifier_permit);
            answer
        })
        .await
    }

    async fn attempt(
        &self,
        end: &ToItsEnd,
        call: &Call,
        key: &str,
        mut attempt: Attempt,
        charge: Arc<Charge>,
        permit: Permit,
    ) -> Result<Outcome> {
        let begin = Begin {
            key,
            now: self.context.now(),
            passwords: &self.config.passwords,
            known_device: attempt.known_device.as_ref(),
            network: call.address.map(network),
            limit: RateLimitBucket::Password.limit(&self.config.throttle),
        };
        let reserved = match store::login_begin(&self.db, end, begin).await? {
            Begun::Reserved(reserved) => reserved,
            Begun::Throttled(wait) => return Err(self.hasher.charges().throttled(wait)),
        };
        let compared = self.compare(permit, &reserved, &attempt.password).await?;
        match reserved {
            Reserved { user_id: Some(user), password_hash: Some(hash), password_version: Some(version), .. }
                if compared.matches =>
            {
                let stored = Stored { user, hash, version };
                // Not before: a slug that is looked up for a stranger tells which tenants there are.
                attempt.session_request.tenant_id = self.sessions.asked_tenant(&attempt.session_request).await?;
                let outcome = self.finish(call, &attempt, &stored, &compared).await?;
                self.later(call, charge, stored, &compared, &outcome, attempt.password);
                Ok(outcome)
            }
            reserved => {
                let reason = compared.refusal.unwrap_or("wrong_password");
                let mut event = refused(call).reason(reason);
                // What somebody typed who is nobody here may be anything, a password too, and is kept by nobody's key.
                if reserved.user_id.is_some() {
                    event = event.personal("identifier", &attempt.identifier);
                }
                self.refuse(call, event, &reserved).await?;
                let user_id = reserved.user_id.map(tracing::field::display);
                let address = call.address.map(tracing::field::display);
                tracing::info!(event = "user_login_refused", method = "password", user_id, reason, address);
                Err(invalid_credentials())
            }
        }
    }

    async fn finish(&self, call: &Call, attempt: &Attempt, stored: &Stored, compared: &Compared) -> Result<Outcome> {
        let user = stored.user;
        let pending = self.sessions.session_factory.open(call, &attempt.session_request);
        let device = self.new_device();
        let (challenge, record) = self.new_challenge(attempt);
        let offer = self.enrolment.offer(call, user);
        let by_user = |event| Event::new(event, call).by_user(user).target("user", user).detail("method", "password");
        let event = by_user(EventType::UserAuthenticated).session(pending.session_id);
        let event = if compared.overlong { event.detail("overlong", true) } else { event };
        let finish = Finish {
            user,
            password_version: stored.version,
            tenant: attempt.session_request.tenant_id,
            now: self.context.now(),
            session: &pending.record,
            event: self.recorder.prepare(event),
            refused: self
                .recorder
                .prepare(refused(call).target("user", user).personal("identifier", &attempt.identifier)),
            known_device: attempt.known_device.as_ref(),
            new_device: device.record,
            overlong: compared.overlong,
            challenge: record,
            challenged: self.recorder.prepare(by_user(EventType::UserSecondFactorRequired)),
            offer: offer.as_ref(),
        };
        let (finished, invited) = store::login_finish(&self.db, finish).await?;
        self.recorder.wake();
        if let Finished::MfaRequired { recovery_codes } = finished {
            let factors = [Factor::Totp].into_iter().chain(recovery_codes.then_some(Factor::RecoveryCode)).collect();
            return Ok(Outcome::MfaRequired(Challenge { factors, ..challenge }));
        }
        let mut signed_in = self.signed_in(pending, finished, device.token)?;
        signed_in.enrolment = self.enrolment.accepted(offer, invited);
        let (user_id, session_id) = (signed_in.user.user_id, signed_in.session_id);
        tracing::info!(event = "user_authenticated", method = "password", %user_id, %session_id);
        Ok(Outcome::SignedIn(Box::new(signed_in)))
    }

    /// The tokens of a login that the database completed, with the secret of a device that was not known yet.
    ///
    /// # Errors
    /// Why the database did not complete it.
    pub(in crate::authenticate) fn signed_in(
        &self,
        pending: PendingSession,
        finished: Finished,
        new_device: Zeroizing<String>,
    ) -> Result<SignedIn> {
        let (rights, user, known_device) = match finished {
            Finished::SignedIn { rights, user, known_device } => (rights, user, known_device),
            Finished::Refused | Finished::MfaRequired { .. } => return Err(invalid_credentials()),
            Finished::NoTenant => return Err(no_tenant()),
            Finished::TenantRequired(choices) => return Err(tenant_required(&choices)),
        };
        let session_id = pending.session_id;
        let tokens = self.sessions.session_factory.tokens(pending, user.user_id, &rights)?;
        let (tenant_id, must_change_password) = (rights.tenant_id, rights.must_change_password);
        let known_device_token = (!known_device).then_some(new_device);
        Ok(SignedIn { tokens, session_id, tenant_id, user, must_change_password, known_device_token, enrolment: None })
    }

    /// A challenge, should the user have a second factor, and what the database is to keep of it: what was asked for, to
    /// go on with, and the known device, whose failures the guesses at the second factor are then counted with.
    fn new_challenge(&self, attempt: &Attempt) -> (Challenge, NewChallenge) {
        let token = opaque::mint(CHALLENGE_PREFIX, &self.context.entropy);
        let lifetime = TimeDelta::from_std(self.config.mfa.challenge_lifetime).unwrap_or_default();
        let expires_at = self.context.now() + lifetime;
        let record = NewChallenge {
            challenge_id: self.context.new_id(),
            challenge_hash: opaque::digest(token.as_bytes()).to_vec(),
            known_device_hash: attempt.known_device.map(Vec::from),
            request: attempt.session_request.clone().into(),
            expires_at,
        };
        (Challenge { token, expires_at, factors: Vec::new() }, record)
    }

    /// What is done with a password that was right, once the answer is on its way: carries it over to Kanidm, and hashes
    /// anew what is weaker than today or has another pepper.
    fn later(
        &self,
        call: &Call,
        charge: Arc<Charge>,
        stored: Stored,
        compared: &Compared,
        outcome: &Outcome,
        password: Zeroizing<String>,
    ) {
        // What is beyond 72 bytes of a hash without pepper was never compared, and must not become part of the password.
        if compared.overlong {
            return;
        }
        let pepper = self.hasher.peppers().current();
        let is_of_today = !compared.is_weaker_than(self.hasher.cost()) && compared.pepper_id == pepper;
        let rehashes = !is_of_today && (pepper.is_some() || password.len() <= MAX_PASSWORD);
        let carries = self.enrolment.carries_over(outcome);
        if !rehashes && !carries {
            return;
        }
        let (room, call) = (self.clone(), call.clone());
        correlation::spawn(async move {
            if carries {
                room.enrolment.carry_over(&call, stored.user, stored.version, &password).await;
            }
            if rehashes {
                room.rehash(&call, &charge, &stored, &password).await;
            }
        });
    }

    async fn rehash(&self, call: &Call, charge: &Arc<Charge>, stored: &Stored, password: &Zeroizing<String>) {
        let user = stored.user;
        let renewed = async {
            let new = self.hasher.rehash(charge, password).await?;
            let event = Event::by_system(EventType::UserPasswordRehashed, call.correlation_id);
            let event = event.target("user", user).detail("cost", new.cost).detail("pepper_id", new.pepper_id);
            store::replace_hash(&self.db, &self.recorder, user, &stored.hash, &new, event).await
        };
        // There will be another login.
        if let Err(fault) = renewed.await {
            tracing::info!(event = "password_not_rehashed", %fault, user_id = %user);
        }
    }

    /// Holds a refusal of credentials back until the next multiple of the failure latency quantum since the call came in.
    pub(in crate::authenticate) async fn pad_failure_latency<T>(
        &self,
        came_in: Instant,
        answer: Result<T>,
    ) -> Result<T> {
        if answer.as_ref().is_err_and(|fault| fault.reason() == Reason::InvalidCredentials) {
            let passed = self.context.clock.instant().saturating_duration_since(came_in);
            tokio::time::sleep(until_release(passed, self.config.passwords.failure_latency_quantum)).await;
        }
        answer
    }
}

fn refused(call: &Call) -> Event {
    Event::new(EventType::UserLoginRefused, call).outcome(audit::Outcome::Refused).detail("method", "password")
}

fn until_release(passed: Duration, quantum: Duration) -> Duration {
    let (passed, quantum) = (passed.as_micros(), quantum.as_micros());
    let wait = passed.checked_rem(quantum).map_or(0, |into| quantum - into);
    Duration::from_micros(u64::try_from(wait).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_leave_at_multiples_of_the_quantum() {
        let quantum = Duration::from_millis(250);
        for (passed, wait) in [(0, 250), (1, 249), (249, 1), (250, 250), (251, 249), (760, 240)] {
            assert_eq!(until_release(Duration::from_millis(passed), quantum), Duration::from_millis(wait), "{passed}");
        }
        assert_eq!(until_release(Duration::from_millis(7), Duration::ZERO), Duration::ZERO);
    }
}
