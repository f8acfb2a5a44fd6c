//! Listening for what sequencers announce, and noticing when that does not arrive any more: a connection that is dead and
//! does not know it, or a pooler that took LISTEN for a statement like any other. Events are read all the same, only later.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::context::Context;
use crate::db::Db;
use crate::fault::{Fault, Reason, Result};
use crate::metrics::Metrics;

/// The channel on which sequencers announce new events.
const CHANNEL: &str = "sidle_audit";
/// Pause before listening again after the connection broke.
const RECONNECT: Duration = Duration::from_millis(500);
/// Longest time that it may take to begin.
const OPENING: Duration = Duration::from_secs(10);
/// How much later than an event its announcement may come before the connection is replaced: at first, and when
/// replacing it did not help.
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_PATIENCE: Duration = Duration::from_secs(300);

pub(super) struct Listener {
    db: Db,
    context: Context,
    metrics: Metrics,
    hearing: Mutex<Hearing>,
    reopen: Notify,
}

/// What was announced, beside what was read.
#[derive(Clone, Copy, Debug)]
struct Hearing {
    /// Since when there is a connection that listens.
    since: Option<Instant>,
    /// Whether the log was read since then: what was found first may have been announced before.
    is_compared: bool,
    /// Position that was announced last.
    heard: i64,
    /// The first position that was read and not announced, and when it was read.
    missed: Option<(i64, Instant)>,
    patience: Duration,
    is_deaf: bool,
}

impl Hearing {
    fn new() -> Self {
        Self { since: None, is_compared: false, heard: 0, missed: None, patience: PATIENCE, is_deaf: false }
    }

    fn opened(&mut self, now: Instant) {
        *self = Self { since: Some(now), is_compared: false, missed: None, ..*self };
    }

    fn closed(&mut self) {
        self.since = None;
    }

    /// An announcement came. Says whether none did before.
    fn heard(&mut self, position: i64) -> bool {
        self.heard = position;
        self.patience = PATIENCE;
        std::mem::replace(&mut self.is_deaf, false)
    }

    /// The log was read up to `position` by a look that began then. Says whether the connection is to be replaced.
    fn read(&mut self, position: i64, began: Instant, now: Instant) -> bool {
        if self.since.is_none_or(|since| began < since) {
            return false;
        }
        if !std::mem::replace(&mut self.is_compared, true) {
            self.heard = self.heard.max(position);
        }
        if self.missed.is_some_and(|(missed, _)| missed <= self.heard) {
            self.missed = None;
        }
        if position > self.heard {
            let (_, since) = *self.missed.get_or_insert((position, now));
            if now.saturating_duration_since(since) >= self.patience {
                self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
                self.missed = None;
                self.closed();
                return true;
            }
        }
        false
    }
}

impl Listener {
    pub fn new(db: Db, context: Context, metrics: Metrics) -> Self {
        let (hearing, reopen) = (Mutex::new(Hearing::new()), Notify::new());
        Self { db, context, metrics, hearing, reopen }
    }

    /// Wakes `wake` for every announcement, and when some may have been missed.
    pub async fn run(&self, wake: &Notify) {
        loop {
            if let Err(fault) = self.listen(wake).await {
                tracing::warn!(event = "audit_listening_failed", %fault, cause = fault.cause().map(tracing::field::display));
                tokio::time::sleep(self.context.entropy.jitter(RECONNECT)).await;
            }
        }
    }

    /// Until the connection breaks, or is to be replaced.
    async fn listen(&self, wake: &Notify) -> Result<()> {
        let late = |_| Err(Fault::new(Reason::DatabaseUnavailable, "The database did not answer in time."));
        let mut notifications = tokio::time::timeout(OPENING, self.db.listen(CHANNEL)).await.unwrap_or_else(late)?;
        self.hearing().opened(self.context.clock.instant());
        // What came before listening began was not announced.
        wake.notify_one();
        loop {
            let payload = tokio::select! {
                payload = notifications.next() => payload,
                () = self.reopen.notified() => return Ok(()),
            };
            let payload = payload.inspect_err(|_| self.hearing().closed())?;
            if let Ok(position) = payload.parse() {
                self.metrics.audit_listening.set(1);
                if self.hearing().heard(position) {
                    tracing::info!(event = "audit_listening_works", "events are announced again");
                }
            }
            wake.notify_one();
        }
    }

    /// Compares what was read, by a look that began at `began`, with what was announced.
    pub fn read(&self, position: i64, began: Instant) {
        let mut hearing = self.hearing();
        if !hearing.read(position, began, self.context.clock.instant()) {
            return;
        }
        self.metrics.audit_listening.set(0);
        self.metrics.audit_listener_replaced.inc();
        // Once, not again for every attempt to mend it.
        if !std::mem::replace(&mut hearing.is_deaf, true) {
            tracing::warn!(
                event = "audit_listening_deaf",
                "events are not announced on the connection that listens, which is replaced: it is dead, or a pooler in \
                 transaction mode stands in between (see database.direct_url); until then events arrive up to a second late"
            );
        }
        self.reopen.notify_one();
    }

    /// The log is another one: positions begin anew.
    pub fn forget(&self) {
        let mut hearing = self.hearing();
        (hearing.heard, hearing.is_compared, hearing.missed) = (0, false, None);
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times() -> impl Fn(u64) -> Instant {
        let start = Context::system().clock.instant();
        move |seconds| start + Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_read_and_never_announced_has_the_connection_replaced() {
        let at = times();
        let mut hearing = Hearing::new();
        assert!(!hearing.read(3, at(0), at(0)), "nobody listens yet");
        hearing.opened(at(1));
        assert!(!hearing.read(5, at(0), at(2)), "read before listening began");
        assert!(!hearing.read(6, at(2), at(2)), "perhaps announced before listening began");
        assert!(!hearing.read(7, at(3), at(3)), "it may be on its way");
        assert!(!hearing.read(7, at(4), at(4)));
        assert!(hearing.read(7, at(5), at(5)), "it never came");
        assert!(!hearing.read(8, at(6), at(6)), "once, until somebody listens again");
        hearing.opened(at(7));
        assert!(!hearing.read(8, at(8), at(8)));
        assert!(
            !hearing.read(9, at(8), at(8)) && !hearing.read(9, at(11), at(11)),
            "replacing it did not help: less often"
        );
        assert!(hearing.read(9, at(12), at(12)));
    }

    #[test]
    fn announcements_that_come_a_little_later_than_the_events_are_in_order() {
        let at = times();
        let mut hearing = Hearing::new();
        hearing.opened(at(0));
        for second in 0..20 {
            let position = i64::try_from(second).unwrap() + 1;
            assert!(!hearing.read(position, at(second), at(second)), "the next one is always under way");
            hearing.heard(position);
        }
    }
}
