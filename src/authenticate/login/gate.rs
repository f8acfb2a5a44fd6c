//! Few attempts on one identifier at a time. An attempt counts before its password is known to be right, so that many
//! at once would lock out somebody who merely signs in from many places at once; here they wait for one another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fault::{Fault, Reason, Result};

/// The gates of one replica.
#[derive(Clone, Debug)]
pub struct Gates {
    at_once: usize,
    max_waiting: usize,
    longest_wait: Duration,
    open: Arc<Mutex<HashMap<String, Gate>>>,
}

#[derive(Debug)]
struct Gate {
    places: Arc<Semaphore>,
    users: usize,
}

/// A place at a gate, given back when dropped.
pub struct Place {
    gates: Gates,
    identifier: String,
    permit: Option<OwnedSemaphorePermit>,
}

impl Gates {
    /// Gates for accounts that are locked after so many attempts, with lines of a bounded length and a bounded wait.
    pub fn new(max_attempts: u32, max_waiting: usize, longest_wait: Duration) -> Self {
        // A quarter, so that several replicas, and the several names of an account, together stay below the lock.
        let at_once = usize::try_from(max_attempts / 4).unwrap_or(usize::MAX).clamp(1, 64);
        Self { at_once, max_waiting, longest_wait, open: Arc::default() }
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// `OVERLOADED` when too many wait already, or when the wait was too long.
    pub async fn enter(&self, identifier: &str) -> Result<Place> {
        let places = self.join(identifier)?;
        // From here on the place is given back whatever happens, also when the caller goes away while it waits.
        let mut place = Place { gates: self.clone(), identifier: identifier.to_owned(), permit: None };
        match tokio::time::timeout(self.longest_wait, places.acquire_owned()).await {
            Ok(permit) => place.permit = permit.ok(),
            Err(_) => return Err(overloaded()),
        }
        Ok(place)
    }

    fn join(&self, identifier: &str) -> Result<Arc<Semaphore>> {
        let mut open = self.open();
        let gate = open
            .entry(identifier.to_owned())
            .or_insert_with(|| Gate { places: Arc::new(Semaphore::new(self.at_once)), users: 0 });
        if gate.users >= self.at_once + self.max_waiting {
            return Err(overloaded());
        }
        gate.users += 1;
        Ok(Arc::clone(&gate.places))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Gate>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overloaded() -> Fault {
    Fault::new(Reason::Overloaded, "Too many logins with this identifier are waiting.")
        .retry_after(Duration::from_secs(1))
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.permit.take());
        let mut open = self.gates.open();
        if let Some(gate) = open.get_mut(&self.identifier) {
            gate.users -= 1;
            if gate.users == 0 {
                open.remove(&self.identifier);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_identifier_waits_for_itself_and_for_nobody_else() {
        let gates = Gates::new(2, 1, Duration::from_secs(60));
        let first = gates.enter("ann").await.unwrap();
        let mut second = Box::pin(gates.enter("ann"));
        tokio::select! { biased; _ = &mut second => unreachable!("one at a time"), _ = gates.enter("bob") => {} }
        assert_eq!(gates.enter("ann").await.err().unwrap().reason(), Reason::Overloaded);
        drop(first);
        drop(second.await.unwrap());
        assert!(gates.open().is_empty(), "nothing is kept of who has been here");
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_is_allowed() {
        let gates = Gates::new(2, 8, Duration::from_millis(1));
        let first = gates.enter("ann").await.unwrap();
        assert_eq!(gates.enter("ann").await.err().unwrap().reason(), Reason::Overloaded);
        drop(first);
        assert!(gates.open().is_empty());
    }

    #[tokio::test]
    async fn whoever_goes_away_while_waiting_leaves_nothing_behind() {
        let gates = Gates::new(2, 8, Duration::from_secs(60));
        let first = gates.enter("ann").await.unwrap();
        {
            let mut waiting = Box::pin(gates.enter("ann"));
            tokio::select! { biased; _ = &mut waiting => unreachable!(), () = std::future::ready(()) => {} }
        }
        drop(first);
        assert!(gates.open().is_empty());
    }
}
