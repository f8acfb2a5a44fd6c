//! Purging what has lapsed.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Authenticate;
use super::login::store;

/// How often what has lapsed is purged.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);

impl Authenticate {
    /// Purges what has lapsed, until `stop`.
    pub async fn purge_expired(self, stop: CancellationToken) {
        let login = &self.login;
        loop {
            if let Err(fault) = store::throttle::purge_expired(&login.db, login.context.now()).await {
                tracing::warn!(event = "guessing_not_tidied", %fault, cause = fault.cause().map(tracing::field::display));
            }
            if let Err(fault) = store::factors::purge_expired(&login.db, login.context.now()).await {
                tracing::warn!(event = "factors_not_tidied", %fault, cause = fault.cause().map(tracing::field::display));
            }
            if let Err(fault) = login.record_unknown().await {
                tracing::warn!(event = "unknown_refusals_not_recorded", %fault, cause = fault.cause().map(tracing::field::display));
            }
            if let Err(fault) = login.record_locks().await {
                tracing::warn!(event = "locks_not_recorded", %fault, cause = fault.cause().map(tracing::field::display));
            }
            if let Err(fault) = login.enrolment.purge_expired().await {
                tracing::warn!(event = "invitations_not_tidied", %fault, cause = fault.cause().map(tracing::field::display));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(login.context.entropy.jitter(PURGE_INTERVAL)) => {}
            }
        }
    }
}
