//! Logins through Kanidm: the attempt that goes there, and what its return leads to (a session, a link of the account, a
//! proof).

pub(super) mod attempt;
mod first_login;
pub(super) mod link;
mod link_refusal;
pub(super) mod login;
pub(super) mod proof;
pub(super) mod store;

use std::sync::Arc;

pub(crate) use self::store::{PersonRefusal, person_refusal};
use super::account::step_up::StepUps;
use super::sampler::Sampler;
use super::settings::Settings;
use crate::audit::Recorder;
use crate::change::Changes;
use crate::context::Context;
use crate::db::Db;
use crate::kanidm::Oidc;
use crate::metrics::Metrics;
use crate::seal::Keyring;
use crate::session::Sessions;
use crate::shared::Core;

/// Logins through Kanidm.
#[derive(Clone)]
pub(super) struct KanidmLogin {
    config: Arc<Settings>,
    context: Context,
    db: Db,
    keyring: Keyring,
    recorder: Recorder,
    metrics: Metrics,
    changes: Changes,
    sessions: Sessions,
    kanidm: Option<Oidc>,
    step_ups: StepUps,
    sampled: Arc<Sampler>,
}

impl KanidmLogin {
    pub(super) fn new(
        core: Core,
        config: Arc<Settings>,
        changes: Changes,
        sessions: Sessions,
        kanidm: Option<Oidc>,
        step_ups: StepUps,
        sampled: Arc<Sampler>,
    ) -> Self {
        let Core { db, context, keyring, recorder, metrics, .. } = core;
        Self { config, context, db, keyring, recorder, metrics, changes, sessions, kanidm, step_ups, sampled }
    }
}
