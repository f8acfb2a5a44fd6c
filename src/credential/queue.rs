//! The queue before the hashing threads. Each account that is charged for work has a queue of its own and a bounded
//! share of the whole; the queues are served in turn, so that a long one makes only its owner wait.

use std::collections::{HashMap, VecDeque};

use super::charge::Account;

/// Work that was admitted and jobs that wait.
pub(super) struct Queue<J> {
    owners: HashMap<Account, Owner<J>>,
    /// Owners with jobs that wait, in the order in which they are served.
    turns: VecDeque<Account>,
    admitted: usize,
}

struct Owner<J> {
    jobs: VecDeque<J>,
    admitted: usize,
    units: u64,
}

/// What is admitted at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Of all owners together.
    pub total: usize,
    /// Of one owner's.
    pub share: usize,
}

impl Limits {
    /// Limits for so many threads and waiting jobs, of which one owner gets at most `share` and never more than half.
    pub fn new(threads: usize, queue: usize, share: usize) -> Self {
        let total = threads + queue;
        Self { total, share: share.min(total / 2).max(1) }
    }
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        Self { owners: HashMap::new(), turns: VecDeque::new(), admitted: 0 }
    }
}

impl<J> Queue<J> {
    /// How much is admitted.
    pub fn admitted(&self) -> usize {
        self.admitted
    }

    /// Whether one more of `account`'s fits. An account that has nothing here yet is admitted beyond the total, up to
    /// twice that: one that came first with much does not keep others out.
    pub fn has_place(&self, account: &Account, limits: Limits) -> bool {
        let held = self.owners.get(account).map_or(0, |owner| owner.admitted);
        let total = if held == 0 { limits.total * 2 } else { limits.total };
        held < limits.share && self.admitted < total
    }

    /// Units of work that are done before a new job of `account`'s is: all of its own and, since queues are served in
    /// turn, of every other one no more than of this.
    pub fn ahead_of(&self, account: &Account, units: u64) -> u64 {
        let own = self.owners.get(account).map_or(0, |owner| owner.units);
        let others = self.owners.iter().filter(|(other, _)| *other != account);
        others.fold(own, |sum, (_, other)| sum.saturating_add(other.units.min(own.saturating_add(units))))
    }

    /// Counts what was admitted.
    pub fn admit(&mut self, account: &Account, units: u64) {
        let empty = || Owner { jobs: VecDeque::new(), admitted: 0, units: 0 };
        let owner = self.owners.entry(account.clone()).or_insert_with(empty);
        owner.admitted += 1;
        owner.units += units;
        self.admitted += 1;
    }

    /// Gives back what was admitted.
    pub fn release(&mut self, account: &Account, units: u64) {
        let Some(owner) = self.owners.get_mut(account) else { return };
        owner.admitted -= 1;
        owner.units -= units;
        self.admitted -= 1;
        if owner.admitted == 0 && owner.jobs.is_empty() {
            self.owners.remove(account);
        }
    }

    /// Appends a job to the queue of its owner, who was admitted.
    pub fn push(&mut self, account: &Account, job: J) {
        let Some(owner) = self.owners.get_mut(account) else { return };
        if owner.jobs.is_empty() {
            self.turns.push_back(account.clone());
        }
        owner.jobs.push_back(job);
    }

    /// The next job: the oldest of the account whose turn it is.
    pub fn pop(&mut self) -> Option<J> {
        let account = self.turns.pop_front()?;
        let owner = self.owners.get_mut(&account)?;
        let job = owner.jobs.pop_front();
        if !owner.jobs.is_empty() {
            self.turns.push_back(account);
        } else if owner.admitted == 0 {
            self.owners.remove(&account);
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> Account {
        Account::Network(Some(name.to_owned()))
    }

    #[test]
    fn owners_are_served_in_turn_however_many_jobs_one_has() {
        let mut queue = Queue::default();
        for (name, job) in [("a", 1), ("a", 2), ("a", 3), ("b", 10), ("c", 20), ("b", 11)] {
            queue.admit(&account(name), 8);
            queue.push(&account(name), job);
        }
        let served: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(served, [1, 10, 20, 2, 11, 3]);
        for (name, jobs) in [("a", 3), ("b", 2), ("c", 1)] {
            for _ in 0..jobs {
                queue.release(&account(name), 8);
            }
        }
        assert!(queue.owners.is_empty() && queue.turns.is_empty() && queue.admitted == 0, "nothing is kept");
    }

    #[test]
    fn one_owner_fills_its_share_and_leaves_the_rest() {
        let (limits, mut queue) = (Limits::new(2, 6, 100), Queue::<()>::default());
        assert_eq!((limits.total, limits.share), (8, 4));
        for _ in 0..4 {
            assert!(queue.has_place(&account("a"), limits));
            queue.admit(&account("a"), 1);
        }
        assert!(!queue.has_place(&account("a"), limits));
        for _ in 0..4 {
            queue.admit(&account("b"), 1);
        }
        assert!(queue.has_place(&account("c"), limits), "whoever has nothing here finds a place");
        queue.admit(&account("c"), 1);
        assert!(!queue.has_place(&account("c"), limits), "and just one while there are too many");
        assert_eq!(Limits::new(1, 0, 64).share, 1);
        assert_eq!(Limits::new(2, 256, 64).share, 64);
    }

    #[test]
    fn what_others_wait_for_is_not_waited_for_by_who_has_little() {
        let mut queue = Queue::<()>::default();
        for _ in 0..50 {
            queue.admit(&account("a"), 100);
        }
        assert_eq!(queue.ahead_of(&account("b"), 100), 100);
        assert_eq!(queue.ahead_of(&account("a"), 100), 5_000);
        queue.admit(&account("b"), 100);
        assert_eq!(queue.ahead_of(&account("b"), 100), 300);
    }
}
