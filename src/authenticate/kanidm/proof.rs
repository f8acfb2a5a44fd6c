//! A login at Kanidm as a proof that the user of a session is there now: only where Kanidm says when the person
//! authenticated, since without that a login may be one click on a session of yesterday.

use chrono::{DateTime, TimeDelta, Utc};

use super::KanidmLogin;
use super::attempt::{Holder, Purpose, Return, unavailable};
use super::store;
use crate::access::Call;
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};

/// How long ago the person may have authenticated.
const LATEST: TimeDelta = TimeDelta::minutes(5);

/// Whether a person who authenticated `at` did so for an attempt that began `begun`: not before, or else an attacker at
/// the browser of a person who has signed in anyway could leave out the question for who they are.
fn is_of_the_attempt(at: DateTime<Utc>, begun: DateTime<Utc>, now: DateTime<Utc>, leeway: TimeDelta) -> bool {
    at > now - LATEST && at >= begun - leeway && at <= now + leeway
}

impl KanidmLogin {
    /// Succeeds when the person who is linked to the caller has just authenticated at Kanidm, in an attempt that the
    /// caller's session began for this. The attempt is spent.
    ///
    /// # Errors
    /// `INVALID_LOGIN_ATTEMPT`, `INVALID_CREDENTIALS`, `KANIDM_PROOF_UNAVAILABLE`, `KANIDM_UNAVAILABLE`,
    /// `KANIDM_REFUSED`, `KANIDM_NOT_CONFIGURED`.
    pub(in crate::authenticate) async fn kanidm_proof(&self, call: &Call, back: &Return) -> Result<()> {
        let holder = Holder::of(call.principal()?)
            .ok_or_else(|| Fault::new(Reason::Unauthenticated, "The call needs a user's session."))?;
        let arrived = self.arrive(call, back, &[Purpose::StepUp], Some(holder)).await?;
        let linked = {
            let mut tx = self.db.begin(Scope::Platform).await?;
            store::linked_person(&mut tx, holder.user_id).await?
        };
        if linked != Some(arrived.person.person) {
            self.refuse_kanidm(call, "another_person").await?;
            return Err(crate::authenticate::invalid_credentials());
        }
        let Some(at) = arrived.person.authenticated_at else {
            self.refuse_kanidm(call, "no_auth_time").await?;
            return Err(unavailable());
        };
        let now = self.context.now();
        let leeway = TimeDelta::from_std(self.config.kanidm.leeway).unwrap_or_default();
        if !is_of_the_attempt(at, arrived.begun_at, now, leeway) {
            self.refuse_kanidm(call, "stale_authentication").await?;
            return Err(crate::authenticate::invalid_credentials());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_given_during_the_attempt_that_asked_for_it() {
        let at = |seconds: i64| DateTime::UNIX_EPOCH + TimeDelta::seconds(1_000_000 + seconds);
        let leeway = TimeDelta::seconds(10);
        for (authenticated, begun, counts) in [
            (0, -5, true),
            (-60, -70, true),
            // The clocks differ a little.
            (-75, -70, true),
            (9, -5, true),
            // The person signed in before, and was not asked again.
            (-120, -70, false),
            (-299, -400, true),
            (-301, -400, false),
            (11, -5, false),
        ] {
            assert_eq!(
                is_of_the_attempt(at(authenticated), at(begun), at(0), leeway),
                counts,
                "{authenticated} {begun}"
            );
        }
    }
}
