//! Users, tenants, memberships, roles, service accounts and their keys. Owns the rules of administering them: no caller
//! gives what they do not hold, the platform always has an administrator, a change of rights ends tokens. Knows nothing
//! of how users authenticate.

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
mod signing_keys;
mod store;
mod tenant_settings;
mod tenants;
mod users;

use chrono::TimeDelta;

pub use self::bootstrap::{Bootstrapped, FirstAdmin, bootstrap};
pub(in crate::directory) use self::change::Change;
pub use self::rpc::Service;
use crate::access::Call;
use crate::authenticate::{Authenticate, StepUps, Verifications};
use crate::change::Changes;
use crate::config::ApiKeyConfig;
use crate::context::Context;
use crate::credential::{Hasher, Policy};
use crate::db::{Db, Scope, Tx};
use crate::fault::Result;
use crate::kanidm::Kanidm;
use crate::session::Sessions;
use crate::shared::Core;
use crate::token::SigningKeyManager;

#[derive(Clone)]
pub struct Directory {
    db: Db,
    context: Context,
    changes: Changes,
    keys: SigningKeyManager,
    hasher: Hasher,
    step_ups: StepUps,
    policy: Policy,
    kanidm: Option<Kanidm>,
    verifications: Verifications,
    longest_key_life: TimeDelta,
}

impl Directory {
    /// The directory; credentials and proofs are those of `authenticate`, what ends is reported to `sessions`.
    pub fn new(
        core: Core,
        sessions: &Sessions,
        authenticate: &Authenticate,
        hasher: Hasher,
        policy: Policy,
        kanidm: Option<Kanidm>,
        api_keys: &ApiKeyConfig,
    ) -> Self {
        let changes = Changes::new(&core, sessions.revocations.clone());
        let Core { db, context, .. } = core;
        Self {
            db,
            context,
            changes,
            keys: sessions.keys.clone(),
            hasher,
            step_ups: authenticate.step_ups(),
            policy,
            kanidm,
            verifications: authenticate.verifications(),
            longest_key_life: api_keys.longest(),
        }
    }

    /// Begins reading as far as the caller reaches with `permission`.
    async fn read(&self, call: &Call, permission: &'static str) -> Result<(Scope, Tx)> {
        let scope = call.principal()?.authorize(permission, None)?;
        Ok((scope, self.db.begin(scope).await?))
    }
}
