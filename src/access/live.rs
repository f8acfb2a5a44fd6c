//! What every stream that stays open has in common: whether its caller is still authorised, and when a heartbeat is due.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Call, input};
use crate::context::Clock;
use crate::fault::{Fault, Result};

/// Longest time between two checks whether the caller is still authorised, while nothing is sent.
pub(crate) const RECHECK: Duration = Duration::from_secs(5);

/// Checks whether callers of open streams are still authorised. Made by what verifies tokens.
#[derive(Clone)]
pub struct Admission(Arc<Check>);

type Check = dyn Fn(&Call) -> Result<()> + Send + Sync;

impl Admission {
    /// One that asks `check`.
    pub fn new(check: impl Fn(&Call) -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(check))
    }

    /// The caller of a stream that begins now.
    pub(crate) fn of(&self, call: Call) -> StreamCaller {
        StreamCaller { call, admission: self.clone() }
    }
}

/// The caller of an open stream, who may lose their rights while it is open.
pub(crate) struct StreamCaller {
    pub call: Call,
    admission: Admission,
}

impl StreamCaller {
    /// Checks that the caller is still authorised as when the stream began.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`, `REVOCATIONS_STALE`.
    pub fn recheck(&self) -> Result<()> {
        (self.admission.0)(&self.call)
    }

    /// What `wait` gives, if the caller is still authorised then.
    ///
    /// # Errors
    /// As [`Self::recheck`], and those of `wait`.
    pub async fn after<T>(&self, wait: impl Future<Output = Result<T>>) -> Result<T> {
        let given = wait.await?;
        self.recheck()?;
        Ok(given)
    }
}

/// When the next heartbeat of a stream is due.
pub(crate) struct Heartbeat {
    clock: Clock,
    interval: Duration,
    last_sent: Option<Instant>,
}

impl Heartbeat {
    /// Due immediately: nothing was sent yet.
    pub fn due(clock: Clock, interval: Duration) -> Self {
        Self { clock, interval, last_sent: None }
    }

    /// Due when nothing is sent for a whole interval from now.
    pub fn new(clock: Clock, interval: Duration) -> Self {
        let last_sent = Some(clock.instant());
        Self { clock, interval, last_sent }
    }

    /// The interval that a request asks for; 15 seconds when it asks for none.
    pub fn interval(requested: Option<prost_types::Duration>, allowed: RangeInclusive<u64>) -> Result<Duration> {
        let Some(requested) = requested else { return Ok(Duration::from_secs(15)) };
        let (shortest, longest) = (*allowed.start(), *allowed.end());
        input::duration(&requested)
            .filter(|interval| (Duration::from_secs(shortest)..=Duration::from_secs(longest)).contains(interval))
            .ok_or_else(|| Fault::field("heartbeat_interval", format!("must be from {shortest} to {longest} seconds")))
    }

    /// Notes that something is sent now.
    pub fn sent(&mut self) {
        self.last_sent = Some(self.clock.instant());
    }

    /// Whether the stream was silent for the whole interval.
    pub fn is_due(&self) -> bool {
        self.left().is_zero()
    }

    /// For how long the stream may still be silent.
    pub fn left(&self) -> Duration {
        let silence = |sent| self.clock.instant().saturating_duration_since(sent);
        self.last_sent.map_or(Duration::ZERO, |sent| self.interval.saturating_sub(silence(sent)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_shows_that_it_lives_once_an_interval() {
        let clock = Clock::system();
        assert!(Heartbeat::due(clock.clone(), Duration::from_secs(3600)).is_due(), "nothing was sent yet");
        let mut heartbeat = Heartbeat::new(clock.clone(), Duration::from_secs(3600));
        assert!(!heartbeat.is_due());
        heartbeat.interval = Duration::ZERO;
        assert!(heartbeat.is_due());
    }

    #[test]
    fn a_heartbeat_is_neither_a_flood_nor_a_silence() {
        let asked = |seconds, nanos| Heartbeat::interval(Some(prost_types::Duration { seconds, nanos }), 1..=300);
        assert_eq!(Heartbeat::interval(None, 1..=300).unwrap(), Duration::from_secs(15));
        assert_eq!(asked(1, 0).unwrap(), Duration::from_secs(1));
        assert_eq!(asked(300, 0).unwrap(), Duration::from_secs(300));
        for (seconds, nanos) in [(0, 0), (0, 999_999_999), (-1, 0), (301, 0), (i64::MAX, i32::MAX), (1, -1)] {
            assert!(asked(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
    }
}
