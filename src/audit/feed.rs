//! The live end of the log: one tailer per replica that reads each new event once and hands it to everybody here who
//! waits for it. Notifications only wake it; what it delivers it has read from the table, in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::StoredEvent;
use super::filter::Filter;
use super::store::{self, Range};
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::{Fault, Reason, Result};

/// The channel on which sequencers tell that there is something new.
const CHANNEL: &str = "sidle_audit";
/// Events read at once.
const PAGE: i64 = 1000;
/// Pause between looks when no notification comes.
const POLL: Duration = Duration::from_secs(1);
/// Longest time a look may take; a connection that hangs must not pass for one with nothing to say.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before listening again after the connection broke.
const RECONNECT: Duration = Duration::from_millis(500);
/// Batches that may wait for a subscriber. One that falls behind is let go and reads the table.
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
    wake: Notify,
    /// Position up to which every subscriber has been served; none before the first look at the log.
    position: watch::Sender<Option<i64>>,
    subscribers: Mutex<Subscribers>,
    confirmed: Mutex<Option<Instant>>,
    closed: CancellationToken,
}

#[derive(Default)]
struct Subscribers {
    next_id: u64,
    to_all: HashMap<u64, mpsc::Sender<Delivery>>,
    to_tenant: HashMap<Uuid, HashMap<u64, mpsc::Sender<Delivery>>>,
}

/// The oldest event that waits for its position, and since when it has been seen to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stalled {
    inbox_id: i64,
    since: Instant,
}

impl Stalled {
    /// After a look at `now` that found `waiting`. An older event that was committed later says nothing about the one
    /// that has waited all along.
    fn update(known: Option<Self>, waiting: Option<i64>, now: Instant) -> Option<Self> {
        waiting.map(|inbox_id| match known {
            Some(known) if inbox_id <= known.inbox_id => known,
            _ => Self { inbox_id, since: now },
        })
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("position", &*self.shared.position.borrow()).finish()
    }
}

