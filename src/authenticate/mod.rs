//! The ways in: password, Kanidm, API key. Each proves who somebody is and then has the session room begin a session
//! or issue a token. Knows how credentials are checked and what a refusal may tell, which is nothing.

mod api_key;
mod attempt;
mod bcrypt_hash;
mod breached;
mod by_mail;
mod change_password;
mod charge;
mod devices;
mod enrolment;
mod factors;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gate;
mod hashing;
mod kanidm;
mod kanidm_link;
mod kanidm_login;
mod kanidm_proof;
mod mfa;
mod password;
mod pepper;
pub mod policy;
mod proof;
mod queue;
mod recovery_codes;
mod redeem;
mod rpc;
mod second_factor;
mod step_up;
mod store;
mod strength;
mod throttle;
mod totp;
mod who;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

pub use self::bcrypt_hash::{BcryptHash, MAX_COST, MAX_PASSWORD, Unusable};
pub use self::by_mail::Verifications;
pub use self::charge::{Charge, Charges};
pub use self::enrolment::{Enrolment, Hint};
use self::gate::Gates;
pub use self::hashing::{Hasher, StoredHash};
pub use self::policy::Policy;
pub use self::rpc::Service;
pub use self::step_up::StepUps;
pub use self::throttle::Lane;
use crate::audit::Recorder;
use crate::config::Config;
use crate::context::Context;
use crate::db::Db;
use crate::fault::{Fault, Reason};
use crate::kanidm::Oidc;
use crate::mail::Outbox;
use crate::metrics::Metrics;
use crate::seal::Keyring;
use crate::session::{Sessions, Tokens};

/// How often what has lapsed is removed.
const TIDYING: Duration = Duration::from_secs(60);

/// Everything this room offers.
#[derive(Clone)]
pub struct Authenticate {
    config: Arc<Config>,
    context: Context,
    db: Db,
    keyring: Keyring,
    recorder: Recorder,
    metrics: Metrics,
    sessions: Sessions,
    hasher: Hasher,
    policy: Policy,
    outbox: Outbox,
    kanidm: Option<Oidc>,
    /// Wakes whoever answers what was asked for by mail.
    asked: Arc<Notify>,
    step_ups: StepUps,
    enrolment: Enrolment,
    gates: Gates,
    sampled: Arc<Sampler>,
}

/// A completed login.
#[derive(Debug)]
pub struct SignedIn {
    /// The tokens.
    pub tokens: Tokens,
    /// The session.
    pub session_id: Uuid,
    /// The tenant it acts in.
    pub tenant_id: Option<Uuid>,
    /// Who signed in.
    pub user: UserView,
    /// Whether a new password must be set before anything else.
    pub must_change_password: bool,
    /// The secret of a device that was not known yet.
    pub known_device_token: Option<Zeroizing<String>>,
    /// An invitation to enrol in Kanidm.
    pub enrolment: Option<Hint>,
}

/// What the right password led to.
#[derive(Debug)]
pub enum Outcome {
    /// The login is complete.
    SignedIn(Box<SignedIn>),
    /// A second factor is needed.
    MfaRequired(Challenge),
}

/// A second factor that a login asks for.
#[derive(Debug)]
pub struct Challenge {
    /// The secret that the login is completed with.
    pub token: Zeroizing<String>,
    /// When it stops being accepted.
    pub expires_at: DateTime<Utc>,
    /// What the user can answer with.
    pub factors: Vec<Factor>,
}

/// A second factor that Sidle itself checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factor {
    /// A code of an authenticator application.
    Totp,
    /// One of the recovery codes.
    RecoveryCode,
}

/// A user as a login shows them.
#[derive(Clone, Debug)]
pub struct UserView {
    /// Id.
    pub user_id: Uuid,
    /// E-mail address.
    pub email: String,
    /// Name to sign in with.
    pub username: Option<String>,
    /// Name shown to people.
    pub full_name: String,
    /// How they may sign in, in the database's words.
    pub auth_method: String,
}

impl std::fmt::Debug for Authenticate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticate").field("hasher", &self.hasher).finish_non_exhaustive()
    }
}

impl Authenticate {
    /// The room.
    #[expect(clippy::too_many_arguments, reason = "the one place where it gets all it works with")]
    pub fn new(
        config: Arc<Config>,
        context: Context,
        db: Db,
        keyring: Keyring,
        recorder: Recorder,
        metrics: Metrics,
        sessions: Sessions,
        hasher: Hasher,
        policy: Policy,
        outbox: Outbox,
        kanidm: Option<Oidc>,
        step_ups: StepUps,
        enrolment: Enrolment,
    ) -> Self {
        let gates = Gates::new(config.passwords.max_attempts, config.passwords.queue, config.passwords.max_wait);
        let (sampled, asked) = (Arc::default(), Arc::default());
        Self {
            config,
            context,
            db,
            keyring,
            recorder,
            metrics,
            sessions,
            hasher,
            policy,
            kanidm,
            outbox,
            asked,
            step_ups,
            enrolment,
            gates,
            sampled,
        }
    }

    /// Removes what has lapsed, until `stop`.
    pub async fn tidy(self, stop: CancellationToken) {
        loop {
            if let Err(fault) = store::throttle::tidy(&self.db, self.context.now()).await {
                tracing::warn!(event = "guessing_not_tidied", %fault, cause = fault.cause().map(tracing::field::display));
            }
            if let Err(fault) = store::factors::tidy(&self.db, self.context.now()).await {
                tracing::warn!(event = "factors_not_tidied", %fault, cause = fault.cause().map(tracing::field::display));
            }
            if let Err(fault) = self.record_unknown().await {
                tracing::warn!(event = "unknown_refusals_not_recorded", %fault, cause = fault.cause().map(tracing::field::display));
            }
            if let Err(fault) = self.enrolment.tidy().await {
                tracing::warn!(event = "invitations_not_tidied", %fault, cause = fault.cause().map(tracing::field::display));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.context.entropy.jitter(TIDYING)) => {}
            }
        }
    }
}

/// The one refusal for every reason that would help somebody who guesses.
fn invalid_credentials() -> Fault {
    Fault::new(Reason::InvalidCredentials, "The credentials are not accepted.")
}

/// The refusal of somebody who must say for which tenant.
fn tenant_required(choices: &[Uuid]) -> Fault {
    let tenants = choices.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",");
    Fault::new(Reason::TenantRequired, "The user is a member of several tenants: ask for one.").with("tenants", tenants)
}

/// Lets one through a second, and counts the others: what anybody can make happen without knowing anything must not
/// fill the audit log.
#[derive(Debug, Default)]
struct Sampler {
    second: AtomicI64,
    left_out: AtomicI64,
}

impl Sampler {
    /// How many were left out since the last one that was let through, if this one is.
    fn sample(&self, second: i64) -> Option<i64> {
        if self.second.swap(second, Ordering::AcqRel) == second {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::AcqRel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_bad_keys_is_counted_and_one_a_second_is_recorded() {
        let sampler = Sampler::default();
        assert_eq!(sampler.sample(100), Some(0));
        assert_eq!((sampler.sample(100), sampler.sample(100)), (None, None));
        assert_eq!(sampler.sample(101), Some(2));
        assert_eq!(sampler.sample(103), Some(0));
    }
}
