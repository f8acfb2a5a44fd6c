//! The picture of revocations that tokens are checked against: loaded before the first call, then fed from the audit
//! log in its order, so that every replica comes to the same picture, and with a known age.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use sidle_token::{Epoch, Picture, Revocation, Revoked};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::keys::Keys;
use super::store::{keys as key_store, revocations as store};
use crate::access::Principal;
use crate::audit::{Feed, Filter, Follow, Log, Progress, StoredEvent};
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::Result;

/// A revocation is remembered this much longer than a token lives: for clocks that differ, and for tokens of a replica
/// that still runs with a longer lifetime.
pub(super) const MARGIN: Duration = Duration::from_secs(3600);
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
    /// Position up to which events are in the picture, for those who wait for it.
    applied: watch::Sender<i64>,
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
pub(super) struct Effect {
    pub revoked: Vec<Revoked>,
    /// Whether the signing keys are others now.
    keys: bool,
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Revocations({})", self.read().len())
    }
}

impl Revocations {
    /// An empty picture of unknown age, for tokens that live this long.
    pub fn new(context: Context, access_lifetime: Duration) -> Self {
        let remember = TimeDelta::from_std(access_lifetime + MARGIN).unwrap_or(TimeDelta::MAX);
        let (picture, freshness, applied) = (RwLock::default(), Mutex::default(), watch::Sender::new(0));
        Self { inner: Arc::new(Inner { context, remember, picture, freshness, applied }) }
    }

    /// Whether the token was revoked that made this principal.
    pub fn refuses(&self, principal: &Principal) -> bool {
        self.read().refuses(principal.session_id, principal.id, principal.key_id, principal.epoch)
    }

    /// The latest revocation of a principal's tokens that matters.
    pub fn epoch(&self, principal: Uuid) -> Epoch {
        self.read().epoch(principal)
    }

    /// Ends a session's tokens here at once. The other replicas learn of it from the log.
    pub fn end_session(&self, session: Uuid) {
        self.revoke([Revoked::Session(session)], self.inner.context.now());
    }

    /// Ends a principal's tokens here at once that were issued before this revocation.
    pub fn end_tokens(&self, principal: Uuid, epoch: Epoch) {
        self.revoke([Revoked::Principal(principal, epoch)], self.inner.context.now());
    }

    /// Ends the tokens here at once that were signed with a key.
    pub fn end_key(&self, kid: Uuid) {
        self.revoke([Revoked::Key(kid)], self.inner.context.now());
    }

    fn revoke(&self, revoked: impl IntoIterator<Item = Revoked>, at: DateTime<Utc>) {
        let mut picture = self.write();
        for revoked in revoked {
            picture.apply(Revocation { revoked, forget_after: self.forget_after(revoked, at) });
        }
    }

    /// When the last token has expired that is concerned by what was revoked at `at`.
    pub(super) fn forget_after(&self, revoked: Revoked, at: DateTime<Utc>) -> DateTime<Utc> {
        match revoked {
            Revoked::Principal(_, epoch) => epoch.time().checked_add_signed(self.inner.remember).unwrap_or(at),
            Revoked::Session(_) | Revoked::Key(_) => at + self.inner.remember,
        }
    }

    /// Everything that matters now, and the position in the log up to which it is complete.
    pub(super) fn picture(&self) -> (i64, Vec<Revocation>) {
        // The position first: what is applied meanwhile comes again from the log, and changes nothing then.
        let position = self.freshness().applied;
        (position, self.read().all())
    }

    /// How long ago the picture was known to be complete; none before it ever was.
    pub fn age(&self) -> Option<Duration> {
        let now = self.inner.context.clock.instant();
        let mut freshness = self.freshness();
        freshness.look(now);
        freshness.confirmed.map(|at| now.saturating_duration_since(at))
    }

    /// Waits for the picture to hold everything up to `position` of the log.
    pub async fn reached(&self, position: i64) {
        // Fails only when the picture is gone, and this holds it.
        let _ = self.inner.applied.subscribe().wait_for(|applied| *applied >= position).await;
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
        for (principal, epoch) in store::ended_tokens(&mut tx, since).await? {
            self.end_tokens(principal, epoch);
        }
        for (kid, at) in key_store::retired(&mut tx, since).await? {
            self.revoke([Revoked::Key(kid)], at);
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
            Progress::Further | Progress::Live => self.write().forget(self.inner.context.now()),
        }
        let mut freshness = self.freshness();
        freshness.applied = follow.position();
        // Also here, not only when somebody asks: under a steady flow of events those who ask come in between the feed's
        // handing out and this, and would find the picture behind every time.
        freshness.look(self.inner.context.clock.instant());
        self.inner.applied.send_replace(freshness.applied);
        Ok(true)
    }

    fn apply(&self, event: &StoredEvent, keys: &Keys) {
        let effect = Effect::of(event);
        self.revoke(effect.revoked, self.inner.context.now());
        if effect.keys {
            keys.have_changed();
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
    pub fn of(event: &StoredEvent) -> Self {
        // Other services' events say nothing about our tokens.
        if event.source.is_some() {
            return Self { revoked: Vec::new(), keys: false };
        }
        let ids = |name: &str| -> Vec<Uuid> {
            let list = event.details.get(name).and_then(|value| value.as_array());
            list.into_iter().flatten().filter_map(|id| id.as_str()?.parse().ok()).collect()
        };
        let target = event.target_id.as_deref().and_then(|id| id.parse().ok());
        let mut revoked: Vec<Revoked> = ids("sessions").into_iter().map(Revoked::Session).collect();
        match event.event_type.as_str() {
            "session.revoked" | "session.refresh_reused" => revoked.extend(target.map(Revoked::Session)),
            "signing_key.retired" => revoked.extend(target.map(Revoked::Key)),
            _ => {}
        }
        let void = event.details.get("tokens_valid_from").and_then(|value| value.as_i64());
        if let Some(epoch) = void.filter(|micros| *micros > 0).map(Epoch::from_micros) {
            let is_principal = matches!(event.target_kind.as_deref(), Some("user" | "service_account"));
            let target = target.filter(|_| is_principal);
            revoked.extend(ids("principals").into_iter().chain(target).map(|id| Revoked::Principal(id, epoch)));
        }
        Self { revoked, keys: event.event_type.starts_with("signing_key.") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_that_was_never_loaded_has_no_age() {
        assert_eq!(Revocations::new(Context::system(), Duration::from_secs(900)).age(), None);
    }
}
