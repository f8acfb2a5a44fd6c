//! Step-up: a fresh proof of who is calling, for one sensitive call. `prove.rs` checks the proof and gives a token; the
//! call spends it in its own transaction, so that a call that fails spends nothing and of two calls one succeeds.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::store::step_up as store;
use crate::access::{Call, PrincipalKind};
use crate::context::Context;
use crate::db::Connection;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::Oidc;
use crate::seal::Keyring;

/// Asks sensitive calls for their proof.
#[derive(Clone)]
pub struct StepUps {
    context: Context,
    /// Under which requests are digested: they may hold secrets that could be guessed.
    key: Arc<Zeroizing<[u8; 32]>>,
    /// Where a proof through Kanidm is given, as far as it says when a person authenticated.
    kanidm: Option<Oidc>,
}

impl std::fmt::Debug for StepUps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepUps").field("kanidm", &self.kanidm).finish_non_exhaustive()
    }
}

impl StepUps {
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
    /// `STEP_UP_REQUIRED` without a proof for exactly this; `USER_REQUIRED` when a program calls.
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
    pub(super) fn required(
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

    /// Of the methods that a user has, those that are available here.
    pub(super) fn offered(&self, mut ways: Vec<String>) -> Vec<String> {
        let proves = self.kanidm.as_ref().is_some_and(Oidc::tells_auth_time);
        ways.retain(|way| way != "kanidm" || proves);
        ways
    }
}

/// The user and the session behind a call. A program has shown nothing that it could show afresh.
pub(in crate::authenticate) fn person(call: &Call) -> Result<(Uuid, Uuid)> {
    let principal = call.principal()?;
    match (principal.kind, principal.session_id) {
        (PrincipalKind::User, Some(session)) => Ok((principal.id, session)),
        _ => Err(Fault::new(
            Reason::UserRequired,
            "The call needs a proof by a person: service accounts cannot step up.",
        )),
    }
}
