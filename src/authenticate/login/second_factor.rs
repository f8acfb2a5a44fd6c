//! Showing a second factor: an attempt is reserved, the code computed, and what was right is spent, once, in one
//! transaction with what it is shown for. Attempts are counted with those at the password, whichever way they come, and
//! make each lock longer than the one before.

use uuid::Uuid;
use zeroize::Zeroizing;

use super::Login;
use super::attempt::ToItsEnd;
use super::store::factors::{self as store, Locking, SealedTotp, Spend, Waiting};
use super::store::login::Reserved;
use super::store::types::AttemptRefusal;
use crate::access::Call;
use crate::audit::{Event, EventType, Outcome};
use crate::authenticate::{Factor, invalid_credentials};
use crate::credential::recovery_codes;
use crate::credential::totp::{Code, Totp};
use crate::db::{Scope, Tx};
use crate::fault::{Fault, Reason, Result};
use crate::mail::{Kind, Message};
use crate::seal::SealContext;
use crate::session::SessionRequest;

/// A second factor as it was typed.
pub(in crate::authenticate) enum Typed {
    Totp(Zeroizing<String>),
    RecoveryCode(Zeroizing<String>),
}

/// Whose code is guessed at.
pub(in crate::authenticate) enum Guess {
    /// That of a known user: of the application that they have or, `pending`, of the one that they are enrolling.
    Own { user: Uuid, pending: bool },
    /// That of the user whose login waits under this challenge.
    Login { challenge: [u8; 32] },
}

/// A code that is right as far as that can be computed; what it is shown for spends it.
pub(in crate::authenticate) struct Right {
    pub user: Uuid,
    pub factor: Factor,
    pub spend: Spend,
    /// What the login asked for that waits.
    pub request: Option<SessionRequest>,
    /// The known device that the attempt was counted for.
    device: Option<[u8; 32]>,
}

/// What a code is shown for by a known user, and how a refusal of it is recorded.
pub(in crate::authenticate) struct Purpose {
    pub user: Uuid,
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

/// What an application's secret is sealed for.
pub(in crate::authenticate) fn seal_context(user: Uuid) -> SealContext {
    SealContext { table: "user_totp", column: "secret", row: user }
}

impl Login {
    /// Has a user who has enrolled a second factor show it: a code of the application, or a recovery code. Nothing is asked
    /// of others. Counted, locked and refused like a login.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for every reason, padded to the failure latency quantum.
    pub async fn check_second_factor(&self, call: &Call, user: Uuid, code: Zeroizing<String>) -> Result<()> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let asked = store::has_totp(&mut tx, user).await?;
        tx.commit().await?;
        if !asked {
            return Ok(());
        }
        let refused = Event::new(EventType::UserReauthenticationFailed, call);
        let purpose = Purpose { user, pending: false, refused };
        self.show_code(call, Typed::of_either_kind(code), purpose, |_, _, tx| tx.commit()).await
    }

    /// Spends the code that a user shows and does what it is shown for: in the transaction that it gets, in which the user
    /// is locked, and which is its to commit.
    pub(in crate::authenticate) async fn show_code<T, F>(
        &self,
        call: &Call,
        typed: Typed,
        purpose: Purpose,
        then: impl FnOnce(Self, Call, Tx) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let came_in = self.context.clock.instant();
        let answer = self.spend_code(call, typed, purpose, then).await;
        self.pad_failure_latency(came_in, answer).await
    }

    /// As [`Self::show_code`], for callers that pad the refusal to the failure latency quantum themselves.
    pub(in crate::authenticate) async fn spend_code<T, F>(
        &self,
        call: &Call,
        typed: Typed,
        purpose: Purpose,
        then: impl FnOnce(Self, Call, Tx) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let pending = purpose.pending;
        let guess = Guess::Own { user: purpose.user, pending };
        let right = move |room: Self, call: Call, right: Right| async move {
            match room.spend(&call, pending, &right).await? {
                Ok(tx) => then(room, call, tx).await.map(Ok),
                Err(refusal) => Ok(Err(refusal)),
            }
        };
        self.guess_code(call, guess, typed, purpose.refused, right).await
    }

