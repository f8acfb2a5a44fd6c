//! A login at Kanidm as a proof that the user of a session is there now: only where Kanidm says when the person
//! authenticated, since without that a login may be one click on a session of yesterday.

use chrono::TimeDelta;

use super::Authenticate;
use super::kanidm::{Holder, Purpose, Return};
use super::store::kanidm as store;
use crate::access::Call;
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};

/// How long ago the person may have authenticated.
const LATEST: TimeDelta = TimeDelta::minutes(5);

impl Authenticate {
    /// Succeeds when the person who is linked to the caller has just authenticated at Kanidm, in an attempt that the
    /// caller's session began for this. The attempt is spent.
    ///
    /// # Errors
    /// `INVALID_LOGIN_ATTEMPT`, `INVALID_CREDENTIALS`, `KANIDM_PROOF_UNAVAILABLE`, `KANIDM_UNAVAILABLE`,
    /// `KANIDM_REFUSED`, `KANIDM_NOT_CONFIGURED`.
    pub(super) async fn kanidm_proof(&self, call: &Call, back: &Return) -> Result<()> {
        let holder = Holder::of(call.principal()?)
            .ok_or_else(|| Fault::new(Reason::Unauthenticated, "The call needs a user's session."))?;
        let arrived = self.arrive(call, back, &[Purpose::StepUp], Some(holder)).await?;
        let linked = {
            let mut tx = self.db.begin(Scope::Platform).await?;
            store::linked_person(&mut tx, holder.user_id).await?
        };
        if linked != Some(arrived.person.person) {
            self.refuse_kanidm(call, "another_person").await?;
            return Err(super::invalid_credentials());
        }
        let Some(at) = arrived.person.authenticated_at else {
            self.refuse_kanidm(call, "no_auth_time").await?;
            return Err(unavailable());
        };
        let now = self.context.now();
        let leeway = TimeDelta::from_std(self.config.kanidm.leeway).unwrap_or_default();
        if at <= now - LATEST || at > now + leeway {
            self.refuse_kanidm(call, "stale_authentication").await?;
            return Err(super::invalid_credentials());
        }
        Ok(())
    }
}

/// The refusal where Kanidm cannot prove that somebody is there now.
pub(super) fn unavailable() -> Fault {
    Fault::new(Reason::KanidmProofUnavailable, "Kanidm cannot prove for this user that they are there now.")
}
