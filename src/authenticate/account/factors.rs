//! One's own second factor: enrolling an authenticator application, removing it, recovery codes. Every change needs a
//! fresh proof by a factor that is there already, ends what the old state let in, and notifies the user.

use chrono::{DateTime, Utc};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Account;
use super::step_up::person;
use super::store::users;
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::authenticate::login::Login;
use crate::authenticate::login::second_factor::{Purpose, Typed, factor_state, seal_context};
use crate::authenticate::login::store::factors::{self as store, SealedTotp, Standing};
use crate::credential::recovery_codes;
use crate::credential::totp::Totp;
use crate::db::{Scope, Tx};
use crate::fault::{Fault, Reason, Result};
use crate::mail::{Kind, Message};

const ENROLL: &str = "sidle.v1.AuthenticateService/EnrollTotp";
const DISABLE: &str = "sidle.v1.AuthenticateService/DisableTotp";
const REGENERATE: &str = "sidle.v1.AuthenticateService/RegenerateRecoveryCodes";

/// An enrolment that waits for its first code.
pub(in crate::authenticate) struct Enrolment {
    pub secret: Zeroizing<String>,
    pub uri: Zeroizing<String>,
    pub expires_at: DateTime<Utc>,
}

/// Recovery codes, as they are shown once.
pub(in crate::authenticate) type Codes = Vec<Zeroizing<String>>;

impl Account {
    /// Begins an enrolment; an unfinished one is given up for it.
    ///
    /// # Errors
    /// `STEP_UP_REQUIRED`, `USER_REQUIRED`, `INVALID_FACTOR_STATE`.
    pub(in crate::authenticate) async fn enroll_totp(&self, call: &Call) -> Result<Enrolment> {
        let (user, _) = person(call)?;
        let mut tx = self.db.begin(Scope::Platform).await?;
        let standing = standing(&mut tx, user).await?;
        if standing.has_totp {
            return Err(factor_state("enrolled", "An authenticator application is enrolled already."));
        }
        if !standing.has_password {
            return Err(factor_state("no_password", "A second factor guards a password, and the account has none."));
        }
        if standing.must_change_password {
            // The administrator who set that password may still know it.
            return Err(factor_state("password_change_required", "The password must be changed first."));
        }
        self.step_ups.require(&mut tx, call, ENROLL, None).await?;
        let (totp, totp_id) = (Totp::generate(&self.context.entropy), self.context.new_id());
        let secret = self.keyring.seal(&self.context.entropy, seal_context(user), totp.secret());
        let lifetime = self.config.mfa.enrolment_lifetime;
        let sealed = SealedTotp { totp_id, secret };
        let expires_at = store::enrol(&mut tx, user, &sealed, self.context.now(), lifetime).await?;
        self.record(&mut tx, call, EventType::UserTotpEnrolled, &standing, user, |event| event).await?;
        tx.commit().await?;
        Ok(Enrolment { secret: totp.base32(), uri: totp.uri(&self.config.mfa.issuer, &standing.email), expires_at })
    }

    /// Completes an enrolment with its first code. Says how many other sessions ended.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS`, counted like any other wrong code; `INVALID_FACTOR_STATE`, `USER_REQUIRED`, `THROTTLED`.
    pub(in crate::authenticate) async fn confirm_totp(
        &self,
        call: &Call,
        code: Zeroizing<String>,
    ) -> Result<(Codes, usize)> {
        let (user, session) = person(call)?;
        self.hasher.charges().principal(user)?;
        let refused = Event::new(EventType::UserReauthenticationFailed, call);
        let purpose = Purpose { user, pending: true, refused };
        let account = self.clone();
        let confirm = move |_: Login, call: Call, mut tx: Tx| async move {
            let standing = standing(&mut tx, user).await?;
            let codes = account.give_codes(&mut tx, user).await?;
            store::void_proofs(&mut tx, user).await?;
            let kinds = (EventType::UserTotpConfirmed, Kind::TotpEnabled);
            let ended = account.seal_change(tx, &call, kinds, &standing, (user, session)).await?;
            Ok::<_, Fault>((codes, ended))
        };
        self.login.show_code(call, Typed::Totp(code), purpose, confirm).await
    }

