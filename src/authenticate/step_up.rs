//! Step-up: a fresh proof of who is calling, for one sensitive call. `StepUp` checks the proof and gives a token; the call
//! spends it in its own transaction, so that a call that fails spends nothing and of two calls one gets through.

use sqlx::PgConnection;
use uuid::Uuid;

use super::store::step_up as store;
use crate::access::{Call, PrincipalKind};
use crate::context::Context;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::Oidc;

/// Asks sensitive calls for their proof.
#[derive(Clone, Debug)]
pub struct StepUps {
    context: Context,
    /// Where a proof through Kanidm is given, as far as it says when a person authenticated.
    kanidm: Option<Oidc>,
}

impl StepUps {
    /// The gatekeeper of sensitive calls.
    pub fn new(context: Context, kanidm: Option<Oidc>) -> Self {
        Self { context, kanidm }
    }

    /// Spends the proof that came with `call`, in the transaction of what the call changes: one for `method`, an RPC with
    /// `step_up` in its policy, and for the resource that it acts on; none for the caller's own account.
    ///
    /// # Errors
    /// `STEP_UP_REQUIRED` without a proof for exactly this; `PERSON_REQUIRED` when a program calls.
    pub async fn require(
        &self,
        tx: &mut PgConnection,
        call: &Call,
        method: &'static str,
        target: Option<Uuid>,
    ) -> Result<()> {
        let caller = person(call)?;
        let target = target.map(|id| id.to_string()).unwrap_or_default();
        let spent = store::take(tx, call.step_up.as_ref(), caller, (method, &target), self.context.now()).await?;
        spent.map_err(|ways| self.required(method, &target, ways))
    }

    /// The refusal of a call without proof: for what one is needed, and how this user can get it.
    fn required(&self, method: &str, target: &str, ways: Vec<String>) -> Fault {
        Fault::new(Reason::StepUpRequired, "The call needs a fresh proof of who is calling.")
            .with("method", method)
            .with("target", target)
            .with("ways", self.offered(ways).join(","))
    }

    /// Of the ways that a user has, those that can be gone here.
    fn offered(&self, mut ways: Vec<String>) -> Vec<String> {
        let proves = self.kanidm.as_ref().is_some_and(Oidc::tells_auth_time);
        ways.retain(|way| way != "kanidm" || proves);
        ways
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
