//! The live end of the log: one tailer per replica that reads each new event once and hands it to every local
//! subscriber. Notifications only wake it; what it delivers it has read from the table, in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::filter::Filter;
use super::listener::Listener;
use super::mark::{Lost, Mark, Origin};
use super::store::{self, Range};
use super::{Recorder, StoredEvent};
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::{Fault, Reason, Result};
use crate::metrics::Metrics;

/// Events read in one query.
const PAGE: i64 = 1000;
/// Pause between looks when no notification comes.
const POLL: Duration = Duration::from_secs(1);
/// Longest time a look may take; a connection that hangs must not pass for one with nothing new.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a look that failed.
const RETRY: Duration = Duration::from_millis(500);
/// Batches that may wait for a subscriber. One that falls behind is cut off and reads the table.
const BACKLOG: usize = 64;

/// Events that became known together.
pub(super) type Delivery = Arc<[Arc<StoredEvent>]>;

/// The tailer and its subscribers. Clones are the same feed.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    context: Context,
    recorder: Recorder,
    metrics: Metrics,
    listener: Listener,
    wake: Notify,
    place: watch::Sender<Place>,
    subscribers: Mutex<Subscribers>,
    looks: Mutex<Looks>,
    confirmed: Mutex<Option<Instant>>,
    lost: Lost,
    closed: CancellationToken,
}

/// How far the log has been read.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The event up to which every subscriber has been served; none before the first look at the log.
    mark: Option<Mark>,
    /// How often the log was found to be another one. Whatever was read before says nothing about what is there now.
    epoch: u64,
}

#[derive(Default)]
struct Subscribers {
    next_id: u64,
    to_all: HashMap<u64, mpsc::Sender<Delivery>>,
    to_tenant: HashMap<Uuid, HashMap<u64, mpsc::Sender<Delivery>>>,
}

/// What the looks so far say about events that wait for their positions.
#[derive(Clone, Copy, Debug, Default)]
struct Looks {
    /// The oldest event that waits, and since when it may have waited.
    stalled: Option<(i64, Instant)>,
    /// When the last look began that read everything.
    last: Option<Instant>,
}

impl Looks {
    /// After a look that began at `now`, read everything and found `waiting`: the time before which nothing is missing.
    fn update(&mut self, waiting: Option<i64>, now: Instant) -> Instant {
        self.stalled = waiting.map(|inbox_id| match self.stalled {
            // An older event that was committed later says nothing about the one that has waited all along.
            Some(known) if inbox_id <= known.0 => known,
            // It may have waited since right after the look before, which is long ago where the database could not be
            // reached meanwhile. Before the first look, what it reports is read from the tables.
            _ => (inbox_id, self.last.unwrap_or(now)),
        });
        self.last = Some(now);
        self.stalled.map_or(now, |(_, since)| since)
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("place", &*self.shared.place.borrow()).finish()
    }
}

