//! What most services are made of: one value that is cheap to clone, made once at the start.

use crate::access::paging::Paging;
use crate::audit::Recorder;
use crate::context::Context;
use crate::db::Db;
use crate::mail::Outbox;
use crate::metrics::Metrics;
use crate::seal::Keyring;

/// The parts that every service shares.
#[derive(Clone)]
pub struct Core {
    /// Connections to Postgres.
    pub db: Db,
    /// Time and randomness.
    pub context: Context,
    /// The keys that seal.
    pub keyring: Keyring,
    /// Writes audit events.
    pub recorder: Recorder,
    /// Queues mail.
    pub outbox: Outbox,
    /// What operators watch.
    pub metrics: Metrics,
    /// Page tokens and cursors.
    pub paging: Paging,
}
