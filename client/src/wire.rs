//! Conversions of the contract's times; none for invalid ones.

use std::time::Duration;

use chrono::{DateTime, Utc};

pub(crate) fn time(time: prost_types::Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)
}

/// The library's own conversion panics on the smallest of all numbers.
pub(crate) fn duration(duration: prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_time_is_none() {
        let read = |seconds, nanos| duration(prost_types::Duration { seconds, nanos });
        assert_eq!(read(10, 500_000_000), Some(Duration::from_millis(10_500)));
        for (seconds, nanos) in [(-1, 0), (1, -1), (0, 1_000_000_000), (i64::MIN, 0), (i64::MIN, i32::MIN)] {
            assert_eq!(read(seconds, nanos), None, "{seconds} {nanos}");
        }
        assert_eq!(time(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }), None);
        assert_eq!(time(prost_types::Timestamp { seconds: 0, nanos: -1 }), None);
    }
}
