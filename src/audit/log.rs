//! Reading the log: pages, single events, and following it from any point on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::Stream;
use uuid::Uuid;

use super::StoredEvent;
use super::feed::{Feed, Subscription};
use super::filter::Filter;
use super::mark::{Mark, Origin, forked};
use super::store::{self, Range, Standing};
use crate::db::{Db, Scope};
use crate::fault::{Fault, Reason, Result};

/// Events that a follower reads from the table in one query.
const PAGE: i64 = 500;
/// Positions that a follower scans in one query, so that a filter that matches little does not make a long one.
const WINDOW: i64 = 200_000;
/// How long a follower that has read further, at another replica, waits for this one before it checks why.
const WAIT: Duration = Duration::from_secs(1);

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

/// A page of what was recorded in a time.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    /// Only what was recorded at or after this time.
    pub from: Option<DateTime<Utc>>,
    /// Only what was recorded before this time.
    pub before: Option<DateTime<Utc>>,
    /// Whether the newest come first.
    pub newest_first: bool,
    /// The last event of the page before; none for the first page.
    pub last: Option<Mark>,
    /// Events to return at most.
    pub size: i64,
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
    /// After this event, which the log must hold.
    After(Mark),
    /// With the oldest event that is kept.
    Beginning,
    /// With what is recorded at or after this time.
    Time(DateTime<Utc>),
    /// With the next event that happens.
    Now,
}

impl Log {
    pub fn new(db: Db, feed: Feed) -> Self {
        Self { db, feed }
    }

    /// The database that it lies in.
    pub(crate) fn db(&self) -> &Db {
        &self.db
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
        Ok(store::newest(&mut *self.db.begin(Scope::Platform).await?).await?.position)
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

    /// Events that the filter wants, of those that were recorded in a time.
    ///
    /// # Errors
    /// As [`Self::check`] for the last event of the page before.
    pub async fn list_recorded(&self, filter: &Filter, listing: Listing) -> Result<Vec<StoredEvent>> {
        let Listing { newest_first, size, .. } = listing;
        let mut page = Page { size, newest_first, ..Page::default() };
        if let Some(from) = listing.from {
            page.after = self.before(from).await?;
        }
        if let Some(before) = listing.before {
            page.until = Some(self.before(before).await?);
        }
        if let Some(last) = listing.last {
            self.check(last).await?;
            if newest_first {
                page.until = Some(last.position - 1);
            } else {
                page.after = last.position;
            }
        }
        self.list(filter, page).await
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
        Ok(store::before(&mut *self.db.begin(Scope::Platform).await?, time).await?.position)
    }

    /// Where following begins.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED` when that lies before the oldest event that is kept, `CURSOR_AHEAD` and `LOG_FORKED` when the log is
    /// another one than the mark is from.
    pub async fn resolve(&self, start: Start) -> Result<Origin> {
        // Before the log is asked: if it becomes another one afterwards, the follower ends.
        let epoch = self.feed.epoch();
        let mark = match start {
            Start::Now => store::newest(&mut *self.db.begin(Scope::Platform).await?).await?,
            Start::Time(time) => store::before(&mut *self.db.begin(Scope::Platform).await?, time).await?,
            Start::Beginning => {
                let oldest = store::oldest(&mut *self.db.begin(Scope::Platform).await?).await?;
                Mark::new(oldest - 1, None)
            }
            Start::After(mark) => {
                self.check(mark).await?;
                mark
            }
        };
        Ok(Origin { mark, epoch })
    }

    /// Before the first event that ever was.
    pub fn beginning(&self) -> Origin {
        Origin { mark: Mark::BEGINNING, epoch: self.feed.epoch() }
    }

    /// Whether the log that is there now goes on from this event.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn check(&self, mark: Mark) -> Result<()> {
        let standing = store::standing(&mut *self.db.begin(Scope::Platform).await?, mark.position).await?;
        let Standing { head, oldest, found } = standing;
        if mark.position > head {
            return Err(Fault::new(Reason::CursorAhead, "The cursor points past the end of the log."));
        }
        match found {
            _ if mark == Mark::BEGINNING && oldest <= 1 => Ok(()),
            // The log ended before it, and no reader was given an event that is not there.
            Some(_) if !mark.is_known() => Err(forked()),
            Some(hash) if mark.agrees(Some(&hash)) => Ok(()),
            Some(_) => Err(forked()),
            // Made for going on with the oldest event, which is still that.
            None if !mark.is_known() && mark.position + 1 == oldest => Ok(()),
            None => Err(Fault::new(Reason::CursorExpired, "The cursor is older than the oldest event that is kept.")),
        }
    }

    /// Whether the log holds all of these events now.
    async fn holds(&self, marks: &[Mark]) -> Result<bool> {
        let positions: Vec<i64> = marks.iter().filter(|mark| mark.is_known()).map(|mark| mark.position).collect();
        if positions.is_empty() {
            return Ok(true);
        }
        let found = store::hashes(&mut *self.db.begin(Scope::Platform).await?, &positions).await?;
        Ok(marks.iter().all(|mark| mark.agrees(found.get(&mark.position).map(Vec::as_slice))))
    }

