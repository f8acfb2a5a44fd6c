//! Step-up: a fresh proof of who is calling, for one sensitive call. `StepUp` checks the proof and gives a token; the call
//! spends it in its own transaction, so that a call that fails spends nothing and of two calls one gets through.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::kanidm::Return;
use super::second_factor::{Purpose, Typed};
use super::store::step_up::{self as store, NewProof};
use super::{Authenticate, invalid_credentials};
use crate::access::{Call, PrincipalKind, of_nothing};
use crate::audit::{Event, EventType};
use crate::context::Context;
use crate::db::{Connection, Scope, Tx};
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::Oidc;
use crate::seal::Keyring;
use crate::session::opaque;

/// Prefix of the tokens.
const PREFIX: &str = "sidle_su_";

/// Asks sensitive calls for their proof.
#[derive(Clone)]
pub struct StepUps {
    context: Context,
    /// Under which requests are digested: they may hold secrets that somebody could guess.
    key: Arc<Zeroizing<[u8; 32]>>,
    /// Where a proof through Kanidm is given, as far as it says when a person authenticated.
    kanidm: Option<Oidc>,
}

/// A call of `StepUp`.
pub(super) struct Asked {
    /// What the proof is for: an RPC with `step_up` in its policy.
    pub method: &'static str,
    /// What that acts on; none for the caller's own account.
    pub target: Option<Uuid>,
    /// What it changes, as its refusal told; none for a request without any field.
    pub change: Option<[u8; 32]>,
    pub proof: Proof,
}

/// A proof of who is calling.
pub(super) enum Proof {
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

impl std::fmt::Debug for StepUps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepUps").field("kanidm", &self.kanidm).finish_non_exhaustive()
    }
}

/// A proof that waits for its call.
pub(super) struct Given {
    pub token: Zeroizing<String>,
    pub expires_at: DateTime<Utc>,
}

impl StepUps {
    /// The gatekeeper of sensitive calls.
    pub fn new(context: Context, keyring: &Keyring, kanidm: Option<Oidc>) -> Self {
        Self { context, key: Arc::new(keyring.derive("changes that a proof is for")), kanidm }
    }

    /// What a request with this digest changes: the same for the same request in the same tenant only.
    pub fn change(&self, tenant: Option<Uuid>, method: &str, request: &[u8; 32]) -> [u8; 32] {
        let tenant = tenant.unwrap_or_default();
        // HMAC takes keys of any length, so this cannot fail.
        #[expect(clippy::expect_used, reason = "HMAC accepts keys of every length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.as_slice()).expect("HMAC takes any key");
        mac.update(request);
        mac.update(tenant.as_bytes());
        mac.update(method.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// Spends the proof that came with `call`, in the transaction of what the call changes: one for `method`, an RPC with
    /// `step_up` in its policy, for the resource that it acts on, none for the caller's own account, and for exactly this
    /// request in the tenant that the caller acts in.
    ///
    /// # Errors
    /// `STEP_UP_REQUIRED` without a proof for exactly this; `PERSON_REQUIRED` when a program calls.
    pub async fn require(
        &self,
        tx: &mut Connection,
        call: &Call,
        method: &'static str,
        target: Option<Uuid>,
    ) -> Result<()> {
        let caller = person(call)?;
        let text = target.map(|id| id.to_string()).unwrap_or_default();
        let change = self.change(call.principal()?.tenant_id, method, &call.request);
        let what = (method, text.as_str(), &change);
        let spent = store::take(tx, call.step_up.as_ref(), caller, what, self.context.now()).await?;
        let message = "The call needs a fresh proof of who is calling.";
        spent.map_err(|ways| self.required(message, method, target, &change, ways))
    }

    /// As [`StepUps::require`], of people: what they must not make of a session, a credential that outlasts it, a program
    /// has already, and none that it could show afresh.
    ///
    /// # Errors
    /// `STEP_UP_REQUIRED` without a proof for exactly this.
    pub async fn require_of_people(
        &self,
        tx: &mut Connection,
        call: &Call,
        method: &'static str,
        target: Option<Uuid>,
    ) -> Result<()> {
        match call.principal()?.kind {
            PrincipalKind::ServiceAccount => Ok(()),
            PrincipalKind::User => self.require(tx, call, method, target).await,
        }
    }

    /// The refusal of a call without the proof that it needs: for what, and how this user can give one.
    fn required(
        &self,
        message: &'static str,
        method: &str,
        target: Option<Uuid>,
        change: &[u8; 32],
        ways: Vec<String>,
    ) -> Fault {
        let target = target.map(|id| id.to_string()).unwrap_or_default();
        Fault::new(Reason::StepUpRequired, message)
            .with("method", method)
            .with("target", target)
            .with("change", URL_SAFE_NO_PAD.encode(change))
            .with("ways", self.offered(ways).join(","))
    }

    /// Of the ways that a user has, those that can be gone here.
    fn offered(&self, mut ways: Vec<String>) -> Vec<String> {
        let proves = self.kanidm.as_ref().is_some_and(Oidc::tells_auth_time);
        ways.retain(|way| way != "kanidm" || proves);
        ways
    }
}

impl Authenticate {
    /// Checks a proof and gives the token for the call that it is for.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` for a wrong proof, and for one through Kanidm what else that may be refused with; `STEP_UP_REQUIRED` for one that the account does not go by;
    /// `PERSON_REQUIRED`, `THROTTLED`.
    pub(super) async fn step_up(&self, call: &Call, asked: Asked) -> Result<Given> {
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
            Proof::Password(password) => {
                let shown = self.show_password(call, &charge, user, password).await?;
                let mut tx = self.db.begin(Scope::Platform).await?;
                // Another password by now, or a second factor, and what was shown is not enough any more.
                if !store::goes_by_password(&mut tx, user, shown.password_version).await? {
                    return Err(invalid_credentials());
                }
                tx
            }
            Proof::Kanidm(back) => {
                self.kanidm_proof(call, &back).await?;
                let mut tx = self.db.begin(Scope::Platform).await?;
                // The link may have been taken away while Kanidm was asked.
                if !store::goes_by_kanidm(&mut tx, user).await? {
                    return Err(invalid_credentials());
                }
                tx
            }
            Proof::Code(typed) => {
                let refused = Event::new(EventType::UserStepUpRefused, call).detail("method", asked.method);
                let purpose = Purpose { user, pending: false, refused };
                let give = move |room: Self, call: Call, tx: Tx| async move {
                    room.give_proof(tx, &call, (user, session), what, way).await
                };
                return self.show_code(call, typed, purpose, give).await;
            }
        };
        self.give_proof(tx, call, (user, session), what, way).await
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

/// The user and the session behind a call. A program has shown nothing that it could show afresh.
pub(super) fn person(call: &Call) -> Result<(Uuid, Uuid)> {
    let principal = call.principal()?;
    match (principal.kind, principal.session_id) {
        (PrincipalKind::User, Some(session)) => Ok((principal.id, session)),
        _ => Err(Fault::new(
            Reason::PersonRequired,
            "The call needs a proof by a person: service accounts cannot step up.",
        )),
    }
}
