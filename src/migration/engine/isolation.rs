//! Finding the failing entries of a call over many. Pure: it says what to try next and takes the answer to that, and it
//! decides about an entry only what an answer about that entry alone, or Kanidm's success with others, shows.

use std::collections::VecDeque;

use super::trouble::Trouble;
use crate::kanidm::{Concern, KanidmError};

/// How often an entry is tried alone whose answers cannot be understood while others come through.
const TRIES: u32 = 3;
/// Entries in a row that fail alone and unclearly before anything came through: then it is not about the entries.
const SUSPECTS: usize = 4;

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was done.
    Done,
    /// Kanidm refused it.
    Refused(KanidmError),
    /// Kanidm gave no clear answer for it, several times, while it did for others.
    Unclear(KanidmError),
}

/// A call over many entries, which are known by their index.
#[derive(Debug)]
pub(super) struct Isolation {
    /// Parts to be tried, the next one last.
    waiting: Vec<Vec<usize>>,
    /// Entries that failed alone and unclearly, with how often.
    suspects: VecDeque<(usize, u32)>,
    /// Whether Kanidm has decided about any entry, so that what it does not decide about is not its state.
    works: bool,
    last: Option<KanidmError>,
}

impl Isolation {
    /// Over these entries, at most `size` in one call.
    pub(super) fn new(entries: Vec<usize>, size: usize) -> Self {
        let mut waiting: Vec<Vec<usize>> = entries.chunks(size.max(1)).map(<[usize]>::to_vec).collect();
        waiting.reverse();
        Self { waiting, suspects: VecDeque::new(), works: false, last: None }
    }

    /// What to try next; none when everything is decided.
    ///
    /// # Errors
    /// When what is left cannot be distinguished from trouble with everything.
    pub(super) fn next(&mut self) -> Result<Option<Vec<usize>>, Trouble> {
        if let Some(part) = self.waiting.pop() {
            return Ok(Some(part));
        }
        match (self.suspects.front(), self.works, self.last.take()) {
            (None, ..) => Ok(None),
            (Some((entry, _)), true, _) => Ok(Some(vec![*entry])),
            (Some(_), false, error) => Err(Trouble::of_single(error.unwrap_or(KanidmError::Unexplained(0)))),
        }
    }

