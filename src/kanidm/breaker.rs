//! Spares callers the wait for a Kanidm that does not answer. Pure: the time is passed in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::Circuit;

/// Opens after so many failures one after the other; then lets one call through at a time, until one succeeds.
#[derive(Debug)]
pub struct Breaker {
    opens_after: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed {
        failures: u32,
    },
    /// Nothing is let through until then; the next call after that finds out.
    Open {
        until: Instant,
    },
}

impl Breaker {
    /// A closed breaker; one that never opens for 0 failures.
    pub fn new(opens_after: u32, pause: Duration) -> Self {
        Self { opens_after, pause, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// How long no call is let through.
    pub fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state();
        match *state {
            State::Open { until } if now < until => Err(until - now),
            State::Open { .. } => {
                // The others wait for this one's outcome, or as long again, should it never come.
                *state = State::Open { until: now + self.pause };
                Ok(())
            }
            State::Closed { .. } => Ok(()),
        }
    }

    /// A call was answered sensibly.
    pub fn succeeded(&self) {
        *self.state() = State::Closed { failures: 0 };
    }

    /// A call was not.
    pub fn failed(&self, now: Instant) {
        let mut state = self.state();
        let failures = match *state {
            State::Closed { failures } => failures.saturating_add(1),
            // Also of a call that began before it opened: the pause starts anew with each sign of trouble.
            State::Open { .. } => self.opens_after,
        };
        let opens = self.opens_after > 0 && failures >= self.opens_after;
        *state = if opens { State::Open { until: now + self.pause } } else { State::Closed { failures } };
    }

    /// What it does, and for how much longer where it refuses.
    pub fn circuit(&self, now: Instant) -> (Circuit, Duration) {
        match *self.state() {
            State::Closed { .. } => (Circuit::Closed, Duration::ZERO),
            State::Open { until } if now < until => (Circuit::Open, until - now),
            State::Open { .. } => (Circuit::HalfOpen, Duration::ZERO),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_not_after_as_many_with_a_success_between() {
        let (breaker, start) = (Breaker::new(3, PAUSE), crate::context::Clock::system().instant());
        for _ in 0..5 {
            breaker.failed(start);
            breaker.failed(start);
            breaker.succeeded();
        }
        assert_eq!(breaker.circuit(start).0, Circuit::Closed);
        (0..3).for_each(|_| breaker.failed(start));
        assert_eq!(breaker.admit(after(start, 1)), Err(PAUSE - Duration::from_millis(1)));
        assert_eq!(breaker.circuit(start), (Circuit::Open, PAUSE));
    }

    #[test]
    fn after_the_pause_one_call_finds_out_for_all() {
        let (breaker, start) = (Breaker::new(1, PAUSE), crate::context::Clock::system().instant());
        breaker.failed(start);
        let later = start + PAUSE;
        assert_eq!(breaker.circuit(later).0, Circuit::HalfOpen);
        assert_eq!(breaker.admit(later), Ok(()));
        assert!(breaker.admit(later).is_err(), "the second waits for the first");
        breaker.failed(later);
        assert!(breaker.admit(after(later, 4999)).is_err(), "it failed: as long again");
        assert_eq!(breaker.admit(later + PAUSE), Ok(()));
        breaker.succeeded();
        assert!(breaker.admit(later).is_ok() && breaker.admit(later).is_ok(), "it succeeded: all are let through");
    }

    #[test]
    fn a_probe_that_nobody_waits_for_any_more_does_not_hold_it_open_for_good() {
        let (breaker, start) = (Breaker::new(1, PAUSE), crate::context::Clock::system().instant());
        breaker.failed(start);
        assert_eq!(breaker.admit(start + PAUSE), Ok(()));
        assert_eq!(breaker.admit(start + PAUSE + PAUSE), Ok(()));
    }

    #[test]
    fn it_can_be_switched_off() {
        let (breaker, start) = (Breaker::new(0, PAUSE), crate::context::Clock::system().instant());
        (0..100).for_each(|_| breaker.failed(start));
        assert_eq!(breaker.admit(start), Ok(()));
    }
}