    /// Follows the log from an origin on: first what is there, then what comes, in order, each event once.
    pub fn follow(&self, filter: Filter, origin: Origin) -> Follow {
        Follow {
            log: self.clone(),
            filter,
            epoch: origin.epoch,
            mark: origin.mark,
            position: origin.mark.position,
            pending: VecDeque::new(),
            scanned: origin.mark.position,
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

/// A reader that follows the log. Every method may be dropped while it waits, without losing an event.
pub struct Follow {
    log: Log,
    filter: Filter,
    /// The epoch of the log that it follows.
    epoch: u64,
    /// The last event that is known by its hash, up to which everything was delivered or not wanted.
    mark: Mark,
    /// Up to here everything was delivered or not wanted.
    position: i64,
    pending: VecDeque<Arc<StoredEvent>>,
    /// Up to here everything was delivered or not wanted once `pending` is delivered.
    scanned: i64,
    /// Up to here the table must be read before the subscription takes over.
    goal: Option<Mark>,
    live: Option<Subscription>,
}

impl Follow {
    /// The next event; none when the replica shuts down.
    ///
    /// # Errors
    /// When the database fails. Calling again goes on where it stopped. `LOG_FORKED`, from then on, when the log is another
    /// one.
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
    /// As [`Self::next`].
    pub async fn progress(&mut self) -> Result<Progress> {
        self.ensure_current()?;
        if let Some(event) = self.next_pending() {
            return Ok(Progress::Event(event));
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
            }
            (_, Some(goal)) if self.position < goal.position => self.read(goal).await?,
            (live, Some(goal)) => {
                let progress = if live.is_some() { Progress::Live } else { Progress::Further };
                return self.arrive(goal).map(|()| progress);
            }
            (None, None) => self.approach().await?,
        }
        Ok(Progress::Further)
    }

    /// The next of the events at hand that is new and wanted.
    fn next_pending(&mut self) -> Option<Arc<StoredEvent>> {
        while let Some(event) = self.pending.pop_front() {
            // Events that were read from the table come again with the first delivery.
            if event.position > self.position {
                self.position = event.position;
                self.mark = Mark::of(&event);
                if self.filter.matches(&event) {
                    return Some(event);
                }
            }
        }
        None
    }

    /// Everything up to this position was delivered or not wanted.
    pub fn position(&self) -> i64 {
        self.idle().map_or(self.position, |idle| idle.position.max(self.position))
    }

    /// Where a later follower goes on: everything up to this event was delivered or not wanted.
    pub fn mark(&self) -> Mark {
        self.idle().filter(|idle| idle.position >= self.mark.position).unwrap_or(self.mark)
    }

    /// Where a reader goes on here that knows everything that was delivered.
    pub fn origin(&self) -> Origin {
        Origin { mark: self.mark(), epoch: self.epoch }
    }

    fn idle(&self) -> Option<Mark> {
        match (&self.live, self.goal) {
            (Some(live), None) if self.pending.is_empty() => live.idle_at(),
            _ => None,
        }
    }

    /// Whether it has come to the live end of the log.
    pub fn is_live(&self) -> bool {
        self.live.is_some() && self.goal.is_none()
    }

    /// Whether the log is still the one that it follows.
    ///
    /// # Errors
    /// `LOG_FORKED`.
    pub fn ensure_current(&self) -> Result<()> {
        if self.epoch == self.log.feed.epoch() { Ok(()) } else { Err(forked()) }
    }

    /// The events as a stream, which ends when the replica shuts down.
    pub fn events(self) -> impl Stream<Item = Result<Arc<StoredEvent>>> + Send {
        futures_util::stream::try_unfold(self, |mut follow| async move {
            Ok(follow.next().await?.map(|event| (event, follow)))
        })
    }

    /// Sets the next goal: the live end, or, once near it, what has been delivered when the subscription begins.
    async fn approach(&mut self) -> Result<()> {
        let end = self.log.feed.ready().await?.mark;
        if end.position < self.position {
            // It may have read further at another replica, or in a log that is gone.
            let _ = tokio::time::timeout(WAIT, self.log.feed.reached(self.position)).await;
            return if self.log.holds(&[self.mark]).await? { Ok(()) } else { Err(forked()) };
        }
        if end.position - self.position > PAGE {
            self.goal = Some(end);
            return Ok(());
        }
        let (live, delivered) = self.log.feed.subscribe(self.filter.scope.tenant());
        // Ends above when it is of a later epoch.
        self.live = Some(live);
        self.goal = Some(delivered.mark);
        Ok(())
    }

    /// Reads a page on the way to `goal`.
    async fn read(&mut self, goal: Mark) -> Result<()> {
        let until = goal.position.min(self.position.saturating_add(WINDOW));
        let page = Page { after: self.position, until: Some(until), size: PAGE, newest_first: false };
        let events = self.log.list(&self.filter, page).await?;
        // Afterwards: a log that has lost an event never holds it again, so the page is of the log that holds both.
        if !self.log.holds(&[self.mark, goal]).await? {
            return Err(forked());
        }
        let is_full = events.len() as i64 == PAGE;
        let last = events.last().map_or(until, |event| event.position);
        self.take(events.into_iter().map(Arc::new));
        self.scanned = if is_full { last } else { until };
        Ok(())
    }

    /// Everything up to `goal` was delivered or not wanted.
    fn arrive(&mut self, goal: Mark) -> Result<()> {
        if !self.mark.is_beside(goal) {
            return Err(forked());
        }
        if goal.position == self.position && goal.is_known() {
            self.mark = goal;
        }
        self.goal = None;
        Ok(())
    }

    fn take(&mut self, events: impl Iterator<Item = Arc<StoredEvent>>) {
        self.pending.extend(events);
        self.scanned = self.pending.back().map_or(self.position, |event| event.position);
    }
}
