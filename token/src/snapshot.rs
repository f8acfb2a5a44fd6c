//! The revocation snapshot that tokens are verified with.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::Epoch;

/// What is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revoked {
    /// Every token of a session.
    Session(Uuid),
    /// Tokens of a principal that were issued before this revocation.
    Principal(Uuid, Epoch),
    /// Every token signed with a key.
    Key(Uuid),
}

/// A revocation, by which tokens end before they expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revocation {
    /// When the last token that it affects has expired anyway.
    pub forget_after: DateTime<Utc>,
    /// What is revoked.
    pub revoked: Revoked,
}

/// Every revocation that may affect a valid token. The result does not depend on order or repetition of what is
/// applied.
#[derive(Clone, Debug, Default)]
pub struct RevocationSnapshot {
    sessions: HashMap<Uuid, DateTime<Utc>>,
    principals: HashMap<Uuid, (Epoch, DateTime<Utc>)>,
    keys: HashMap<Uuid, DateTime<Utc>>,
    forget: BinaryHeap<Reverse<Revocation>>,
}

impl RevocationSnapshot {
    /// Applies a revocation.
    pub fn apply(&mut self, revocation: Revocation) {
        let until = revocation.forget_after;
        let is_news = match revocation.revoked {
            Revoked::Session(id) => extend(&mut self.sessions, id, until),
            Revoked::Key(id) => extend(&mut self.keys, id, until),
            Revoked::Principal(id, void) => {
                let known = self.principals.get(&id);
                let later = known.map_or((void, until), |known| (known.0.max(void), known.1.max(until)));
                self.principals.insert(id, later) != Some(later)
            }
        };
        if is_news {
            self.forget.push(Reverse(revocation));
        }
    }

    /// Whether a token of this session, principal and key that was issued after this revocation is revoked.
    pub fn refuses(&self, session: Option<Uuid>, principal: Uuid, kid: Option<Uuid>, epoch: Epoch) -> bool {
        session.is_some_and(|session| self.sessions.contains_key(&session))
            || kid.is_some_and(|kid| self.keys.contains_key(&kid))
            || epoch < self.epoch(principal)
    }

    /// The latest revocation of a principal's tokens that may affect one.
    pub fn epoch(&self, principal: Uuid) -> Epoch {
        self.principals.get(&principal).map_or(Epoch::FIRST, |(epoch, _)| *epoch)
    }

    /// Drops what can affect no valid token any more.
    pub fn forget(&mut self, now: DateTime<Utc>) {
        while let Some(Reverse(next)) = self.forget.peek().copied().filter(|next| next.0.forget_after <= now) {
            self.forget.pop();
            // It may have been revoked again meanwhile; then there is a later entry for it.
            let over = |until: &DateTime<Utc>| *until <= now;
            match next.revoked {
                Revoked::Session(id) if self.sessions.get(&id).is_some_and(over) => _ = self.sessions.remove(&id),
                Revoked::Key(id) if self.keys.get(&id).is_some_and(over) => _ = self.keys.remove(&id),
                Revoked::Principal(id, _) if self.principals.get(&id).is_some_and(|(_, until)| over(until)) => {
                    self.principals.remove(&id);
                }
                _ => {}
            }
        }
    }

    /// Everything in it, in no order.
    pub fn all(&self) -> Vec<Revocation> {
        let one = |revoked, until: &DateTime<Utc>| Revocation { forget_after: *until, revoked };
        let sessions = self.sessions.iter().map(|(id, until)| one(Revoked::Session(*id), until));
        let keys = self.keys.iter().map(|(id, until)| one(Revoked::Key(*id), until));
        let principals = self.principals.iter().map(|(id, (void, until))| one(Revoked::Principal(*id, *void), until));
        sessions.chain(keys).chain(principals).collect()
    }

    /// How many revocations there are.
    pub fn len(&self) -> usize {
        self.sessions.len() + self.keys.len() + self.principals.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sets `until` for `id`, unless it has a later time; returns whether that changed anything.
fn extend(map: &mut HashMap<Uuid, DateTime<Utc>>, id: Uuid, until: DateTime<Utc>) -> bool {
    let is_news = map.get(&id).is_none_or(|known| *known < until);
    if is_news {
        map.insert(id, until);
    }
    is_news
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(seconds: i64) -> Epoch {
        Epoch::of(Some(at(seconds)))
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn revoke(revoked: Revoked, until: i64) -> Revocation {
        Revocation { revoked, forget_after: at(until) }
    }

    const ID: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    #[test]
    fn what_is_revoked_is_refused_until_it_can_be_forgotten() {
        let mut snapshot = RevocationSnapshot::default();
        snapshot.apply(revoke(Revoked::Session(ID), 100));
        snapshot.apply(revoke(Revoked::Key(OTHER), 50));
        snapshot.forget(at(99));
        assert!(snapshot.refuses(Some(ID), OTHER, None, Epoch::FIRST));
        assert!(!snapshot.refuses(None, OTHER, Some(OTHER), Epoch::FIRST), "forgotten");
        assert!(
            !snapshot.refuses(Some(OTHER), ID, Some(ID), Epoch::FIRST),
            "ids of one kind say nothing about another"
        );
        snapshot.forget(at(100));
        assert!(snapshot.is_empty() && snapshot.forget.is_empty());
    }

    #[test]
    fn tokens_from_before_a_change_are_void_whatever_comes_in_which_order() {
        let mut snapshot = RevocationSnapshot::default();
        snapshot.apply(revoke(Revoked::Principal(ID, epoch(30)), 130));
        snapshot.apply(revoke(Revoked::Principal(ID, epoch(0)), 100));
        assert!(snapshot.refuses(None, ID, None, Epoch::FIRST), "issued before any");
        assert!(snapshot.refuses(None, ID, None, epoch(0)), "issued between the two: the later one counts");
        assert!(!snapshot.refuses(None, ID, None, epoch(30)), "issued after it");
        snapshot.forget(at(110));
        assert!(snapshot.refuses(None, ID, None, epoch(0)), "the later one still counts");
        snapshot.forget(at(130));
        assert!(snapshot.is_empty());
    }

    #[test]
    fn a_longer_memory_wins() {
        let mut snapshot = RevocationSnapshot::default();
        snapshot.apply(revoke(Revoked::Session(ID), 100));
        snapshot.apply(revoke(Revoked::Session(ID), 200));
        snapshot.apply(revoke(Revoked::Session(ID), 150));
        snapshot.forget(at(160));
        assert!(snapshot.refuses(Some(ID), OTHER, None, Epoch::FIRST));
        assert_eq!(snapshot.all(), [revoke(Revoked::Session(ID), 200)]);
    }

    #[test]
    fn what_was_over_before_all_times_is_forgotten_like_the_rest() {
        let mut snapshot = RevocationSnapshot::default();
        let forget_after = DateTime::<Utc>::MIN_UTC;
        for revoked in [Revoked::Session(ID), Revoked::Key(ID), Revoked::Principal(ID, epoch(0))] {
            snapshot.apply(Revocation { revoked, forget_after });
        }
        snapshot.apply(revoke(Revoked::Principal(OTHER, epoch(0)), 50));
        snapshot.forget(at(50));
        assert!(snapshot.is_empty() && snapshot.forget.is_empty());
    }
}
