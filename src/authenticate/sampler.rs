//! Counting what can be caused without authenticating.

use std::sync::atomic::{AtomicI64, Ordering};

/// Lets one through a second, and counts the others: what callers can cause without knowing anything must not fill the
/// audit log.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    second: AtomicI64,
    left_out: AtomicI64,
}

impl Sampler {
    /// How many were left out since the last one that was let through, if this one is.
    pub(super) fn sample(&self, second: i64) -> Option<i64> {
        if self.second.swap(second, Ordering::AcqRel) == second {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::AcqRel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_bad_keys_is_counted_and_one_a_second_is_recorded() {
        let sampler = Sampler::default();
        assert_eq!(sampler.sample(100), Some(0));
        assert_eq!((sampler.sample(100), sampler.sample(100)), (None, None));
        assert_eq!(sampler.sample(101), Some(2));
        assert_eq!(sampler.sample(103), Some(0));
    }
}