impl Feed {
    /// A feed that delivers once [`Feed::run`] runs.
    pub fn new(db: Db, context: Context) -> Self {
        let shared = Shared {
            db,
            context,
            wake: Notify::new(),
            position: watch::Sender::new(None),
            subscribers: Mutex::default(),
            confirmed: Mutex::default(),
            closed: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Follows the log until `shutdown`; then every subscriber's stream ends.
    pub async fn run(self, shutdown: CancellationToken) {
        let _closed = self.shared.closed.clone().drop_guard();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.listen() => {}
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
        *self.shared.position.borrow()
    }

    /// Waits for the first look at the log.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE` when the feed was shut down before.
    pub async fn ready(&self) -> Result<i64> {
        let mut position = self.shared.position.subscribe();
        let known = tokio::select! {
            () = self.closed() => None,
            known = position.wait_for(Option::is_some) => known.ok().and_then(|known| *known),
        };
        known.ok_or_else(|| Fault::new(Reason::DatabaseUnavailable, "The service is shutting down."))
    }

    /// Waits for everything up to `position` to have been handed out.
    pub async fn reached(&self, position: i64) {
        // Fails only when the feed is gone, and this holds it.
        let _ = self.shared.position.subscribe().wait_for(|known| known.is_some_and(|known| known >= position)).await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// Waits for the end of the feed.
    pub(super) async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }

    /// Everything after the returned position, from now on: for one tenant, or for everybody.
    pub(super) fn subscribe(&self, tenant: Option<Uuid>) -> (Subscription, i64) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let mut subscribers = lock(&self.shared.subscribers);
        let id = subscribers.next_id;
        subscribers.next_id += 1;
        match tenant {
            None => subscribers.to_all.insert(id, sender),
            Some(tenant) => subscribers.to_tenant.entry(tenant).or_default().insert(id, sender),
        };
        // Read under the lock that deliveries hold: nothing falls between this position and the first delivery.
        let position = self.position().unwrap_or_default();
        (Subscription { receiver, id, tenant, feed: self.clone() }, position)
    }

    async fn listen(&self) {
        loop {
            let failed = match self.shared.db.listen(CHANNEL).await {
                Ok(mut listener) => loop {
                    // What came before listening began was not announced.
                    self.shared.wake.notify_one();
                    match listener.try_recv().await {
                        Ok(_) => {}
                        Err(error) => break Fault::from(error),
                    }
                },
                Err(fault) => fault,
            };
            tracing::warn!(event = "audit_listening_failed", fault = %failed, cause = failed.cause().map(tracing::field::display));
            tokio::time::sleep(self.shared.context.entropy.jitter(RECONNECT)).await;
        }
    }

    async fn tail(&self) {
        let mut stalled = None;
        loop {
            match tokio::time::timeout(PATIENCE, self.look(&mut stalled)).await {
                Ok(Ok(true)) => continue,
                Ok(Ok(false)) => {}
                Ok(Err(fault)) => {
                    tracing::warn!(event = "audit_feed_failed", %fault, cause = fault.cause().map(tracing::field::display));
                    tokio::time::sleep(self.shared.context.entropy.jitter(RECONNECT)).await;
                    continue;
                }
                Err(_) => tracing::warn!(event = "audit_feed_failed", cause = "the database did not answer in time"),
            }
            let _ = tokio::time::timeout(POLL, self.shared.wake.notified()).await;
        }
    }

    /// Reads and hands out what is new, up to a page; says whether there is more.
    async fn look(&self, stalled: &mut Option<Stalled>) -> Result<bool> {
        let began = self.shared.context.clock.instant();
        // The inbox first: what is not in it any more is in the log when that is read afterwards.
        let waiting = store::oldest_waiting(&self.shared.db).await?;
        let mut tx = self.shared.db.begin(Scope::Platform).await?;
        let Some(after) = self.position() else {
            let head = store::head(&mut tx).await?;
            self.shared.position.send_replace(Some(head));
            return Ok(true);
        };
        let range = Range { after, until: i64::MAX, limit: PAGE, newest_first: false };
        let events = store::read(&mut tx, &Filter::new(Scope::Platform), range).await?;
        drop(tx);
        let more = events.len() as i64 == PAGE;
        self.deliver(events);
        if !more {
            *stalled = Stalled::update(stalled.take(), waiting, began);
            *lock(&self.shared.confirmed) = Some(stalled.map_or(began, |stalled| stalled.since));
        }
        Ok(more)
    }

    fn deliver(&self, events: Vec<StoredEvent>) {
        let Some(last) = events.last().map(|event| event.position) else { return };
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
        self.shared.position.send_replace(Some(last));
    }
}

/// Hands `events` to everybody who can take them. Who cannot is let go: their channel ends, and they read the table.
fn send(receivers: &mut HashMap<u64, mpsc::Sender<Delivery>>, events: &Delivery) {
    receivers.retain(|_, receiver| receiver.try_send(Arc::clone(events)).is_ok());
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place among the subscribers, given up when dropped.
pub(super) struct Subscription {
    receiver: mpsc::Receiver<Delivery>,
    id: u64,
    tenant: Option<Uuid>,
    feed: Feed,
}

impl Subscription {
    /// The next events; none when this subscriber fell behind and was let go.
    pub(super) async fn next(&mut self) -> Option<Delivery> {
        self.receiver.recv().await
    }

    /// Position up to which there is nothing here that was not taken; none when that is not known.
    pub(super) fn idle_at(&self) -> Option<i64> {
        // The position first, since it is set after what leads to it was sent.
        let position = self.feed.position();
        position.filter(|_| self.receiver.is_empty() && !self.receiver.is_closed())
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
        let first = Stalled::update(None, Some(5), at(1));
        assert_eq!(first, Some(Stalled { inbox_id: 5, since: at(1) }));
        assert_eq!(Stalled::update(first, Some(5), at(9)), first, "it still waits");
        assert_eq!(Stalled::update(first, Some(3), at(9)), first, "it may still wait behind one that committed late");
        assert_eq!(Stalled::update(first, Some(6), at(9)), Some(Stalled { inbox_id: 6, since: at(9) }), "it moved on");
        assert_eq!(Stalled::update(first, None, at(9)), None);
    }
}
