//! Rate limits of client addresses: an attacker who guesses at many accounts has few of them. Counted in memory first
//! (`charge.rs`) and in the database, so that it is the same over all replicas, and refused alike whatever was asked for.

use std::sync::Arc;

use super::Login;
use super::store;
use crate::access::Call;
use crate::credential::charge::{Charge, RateLimitBucket, network};
use crate::fault::Result;
use crate::session::{Refresh, Refreshed};

impl Login {
    /// Takes this call out of the rate limit of its client's address; for public calls, before anything else is done.
    /// One round trip, which those do not cost that this replica alone can refuse.
    ///
    /// # Errors
    /// `THROTTLED`, with the time to wait.
    pub async fn throttle(&self, call: &Call, lane: RateLimitBucket) -> Result<Arc<Charge>> {
        let charge = self.hasher.charges().address(call, lane)?;
        if let (Some(address), Some(limit)) = (call.address, lane.limit(&self.config.throttle)) {
            let (network, now) = (network(address), self.context.now());
            if let Some(wait) = store::throttle::take(&self.db, lane, &network, now, limit).await? {
                return Err(self.hasher.charges().throttled(wait));
            }
        }
        Ok(charge)
    }
}

impl Login {
    /// Exchanges a refresh token, which the client's address is charged for before anything is looked up.
    ///
    /// # Errors
    /// `THROTTLED`, and those of the exchange.
    pub async fn refresh(&self, call: &Call, refresh: &Refresh) -> Result<Refreshed> {
        self.hasher.charges().address(call, RateLimitBucket::Refresh)?;
        self.sessions.refresh(call, refresh).await
    }
}
