//! How many entries a call to Kanidm takes and how long it may last, from what was measured. Pure; a hint only: nothing
//! depends on it but how fast it goes.

use std::time::Duration;

/// What a measurement counts beside the ones before it.
const WEIGHT: f64 = 0.3;
/// A call may take so many times what its entries are expected to take.
const ALLOWANCE: f64 = 4.0;

/// The pace of one kind of call.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Entries in a call at most.
    largest: usize,
    /// The time limit is never below.
    shortest: Duration,
    /// Nor above.
    longest: Duration,
    size: usize,
    /// Seconds that an entry is expected to take.
    per_entry: f64,
}

impl Pace {
    /// Begins with the largest batch and the shortest limit.
    pub(super) fn new(largest: usize, shortest: Duration, longest: Duration) -> Self {
        Self { largest, shortest, longest: longest.max(shortest), size: largest, per_entry: 0.0 }
    }

    /// Entries of the next call at most.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The time limit of a call over so many entries.
    pub(super) fn limit(&self, entries: usize) -> Duration {
        let expected = self.per_entry * entries as f64 * ALLOWANCE;
        Duration::try_from_secs_f64(expected).unwrap_or(self.longest).clamp(self.shortest, self.longest)
    }

    /// A call over so many entries was answered, whatever the answer.
    pub(super) fn answered(&mut self, entries: usize, took: Duration) {
        let measured = took.as_secs_f64() / entries.max(1) as f64;
        self.per_entry =
            if self.per_entry == 0.0 { measured } else { self.per_entry + WEIGHT * (measured - self.per_entry) };
        // It grows as long as a call stays well within the longest limit.
        let grown = self.largest.min(self.size + self.size.div_ceil(4));
        if entries >= self.size && self.per_entry * grown as f64 * ALLOWANCE <= self.longest.as_secs_f64() {
            self.size = grown;
        }
    }

    /// A call over so many entries was not answered within its limit.
    pub(super) fn timed_out(&mut self, entries: usize, limit: Duration) {
        self.size = self.size.min((entries / 2).max(1));
        // At least so long: the limit of the next call, over half as many, is twice as long.
        self.per_entry = self.per_entry.max(limit.as_secs_f64() / entries.max(1) as f64);
    }

    /// A call over so many entries was too large.
    pub(super) fn too_large(&mut self, entries: usize) {
        self.size = self.size.min((entries / 2).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTEST: Duration = Duration::from_secs(10);
    const LONGEST: Duration = Duration::from_secs(120);

    /// Calls to a Kanidm that takes `per_entry` for each entry, until one is answered; how many were not.
    fn lost(pace: &mut Pace, per_entry: Duration) -> usize {
        let mut lost = 0;
        loop {
            let (size, limit) = (pace.size(), pace.limit(pace.size()));
            let takes = per_entry * u32::try_from(size).unwrap();
            if takes <= limit {
                pace.answered(size, takes);
                return lost;
            }
            pace.timed_out(size, limit);
            lost += 1;
            assert!(lost < 20, "it never comes through: {pace:?}");
        }
    }

    #[test]
    fn however_slow_it_is_batches_shrink_until_they_come_through_and_stay_there() {
        for millis in [1, 50, 200, 500, 5_000, 60_000] {
            let mut pace = Pace::new(100, SHORTEST, LONGEST);
            let per_entry = Duration::from_millis(millis);
            assert!(lost(&mut pace, per_entry) <= 7, "{millis}");
            for _ in 0..50 {
                assert_eq!(lost(&mut pace, per_entry), 0, "{millis}: {pace:?}");
            }
        }
    }

    #[test]
    fn it_grows_again_when_kanidm_has_become_faster() {
        let mut pace = Pace::new(100, SHORTEST, LONGEST);
        lost(&mut pace, Duration::from_secs(5));
        assert!(pace.size() < 20, "{pace:?}");
        for _ in 0..30 {
            lost(&mut pace, Duration::from_millis(1));
        }
        assert_eq!((pace.size(), pace.limit(100)), (100, SHORTEST));
    }

    #[test]
    fn the_limit_has_a_ceiling() {
        let mut pace = Pace::new(100, SHORTEST, LONGEST);
        for _ in 0..20 {
            let limit = pace.limit(pace.size());
            pace.timed_out(pace.size(), limit);
        }
        assert_eq!((pace.size(), pace.limit(1)), (1, LONGEST));
    }
}
