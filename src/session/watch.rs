//! Streams what is revoked to services that verify tokens themselves: first everything that matters, then what the log
//! brings, and in between how complete that is.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream::Stream;
use sidle_token::Revocation;

use super::Sessions;
use crate::access::live::Heartbeat;
use crate::access::{Call, denied};
use crate::audit::{Content, Feed, Filter, Follow, Mark, Reaction, Start, StoredEvent, Streams};
use crate::db::Scope;
use crate::fault::Result;
use crate::token::revocation::Effect;

/// What the caller must hold, on the platform.
pub(super) const WATCH: &str = "tokens.verify";
/// Most revocations in one message.
const MOST: usize = 1000;

/// What a client that watches is sent. Nothing is kept for a slow one but the position it has reached.
struct Watch {
    sessions: Sessions,
    feed: Feed,
    /// What is left of the snapshot of the start.
    start: Vec<Revocation>,
    /// What events have revoked and is not sent yet.
    found: Vec<Revocation>,
    caught_up: bool,
    complete: Option<Instant>,
}

/// A message to a client that watches.
pub(super) struct RevocationBatch {
    pub revocations: Vec<Revocation>,
    /// Where to go on after it; none before the snapshot of the start is complete.
    pub mark: Option<Mark>,
    pub complete_until: Option<DateTime<Utc>>,
    pub caught_up: bool,
    pub sent_at: DateTime<Utc>,
}

impl Sessions {
    /// Begins to watch, after `mark` or with everything.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` for a caller of one tenant only, `CURSOR_EXPIRED`, `CURSOR_AHEAD`, `LOG_FORKED`, and
    /// `REVOCATIONS_STALE` while everything is loaded again.
    pub(super) async fn watch(
        &self,
        call: Call,
        streams: &Streams,
        mark: Option<Mark>,
    ) -> Result<impl Stream<Item = Result<RevocationBatch>> + Send + use<>> {
        if call.principal()?.authorize(WATCH, None)? != Scope::Platform {
            return Err(denied(WATCH));
        }
        let log = streams.log();
        let (origin, start) = match mark {
            Some(mark) => (log.resolve(Start::After(mark)).await?, Vec::new()),
            None => self.revocations.snapshot()?,
        };
        let follow = log.follow(Filter::new(Scope::Platform), origin);
        let heartbeat = Heartbeat::due(self.context.clock.clone(), self.config.tokens.revocation_heartbeat);
        let (sessions, feed) = (self.clone(), log.feed().clone());
        let watch = Watch { sessions, feed, start, found: Vec::new(), caught_up: false, complete: None };
        Ok(streams.open(call, heartbeat, follow, watch))
    }
}

impl Watch {
    fn batch(&self, revocations: Vec<Revocation>, follow: &Follow) -> RevocationBatch {
        let (instant, now) = (self.sessions.context.clock.instant(), self.sessions.context.now());
        let age = |at: Instant| TimeDelta::from_std(instant.saturating_duration_since(at)).unwrap_or_default();
        RevocationBatch {
            revocations,
            mark: self.start.is_empty().then(|| follow.mark()),
            complete_until: self.complete.map(|at| now - age(at)),
            caught_up: self.caught_up,
            sent_at: now,
        }
    }

    fn found(&mut self, follow: &Follow) -> RevocationBatch {
        let found = std::mem::take(&mut self.found);
        self.batch(found, follow)
    }
}

impl Content for Watch {
    type Message = RevocationBatch;

    fn opening(&mut self, follow: &Follow) -> Option<RevocationBatch> {
        if self.start.is_empty() {
            return None;
        }
        let some = self.start.split_off(self.start.len().saturating_sub(MOST));
        Some(self.batch(some, follow))
    }

    fn event(&mut self, event: &StoredEvent, follow: &Follow) -> Result<Reaction<RevocationBatch>> {
        let forget_after = |revoked| self.sessions.revocations.forget_after(revoked, event.recorded_at);
        let revoked = Effect::of(event).revoked.into_iter();
        self.found.extend(revoked.map(|revoked| Revocation { revoked, forget_after: forget_after(revoked) }));
        Ok(match self.found.len() {
            0 => Reaction::Skip,
            MOST.. => Reaction::Send(self.found(follow)),
            _ => Reaction::Gather,
        })
    }

    /// Looks how complete is what has been sent: as complete as what the feed has handed out, if that is all here.
    fn idle(&mut self, follow: &Follow) {
        // The age before the position: what is confirmed is then never newer than what was sent.
        let now = self.sessions.context.clock.instant();
        let age = self.feed.age();
        if follow.is_live()
            && self.feed.position().is_some_and(|position| follow.position() >= position)
            && let Some(complete) = age.and_then(|age| now.checked_sub(age))
        {
            self.complete = self.complete.max(Some(complete));
        }
    }

    fn caught_up(&mut self, follow: &Follow) -> Option<RevocationBatch> {
        self.caught_up = true;
        Some(self.found(follow))
    }

    fn heartbeat(&mut self, follow: &Follow) -> Option<RevocationBatch> {
        Some(self.found(follow))
    }
}