    /// Removes the authenticator application and the recovery codes. Says how many other sessions ended.
    ///
    /// # Errors
    /// `STEP_UP_REQUIRED`, `USER_REQUIRED`, `INVALID_FACTOR_STATE`.
    pub(in crate::authenticate) async fn disable_totp(&self, call: &Call) -> Result<usize> {
        let (user, session) = person(call)?;
        let (mut tx, standing) = self.enrolled(user).await?;
        self.step_ups.require(&mut tx, call, DISABLE, None).await?;
        store::remove(&mut tx, user).await?;
        let kinds = (EventType::UserTotpDisabled, Kind::TotpDisabled);
        self.seal_change(tx, call, kinds, &standing, (user, session)).await
    }

    /// Replaces the recovery codes.
    ///
    /// # Errors
    /// `STEP_UP_REQUIRED`, `USER_REQUIRED`, `INVALID_FACTOR_STATE`.
    pub(in crate::authenticate) async fn regenerate_recovery_codes(&self, call: &Call) -> Result<Codes> {
        let (user, _) = person(call)?;
        let (mut tx, standing) = self.enrolled(user).await?;
        self.step_ups.require(&mut tx, call, REGENERATE, None).await?;
        let codes = self.give_codes(&mut tx, user).await?;
        self.record(&mut tx, call, EventType::UserRecoveryCodesRegenerated, &standing, user, |event| event).await?;
        self.outbox.enqueue(&mut tx, Message::to_user(Kind::RecoveryCodesRegenerated, user)).await?;
        tx.commit().await?;
        Ok(codes)
    }

    /// A transaction in which a user who has an authenticator application is locked.
    async fn enrolled(&self, user: Uuid) -> Result<(Tx, Standing)> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let standing = standing(&mut tx, user).await?;
        if !standing.has_totp {
            return Err(factor_state("not_enrolled", "No authenticator application is enrolled."));
        }
        Ok((tx, standing))
    }

    async fn give_codes(&self, tx: &mut Tx, user: Uuid) -> Result<Codes> {
        let codes: Codes =
            (0..recovery_codes::COUNT).map(|_| recovery_codes::generate(&self.context.entropy)).collect();
        let digests: Option<Vec<_>> =
            codes.iter().map(|code| recovery_codes::digest(&self.keyring, user, code)).collect();
        let digests = digests.ok_or_else(|| Fault::internal("a recovery code does not read back"))?;
        let ids: Vec<Uuid> = codes.iter().map(|_| self.context.new_id()).collect();
        store::replace_codes(tx, user, &ids, &digests, self.context.now()).await?;
        Ok(codes)
    }

    /// Ends what came in under the old state of the factors, records the change, notifies the user, and commits.
    async fn seal_change(
        &self,
        mut tx: Tx,
        call: &Call,
        (event, notice): (EventType, Kind),
        standing: &Standing,
        (user, session): (Uuid, Uuid),
    ) -> Result<usize> {
        let ended = users::end_sessions(&mut tx, user, Some(session), self.context.now()).await?;
        self.record(&mut tx, call, event, standing, user, |event| event.detail("sessions", &ended)).await?;
        self.outbox.enqueue(&mut tx, Message::to_user(notice, user)).await?;
        tx.commit().await?;
        for session in &ended {
            self.sessions.revocations.end_session(*session);
        }
        Ok(ended.len())
    }

    async fn record(
        &self,
        tx: &mut Tx,
        call: &Call,
        event: EventType,
        standing: &Standing,
        user: Uuid,
        details: impl FnOnce(Event) -> Event,
    ) -> Result<()> {
        let event = Event::new(event, call).tenant(standing.tenant_id).target("user", user);
        self.recorder.record(tx, details(event)).await?;
        Ok(())
    }
}

async fn standing(tx: &mut Tx, user: Uuid) -> Result<Standing> {
    let gone = || Fault::new(Reason::Unauthenticated, "The account does not exist any more.");
    store::lock(tx, user).await?.ok_or_else(gone)
}
