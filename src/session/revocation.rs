//! The picture of revocations that tokens are checked against: loaded before the first call, then fed from the audit
//! log in its order, so that every replica comes to the same picture, and with a known age.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::keys::Keys;
use super::store::revocations as store;
use crate::audit::{Feed, Filter, Follow, Log, Progress, StoredEvent};
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::Result;

/// A revocation is remembered this much longer than a token lives: for clocks that differ, and for tokens of a replica
/// that still runs with a longer lifetime.
const MARGIN: Duration = Duration::from_secs(3600);
/// Pause before going on after the database failed.
const RETRY: Duration = Duration::from_millis(500);

/// The picture. Clones share it.
#[derive(Clone)]
pub struct Revocations {
    inner: Arc<Inner>,
}

struct Inner {
    context: Context,
    remember: TimeDelta,
    picture: RwLock<Picture>,
    freshness: Mutex<Freshness>,
}

#[derive(Default)]
struct Picture {
    /// When a session's revocation can be forgotten.
    sessions: HashMap<Uuid, DateTime<Utc>>,
    /// Tokens of a principal that were issued until then are void.
    principals: HashMap<Uuid, DateTime<Utc>>,
    /// What can be forgotten when, about in order.
    forget: VecDeque<(DateTime<Utc>, Entry)>,
}

#[derive(Clone, Copy)]
enum Entry {
    Session(Uuid),
    Principal(Uuid),
}

#[derive(Default)]
struct Freshness {
    feed: Option<Feed>,
    /// Position up to which events are in the picture.
    applied: i64,
    /// When the picture was last known to be complete.
    confirmed: Option<Instant>,
}

/// What an event does to the picture.
#[derive(Debug, PartialEq, Eq)]
struct Effect {
    sessions: Vec<Uuid>,
    principals: Vec<(Uuid, DateTime<Utc>)>,
    keys: bool,
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let picture = self.read();
        write!(f, "Revocations({} sessions, {} principals)", picture.sessions.len(), picture.principals.len())
    }
}

impl Revocations {
    /// An empty picture of unknown age, for tokens that live this long.
    pub fn new(context: Context, access_lifetime: Duration) -> Self {
        let remember = TimeDelta::from_std(access_lifetime + MARGIN).unwrap_or(TimeDelta::MAX);
        let (picture, freshness) = (RwLock::default(), Mutex::default());
        Self { inner: Arc::new(Inner { context, remember, picture, freshness }) }
    }

    /// Whether a token of this session and principal, issued at this time, was revoked.
    pub fn refuses(&self, session: Option<Uuid>, principal: Uuid, issued_at: DateTime<Utc>) -> bool {
        let picture = self.read();
        session.is_some_and(|session| picture.sessions.contains_key(&session))
            || picture
                .principals
                .get(&principal)
                // Tokens tell their time to the millisecond, so the one of the change itself counts as before it.
                .is_some_and(|void| issued_at.timestamp_millis() <= void.timestamp_millis())
    }

    /// Ends a session's tokens here at once. The other replicas learn of it from the log.
    pub fn end_session(&self, session: Uuid) {
        let until = self.inner.context.now() + self.inner.remember;
        let mut picture = self.write();
        if picture.sessions.insert(session, until).is_none() {
            picture.forget.push_back((until, Entry::Session(session)));
        }
    }

    /// Ends a principal's tokens here at once that were issued until `void`.
    pub fn end_tokens(&self, principal: Uuid, void: DateTime<Utc>) {
        let mut picture = self.write();
        let known = picture.principals.entry(principal).or_insert(DateTime::UNIX_EPOCH);
        if *known < void {
            *known = void;
            picture.forget.push_back((void + self.inner.remember, Entry::Principal(principal)));
        }
    }

    /// How long ago the picture was known to be complete; none before it ever was.
    pub fn age(&self) -> Option<Duration> {
        let now = self.inner.context.clock.instant();
        let mut freshness = self.freshness();
        freshness.look(now);
        freshness.confirmed.map(|at| now.saturating_duration_since(at))
    }