    /// Counts, compares and records a guess at a second factor, to its end also if the client disconnects: the one way
    /// in which a code is shown. `right` spends a right code together with what it is shown for, or returns why it does
    /// not count after all, which is recorded like a wrong one.
    pub(in crate::authenticate) async fn guess_code<T, F>(
        &self,
        call: &Call,
        guess: Guess,
        typed: Typed,
        refused: Event,
        right: impl FnOnce(Self, Call, Right) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<std::result::Result<T, AttemptRefusal>>> + Send + 'static,
    {
        let call = call.clone();
        self.to_its_end(move |room, end| async move {
            let Waiting { reserved, totp, request } = room.reserve_guess(&end, &call, &guess).await?;
            let Some(user) = reserved.user_id else {
                // An unknown challenge: there is no account to record it for, and no guess that it could have been.
                let (reason, address) = ("unknown_challenge", call.address.map(tracing::field::display));
                tracing::info!(event = "user_login_refused", method = "second_factor", reason, address);
                return Err(invalid_credentials());
            };
            let pending = matches!(guess, Guess::Own { pending: true, .. });
            if pending && reserved.refusal == Some(AttemptRefusal::NoSecondFactor) {
                return Err(factor_state("not_enrolling", "No enrolment is waiting for its first code."));
            }
            let factor = typed.factor();
            let refusal = match (reserved.refusal, totp) {
                (None, Some(totp)) => match room.read_code(user, &totp, &typed)? {
                    Some(spend) => {
                        let device = call.known_device.filter(|_| reserved.known_device);
                        let found = Right { user, factor, spend, request, device };
                        match right(room.clone(), call.clone(), found).await? {
                            Ok(done) => return Ok(done),
                            Err(refusal) => refusal,
                        }
                    }
                    None => AttemptRefusal::WrongCode,
                },
                (refusal, _) => refusal.unwrap_or(AttemptRefusal::NoSecondFactor),
            };
            room.refuse_code(&call, user, refused, factor, &reserved, refusal).await?;
            Err(invalid_credentials())
        })
        .await
    }

    async fn reserve_guess(&self, end: &ToItsEnd, call: &Call, guess: &Guess) -> Result<Waiting> {
        let (db, now) = (&self.db, self.context.now());
        let locking = Locking { passwords: &self.config.passwords, longest: self.config.mfa.longest_lock };
        match guess {
            Guess::Login { challenge } => store::mfa_begin(db, end, challenge, now, locking).await,
            Guess::Own { user, pending } => {
                let device = call.known_device.as_ref();
                store::begin(db, end, (*user, *pending), now, locking, device).await
            }
        }
    }

    /// The transaction in which a right code was spent; or why it does not count.
    async fn spend(
        &self,
        call: &Call,
        pending: bool,
        right: &Right,
    ) -> Result<std::result::Result<Tx, AttemptRefusal>> {
        let (user, now) = (right.user, self.context.now());
        let mut tx = self.db.begin(Scope::Platform).await?;
        if store::lock(&mut tx, user).await?.is_none() {
            return Ok(Err(AttemptRefusal::Unknown));
        }
        let counts = match &right.spend {
            Spend::Totp { totp_id, step } if pending => store::confirm(&mut tx, user, *totp_id, *step, now).await?,
            spend => store::spend(&mut tx, user, spend, now).await?,
        };
        if !counts {
            let is_totp = right.factor == Factor::Totp;
            return Ok(Err(if is_totp { AttemptRefusal::Replayed } else { AttemptRefusal::WrongCode }));
        }
        // Given back and no more: the holder of a session must not gain guesses at other secrets.
        store::refund(&mut tx, user, right.device.as_ref(), now).await?;
        self.tell_of_recovery_code(&mut tx, call, user, &right.spend).await?;
        Ok(Ok(tx))
    }

    /// What is to be spent if a code is right; for a recovery code that is for the database to say.
    fn read_code(&self, user: Uuid, totp: &SealedTotp, typed: &Typed) -> Result<Option<Spend>> {
        match typed {
            Typed::Totp(typed) => {
                let Some(code) = Code::parse(typed) else { return Ok(None) };
                let secret = self.keyring.open(seal_context(user), &totp.secret)?;
                let step = Totp::from_secret(secret).matching_step(code, self.context.now().timestamp());
                Ok(step.map(|step| Spend::Totp { totp_id: totp.totp_id, step }))
            }
            Typed::RecoveryCode(typed) => {
                Ok(recovery_codes::candidates(&self.keyring, user, typed).map(Spend::RecoveryCode))
            }
        }
    }

    /// Writes the refusal of a code down before it is answered, with the lock that it led to and the message that reports it.
    async fn refuse_code(
        &self,
        call: &Call,
        user: Uuid,
        refused: Event,
        factor: Factor,
        reserved: &Reserved,
        refusal: AttemptRefusal,
    ) -> Result<()> {
        let (factor, reason) = (factor.as_str(), refusal.as_str());
        let event = refused.outcome(Outcome::Refused).reason(reason).detail("factor", factor);
        let (event, lock) = self.refusal(call, event, reserved);
        let mail = lock.as_ref().and_then(|_| self.outbox.prepare(Message::to_user(Kind::SecondFactorGuessed, user)));
        let (now, tell_again) = (self.context.now(), self.config.mfa.tell_again_after);
        store::refuse(&self.db, user, (&event, lock.as_ref()), mail.as_ref(), now, tell_again).await?;
        self.recorder.wake();
        self.outbox.wake();
        let address = call.address.map(tracing::field::display);
        tracing::info!(event = "user_second_factor_refused", user_id = %user, factor, reason, address);
        Ok(())
    }

    /// That a recovery code was used is worth knowing to a user who did not use it.
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
pub(in crate::authenticate) fn factor_state(state: &'static str, message: &'static str) -> Fault {
    Fault::new(Reason::InvalidFactorState, message).with("state", state)
}
