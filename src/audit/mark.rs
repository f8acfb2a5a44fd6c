//! Events by which a reader tells whether the log is still the one that it has read. After a fail-over to a standby that
//! had not received the last events, or a restore, the same positions hold other events: a position alone says nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::StoredEvent;
use crate::fault::{Fault, Reason};

/// An event of the log, by its position and part of its hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its position; 0 before the first event.
    pub position: i64,
    /// The first bytes of its hash, enough to tell two histories apart; none before the first event, and for an event that
    /// is not kept any more.
    hash: Option<u64>,
}

/// Where following begins: a mark that was found in the log, and during which epoch of the feed. Made by
/// [`super::Log::resolve`], so that no reader follows from a position that was not compared with the log.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub(super) mark: Mark,
    pub(super) epoch: u64,
}

impl Mark {
    /// Before the first event.
    pub const BEGINNING: Self = Self { position: 0, hash: None };

    /// The event at `position` with this hash; none when it is not kept any more.
    pub(super) fn new(position: i64, leaf_hash: Option<&[u8]>) -> Self {
        let hash = leaf_hash.and_then(|hash| hash.first_chunk()).map(|bytes| u64::from_be_bytes(*bytes));
        Self { position, hash }
    }

    pub(super) fn of(event: &StoredEvent) -> Self {
        Self::new(event.position, Some(&event.leaf_hash))
    }

    /// Whether it can be compared with the log.
    pub(super) fn is_known(self) -> bool {
        self.hash.is_some()
    }

    /// Whether the event that the log has at this position now is this one. One without a hash cannot be told from others.
    pub(super) fn agrees(self, leaf_hash: Option<&[u8]>) -> bool {
        self.hash.is_none() || Self::new(self.position, leaf_hash).hash == self.hash
    }

    /// Whether both may be of the same log. Says nothing about two that lie apart.
    pub(super) fn is_beside(self, other: Self) -> bool {
        self.position != other.position || self.hash.is_none() || other.hash.is_none() || self.hash == other.hash
    }

    /// The hash as text, for the log.
    pub(super) fn hash_text(self) -> Option<String> {
        self.hash.map(|hash| format!("{hash:016x}"))
    }
}

impl Origin {
    /// The position after which following begins.
    pub fn position(self) -> i64 {
        self.mark.position
    }

    /// Whether it was found in the log of this epoch of the feed.
    pub fn is_of(self, epoch: u64) -> bool {
        self.epoch == epoch
    }
}

/// What a stream ends with, and what a cursor is refused with, once the log is another one.
pub(super) fn forked() -> Fault {
    Fault::new(
        Reason::LogForked,
        "The log is another one than the caller has read: it was replaced by an earlier state and went on from there.",
    )
}

/// Events that this replica's readers had seen and the log has no more, on their way to the sequencer, which records that.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    marks: Arc<Mutex<Vec<Mark>>>,
}

impl Lost {
    pub fn report(&self, mark: Mark) {
        self.marks().push(mark);
    }

    pub fn all(&self) -> Vec<Mark> {
        self.marks().clone()
    }

    /// What is recorded by now.
    pub fn settle(&self, recorded: &[Mark]) {
        self.marks().retain(|mark| !recorded.contains(mark));
    }

    fn marks(&self) -> MutexGuard<'_, Vec<Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_one_history_from_another() {
        let (one, other) = ([7; 32], [8; 32]);
        let mark = Mark::new(5, Some(&one));
        assert!(mark.agrees(Some(&one)) && !mark.agrees(Some(&other)) && !mark.agrees(None));
        assert!(mark.is_beside(mark) && !mark.is_beside(Mark::new(5, Some(&other))));
        assert!(mark.is_beside(Mark::new(6, Some(&other))), "what lies apart cannot be compared");
        let unknown = Mark::new(5, None);
        assert!(unknown.agrees(Some(&other)) && unknown.agrees(None) && unknown.is_beside(mark));
        let text = serde_json::to_string(&mark).unwrap();
        assert_eq!(serde_json::from_str::<Mark>(&text).unwrap(), mark);
    }
}
