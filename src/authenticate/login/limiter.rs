//! Limits concurrent attempts on one identifier. An attempt counts before its password is known to be right, so that
//! many concurrent ones would lock out a user who merely signs in from many places; here they wait for one another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fault::{Fault, Reason, Result};

/// The permits of one replica.
#[derive(Clone, Debug)]
pub struct IdentifierLimiter {
    concurrent: usize,
    max_waiting: usize,
    longest_wait: Duration,
    used: Arc<Mutex<HashMap<String, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    permits: Arc<Semaphore>,
    /// Callers that hold a permit or wait for one.
    callers: usize,
}

/// Permit for one attempt, given back when dropped.
pub struct IdentifierPermit {
    limiter: IdentifierLimiter,
    identifier: String,
    permit: Option<OwnedSemaphorePermit>,
}

impl IdentifierLimiter {
    /// For accounts that are locked after so many attempts, with a bounded queue and a bounded wait.
    pub fn new(max_attempts: u32, max_waiting: usize, longest_wait: Duration) -> Self {
        // A quarter, so that several replicas, and the several names of an account, together stay below the lock.
        let concurrent = usize::try_from(max_attempts / 4).unwrap_or(usize::MAX).clamp(1, 64);
        Self { concurrent, max_waiting, longest_wait, used: Arc::default() }
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// `OVERLOADED` when too many wait already, or when the wait was too long.
    pub async fn acquire(&self, identifier: &str) -> Result<IdentifierPermit> {
        let permits = self.join(identifier)?;
        // From here on the entry is left whatever happens, also when the client disconnects while it waits.
        let mut held = IdentifierPermit { limiter: self.clone(), identifier: identifier.to_owned(), permit: None };
        match tokio::time::timeout(self.longest_wait, permits.acquire_owned()).await {
            Ok(permit) => held.permit = permit.ok(),
            Err(_) => return Err(overloaded()),
        }
        Ok(held)
    }

    fn join(&self, identifier: &str) -> Result<Arc<Semaphore>> {
        let mut used = self.used();
        let entry = used
            .entry(identifier.to_owned())
            .or_insert_with(|| Entry { permits: Arc::new(Semaphore::new(self.concurrent)), callers: 0 });
        if entry.callers >= self.concurrent + self.max_waiting {
            return Err(overloaded());
        }
        entry.callers += 1;
        Ok(Arc::clone(&entry.permits))
    }

    fn used(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overloaded() -> Fault {
    Fault::new(Reason::Overloaded, "Too many logins with this identifier are waiting.")
        .retry_after(Duration::from_secs(1))
}

impl Drop for IdentifierPermit {
    fn drop(&mut self) {
        drop(self.permit.take());
        let mut used = self.limiter.used();
        if let Some(entry) = used.get_mut(&self.identifier) {
            entry.callers -= 1;
            if entry.callers == 0 {
                used.remove(&self.identifier);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_identifier_waits_for_itself_and_for_nobody_else() {
        let limiter = IdentifierLimiter::new(2, 1, Duration::from_secs(60));
        let first = limiter.acquire("ann").await.unwrap();
        let mut second = Box::pin(limiter.acquire("ann"));
        tokio::select! { biased; _ = &mut second => unreachable!("one at a time"), _ = limiter.acquire("bob") => {} }
        assert_eq!(limiter.acquire("ann").await.err().unwrap().reason(), Reason::Overloaded);
        drop(first);
        drop(second.await.unwrap());
        assert!(limiter.used().is_empty(), "nothing is kept of who has been here");
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_is_allowed() {
        let limiter = IdentifierLimiter::new(2, 8, Duration::from_millis(1));
        let first = limiter.acquire("ann").await.unwrap();
        assert_eq!(limiter.acquire("ann").await.err().unwrap().reason(), Reason::Overloaded);
        drop(first);
        assert!(limiter.used().is_empty());
    }

    #[tokio::test]
    async fn whoever_goes_away_while_waiting_leaves_nothing_behind() {
        let limiter = IdentifierLimiter::new(2, 8, Duration::from_secs(60));
        let first = limiter.acquire("ann").await.unwrap();
        {
            let mut waiting = Box::pin(limiter.acquire("ann"));
            tokio::select! { biased; _ = &mut waiting => unreachable!(), () = std::future::ready(()) => {} }
        }
        drop(first);
        assert!(limiter.used().is_empty());
    }
}
