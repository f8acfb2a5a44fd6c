//! The snapshot of revocations that tokens are checked against: loaded before the first call, then fed from the audit
//! log in its order, so that every replica comes to the same snapshot, and with a known age.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use sidle_token::{Epoch, Revocation, RevocationSnapshot, Revoked};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::keys::{Keys, MARGIN, SigningKeyManager};
use super::store::{keys as key_store, revocations as store};
use crate::access::Principal;
use crate::audit::{Feed, Filter, Follow, Log, Origin, Progress, StoredEvent};
use crate::context::Context;
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};

/// Pause before going on after the database failed.
const RETRY: Duration = Duration::from_millis(500);

/// The snapshot. Clones share it.
#[derive(Clone)]
pub struct Revocations {
    inner: Arc<Inner>,
}

struct Inner {
    context: Context,
    remember: TimeDelta,
    snapshots: RwLock<RevocationSnapshots>,
    freshness: Mutex<Freshness>,
    /// Position up to which events are in the snapshot, for those who wait for it.
    applied: watch::Sender<i64>,
}

/// What tokens are checked against, and what replaces it once it is loaded. What is revoked here meanwhile goes into
/// both, so that no reader ever sees half a snapshot.
#[derive(Default)]
struct RevocationSnapshots {
    current: RevocationSnapshot,
    next: Option<RevocationSnapshot>,
}

#[derive(Default)]
struct Freshness {
    /// Where the snapshot comes from, once it is loaded.
    source: Option<Source>,
    /// Position up to which events are in the snapshot.
    applied: i64,
    /// When the snapshot was last known to be complete.
    confirmed: Option<Instant>,
}

/// The log that a snapshot comes from.
struct Source {
    feed: Feed,
    /// Where a reader goes on who has this snapshot.
    origin: Origin,
}

/// What an event does to the snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub revoked: Vec<Revoked>,
    /// Whether the signing keys are others now.
    keys: bool,
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Revocations({})", self.read().current.len())
    }
}

impl Revocations {
    /// An empty snapshot of unknown age, for tokens that live this long.
    pub fn new(context: Context, access_lifetime: Duration) -> Self {
        let remember = TimeDelta::from_std(access_lifetime + MARGIN).unwrap_or(TimeDelta::MAX);
        let (snapshots, freshness, applied) = (RwLock::default(), Mutex::default(), watch::Sender::new(0));
        Self { inner: Arc::new(Inner { context, remember, snapshots, freshness, applied }) }
    }

    /// Whether the token was revoked that made this principal, or the key `signed_by`.
    pub fn refuses(&self, principal: &Principal, signed_by: Option<Uuid>) -> bool {
        self.read().current.refuses(principal.session_id, principal.id, signed_by, principal.epoch)
    }

    /// The latest revocation of a principal's tokens that matters.
    pub fn epoch(&self, principal: Uuid) -> Epoch {
        self.read().current.epoch(principal)
    }

    /// Ends a session's tokens here immediately. The other replicas learn of it from the log.
    pub fn end_session(&self, session: Uuid) {
        self.revoke([Revoked::Session(session)], self.inner.context.now());
    }

    /// Ends a principal's tokens here immediately that were issued before this revocation.
    pub fn end_tokens(&self, principal: Uuid, epoch: Epoch) {
        self.revoke([Revoked::Principal(principal, epoch)], self.inner.context.now());
    }

    /// Ends the tokens here immediately that were signed with a key.
    pub fn end_key(&self, kid: Uuid) {
        self.revoke([Revoked::Key(kid)], self.inner.context.now());
    }

    fn revoke(&self, revoked: impl IntoIterator<Item = Revoked>, at: DateTime<Utc>) {
        let mut snapshots = self.write();
        for revoked in revoked {
            let revocation = Revocation { revoked, forget_after: self.forget_after(revoked, at) };
            snapshots.current.apply(revocation);
            if let Some(next) = &mut snapshots.next {
                next.apply(revocation);
            }
        }
    }

    /// When the last token has expired that is concerned by what was revoked at `at`.
    pub(crate) fn forget_after(&self, revoked: Revoked, at: DateTime<Utc>) -> DateTime<Utc> {
        match revoked {
            Revoked::Principal(_, epoch) => epoch.time().checked_add_signed(self.inner.remember).unwrap_or(at),
            Revoked::Session(_) | Revoked::Key(_) => at + self.inner.remember,
        }
    }

    /// Everything that matters now, and the position in the log up to which it is complete.
    ///
    /// # Errors
    /// `REVOCATIONS_STALE` while it is being loaded.
    pub(crate) fn snapshot(&self) -> Result<(Origin, Vec<Revocation>)> {
        // The position first: what is applied meanwhile comes again from the log, and changes nothing then.
        let origin = self.freshness().source.as_ref().map(|source| source.origin).ok_or_else(stale)?;
        Ok((origin, self.read().current.all()))
    }

    /// How long ago the snapshot was known to be complete; none before it ever was.
    pub fn age(&self) -> Option<Duration> {
        let now = self.inner.context.clock.instant();
        let mut freshness = self.freshness();
        freshness.look(now);
        freshness.confirmed.map(|at| now.saturating_duration_since(at))
    }

