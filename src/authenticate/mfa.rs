//! Completing a login with a second factor. The right password left a challenge; whoever answers it guesses at the same
//! count of attempts as at the password, from whichever replica, and gets a session from the same function.

use serde::Deserialize;
use zeroize::Zeroizing;

use super::password::CHALLENGE_PREFIX;
use super::second_factor::Typed;
use super::store::factors::{self as store, MfaFinish, Waiting};
use super::{Authenticate, Lane, SignedIn, invalid_credentials};
use crate::access::Call;
use crate::audit::{self, Event, EventType};
use crate::fault::{Fault, Reason, Result};
use crate::mail::{Kind, Message};
use crate::metrics::{LoginMethod, LoginOutcome};
use crate::session::{Wish, opaque};

/// What `AuthenticatePassword` kept of its request.
#[derive(Deserialize)]
struct Kept {
    wish: Wish,
}

impl Authenticate {
    /// Completes a login.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for every reason; after the right code also `NO_TENANT` and `TENANT_REQUIRED`; `THROTTLED`.
    pub(super) async fn complete_mfa(&self, call: &Call, token: &Zeroizing<String>, typed: Typed) -> Result<SignedIn> {
        let came_in = self.context.clock.instant();
        self.throttle(call, Lane::SecondFactor).await?;
        let answer = self.answer_challenge(call, token, typed).await;
        let outcome = match answer.as_ref().map_err(Fault::reason) {
            Ok(_) => LoginOutcome::Success,
            Err(Reason::InvalidCredentials | Reason::NoTenant | Reason::TenantRequired) => LoginOutcome::Refused,
            Err(_) => LoginOutcome::Failed,
        };
        self.metrics.login(LoginMethod::SecondFactor, outcome);
        self.on_the_grid(came_in, answer).await
    }

    async fn answer_challenge(&self, call: &Call, token: &str, typed: Typed) -> Result<SignedIn> {
        if !opaque::is_plausible(CHALLENGE_PREFIX, token) {
            return Err(invalid_credentials());
        }
        let challenge = opaque::digest(token);
        let now = self.context.now();
        let waiting = store::mfa_begin(&self.db, &challenge, now, &self.config.passwords).await?;
        let Some(user) = waiting.reserved.user_id else {
            // Nobody's: there is no account to record it for, and no guess that it could have been.
            tracing::info!(event = "user_login_refused", method = "second_factor", reason = "unknown_challenge");
            return Err(invalid_credentials());
        };
        let refused = || Event::new(EventType::UserLoginRefused, call).detail("method", "password");
        let refusal = match &waiting {
            Waiting { reserved, totp: Some(totp), request: Some(request) } if reserved.refusal.is_none() => {
                match self.read_code(user, totp, &typed)? {
                    None => "wrong_code",
                    Some(spend) => {
                        let kept = Kept::deserialize(request).map_err(Fault::internal)?;
                        match self.finish_mfa(call, &challenge, user, &spend, &typed, kept.wish).await? {
                            Ok(signed_in) => return Ok(signed_in),
                            Err(refusal) => refusal,
                        }
                    }
                }
            }
            waiting => waiting.reserved.refusal.unwrap_or("no_second_factor"),
        };
        self.refuse_code(call, refused(), &typed, &waiting.reserved, refusal).await?;
        Err(invalid_credentials())
    }

    async fn finish_mfa(
        &self,
        call: &Call,
        challenge: &[u8; 32],
        user: uuid::Uuid,
        spend: &store::Spend,
        typed: &Typed,
        wish: Wish,
    ) -> Result<std::result::Result<SignedIn, &'static str>> {
        let opening = self.sessions.opener.open(call, &wish);
        let (device, factor) = (self.new_device(), typed.factor().as_str());
        let by_user = |event| Event::new(event, call).by_user(user).target("user", user);
        let method = |event: Event| event.detail("method", "password").detail("factor", factor);
        let event = method(by_user(EventType::UserAuthenticated)).session(opening.session_id);
        let refused = Event::new(EventType::UserLoginRefused, call).outcome(audit::Outcome::Refused);
        let offer = self.enrolment.offer(call, user);
        let finish = MfaFinish {
            challenge,
            user,
            spend,
            tenant: wish.tenant_id,
            now: self.context.now(),
            session: opening.record(),
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
        self.recorder.nudge();
        self.outbox.nudge();
        let mut signed_in = self.signed_in(opening, finished, device.token)?;
        signed_in.enrolment = self.enrolment.accepted(offer, invited.as_deref());
        let session_id = signed_in.session_id;
        tracing::info!(event = "user_authenticated", method = "second_factor", user_id = %user, %session_id);
        Ok(Ok(signed_in))
    }
}
