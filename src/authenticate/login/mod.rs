//! Logins that Sidle itself checks: passwords, second factors, API keys; their attempts, locks and rate limits. What
//! other modules have shown again (a password, a code) is checked by the same methods.

pub(super) mod api_key;
pub(super) mod attempt;
pub(super) mod devices;
pub(super) mod limiter;
pub(super) mod mfa;
pub(super) mod password;
pub(super) mod proof;
pub(super) mod second_factor;
pub(super) mod store;
pub(super) mod throttle;
pub(super) mod to_its_end;

use std::sync::Arc;

use self::limiter::IdentifierLimiter;
use super::enrolment::Enrolment;
use super::sampler::Sampler;
use super::settings::Settings;
use crate::audit::Recorder;
use crate::context::Context;
use crate::credential::Hasher;
use crate::db::Db;
use crate::mail::Outbox;
use crate::metrics::Metrics;
use crate::seal::Keyring;
use crate::session::Sessions;
use crate::shared::Core;

/// Logins that Sidle itself checks.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) config: Arc<Settings>,
    pub(super) context: Context,
    pub(super) db: Db,
    pub(super) keyring: Keyring,
    pub(super) recorder: Recorder,
    pub(super) metrics: Metrics,
    pub(super) outbox: Outbox,
    pub(super) sessions: Sessions,
    pub(super) hasher: Hasher,
    pub(super) enrolment: Enrolment,
    identifiers: IdentifierLimiter,
    sampled: Arc<Sampler>,
}

impl Login {
    pub(super) fn new(
        core: Core,
        config: Arc<Settings>,
        sessions: Sessions,
        hasher: Hasher,
        enrolment: Enrolment,
        sampled: Arc<Sampler>,
    ) -> Self {
        let Core { db, context, keyring, recorder, outbox, metrics, .. } = core;
        let passwords = &config.passwords;
        let identifiers = IdentifierLimiter::new(passwords.max_attempts, passwords.queue, passwords.max_wait);
        Self {
            config,
            context,
            db,
            keyring,
            recorder,
            metrics,
            outbox,
            sessions,
            hasher,
            enrolment,
            identifiers,
            sampled,
        }
    }
}