    /// Waits for the snapshot to hold everything up to `position` of the log.
    pub async fn reached(&self, position: i64) {
        // Fails only when the snapshot is gone, and this holds it.
        let _ = self.inner.applied.subscribe().wait_for(|applied| *applied >= position).await;
    }

    /// Fills the snapshot: what the tables say, once the feed's position is known. Everything that was committed before
    /// that position is in the tables, everything after it comes from the log. A snapshot from before is replaced by
    /// the new one, and verifies nothing until then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn load(&self, log: &Log) -> Result<Origin> {
        *self.freshness() = Freshness::default();
        let origin = log.feed().ready().await?;
        self.write().next = Some(RevocationSnapshot::default());
        let now = self.inner.context.now();
        let since = now - self.inner.remember;
        let mut tx = log.db().begin(Scope::Platform).await?;
        let mut found: Vec<(Revoked, DateTime<Utc>)> = Vec::new();
        found.extend(store::ended_sessions(&mut tx, since).await?.into_iter().map(|id| (Revoked::Session(id), now)));
        let tokens = store::ended_tokens(&mut tx, since).await?.into_iter();
        found.extend(tokens.map(|(principal, epoch)| (Revoked::Principal(principal, epoch), now)));
        found.extend(key_store::retired(&mut tx, since).await?.into_iter().map(|(kid, at)| (Revoked::Key(kid), at)));
        let mut snapshots = self.write();
        let mut next = snapshots.next.take().unwrap_or_default();
        for (revoked, at) in found {
            next.apply(Revocation { revoked, forget_after: self.forget_after(revoked, at) });
        }
        snapshots.current = next;
        drop(snapshots);
        let (source, applied) = (Some(Source { feed: log.feed().clone(), origin }), origin.position());
        *self.freshness() = Freshness { source, applied, confirmed: None };
        self.inner.applied.send_replace(applied);
        Ok(origin)
    }

    /// Keeps the snapshot current from `origin` on, until `stop`. When the log becomes another one, keys and snapshot
    /// are loaded from the tables again, and no token is accepted meanwhile.
    pub async fn follow(self, log: Log, origin: Origin, keys: SigningKeyManager, stop: CancellationToken) {
        let mut follow = log.follow(Filter::new(Scope::Platform), origin);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                step = self.step_or_reload(&mut follow, &log, &keys) => match step {
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

    async fn step_or_reload(&self, follow: &mut Follow, log: &Log, keys: &SigningKeyManager) -> Result<bool> {
        match self.step(follow, &keys.keys).await {
            Err(fault) if fault.reason() == Reason::LogForked => {}
            step => return step,
        }
        tracing::error!(
            event = "revocations_discarded",
            "revocations are loaded again, since the log that they came from is gone; no token is accepted until then"
        );
        // The keys first: one that came with the log that is gone must sign nothing more.
        keys.load().await?;
        let origin = self.load(log).await?;
        *follow = log.follow(Filter::new(Scope::Platform), origin);
        tracing::warn!(event = "revocations_loaded_again", position = origin.position(), "tokens are accepted again");
        Ok(true)
    }

    async fn step(&self, follow: &mut Follow, keys: &Keys) -> Result<bool> {
        match follow.progress().await? {
            Progress::End => return Ok(false),
            Progress::Event(event) => self.apply(&event, keys),
            Progress::Further | Progress::Live => self.write().current.forget(self.inner.context.now()),
        }
        let mut freshness = self.freshness();
        freshness.applied = follow.position();
        if let Some(source) = &mut freshness.source {
            source.origin = follow.origin();
        }
        // Also here, not only when a caller asks: under a steady flow of events callers come in between the feed's
        // handing out and this, and would find the snapshot behind every time.
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

    fn read(&self) -> RwLockReadGuard<'_, RevocationSnapshots> {
        self.inner.snapshots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, RevocationSnapshots> {
        self.inner.snapshots.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn freshness(&self) -> MutexGuard<'_, Freshness> {
        self.inner.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares the snapshot complete now.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn confirm_now(&self) {
        self.freshness().confirmed = Some(self.inner.context.clock.instant());
    }
}

impl Freshness {
    /// The feed knows when nothing was missing from what it handed out; the snapshot is as good once it has all of that, and
    /// as long as it is of the same log.
    fn look(&mut self, now: Instant) {
        let Some(Source { feed, origin }) = &self.source else { return };
        // The age before the position: what is confirmed is then never newer than what is applied. And both before the
        // epoch: they are then of the log that the snapshot is of.
        let age = feed.age();
        let has_all = feed.position().is_some_and(|position| self.applied >= position);
        if !origin.is_of(feed.epoch()) {
            (self.source, self.confirmed) = (None, None);
        } else if has_all && let Some(confirmed) = age.and_then(|age| now.checked_sub(age)) {
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

fn stale() -> Fault {
    Fault::new(Reason::RevocationsStale, "Revocations are being loaded.").retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_was_never_loaded_has_no_age() {
        assert_eq!(Revocations::new(Context::system(), Duration::from_secs(900)).age(), None);
    }
}
