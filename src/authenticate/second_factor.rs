//! Showing a second factor: an attempt is reserved, the code computed, and what was right is spent, once, in one
//! transaction with what it is shown for. Attempts are counted with those at the password, whichever way they come.

use uuid::Uuid;
use zeroize::Zeroizing;

use super::store::factors::{self as store, SealedTotp, Spend};
use super::store::login::Reserved;
use super::totp::{Code, Totp};
use super::{Authenticate, Factor, invalid_credentials, recovery_codes};
use crate::access::Call;
use crate::audit::{Event, EventType, Outcome};
use crate::db::{Scope, Tx};
use crate::fault::{Fault, Reason, Result};
use crate::mail::{Kind, Message};
use crate::seal::Place;

/// A second factor as somebody typed it.
pub(super) enum Typed {
    Totp(Zeroizing<String>),
    RecoveryCode(Zeroizing<String>),
}

/// What a code is shown for, and how a refusal of it is recorded.
pub(super) struct Purpose {
    /// Whether it is of the application that is being enrolled.
    pub pending: bool,
    pub refused: Event,
}

impl Typed {
    /// A code of either kind: six digits are an application's.
    pub fn of_either_kind(typed: Zeroizing<String>) -> Self {
        if Code::parse(&typed).is_some() { Self::Totp(typed) } else { Self::RecoveryCode(typed) }
    }

    pub fn factor(&self) -> Factor {
        match self {
            Self::Totp(_) => Factor::Totp,
            Self::RecoveryCode(_) => Factor::RecoveryCode,
        }
    }
}

impl Factor {
    /// Its name in the database and in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Totp => "totp",
            Self::RecoveryCode => "recovery_code",
        }
    }
}

/// Where an application's secret lies.
pub(super) fn place(user: Uuid) -> Place {
    Place { table: "user_totp", column: "secret", row: user }
}

impl Authenticate {
    /// Has a user who has enrolled a second factor show it: a code of the application, or a recovery code. Nothing is asked
    /// of others. Counted, locked and refused like a login.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for every reason, on the grid.
    pub async fn check_second_factor(&self, call: &Call, user: Uuid, code: Zeroizing<String>) -> Result<()> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let asked = store::has_totp(&mut tx, user).await?;
        tx.commit().await?;
        if !asked {
            return Ok(());
        }
        let refused = Event::new(EventType::UserProofRefused, call);
        let purpose = Purpose { pending: false, refused };
        let (tx, _) = self.show_code(call, user, Typed::of_either_kind(code), purpose).await?;
        tx.commit().await
    }

    /// Spends the code that a user shows, and gives the transaction in which it is spent: committing it is left to whoever
    /// adds what the code was shown for. The user is locked in it.
    pub(super) async fn show_code(
        &self,
        call: &Call,
        user: Uuid,
        typed: Typed,
        purpose: Purpose,
    ) -> Result<(Tx, Spend)> {
        let came_in = self.context.clock.instant();
        let answer = self.spend_code(call, user, typed, purpose).await;
        self.on_the_grid(came_in, answer).await
    }

    /// As [`Self::show_code`], for whoever holds the refusal back until the next point of the grid by themselves.
    pub(super) async fn spend_code(
        &self,
        call: &Call,
        user: Uuid,
        typed: Typed,
        purpose: Purpose,
    ) -> Result<(Tx, Spend)> {
        let (now, pending) = (self.context.now(), purpose.pending);
        let (asked, device) = ((user, pending), call.known_device.as_ref());
        let (reserved, totp) = store::begin(&self.db, asked, now, &self.config.passwords, device).await?;
        if pending && reserved.refusal == Some("no_second_factor") {
            return Err(factor_state("not_enrolling", "No enrolment is waiting for its first code."));
        }
        let refusal = match (reserved.refusal, totp) {
            (None, Some(totp)) => match self.read_code(user, &totp, &typed)? {
                Some(spend) => {
                    let mut tx = self.db.begin(Scope::Platform).await?;
                    store::lock(&mut tx, user).await?.ok_or_else(invalid_credentials)?;
                    let counts = match &spend {
                        Spend::Totp { totp_id, step } if pending => {
                            store::confirm(&mut tx, user, *totp_id, *step, now).await?
                        }
                        spend => store::spend(&mut tx, user, spend, now).await?,
                    };
                    if counts {
                        // Given back and no more: who holds a session must not make room for guesses at other secrets.
                        store::refund(&mut tx, user, device.filter(|_| reserved.known_device)).await?;
                        self.tell_of_recovery_code(&mut tx, call, user, &spend).await?;
                        return Ok((tx, spend));
                    }
                    if typed.factor() == Factor::Totp { "replayed" } else { "wrong_code" }
                }
                None => "wrong_code",
            },
            (refusal, _) => refusal.unwrap_or("no_second_factor"),
        };
        self.refuse_code(call, purpose.refused, &typed, &reserved, refusal).await?;
        Err(invalid_credentials())
    }

    /// What is to be spent if a code is right; for a recovery code that is for the database to say.
    pub(super) fn read_code(&self, user: Uuid, totp: &SealedTotp, typed: &Typed) -> Result<Option<Spend>> {
        match typed {
            Typed::Totp(typed) => {
                let Some(code) = Code::parse(typed) else { return Ok(None) };
                let secret = self.keyring.open(place(user), &totp.secret)?;
                let step = Totp::from_secret(secret).matching_step(code, self.context.now().timestamp());
                Ok(step.map(|step| Spend::Totp { totp_id: totp.totp_id, step }))
            }
            Typed::RecoveryCode(typed) => {
                Ok(recovery_codes::candidates(&self.keyring, user, typed).map(Spend::RecoveryCode))
            }
        }
    }

    /// Writes the refusal of a code down before it is answered, and the lock that it led to.
    pub(super) async fn refuse_code(
        &self,
        call: &Call,
        refused: Event,
        typed: &Typed,
        reserved: &Reserved,
        reason: &'static str,
    ) -> Result<()> {
        let factor = typed.factor().as_str();
        let event = refused.outcome(Outcome::Refused).reason(reason).detail("factor", factor);
        self.refuse(call, event, reserved).await?;
        tracing::info!(event = "user_second_factor_refused", factor, reason);
        Ok(())
    }

    /// That a recovery code was used is worth knowing to whoever did not use it.
    async fn tell_of_recovery_code(&self, tx: &mut Tx, call: &Call, user: Uuid, spend: &Spend) -> Result<()> {
        if matches!(spend, Spend::Totp { .. }) {
            return Ok(());
        }
        let left = store::codes_left(tx, user).await?;
        let event = Event::new(EventType::UserRecoveryCodeUsed, call).target("user", user).detail("left", left);
        self.recorder.record(tx, event).await?;
        self.outbox.enqueue(tx, Message::to_user(Kind::RecoveryCodeUsed, user)).await
    }
}

/// The refusal of a call for which the caller's second factor is in the wrong state.
pub(super) fn factor_state(state: &'static str, message: &'static str) -> Fault {
    Fault::new(Reason::FactorState, message).with("state", state)
}
