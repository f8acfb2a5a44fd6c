//! How often something may be written that callers cause: so many at once and so many a second, for each client and for
//! all together. What is written must not grow without bound because somebody wants it to.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::quota::Client;

/// Clients that are remembered at once. Far more than can have used anything up: `together` refills slowly.
const CLIENTS: usize = 8_192;

/// So many at once, and then so many a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub burst: f64,
    pub per_second: f64,
}

/// What is left of a rate.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, at: now }
    }

    fn refill(&mut self, rate: Rate, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + seconds * rate.per_second).min(rate.burst);
        self.at = now;
        self.left
    }
}

/// A rate for each client and one for all together.
#[derive(Debug)]
pub(super) struct RateLimit {
    each: Rate,
    together: Rate,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    together: Bucket,
    by: HashMap<Client, Bucket>,
}

impl RateLimit {
    pub(super) fn new(each: Rate, together: Rate, now: Instant) -> Self {
        let state = State { together: Bucket::full(together, now), by: HashMap::new() };
        Self { each, together, state: Mutex::new(state) }
    }

    /// Whether it may be done once more now, for this client. Without one only all together count.
    pub(super) fn take(&self, client: Option<Client>, now: Instant) -> bool {
        // Nothing panics while it is held, and numbers are never half written.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.together.refill(self.together, now) < 1.0 {
            return false;
        }
        if let Some(client) = client {
            let (each, full) = (self.each, state.by.len() >= CLIENTS && !state.by.contains_key(&client));
            if full {
                // Who has everything left is as good as forgotten.
                state.by.retain(|_, bucket| bucket.refill(each, now) < each.burst);
            }
            let bucket = state.by.entry(client).or_insert_with(|| Bucket::full(each, now));
            if bucket.refill(each, now) < 1.0 {
                return false;
            }
            bucket.left -= 1.0;
        }
        state.together.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::context::Clock;

    const EACH: Rate = Rate { burst: 3.0, per_second: 1.0 };
    const TOGETHER: Rate = Rate { burst: 5.0, per_second: 2.0 };

    fn granted(limit: &RateLimit, client: u128, now: Instant) -> usize {
        let client = Some(Client::Caller(Uuid::from_u128(client)));
        (0..100).filter(|_| limit.take(client, now)).count()
    }

    #[test]
    fn one_client_uses_up_its_own_and_all_together_no_more_than_there_is() {
        let now = Clock::system().instant();
        let limit = RateLimit::new(EACH, TOGETHER, now);
        assert_eq!([granted(&limit, 1, now), granted(&limit, 2, now)], [3, 2]);
        assert!(!limit.take(None, now));
        let later = now + Duration::from_secs(1);
        assert_eq!([granted(&limit, 1, later), granted(&limit, 2, later)], [1, 1]);
        let rested = later + Duration::from_secs(3_600);
        assert_eq!([granted(&limit, 1, rested), granted(&limit, 2, rested)], [3, 2], "no more than at once");
    }

    #[test]
    fn clients_without_number_are_not_remembered() {
        let mut now = Clock::system().instant();
        let together = Rate { burst: 1e9, per_second: 1e9 };
        let limit = RateLimit::new(EACH, together, now);
        for client in 0..3 * CLIENTS as u128 {
            assert!(limit.take(Some(Client::Caller(Uuid::from_u128(client))), now));
            now += Duration::from_millis(10);
        }
        assert!(limit.state.lock().unwrap().by.len() <= CLIENTS);
    }
}
