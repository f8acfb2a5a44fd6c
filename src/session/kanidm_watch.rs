//! Rechecks sessions that depend on Kanidm, also while no client refreshes them: Kanidm is asked about each at
//! intervals, by renewing it there. Persons who were logged out, expired or deleted in Kanidm lose the session here,
//! and groups are read again. Replicas share the work by leases in the database and by its clock.

use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Sessions;
use super::refresh::LEASE_MARGIN;
use super::store::refresh::{self as store, Lease};
use crate::access::Call;
use crate::fault::Result;
use crate::metrics::Metrics;

/// The longest pause between looks for sessions that are due.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl Sessions {
    /// Asks Kanidm about sessions until `stop`, where it is configured to.
    pub(super) async fn watch_kanidm(self, metrics: Metrics, stop: CancellationToken) {
        let every = self.config.kanidm.recheck_interval;
        if self.kanidm.is_none() || every.is_zero() {
            return;
        }
        let at_once = self.config.kanidm.recheck_at_once.clamp(1, 256);
        // Shorter than the interval, so that what falls due is asked about soon after.
        let pause = (every / 10).min(LONGEST_PAUSE);
        loop {
            let asked = self.recheck(every, at_once).await;
            // Also when nothing could be asked: then it grows, which is what an operator wants to know.
            if let Ok(seconds) = store::oldest_check(&self.db).await {
                metrics.kanidm_oldest_check(seconds);
            }
            let pause = match asked {
                // There may be more.
                Ok(asked) if asked == at_once => Duration::ZERO,
                Ok(_) => pause,
                Err(fault) => {
                    tracing::warn!(event = "kanidm_sessions_not_checked", %fault, cause = fault.cause().map(tracing::field::display));
                    pause
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.context.entropy.jitter(pause)) => {}
            }
        }
    }

    /// Asks about the sessions that are due, as many as may be asked about concurrently, and returns how many those were.
    async fn recheck(&self, every: Duration, at_once: usize) -> Result<usize> {
        let (id, limit) = (self.context.new_id(), i32::try_from(at_once).unwrap_or(i32::MAX));
        let lease_time = self.config.kanidm.timeout + LEASE_MARGIN;
        let due = store::due(&self.db, every, limit, id, lease_time).await?;
        let asked = join_all(due.iter().map(|lease| self.recheck_one(id, lease))).await;
        asked.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(due.len())
    }

    async fn recheck_one(&self, id: Uuid, lease: &Lease) -> Result<()> {
        let call = Call::internal(id);
        let done = match self.ask_kanidm(lease).await {
            Ok(Some(renewed)) => self.keep(&call, id, lease, &renewed).await,
            Ok(None) => self.end_for_kanidm(&call, lease.session_id).await,
            // It says nothing about the session. The lease of the check stays until it lapses, so that one session
            // that always fails does not keep the others from being asked about.
            Err(fault) => Err(fault),
        };
        // A client that refreshes the session meanwhile waits for this.
        store::release(&self.db, lease.session_id, id).await?;
        done
    }
}
