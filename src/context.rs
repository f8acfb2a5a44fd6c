//! Time and randomness, as values that are passed in. Nothing else reads a clock or asks for random
//! bytes, so that tests can move time and repeat themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Where the current time comes from.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Microseconds by which this clock is ahead of the system's. Shared by the clones.
    ahead_micros: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// The current time, in whole microseconds as Postgres keeps it.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn now(&self) -> DateTime<Utc> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        let ahead = self.ahead_micros.load(Ordering::Relaxed);
        DateTime::from_timestamp_micros(micros.saturating_add(ahead)).unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// A reading that only grows, for ages and deadlines: how old what is known is, whether something is due. Moved by
    /// [`Clock::advance`], so it says nothing about how long work took: that is what [`Clock::stopwatch`] is for.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn instant(&self) -> Instant {
        let now = Instant::now();
        let ahead = u64::try_from(self.ahead_micros.load(Ordering::Relaxed)).unwrap_or_default();
        now.checked_add(Duration::from_micros(ahead)).unwrap_or(now)
    }

    /// Begins to measure how long work takes on this machine. Not moved by [`Clock::advance`]: estimates are made of it.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn stopwatch(&self) -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// Moves this clock and its clones forward.
    pub fn advance(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.ahead_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// How long something has taken so far.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Where random bytes come from: the operating system.
#[derive(Clone, Debug, Default)]
pub struct Entropy {
    _private: (),
}

impl Entropy {
    /// The operating system's generator.
    pub fn system() -> Self {
        Self::default()
    }

    /// Fills `bytes` with random bytes.
    ///
    /// # Panics
    /// When the operating system has no randomness to give, where going on would be worse.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks for randomness")]
    #[expect(clippy::expect_used, reason = "a service without randomness must not go on")]
    pub fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }

    /// `N` random bytes.
    pub fn array<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A duration between half of `around` and one and a half times it, so that replicas do not act in step.
    pub fn jitter(&self, around: Duration) -> Duration {
        let share = f64::from(u16::from_le_bytes(self.array())) / f64::from(u16::MAX);
        around.mul_f64(0.5 + share)
    }
}

/// The clock and the randomness that a module works with.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Where the time comes from.
    pub clock: Clock,
    /// Where random bytes come from.
    pub entropy: Entropy,
}

impl Context {
    /// The system's clock and randomness.
    pub fn system() -> Self {
        Self::default()
    }

    /// The current time.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// A fresh UUIDv7: ids sort by the time they were made.
    pub fn new_id(&self) -> Uuid {
        let millis = u64::try_from(self.now().timestamp_millis()).unwrap_or_default();
        uuid::Builder::from_unix_timestamp_millis(millis, &self.entropy.array()).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_the_clock_and_differ() {
        let context = Context::system();
        let first = context.new_id();
        context.clock.advance(Duration::from_secs(3600));
        let second = context.new_id();
        assert_eq!(first.get_version_num(), 7);
        assert!(first < second, "a later id sorts after an earlier one");
        assert_ne!(context.new_id(), context.new_id());
    }

    #[test]
    fn ages_move_with_the_clock_and_measurements_do_not() {
        let clock = Clock::system();
        let (stopwatch, before) = (clock.stopwatch(), clock.instant());
        clock.clone().advance(Duration::from_secs(3600));
        assert!(clock.instant().saturating_duration_since(before) >= Duration::from_secs(3600));
        assert!(stopwatch.elapsed() < Duration::from_secs(3600));
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        let entropy = Entropy::system();
        for _ in 0..1000 {
            let jittered = entropy.jitter(Duration::from_millis(100));
            assert!((50..=150).contains(&jittered.as_millis()), "{jittered:?}");
        }
    }
}
