//! Authentication methods: password, Kanidm, API key. Each proves who the caller is and then has the session module
//! begin a session or issue a token. Knows how credentials are checked and what a refusal may reveal, which is nothing.

mod account;
mod enrolment;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod housekeeping;
mod kanidm;
mod login;
mod model;
mod rpc;
mod sampler;
mod settings;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use self::account::Account;

pub use self::account::by_mail::Verifications;
pub use self::account::operator::{Operator, Recovered, reset_administrator};
pub use self::account::step_up::StepUps;
use self::enrolment::redeem::Redemptions;
pub use self::enrolment::{Enrolment, Hint};
use self::kanidm::KanidmLogin;
pub(crate) use self::kanidm::{PersonRefusal, person_refusal};
use self::login::Login;
pub use self::model::{Challenge, Factor, Outcome, SignedIn, UserView};
pub(in crate::authenticate) use self::model::{invalid_credentials, tenant_required};
pub use self::rpc::Service;
pub use self::settings::Settings;
use crate::access::Call;
use crate::change::Changes;
use crate::credential::{Hasher, Policy};
use crate::fault::Result;
use crate::kanidm::{Kanidm, Oidc};
use crate::session::Sessions;
use crate::shared::Core;

/// Every method of authentication, and what users do with their own account: a part for each, with what it uses.
#[derive(Clone)]
pub struct Authenticate {
    login: Login,
    kanidm: KanidmLogin,
    account: Account,
    enrolment: Redemptions,
}

impl std::fmt::Debug for Authenticate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticate").field("hasher", &self.login.hasher).finish_non_exhaustive()
    }
}

impl Authenticate {
    /// Authentication over `sessions`, and through Kanidm where there is one.
    pub fn new(
        core: Core,
        config: Settings,
        sessions: Sessions,
        hasher: Hasher,
        policy: Policy,
        kanidm: Option<Kanidm>,
        oidc: Option<Oidc>,
    ) -> Self {
        let (config, sampled) = (Arc::new(config), Arc::default());
        let step_ups = StepUps::new(core.context.clone(), &core.keyring, oidc.clone());
        let changes = Changes::new(&core, sessions.revocations.clone());
        let enrolment = Enrolment::new(core.clone(), Arc::clone(&config), changes.clone(), kanidm);
        let login = Login::new(
            core.clone(),
            Arc::clone(&config),
            sessions.clone(),
            hasher,
            enrolment.clone(),
            Arc::clone(&sampled),
        );
        let kanidm = KanidmLogin::new(core.clone(), config, changes, sessions, oidc, step_ups.clone(), sampled);
        let account = Account::new(core, policy, step_ups, login.clone(), kanidm.clone());
        Self { enrolment: Redemptions { login: login.clone(), enrolment }, login, kanidm, account }
    }

    /// Asks sensitive calls for their proof.
    pub fn step_ups(&self) -> StepUps {
        self.account.step_ups()
    }

    /// A handle for those who give addresses to users.
    pub fn verifications(&self) -> Verifications {
        self.account.verifications()
    }

    /// Answers what was asked for by mail, until `stop` is cancelled.
    pub async fn answer_mail(self, stop: CancellationToken) {
        self.account.answer_mail(stop).await;
    }

    /// Has a signed-in user show their password once more.
    ///
    /// # Errors
    /// As a login.
    pub async fn check_password(&self, call: &Call, user: Uuid, password: Zeroizing<String>) -> Result<()> {
        self.login.check_password(call, user, password).await
    }

    /// Has a user who has enrolled a second factor show it.
    ///
    /// # Errors
    /// As a login.
    pub async fn check_second_factor(&self, call: &Call, user: Uuid, code: Zeroizing<String>) -> Result<()> {
        self.login.check_second_factor(call, user, code).await
    }
}