    /// Fills the picture: what the tables say, once the feed's position is known. Everything that was committed before
    /// that position is in the tables, everything after it comes from the log.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn load(&self, db: &Db, feed: &Feed) -> Result<i64> {
        let position = feed.ready().await?;
        let since = self.inner.context.now() - self.inner.remember;
        let mut tx = db.begin(Scope::Platform).await?;
        for session in store::ended_sessions(&mut tx, since).await? {
            self.end_session(session);
        }
        for (principal, void) in store::ended_tokens(&mut tx, since).await? {
            self.end_tokens(principal, void);
        }
        let mut freshness = self.freshness();
        freshness.applied = position;
        freshness.feed = Some(feed.clone());
        Ok(position)
    }

    /// Keeps the picture current from `position` on, until `stop`.
    pub async fn follow(self, log: Log, position: i64, keys: Keys, stop: CancellationToken) {
        let mut follow = log.follow(Filter::new(Scope::Platform), position);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                step = self.step(&mut follow, &keys) => match step {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(fault) => {
                        tracing::warn!(event = "revocations_not_read", %fault, cause = fault.cause().map(tracing::field::display));
                        tokio::time::sleep(self.inner.context.entropy.jitter(RETRY)).await;
                    }
                },
            }
        }
    }

    async fn step(&self, follow: &mut Follow, keys: &Keys) -> Result<bool> {
        match follow.progress().await? {
            Progress::End => return Ok(false),
            Progress::Event(event) => self.apply(&event, keys),
            Progress::Further | Progress::Live => self.forget(),
        }
        let mut freshness = self.freshness();
        freshness.applied = follow.position();
        // Also here, not only when somebody asks: under a steady flow of events those who ask come in between the feed's
        // handing out and this, and would find the picture behind every time.
        freshness.look(self.inner.context.clock.instant());
        Ok(true)
    }

    fn apply(&self, event: &StoredEvent, keys: &Keys) {
        let effect = Effect::of(event);
        for session in effect.sessions {
            self.end_session(session);
        }
        for (principal, void) in effect.principals {
            self.end_tokens(principal, void);
        }
        if effect.keys {
            keys.reload_soon();
        }
    }

    /// Drops what no living token can be concerned by any more.
    fn forget(&self) {
        let now = self.inner.context.now();
        let mut picture = self.write();
        let Picture { sessions, principals, forget } = &mut *picture;
        while forget.front().is_some_and(|(at, _)| *at <= now) {
            match forget.pop_front() {
                Some((_, Entry::Session(id))) => _ = sessions.remove(&id),
                // It may have been ended anew meanwhile; then a later entry is there for it.
                Some((_, Entry::Principal(id))) => {
                    let is_over = |void: &DateTime<Utc>| *void + self.inner.remember <= now;
                    if principals.get(&id).is_some_and(is_over) {
                        principals.remove(&id);
                    }
                }
                None => {}
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Picture> {
        self.inner.picture.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Picture> {
        self.inner.picture.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn freshness(&self) -> MutexGuard<'_, Freshness> {
        self.inner.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares the picture complete now.
    #[cfg(any(test, fuzzing))]
    pub(super) fn confirm_now(&self) {
        self.freshness().confirmed = Some(self.inner.context.clock.instant());
    }
}

impl Freshness {
    /// The feed knows when nothing was missing from what it handed out; the picture is as good once it has all of that.
    fn look(&mut self, now: Instant) {
        let Some(feed) = &self.feed else { return };
        // The age before the position: what is confirmed is then never newer than what is applied.
        let age = feed.age();
        if feed.position().is_some_and(|position| self.applied >= position)
            && let Some(confirmed) = age.and_then(|age| now.checked_sub(age))
        {
            self.confirmed = self.confirmed.max(Some(confirmed));
        }
    }
}

impl Effect {
    fn of(event: &StoredEvent) -> Self {
        let none = Self { sessions: Vec::new(), principals: Vec::new(), keys: false };
        // Other services' events say nothing about our tokens.
        if event.source.is_some() {
            return none;
        }
        let ids = |name: &str| -> Vec<Uuid> {
            let list = event.details.get(name).and_then(|value| value.as_array());
            list.into_iter().flatten().filter_map(|id| id.as_str()?.parse().ok()).collect()
        };
        let target = || event.target_id.as_deref().and_then(|id| id.parse().ok());
        let mut sessions = ids("sessions");
        if matches!(event.event_type.as_str(), "session.revoked" | "session.refresh_reused") {
            sessions.extend(target());
        }
        let void = event.details.get("tokens_valid_from").and_then(|value| value.as_i64());
        let mut principals = Vec::new();
        if let Some(void) = void.and_then(DateTime::from_timestamp_micros) {
            let is_principal = matches!(event.target_kind.as_deref(), Some("user" | "service_account"));
            let target = target().filter(|_| is_principal);
            principals.extend(ids("principals").into_iter().chain(target).map(|id| (id, void)));
        }
        Self { sessions, principals, keys: event.event_type.starts_with("signing_key.") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocations() -> (Context, Revocations) {
        let context = Context::system();
        (context.clone(), Revocations::new(context, Duration::from_secs(900)))
    }

    #[test]
    fn an_ended_session_stays_ended_while_its_tokens_could_live() {
        let (context, revocations) = revocations();
        let (session, principal) = (Uuid::from_u128(1), Uuid::from_u128(2));
        revocations.end_session(session);
        context.clock.advance(Duration::from_secs(900));
        revocations.forget();
        assert!(revocations.refuses(Some(session), principal, context.now()));
        assert!(!revocations.refuses(Some(Uuid::from_u128(3)), principal, context.now()));
        context.clock.advance(MARGIN + Duration::from_secs(1));
        revocations.forget();
        assert!(!revocations.refuses(Some(session), principal, context.now()), "forgotten");
        assert_eq!(revocations.read().forget.len(), 0);
    }

    #[test]
    fn tokens_from_before_a_change_are_void_whatever_comes_in_which_order() {
        let (context, revocations) = revocations();
        let (principal, first) = (Uuid::from_u128(2), context.now());
        let second = first + TimeDelta::seconds(30);
        revocations.end_tokens(principal, second);
        revocations.end_tokens(principal, first);
        assert!(revocations.refuses(None, principal, second), "the later change counts");
        assert!(!revocations.refuses(None, principal, second + TimeDelta::milliseconds(1)));
        context.clock.advance(Duration::from_secs(900) + MARGIN + Duration::from_secs(10));
        revocations.forget();
        assert!(revocations.refuses(None, principal, first), "the later change still counts");
        context.clock.advance(Duration::from_secs(30));
        revocations.forget();
        assert!(!revocations.refuses(None, principal, first), "forgotten");
    }

    #[test]
    fn a_picture_that_was_never_loaded_has_no_age() {
        assert_eq!(revocations().1.age(), None);
    }
}
