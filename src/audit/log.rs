//! Reading the log: pages, single events, and following it from any point on.

use std::collections::VecDeque;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::Stream;
use uuid::Uuid;

use super::StoredEvent;
use super::feed::{Feed, Subscription};
use super::filter::Filter;
use super::store::{self, Range};
use crate::db::{Db, Scope};
use crate::fault::{Fault, Reason, Result};

/// Events that a follower reads from the table at once.
const PAGE: i64 = 500;
/// Positions that a follower looks through at once, so that a filter that matches little does not make one long query.
const WINDOW: i64 = 200_000;

/// Reads the audit log.
#[derive(Clone, Debug)]
pub struct Log {
    db: Db,
    feed: Feed,
}

/// A page of the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page {
    /// Only events after this position; 0 for all.
    pub after: i64,
    /// Only events up to and including this position; none for all.
    pub until: Option<i64>,
    /// Events to return at most.
    pub size: i64,
    /// Whether the newest come first.
    pub newest_first: bool,
}

/// Which single event is meant.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    /// By its id.
    Id(Uuid),
    /// By its position.
    Position(i64),
}

/// Where following begins.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// After this position.
    After(i64),
    /// With the oldest event that is kept.
    Beginning,
    /// With what is recorded at or after this time.
    Time(DateTime<Utc>),
    /// With the next event that happens.
    Now,
}

impl Log {
    /// The log in `db`, live through `feed`.
    pub fn new(db: Db, feed: Feed) -> Self {
        Self { db, feed }
    }

    /// Its live end.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Position of the newest event; 0 before the first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn head(&self) -> Result<i64> {
        store::head(&mut *self.db.begin(Scope::Platform).await?).await
    }

    /// Events that the filter wants.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self, filter: &Filter, page: Page) -> Result<Vec<StoredEvent>> {
        let mut tx = self.db.begin(filter.scope).await?;
        let until = page.until.unwrap_or(i64::MAX);
        let range = Range { after: page.after, until, limit: page.size, newest_first: page.newest_first };
        store::read(&mut tx, filter, range).await
    }

    /// One event, as far as `scope` reaches.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn get(&self, scope: Scope, key: Key) -> Result<StoredEvent> {
        let mut tx = self.db.begin(scope).await?;
        let position = match key {
            Key::Position(position) => Some(position),
            Key::Id(event_id) => store::position_of(&mut tx, event_id).await?,
        };
        let Some(position) = position.filter(|position| *position > 0) else { return Err(Fault::not_found("event")) };
        let range = Range { after: position - 1, until: position, limit: 1, newest_first: false };
        let found = store::read(&mut tx, &Filter::new(scope), range).await?;
        found.into_iter().next().ok_or_else(|| Fault::not_found("event"))
    }

    /// The position after which everything was recorded at or after `time`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn before(&self, time: DateTime<Utc>) -> Result<i64> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        match store::first_recorded_from(&mut tx, time).await? {
            Some(position) => Ok(position - 1),
            None => store::head(&mut tx).await,
        }
    }

    /// The position after which following begins.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED` when that lies before the oldest event that is kept.
    pub async fn resolve(&self, start: Start) -> Result<i64> {
        match start {
            Start::Now => self.head().await,
            Start::Time(time) => self.before(time).await,
            Start::Beginning => Ok(self.oldest().await? - 1),
            Start::After(position) if position + 1 < self.oldest().await? => {
                Err(Fault::new(Reason::CursorExpired, "The cursor is older than the oldest event that is kept."))
            }
            Start::After(position) => Ok(position),
        }
    }

    /// Position of the oldest event that is kept, or of the first that will be.
    async fn oldest(&self) -> Result<i64> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        match store::oldest(&mut tx).await? {
            Some(position) => Ok(position),
            None => Ok(store::head(&mut tx).await? + 1),
        }
    }

    /// Follows the log after a position: first what is there, then what comes, in order, each event once.
    pub fn follow(&self, filter: Filter, after: i64) -> Follow {
        Follow {
            log: self.clone(),
            filter,
            position: after,
            pending: VecDeque::new(),
            scanned: after,
            goal: None,
            live: None,
        }
    }
}

/// What a follower came to.
#[derive(Debug)]
pub enum Progress {
    /// The next event.
    Event(Arc<StoredEvent>),
    /// No event, but [`Follow::position`] may have moved.
    Further,
    /// Everything that was there has been delivered; what follows is live. May come again after falling behind.
    Live,
    /// The replica shuts down.
    End,
}

