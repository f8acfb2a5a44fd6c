//! What users do with their own account: registration, verified addresses, passwords forgotten and changed, second
//! factors, and the proofs that sensitive calls ask for.

pub(super) mod by_mail;
pub(super) mod change_password;
pub(super) mod factors;
pub(super) mod operator;
pub(super) mod prove;
pub(super) mod step_up;
pub(super) mod store;
pub(super) mod who;

use std::sync::Arc;

use tokio::sync::Notify;

use self::step_up::StepUps;
use super::kanidm::KanidmLogin;
use super::login::Login;
use super::settings::Settings;
use crate::audit::Recorder;
use crate::change::Changes;
use crate::context::Context;
use crate::credential::{Hasher, Policy};
use crate::db::Db;
use crate::mail::Outbox;
use crate::seal::Keyring;
use crate::session::Sessions;
use crate::shared::Core;

/// What users do with their own account.
#[derive(Clone)]
pub(super) struct Account {
    config: Arc<Settings>,
    context: Context,
    db: Db,
    changes: Changes,
    keyring: Keyring,
    recorder: Recorder,
    outbox: Outbox,
    sessions: Sessions,
    hasher: Hasher,
    policy: Policy,
    step_ups: StepUps,
    login: Login,
    kanidm: KanidmLogin,
    /// Wakes the worker that answers what was asked for by mail.
    asked: Arc<Notify>,
}

impl Account {
    pub(super) fn new(core: Core, policy: Policy, step_ups: StepUps, login: Login, kanidm: KanidmLogin) -> Self {
        let changes = Changes::new(&core, login.sessions.revocations.clone());
        let Core { db, context, keyring, recorder, outbox, .. } = core;
        let (config, sessions, hasher) = (Arc::clone(&login.config), login.sessions.clone(), login.hasher.clone());
        Self {
            config,
            context,
            db,
            changes,
            keyring,
            recorder,
            outbox,
            sessions,
            hasher,
            policy,
            step_ups,
            login,
            kanidm,
            asked: Arc::default(),
        }
    }

    pub(super) fn step_ups(&self) -> StepUps {
        self.step_ups.clone()
    }
}