    /// Takes the answer for what [`Isolation::next`] said; returns what is decided by it.
    ///
    /// # Errors
    /// When the answer is about everything.
    pub(super) fn answered(
        &mut self,
        part: Vec<usize>,
        answer: Result<(), KanidmError>,
    ) -> Result<Vec<(usize, Fate)>, Trouble> {
        let Err(error) = answer else {
            self.works = true;
            self.suspects.retain(|(suspect, _)| !part.contains(suspect));
            return Ok(part.into_iter().map(|entry| (entry, Fate::Done)).collect());
        };
        let is_verdict = match error.concern() {
            Concern::Entry => true,
            Concern::Size | Concern::Unclear => false,
            // One that hangs alone may be to blame; of many, fewer in one call may be answered.
            Concern::Time if part.len() == 1 => false,
            Concern::Access | Concern::Reach | Concern::State | Concern::Time => return Err(Trouble::of(error)),
        };
        let [entry] = part[..] else {
            let (left, right) = part.split_at(part.len() / 2);
            // The left half is next, so that entries are decided in their order.
            self.waiting.extend([right.to_vec(), left.to_vec()]);
            return Ok(Vec::new());
        };
        let tries = self.suspects.iter().position(|(suspect, _)| *suspect == entry);
        let tries = tries.and_then(|place| self.suspects.remove(place)).map_or(0, |(_, tries)| tries) + 1;
        if is_verdict {
            self.works = true;
            return Ok(vec![(entry, Fate::Refused(error))]);
        }
        if self.works && tries >= TRIES {
            return Ok(vec![(entry, Fate::Unclear(error))]);
        }
        self.suspects.push_back((entry, tries));
        if !self.works && self.suspects.len() >= SUSPECTS {
            return Err(Trouble::of_single(error));
        }
        self.last = Some(error);
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::migration::vocabulary::WaitReason;

    /// Runs to the end against a Kanidm that answers by `answer`; the fates, and how many calls it took.
    fn run(
        count: usize,
        answer: impl Fn(&[usize]) -> Result<(), KanidmError>,
    ) -> (Result<BTreeMap<usize, Fate>, WaitReason>, usize) {
        let mut isolation = Isolation::new((0..count).collect(), 100);
        let (mut fates, mut calls) = (BTreeMap::new(), 0);
        loop {
            let part = match isolation.next() {
                Ok(Some(part)) => part,
                Ok(None) => return (Ok(fates), calls),
                Err(trouble) => return (Err(trouble.wait), calls),
            };
            calls += 1;
            let given = answer(&part);
            match isolation.answered(part, given) {
                Ok(decided) => fates.extend(decided),
                Err(trouble) => return (Err(trouble.wait), calls),
            }
        }
    }

    fn unclear() -> KanidmError {
        KanidmError::Unexplained(422)
    }

    #[test]
    fn one_entry_that_gets_no_clear_answer_does_not_hold_up_the_others() {
        for error in [unclear(), KanidmError::TooLarge, KanidmError::Refused(500, "new".to_owned())] {
            for guilty in [0, 1, 50, 99] {
                let answer = |part: &[usize]| if part.contains(&guilty) { Err(error.clone()) } else { Ok(()) };
                let (fates, calls) = run(100, answer);
                let fates = fates.unwrap();
                assert_eq!(fates.len(), 100);
                assert_eq!(fates[&guilty], Fate::Unclear(error.clone()));
                assert_eq!(fates.values().filter(|fate| **fate == Fate::Done).count(), 99);
                assert!(calls <= 20, "{calls}");
            }
        }
    }

    #[test]
    fn what_nobody_gets_a_clear_answer_to_is_about_everything_and_costs_few_calls() {
        let (fates, calls) = run(100, |_| Err(unclear()));
        assert_eq!(fates, Err(WaitReason::KanidmUnavailable));
        assert!(calls < 16, "{calls}");
        let (fates, _) = run(100, |_| Err(KanidmError::Refused(500, "new".to_owned())));
        assert_eq!(fates, Err(WaitReason::KanidmAnswersUnclear));
        assert_eq!(run(1, |_| Err(unclear())).0, Err(WaitReason::KanidmUnavailable), "one alone shows nothing");
    }

    #[test]
    fn a_condition_of_the_server_decides_about_nobody_and_is_not_taken_apart() {
        for (error, wait) in [
            (KanidmError::Failing("backendengine".to_owned()), WaitReason::KanidmFailing),
            (KanidmError::AccessDenied, WaitReason::KanidmAccessDenied),
            (KanidmError::TimedOut, WaitReason::KanidmTooSlow),
            (KanidmError::Unavailable(String::new()), WaitReason::KanidmUnavailable),
        ] {
            assert_eq!(run(100, |_| Err(error.clone())), (Err(wait), 1));
        }
    }

    #[test]
    fn how_often_the_last_entry_may_hang_is_bounded_and_how_often_a_batch_may_is_not() {
        let trouble = |entries: usize, size: usize| {
            let mut isolation = Isolation::new((0..entries).collect(), size);
            loop {
                let part = match isolation.next() {
                    Ok(part) => part.expect("nothing is decided"),
                    Err(trouble) => return trouble,
                };
                if let Err(trouble) = isolation.answered(part, Err(KanidmError::TimedOut)) {
                    return trouble;
                }
            }
        };
        for (entries, size, is_unclear) in [(1, 100, true), (6, 1, true), (2, 100, false), (100, 100, false)] {
            let trouble = trouble(entries, size);
            assert_eq!((trouble.wait, trouble.is_unclear), (WaitReason::KanidmTooSlow, is_unclear), "{entries} {size}");
        }
    }

    #[test]
    fn one_entry_that_hangs_does_not_hold_up_the_others_for_ever() {
        let mut isolation = Isolation::new((0..3).collect(), 1);
        let mut fates = Vec::new();
        while let Some(part) = isolation.next().unwrap() {
            let answer = if part == [0] { Err(KanidmError::TimedOut) } else { Ok(()) };
            fates.extend(isolation.answered(part, answer).unwrap());
        }
        assert_eq!(fates, [(1, Fate::Done), (2, Fate::Done), (0, Fate::Unclear(KanidmError::TimedOut))]);
    }

    proptest! {
        #[test]
        fn everybody_gets_what_is_theirs(
            refused in proptest::collection::btree_set(0usize..100, 0..6),
            unclear in proptest::collection::btree_set(0usize..100, 0..3),
        ) {
            let duplicate = || KanidmError::Duplicate(Vec::new());
            let answer = |part: &[usize]| {
                if part.iter().any(|entry| unclear.contains(entry)) { Err(super::tests::unclear()) }
                else if part.iter().any(|entry| refused.contains(entry)) { Err(duplicate()) }
                else { Ok(()) }
            };
            let fates = run(100, answer).0.unwrap();
            for (entry, fate) in fates {
                let expected = if unclear.contains(&entry) { Fate::Unclear(super::tests::unclear()) }
                    else if refused.contains(&entry) { Fate::Refused(duplicate()) }
                    else { Fate::Done };
                prop_assert_eq!(fate, expected, "{}", entry);
            }
        }
    }
}
