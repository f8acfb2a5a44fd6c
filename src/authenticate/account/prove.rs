//! Giving a fresh proof of who is calling: `StepUp` checks a password, a code or a return from Kanidm, and keeps the proof
//! for the one call that it is for.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Account;
use super::step_up::person;
use super::store::step_up::{self as store, NewProof};
use crate::access::{Call, of_nothing};
use crate::audit::{Event, EventType};
use crate::authenticate::invalid_credentials;
use crate::authenticate::kanidm::attempt::Return;
use crate::authenticate::login::Login;
use crate::authenticate::login::second_factor::{Purpose, Typed};
use crate::credential::Charge;
use crate::db::{Scope, Tx};
use crate::fault::Result;
use crate::token::opaque;

/// Prefix of the tokens.
const PREFIX: &str = "sidle_su_";

/// A call of `StepUp`.
pub(in crate::authenticate) struct Asked {
    /// What the proof is for: an RPC with `step_up` in its policy.
    pub method: &'static str,
    /// What that acts on; none for the caller's own account.
    pub target: Option<Uuid>,
    /// What it changes, as its refusal reported; none for a request without any field.
    pub change: Option<[u8; 32]>,
    pub proof: Proof,
}

/// A proof of who is calling.
pub(in crate::authenticate) enum Proof {
    Password(Zeroizing<String>),
    Code(Typed),
    Kanidm(Return),
}

impl Proof {
    fn way(&self) -> &'static str {
        match self {
            Self::Password(_) => "password",
            Self::Code(typed) => typed.factor().as_str(),
            Self::Kanidm(_) => "kanidm",
        }
    }
}

/// What a proof is for.
#[derive(Clone, Copy)]
struct What {
    method: &'static str,
    target: Option<Uuid>,
    change: [u8; 32],
}

/// A proof that waits for its call.
pub(in crate::authenticate) struct Given {
    pub token: Zeroizing<String>,
    pub expires_at: DateTime<Utc>,
}

impl Account {
    /// Checks a proof and gives the token for the call that it is for.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for a wrong proof, and for one through Kanidm what else that may be refused with;
    /// `STEP_UP_REQUIRED` for one that the account does not go by; `USER_REQUIRED`, `THROTTLED`.
    pub(in crate::authenticate) async fn step_up(&self, call: &Call, asked: Asked) -> Result<Given> {
        let (user, session) = person(call)?;
        let charge = self.hasher.charges().principal(user)?;
        let way = asked.proof.way();
        let of_nothing = self.step_ups.change(call.principal()?.tenant_id, asked.method, &of_nothing());
        let what = What { method: asked.method, target: asked.target, change: asked.change.unwrap_or(of_nothing) };
        let mut tx = self.db.begin(Scope::Platform).await?;
        let ways = store::ways(&mut tx, user).await?;
        tx.commit().await?;
        // Before anything is compared: otherwise the weaker factor could be guessed at here.
        if !self.step_ups.offered(ways.clone()).iter().any(|there| there == way) {
            let message = "The account does not go by this way.";
            return Err(self.step_ups.required(message, what.method, what.target, &what.change, ways));
        }
        let tx = match asked.proof {
            Proof::Password(password) => self.prove_by_password(call, user, &charge, password).await?,
            Proof::Kanidm(back) => self.prove_by_kanidm(call, user, &back).await?,
            Proof::Code(typed) => {
                let refused = Event::new(EventType::UserStepUpRefused, call).detail("method", asked.method);
                let purpose = Purpose { user, pending: false, refused };
                let account = self.clone();
                let give = move |_: Login, call: Call, tx: Tx| async move {
                    account.give_proof(tx, &call, (user, session), what, way).await
                };
                return self.login.show_code(call, typed, purpose, give).await;
            }
        };
        self.give_proof(tx, call, (user, session), what, way).await
    }

    /// A transaction in which the user goes by the password that was shown.
    async fn prove_by_password(
        &self,
        call: &Call,
        user: Uuid,
        charge: &Arc<Charge>,
        password: Zeroizing<String>,
    ) -> Result<Tx> {
        let shown = self.login.show_password(call, charge, user, password).await?;
        let mut tx = self.db.begin(Scope::Platform).await?;
        // Another password by now, or a second factor, and what was shown is not enough any more.
        let still_goes = store::goes_by_password(&mut tx, user, shown.password_version).await?;
        if still_goes { Ok(tx) } else { Err(invalid_credentials()) }
    }

    /// A transaction in which the user goes by Kanidm, which has confirmed them.
    async fn prove_by_kanidm(&self, call: &Call, user: Uuid, back: &Return) -> Result<Tx> {
        self.kanidm.kanidm_proof(call, back).await?;
        let mut tx = self.db.begin(Scope::Platform).await?;
        // The link may have been removed while Kanidm was asked.
        if store::goes_by_kanidm(&mut tx, user).await? { Ok(tx) } else { Err(invalid_credentials()) }
    }

    /// Keeps a proof that was given, in the transaction that spent what it was given by.
    async fn give_proof(
        &self,
        mut tx: Tx,
        call: &Call,
        (user, session): (Uuid, Uuid),
        what: What,
        factor: &'static str,
    ) -> Result<Given> {
        let lifetime = TimeDelta::from_std(self.config.step_up.lifetime).unwrap_or_default();
        let (token, now) = (opaque::mint(PREFIX, &self.context.entropy), self.context.now());
        let expires_at = now + lifetime;
        let (method, target) = (what.method, what.target.map(|id| id.to_string()).unwrap_or_default());
        let proof = NewProof {
            id: self.context.new_id(),
            token_hash: &opaque::digest(token.as_bytes()),
            user,
            session,
            method,
            target: &target,
            change: &what.change,
            factor,
            now,
            expires_at,
        };
        store::insert(&mut tx, &proof).await?;
        let event = Event::new(EventType::UserSteppedUp, call).target("user", user).detail("method", method);
        self.recorder.record(&mut tx, event.detail("target", &target).detail("factor", factor)).await?;
        tx.commit().await?;
        Ok(Given { token, expires_at })
    }
}
