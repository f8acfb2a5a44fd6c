//! Who there is: users, tenants, memberships, roles, service accounts and their keys. Owns the rules of administering
//! them: nobody hands out what they do not hold, somebody can always administer, a change of rights ends tokens. Knows
//! nothing of how anybody signs in.

mod admins;
mod api_keys;
mod bootstrap;
mod change;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod kanidm;
mod made;
mod memberships;
mod names;
mod roles;
mod rpc;
mod service_accounts;
mod store;
mod tenants;
mod users;

use chrono::TimeDelta;

pub use self::bootstrap::{Bootstrapped, FirstAdmin, bootstrap};
use self::change::Change;
pub use self::rpc::Service;
use crate::access::Call;
use crate::audit::Recorder;
use crate::authenticate::{Hasher, Policy, StepUps, Verifications};
use crate::config::ApiKeyConfig;
use crate::context::Context;
use crate::db::{Db, Scope, Tx};
use crate::fault::Result;
use crate::kanidm::Kanidm;
use crate::mail::Outbox;
use crate::session::{KeyRoom, Revocations};

/// The directory.
#[derive(Clone)]
pub struct Directory {
    db: Db,
    context: Context,
    recorder: Recorder,
    revocations: Revocations,
    keys: KeyRoom,
    hasher: Hasher,
    step_ups: StepUps,
    policy: Policy,
    kanidm: Option<Kanidm>,
    outbox: Outbox,
    verifications: Verifications,
    longest_key_life: TimeDelta,
}

impl Directory {
    /// The directory, from what it works with.
    #[expect(clippy::too_many_arguments, reason = "the one place where it gets all it works with")]
    pub fn new(
        db: Db,
        context: Context,
        recorder: Recorder,
        revocations: Revocations,
        keys: KeyRoom,
        hasher: Hasher,
        step_ups: StepUps,
        policy: Policy,
        kanidm: Option<Kanidm>,
        outbox: Outbox,
        verifications: Verifications,
        api_keys: &ApiKeyConfig,
    ) -> Self {
        let longest_key_life = api_keys.longest();
        Self {
            db,
            context,
            recorder,
            revocations,
            keys,
            hasher,
            step_ups,
            policy,
            kanidm,
            outbox,
            verifications,
            longest_key_life,
        }
    }

    /// Begins a change as far as the caller reaches with `permission`.
    async fn change<'a>(&'a self, call: &'a Call, permission: &'static str) -> Result<Change<'a>> {
        let scope = call.principal()?.authorize(permission, None)?;
        Change::begin(self, call, scope).await
    }

    /// Begins a change that writes addresses or usernames.
    async fn change_of_keys<'a>(&'a self, call: &'a Call, permission: &'static str) -> Result<Change<'a>> {
        let scope = call.principal()?.authorize(permission, None)?;
        Change::begin_contended(self, call, scope).await
    }

    /// Begins reading as far as the caller reaches with `permission`.
    async fn read(&self, call: &Call, permission: &'static str) -> Result<(Scope, Tx)> {
        let scope = call.principal()?.authorize(permission, None)?;
        Ok((scope, self.db.begin(scope).await?))
    }
}