/// Somebody who follows the log. Every method may be dropped while it waits, without losing an event.
pub struct Follow {
    log: Log,
    filter: Filter,
    /// Up to here everything was delivered or not wanted.
    position: i64,
    pending: VecDeque<Arc<StoredEvent>>,
    /// Up to here everything was delivered or not wanted once `pending` is delivered.
    scanned: i64,
    /// Up to here the table must be read before the subscription takes over.
    goal: Option<i64>,
    live: Option<Subscription>,
}

impl Follow {
    /// The next event; none when the replica shuts down.
    ///
    /// # Errors
    /// When the database fails. Calling again goes on where it stopped.
    pub async fn next(&mut self) -> Result<Option<Arc<StoredEvent>>> {
        loop {
            match self.progress().await? {
                Progress::Event(event) => return Ok(Some(event)),
                Progress::End => return Ok(None),
                Progress::Further | Progress::Live => {}
            }
        }
    }

    /// The next thing that happens to this follower. Reads at most one page or window before it returns.
    ///
    /// # Errors
    /// When the database fails. Calling again goes on where it stopped.
    pub async fn progress(&mut self) -> Result<Progress> {
        while let Some(event) = self.pending.pop_front() {
            // Events that were read from the table come again with the first delivery.
            if event.position > self.position {
                self.position = event.position;
                if self.filter.matches(&event) {
                    return Ok(Progress::Event(event));
                }
            }
        }
        self.position = self.position.max(self.scanned);
        if self.log.feed.is_closed() {
            return Ok(Progress::End);
        }
        match (&mut self.live, self.goal) {
            (Some(live), None) => {
                let delivery = tokio::select! {
                    delivery = live.next() => delivery,
                    () = self.log.feed.closed() => return Ok(Progress::End),
                };
                match delivery {
                    Some(events) => self.take(events.iter().cloned()),
                    None => self.live = None,
                }
                Ok(Progress::Further)
            }
            (_, Some(goal)) if self.position < goal => {
                self.read(goal).await?;
                Ok(Progress::Further)
            }
            (Some(_), Some(_)) => {
                self.goal = None;
                Ok(Progress::Live)
            }
            (None, _) => {
                self.approach().await?;
                Ok(Progress::Further)
            }
        }
    }

    /// Everything up to this position was delivered or not wanted: where a later follower goes on.
    pub fn position(&self) -> i64 {
        let idle = match (&self.live, self.goal) {
            (Some(live), None) if self.pending.is_empty() => live.idle_at(),
            _ => None,
        };
        idle.map_or(self.position, |idle| idle.max(self.position))
    }

    /// Whether it has come to the live end of the log.
    pub fn is_live(&self) -> bool {
        self.live.is_some() && self.goal.is_none()
    }

    /// The events as a stream, which ends when the replica shuts down.
    pub fn events(self) -> impl Stream<Item = Result<Arc<StoredEvent>>> + Send {
        futures_util::stream::try_unfold(self, |mut follow| async move {
            Ok(follow.next().await?.map(|event| (event, follow)))
        })
    }

    /// Sets the next goal: the live end, or, once near it, what has been delivered when the subscription begins.
    async fn approach(&mut self) -> Result<()> {
        let end = self.log.feed.ready().await?;
        if end - self.position > PAGE {
            self.goal = Some(end);
            return Ok(());
        }
        let (live, delivered) = self.log.feed.subscribe(self.filter.scope.tenant());
        self.live = Some(live);
        self.goal = Some(delivered);
        Ok(())
    }

    /// Reads a page on the way to `goal`.
    async fn read(&mut self, goal: i64) -> Result<()> {
        let until = goal.min(self.position.saturating_add(WINDOW));
        let page = Page { after: self.position, until: Some(until), size: PAGE, newest_first: false };
        let events = self.log.list(&self.filter, page).await?;
        let is_full = events.len() as i64 == PAGE;
        let last = events.last().map_or(until, |event| event.position);
        self.take(events.into_iter().map(Arc::new));
        self.scanned = if is_full { last } else { until };
        Ok(())
    }

    fn take(&mut self, events: impl Iterator<Item = Arc<StoredEvent>>) {
        self.pending.extend(events);
        self.scanned = self.pending.back().map_or(self.position, |event| event.position);
    }
}
