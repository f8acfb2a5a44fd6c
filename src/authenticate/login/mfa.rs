//! Completing a login with a second factor. The right password left a challenge; its answers are counted with the
//! attempts at the password, from whichever replica, and the session comes from the same function.

use zeroize::Zeroizing;

use super::Login;
use super::password::CHALLENGE_PREFIX;
use super::second_factor::{Guess, Right, Typed};
use super::store::factors::{self as store, MfaFinish};
use super::store::types::AttemptRefusal;
use crate::access::Call;
use crate::audit::{self, Event, EventType};
use crate::authenticate::{SignedIn, invalid_credentials};
use crate::credential::RateLimitBucket;
use crate::fault::{Fault, Reason, Result};
use crate::mail::{Kind, Message};
use crate::metrics::{LoginMethod, LoginOutcome};
use crate::token::opaque;

impl Login {
    /// Completes a login.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for every reason; after the right code also `NO_TENANT` and `TENANT_REQUIRED`; `THROTTLED`.
    pub(in crate::authenticate) async fn complete_mfa(
        &self,
        call: &Call,
        token: &Zeroizing<String>,
        typed: Typed,
    ) -> Result<SignedIn> {
        let came_in = self.context.clock.instant();
        self.throttle(call, RateLimitBucket::SecondFactor).await?;
        let answer = self.answer_challenge(call, token, typed).await;
        let outcome = match answer.as_ref().map_err(Fault::reason) {
            Ok(_) => LoginOutcome::Success,
            Err(Reason::InvalidCredentials | Reason::NoTenant | Reason::TenantRequired) => LoginOutcome::Refused,
            Err(_) => LoginOutcome::Failed,
        };
        self.metrics.login(LoginMethod::SecondFactor, outcome);
        self.pad_failure_latency(came_in, answer).await
    }

    async fn answer_challenge(&self, call: &Call, token: &str, typed: Typed) -> Result<SignedIn> {
        if !opaque::is_plausible(CHALLENGE_PREFIX, token) {
            return Err(invalid_credentials());
        }
        let challenge = opaque::digest(token);
        let refused = Event::new(EventType::UserLoginRefused, call).detail("method", "password");
        let finish = move |login: Self, call: Call, right: Right| async move {
            login.finish_mfa(&call, &challenge, &right).await
        };
        self.guess_code(call, Guess::Login { challenge }, typed, refused, finish).await
    }

    async fn finish_mfa(
        &self,
        call: &Call,
        challenge: &[u8; 32],
        right: &Right,
    ) -> Result<std::result::Result<SignedIn, AttemptRefusal>> {
        let missing = || Fault::internal("mfa_challenges.request is missing");
        let (user, session_request) = (right.user, right.request.as_ref().ok_or_else(missing)?);
        let pending = self.sessions.session_factory.open(call, session_request);
        let (device, factor) = (self.new_device(), right.factor.as_str());
        let by_user = |event| Event::new(event, call).by_user(user).target("user", user);
        let method = |event: Event| event.detail("method", "password").detail("factor", factor);
        let event = method(by_user(EventType::UserAuthenticated)).session(pending.session_id);
        let refused = Event::new(EventType::UserLoginRefused, call).outcome(audit::Outcome::Refused);
        let offer = self.enrolment.offer(call, user);
        let finish = MfaFinish {
            challenge,
            user,
            spend: &right.spend,
            tenant: session_request.tenant_id,
            now: self.context.now(),
            session: &pending.record,
            event: self.recorder.prepare(event),
            refused: self.recorder.prepare(method(refused.target("user", user))),
            new_device: device.record,
            code_event: self.recorder.prepare(by_user(EventType::UserRecoveryCodeUsed)),
            mail: self.outbox.prepare(Message::to_user(Kind::RecoveryCodeUsed, user)),
            offer: offer.as_ref(),
        };
        let (finished, invited) = match store::mfa_finish(&self.db, finish).await? {
            Ok(finished) => finished,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.recorder.wake();
        self.outbox.wake();
        let mut signed_in = self.signed_in(pending, finished, device.token)?;
        signed_in.enrolment = self.enrolment.accepted(offer, invited);
        let session_id = signed_in.session_id;
        tracing::info!(event = "user_authenticated", method = "second_factor", user_id = %user, %session_id);
        Ok(Ok(signed_in))
    }
}
