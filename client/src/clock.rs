//! The only module that reads clocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};

/// Where a [`Verifier`](crate::Verifier) takes the time from: the system's clock. Clones are the same clock, so that tests
/// can move it while a verifier runs.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Microseconds by which it is ahead of the system's.
    ahead_micros: Arc<AtomicU64>,
}

impl Clock {
    /// Moves this clock and its clones forward.
    pub fn advance(&self, by: Duration) {
        self.ahead_micros.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The time of day, which tokens' `exp` and `nbf` are compared with.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub(crate) fn now(&self) -> DateTime<Utc> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.saturating_add(self.ahead()).as_micros()).unwrap_or(i64::MAX);
        DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// A monotonic reading, which ages are measured with.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub(crate) fn instant(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.ahead()).unwrap_or(now)
    }

    fn ahead(&self) -> Duration {
        Duration::from_micros(self.ahead_micros.load(Ordering::Relaxed))
    }
}
