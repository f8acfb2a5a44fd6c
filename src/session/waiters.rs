//! Calls that wait until another one has renewed their session at Kanidm. Each asks the database now and then, so their
//! number is bounded together and for each refresh token: the holder of one does not decide how many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fault::{Fault, Reason, Result};

/// Calls that wait concurrently.
const MOST: usize = 256;
/// Of these, those with one refresh token: a client that fans out, and not one that floods.
const EACH: usize = 16;

/// The calls that wait. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiters {
    by_token: Arc<Mutex<HashMap<[u8; 32], usize>>>,
}

impl Waiters {
    /// A permit to wait, for a call with the token of this digest.
    ///
    /// # Errors
    /// `REFRESH_RACED` when many wait with the same token, `OVERLOADED` when many wait at all.
    pub(super) fn wait(&self, token: [u8; 32]) -> Result<Waiting> {
        let mut waiting = self.lock();
        if waiting.get(&token).is_some_and(|count| *count >= EACH) {
            return Err(raced());
        }
        if waiting.values().sum::<usize>() >= MOST {
            let fault = Fault::new(Reason::Overloaded, "Too many calls wait for Kanidm.");
            return Err(fault.retry_after(Duration::from_secs(1)));
        }
        *waiting.entry(token).or_default() += 1;
        Ok(Waiting { waiters: self.clone(), token })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], usize>> {
        // Nothing panics while it is held, and counts are never half written.
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call that waits, until this is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    waiters: Waiters,
    token: [u8; 32],
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        if let Some(count) = waiting.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.token);
            }
        }
    }
}

/// The refusal of a call that another one outran, which led elsewhere, or beside which too many wait with the same token: the
/// token is spent or being spent, and nothing has ended.
pub(super) fn raced() -> Fault {
    Fault::new(Reason::RefreshRaced, "Other calls are exchanging the same refresh token.")
        .retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_wait_with_one_token_and_so_many_together() {
        let waiters = Waiters::default();
        let mut held: Vec<Waiting> = (0..EACH).map(|_| waiters.wait([0; 32]).unwrap()).collect();
        assert_eq!(waiters.wait([0; 32]).unwrap_err().reason(), Reason::RefreshRaced);
        for number in 1..=u8::MAX {
            held.extend(waiters.wait([number; 32]));
        }
        assert_eq!(held.len(), MOST);
        let refused = waiters.wait([255; 32]).unwrap_err();
        assert_eq!(refused.reason(), Reason::Overloaded);
        assert!(refused.retry_delay().is_some());
        drop(held);
        assert!(waiters.lock().is_empty(), "nobody is remembered who waits no more");
        assert!(waiters.wait([0; 32]).is_ok());
    }
}