impl Feed {
    /// A feed that delivers once [`Feed::run`] runs.
    pub fn new(db: Db, context: Context, recorder: Recorder, metrics: Metrics) -> Self {
        let shared = Shared {
            listener: Listener::new(db.clone(), context.clone(), metrics.clone()),
            db,
            context,
            recorder,
            metrics,
            wake: Notify::new(),
            place: watch::Sender::default(),
            subscribers: Mutex::default(),
            looks: Mutex::default(),
            confirmed: Mutex::default(),
            lost: Lost::default(),
            closed: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Follows the log until `shutdown`; then every subscriber's stream ends.
    pub async fn run(self, shutdown: CancellationToken) {
        let _closed = self.shared.closed.clone().drop_guard();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.shared.listener.run(&self.shared.wake) => {}
            () = self.tail() => {}
        }
    }

    /// How long ago it was known for certain that nothing is missing: neither an event with a position that was not
    /// delivered here, nor one that has waited for its position. None before that was ever known.
    pub fn age(&self) -> Option<Duration> {
        let confirmed = *lock(&self.shared.confirmed);
        confirmed.map(|at| self.shared.context.clock.instant().saturating_duration_since(at))
    }

    /// Position up to which everything has been handed out; none before the first look at the log.
    pub fn position(&self) -> Option<i64> {
        self.mark().map(|mark| mark.position)
    }

    /// The event up to which everything has been handed out; none before the first look at the log.
    pub(super) fn mark(&self) -> Option<Mark> {
        self.shared.place.borrow().mark
    }

    /// How often the log was found to be another one than had been read before. What was learned from it in an earlier
    /// epoch must be learned anew.
    pub fn epoch(&self) -> u64 {
        self.shared.place.borrow().epoch
    }

    /// Waits for the first look at the log, of this epoch.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE` when the feed was shut down before.
    pub async fn ready(&self) -> Result<Origin> {
        let mut place = self.shared.place.subscribe();
        let known = tokio::select! {
            () = self.closed() => None,
            known = place.wait_for(|place| place.mark.is_some()) => known.ok().map(|place| *place),
        };
        let origin = known.and_then(|place| Some(Origin { mark: place.mark?, epoch: place.epoch }));
        origin.ok_or_else(|| Fault::new(Reason::DatabaseUnavailable, "The service is shutting down."))
    }

    /// Waits for everything up to `position` to have been handed out.
    pub async fn reached(&self, position: i64) {
        // Fails only when the feed is gone, and this holds it.
        let is_there = |place: &Place| place.mark.is_some_and(|mark| mark.position >= position);
        let _ = self.shared.place.subscribe().wait_for(is_there).await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// Waits for the end of the feed.
    pub(super) async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }

    /// What readers had seen and the log has no more.
    pub(super) fn lost(&self) -> &Lost {
        &self.shared.lost
    }

    /// Everything after the returned event, from now on: for one tenant, or for all.
    pub(super) fn subscribe(&self, tenant: Option<Uuid>) -> (Subscription, Origin) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let mut subscribers = lock(&self.shared.subscribers);
        let id = subscribers.next_id;
        subscribers.next_id += 1;
        match tenant {
            None => subscribers.to_all.insert(id, sender),
            Some(tenant) => subscribers.to_tenant.entry(tenant).or_default().insert(id, sender),
        };
        // Read under the lock that deliveries hold: nothing falls between this event and the first delivery.
        let Place { mark, epoch } = *self.shared.place.borrow();
        let origin = Origin { mark: mark.unwrap_or_default(), epoch };
        (Subscription { receiver, id, tenant, feed: self.clone() }, origin)
    }

    async fn tail(&self) {
        loop {
            match tokio::time::timeout(PATIENCE, self.look()).await {
                Ok(Ok(true)) => continue,
                Ok(Ok(false)) => {}
                Ok(Err(fault)) => {
                    tracing::warn!(event = "audit_feed_failed", %fault, cause = fault.cause().map(tracing::field::display));
                    tokio::time::sleep(self.shared.context.entropy.jitter(RETRY)).await;
                    continue;
                }
                Err(_) => tracing::warn!(event = "audit_feed_failed", cause = "the database did not answer in time"),
            }
            let _ = tokio::time::timeout(POLL, self.shared.wake.notified()).await;
        }
    }

    /// Reads and hands out what is new, up to a page; says whether there is more. [`Feed::run`] does so again and again.
    ///
    /// # Errors
    /// When the database fails.
    #[doc(hidden)]
    pub async fn look(&self) -> Result<bool> {
        let began = self.shared.context.clock.instant();
        // The inbox first: what is not in it any more is in the log when that is read afterwards.
        let waiting = store::oldest_waiting(&self.shared.db).await?;
        let mut tx = self.shared.db.begin(Scope::Platform).await?;
        let Some(mark) = self.mark() else {
            let newest = store::newest(&mut tx).await?;
            self.shared.place.send_modify(|place| place.mark = Some(newest));
            return Ok(true);
        };
        // Together with what follows it, the event that was read last: in the same look, since the log could become
        // another one between two.
        let own = i64::from(mark.is_known());
        let range = Range { after: mark.position - own, until: i64::MAX, limit: PAGE + own, newest_first: false };
        let mut events = store::read(&mut tx, &Filter::new(Scope::Platform), range).await?;
        drop(tx);
        if mark.is_known() {
            let found = events.first().filter(|event| event.position == mark.position);
            if !mark.agrees(found.map(|event| event.leaf_hash.as_slice())) {
                *lock(&self.shared.looks) = Looks::default();
                self.begin_anew(mark);
                return Ok(true);
            }
            events.remove(0);
        }
        let more = events.len() as i64 == PAGE;
        self.deliver(events);
        if !more {
            let complete_until = lock(&self.shared.looks).update(waiting, began);
            *lock(&self.shared.confirmed) = Some(complete_until);
        }
        self.shared.listener.read(self.position().unwrap_or_default(), began);
        Ok(more)
    }

