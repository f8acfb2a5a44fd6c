//! Epochs: which revocation a token comes after, compared instead of clocks.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The latest revocation of a principal's tokens at some moment: its time by the database's clock, in microseconds
/// since 1970, and each later than the one before. A token carries the one that held when it was issued, read under the
/// lock that a revocation takes as well; it is void as soon as there is a later one. So no clock of a replica decides
/// which came first, and a token issued right after a revocation is valid immediately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(i64);

impl Epoch {
    /// That of a principal whose tokens were never revoked.
    pub const FIRST: Self = Self(0);

    /// That of a principal whose tokens were revoked last at this time; [`Epoch::FIRST`] for none.
    pub fn of(tokens_valid_from: Option<DateTime<Utc>>) -> Self {
        tokens_valid_from.map_or(Self::FIRST, |at| Self(at.timestamp_micros()))
    }

    /// That of the revocation at so many microseconds since 1970, as in an event.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970, as in an event.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// When the revocation was, by the database's clock.
    pub fn time(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Whether there was no revocation.
    pub fn is_first(&self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_revocation_is_later_than_none_and_than_the_one_before() {
        let at = |micros| Epoch::of(DateTime::from_timestamp_micros(micros));
        assert!(Epoch::FIRST < at(1) && at(1) < at(2));
        assert_eq!(Epoch::of(None), Epoch::FIRST);
        assert_eq!(at(1_700_000_000_000_001).time().timestamp_micros(), 1_700_000_000_000_001);
        assert_eq!(Epoch::from_micros(i64::MAX).time(), DateTime::<Utc>::MAX_UTC, "no number is a panic");
    }
}
