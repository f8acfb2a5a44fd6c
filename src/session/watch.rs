//! Streams what is revoked to services that verify tokens themselves: first everything that matters, then what the log
//! brings, and in between how complete that is.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use sidle_token::Revocation;

use super::Sessions;
use crate::access::live::Heartbeat;
use crate::access::{Call, denied};
use crate::audit::{Filter, Follow, Log, Mark, Progress, Start};
use crate::db::Scope;
use crate::fault::Result;
use crate::token::revocation::Effect;

/// What the caller must hold, on the platform.
pub(super) const WATCH: &str = "tokens.verify";
/// Most revocations in one message.
const MOST: usize = 1000;

/// A client that watches. Nothing is kept for a slow one but the position it has reached.
pub(super) struct Watch {
    sessions: Sessions,
    log: Log,
    call: Call,
    follow: Follow,
    /// What is left of the snapshot of the start.
    start: Vec<Revocation>,
    caught_up: bool,
    heartbeat: Heartbeat,
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
    pub(super) async fn watch(&self, call: Call, log: &Log, mark: Option<Mark>) -> Result<Watch> {
        if call.principal()?.authorize(WATCH, None)? != Scope::Platform {
            return Err(denied(WATCH));
        }
        let (origin, start) = match mark {
            Some(mark) => (log.resolve(Start::After(mark)).await?, Vec::new()),
            None => self.revocations.snapshot()?,
        };
        let follow = log.follow(Filter::new(Scope::Platform), origin);
        let (sessions, log) = (self.clone(), log.clone());
        let interval = self.config.tokens.revocation_heartbeat;
        let heartbeat = Heartbeat::due(self.context.clock.clone(), interval);
        Ok(Watch { sessions, log, call, follow, start, caught_up: false, heartbeat, complete: None })
    }
}

impl Watch {
    /// The next message; none when the replica shuts down.
    pub async fn next(&mut self) -> Result<Option<RevocationBatch>> {
        let mut found = Vec::new();
        loop {
            // A caller no longer authorised learns nothing more; and what this replica does not know it does not report.
            let welcome = self.sessions.verifier.recheck_call(&self.call);
            // Nothing is known while it is loaded again, and this is why.
            self.follow.ensure_current()?;
            welcome?;
            if !self.start.is_empty() {
                let some = self.start.split_off(self.start.len().saturating_sub(MOST));
                return Ok(Some(self.batch(some)));
            }
            match self.progress(!found.is_empty()).await? {
                Progress::End => return Ok(None),
                Progress::Event(event) => {
                    let forget_after = |revoked| self.sessions.revocations.forget_after(revoked, event.recorded_at);
                    let revoked = Effect::of(&event).revoked.into_iter();
                    found.extend(revoked.map(|revoked| Revocation { revoked, forget_after: forget_after(revoked) }));
                }
                Progress::Live | Progress::Further => {
                    self.look();
                    let first = self.follow.is_live() && !self.caught_up;
                    self.caught_up |= first;
                    if first || !found.is_empty() || self.heartbeat.is_due() {
                        return Ok(Some(self.batch(found)));
                    }
                }
            }
            if found.len() >= MOST {
                return Ok(Some(self.batch(found)));
            }
        }
    }

    /// The next thing that happens; what is found already is not kept waiting for more.
    async fn progress(&mut self, is_waited_for: bool) -> Result<Progress> {
        // On the way to the live end there is always something to read, and a read that is cut short is lost.
        if !self.follow.is_live() {
            return self.follow.progress().await;
        }
        let quiet = if is_waited_for { Duration::ZERO } else { self.heartbeat.left() };
        tokio::select! {
            biased;
            progress = self.follow.progress() => progress,
            () = tokio::time::sleep(quiet) => Ok(Progress::Further),
        }
    }

    /// Looks how complete is what has been sent: as complete as what the feed has handed out, if that is all here.
    fn look(&mut self) {
        // The age before the position: what is confirmed is then never newer than what was sent.
        let now = self.sessions.context.clock.instant();
        let age = self.log.feed().age();
        if self.follow.is_live()
            && self.log.feed().position().is_some_and(|position| self.follow.position() >= position)
            && let Some(complete) = age.and_then(|age| now.checked_sub(age))
        {
            self.complete = self.complete.max(Some(complete));
        }
    }

    fn batch(&mut self, revocations: Vec<Revocation>) -> RevocationBatch {
        let (instant, now) = (self.sessions.context.clock.instant(), self.sessions.context.now());
        self.heartbeat.sent();
        let age = |at: Instant| TimeDelta::from_std(instant.saturating_duration_since(at)).unwrap_or_default();
        RevocationBatch {
            revocations,
            mark: self.start.is_empty().then(|| self.follow.mark()),
            complete_until: self.complete.map(|at| now - age(at)),
            caught_up: self.caught_up,
            sent_at: now,
        }
    }
}