    /// The log is another one than was read so far: nothing that was learned from it holds. Every follower ends, and
    /// nothing counts as confirmed until what must be known has been read anew.
    fn begin_anew(&self, lost: Mark) {
        tracing::error!(
            event = "audit_log_forked",
            position = lost.position,
            "the audit log does not hold the event that was read last: the database was restored, or failed over to a standby \
             that had not received everything; streams end, and revocations are loaded again"
        );
        self.shared.metrics.audit_forks.inc();
        let mut subscribers = lock(&self.shared.subscribers);
        subscribers.to_all.clear();
        subscribers.to_tenant.clear();
        *lock(&self.shared.confirmed) = None;
        self.shared.place.send_modify(|place| *place = Place { mark: None, epoch: place.epoch + 1 });
        drop(subscribers);
        self.shared.listener.forget();
        self.shared.lost.report(lost);
        self.shared.recorder.wake();
    }

    fn deliver(&self, events: Vec<StoredEvent>) {
        let Some(last) = events.last().map(Mark::of) else { return };
        let events: Delivery = events.into_iter().map(Arc::new).collect();
        let mut subscribers = lock(&self.shared.subscribers);
        send(&mut subscribers.to_all, &events);
        let mut by_tenant: HashMap<Uuid, Vec<Arc<StoredEvent>>> = HashMap::new();
        for event in &*events {
            if let Some(tenant) = event.tenant_id
                && subscribers.to_tenant.contains_key(&tenant)
            {
                by_tenant.entry(tenant).or_default().push(Arc::clone(event));
            }
        }
        for (tenant, events) in by_tenant {
            if let Some(receivers) = subscribers.to_tenant.get_mut(&tenant) {
                send(receivers, &events.into());
            }
        }
        // After the sending: a subscriber with nothing to read knows by this position how far it has come.
        self.shared.place.send_modify(|place| place.mark = Some(last));
    }
}

/// Hands `events` to every subscriber that can take them. One that cannot is cut off: its channel ends, and it reads the table.
fn send(receivers: &mut HashMap<u64, mpsc::Sender<Delivery>>, events: &Delivery) {
    receivers.retain(|_, receiver| receiver.try_send(Arc::clone(events)).is_ok());
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A subscription, ended when dropped.
pub(super) struct Subscription {
    receiver: mpsc::Receiver<Delivery>,
    id: u64,
    tenant: Option<Uuid>,
    feed: Feed,
}

impl Subscription {
    /// The next events; none when this subscriber fell behind and was cut off.
    pub(super) async fn next(&mut self) -> Option<Delivery> {
        self.receiver.recv().await
    }

    /// The event up to which there is nothing here that was not taken; none when that is not known.
    pub(super) fn idle_at(&self) -> Option<Mark> {
        // The mark first, since it is set after what leads to it was sent, and after all were cut off in a new epoch.
        let mark = self.feed.mark();
        mark.filter(|_| self.receiver.is_empty() && !self.receiver.is_closed())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = lock(&self.feed.shared.subscribers);
        match self.tenant {
            None => {
                subscribers.to_all.remove(&self.id);
            }
            Some(tenant) => {
                if let Some(receivers) = subscribers.to_tenant.get_mut(&tenant) {
                    receivers.remove(&self.id);
                    if receivers.is_empty() {
                        subscribers.to_tenant.remove(&tenant);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_waits_makes_the_feed_age_and_one_that_moves_on_does_not() {
        let start = Context::system().clock.instant();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut looks = Looks::default();
        assert_eq!(looks.update(Some(5), at(1)), at(1), "what it tells is read from the tables");
        assert_eq!(looks.update(Some(5), at(2)), at(1), "it still waits");
        assert_eq!(looks.update(Some(3), at(3)), at(1), "it may still wait behind one that committed late");
        assert_eq!(
            looks.update(Some(6), at(4)),
            at(3),
            "it moved on, and the next one may have come after the last look"
        );
        assert_eq!(looks.update(None, at(5)), at(5));
        assert_eq!(looks.update(Some(7), at(60)), at(5), "it may have waited while nobody could look");
        assert_eq!(looks.update(None, at(61)), at(61));
    }
}
