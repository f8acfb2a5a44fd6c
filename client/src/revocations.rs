//! The revocation snapshot as Sidle pushes it, and its age.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sidle_token::{Epoch, Revocation, RevocationSnapshot, Revoked, Token};
use tokio::sync::watch;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::link::Link;
use crate::proto::session_service_client::SessionServiceClient;
use crate::proto::{self, WatchRevocationsRequest, WatchRevocationsResponse};
use crate::{Settings, Stale, wire};

/// Pauses between attempts to reach Sidle, growing from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The bound before Sidle has sent its own.
const BOUND: Duration = Duration::from_secs(10);

/// The snapshot. Clones share it.
#[derive(Clone)]
pub(crate) struct Revocations {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link,
    stale: Stale,
    own_bound: Option<Duration>,
    snapshot: RwLock<RevocationSnapshot>,
    /// Replaces the snapshot once it is complete, after the log that the snapshot came from was replaced.
    next: Mutex<Option<RevocationSnapshot>>,
    freshness: Mutex<Freshness>,
    cursor: Mutex<String>,
    loaded: watch::Sender<bool>,
}

#[derive(Clone, Copy, Default)]
struct Freshness {
    /// When the snapshot was last complete, as far as is known.
    complete: Option<Instant>,
    /// Sidle's bound.
    bound: Option<Duration>,
}

/// Relates Sidle's clock to ours on one connection. The first message was made after the request for it, so that
/// Sidle's time in it was not earlier than that; from then on Sidle's own clock says how much later each message was
/// made, however long it was on its way. So no clock has to be right, and nothing looks younger than it is.
#[derive(Clone, Copy)]
struct Anchor {
    asked: Instant,
    first_sent: DateTime<Utc>,
}

impl Anchor {
    /// When something was complete that was so at `at` by Sidle's clock.
    fn local(self, at: DateTime<Utc>, now: Instant) -> Option<Instant> {
        let passed = at - self.first_sent;
        let local = match passed.to_std() {
            Ok(later) => self.asked.checked_add(later),
            Err(_) => self.asked.checked_sub(passed.abs().to_std().ok()?),
        };
        local.map(|local| local.min(now))
    }
}

impl Revocations {
    pub fn new(link: Link, settings: &Settings) -> Self {
        let inner = Inner {
            link,
            stale: settings.stale,
            own_bound: settings.bound,
            snapshot: RwLock::default(),
            next: Mutex::default(),
            freshness: Mutex::default(),
            cursor: Mutex::default(),
            loaded: watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How long ago the snapshot was complete; none before it ever was.
    pub fn age(&self) -> Option<Duration> {
        let now = self.inner.link.clock().instant();
        lock(&self.inner.freshness).complete.map(|at| now.saturating_duration_since(at))
    }

    /// The most that the age may be.
    pub fn bound(&self) -> Duration {
        let theirs = lock(&self.inner.freshness).bound.unwrap_or(BOUND);
        self.inner.own_bound.map_or(theirs, |own| own.min(theirs))
    }

    /// Whether the snapshot is young enough to verify tokens with.
    pub fn is_usable(&self) -> bool {
        let grace = match self.inner.stale {
            Stale::Refuse => Duration::ZERO,
            Stale::AcceptFor(grace) => grace,
        };
        self.age().is_some_and(|age| age <= self.bound().saturating_add(grace))
    }

    /// Whether the token was revoked.
    pub fn refuses(&self, token: &Token) -> bool {
        let snapshot = self.inner.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        snapshot.refuses(token.claims.sid, token.claims.sub, Some(token.kid), token.claims.epoch)
    }

    /// Waits for the first complete snapshot.
    pub async fn loaded(&self) {
        // Fails only when the snapshot is dropped, and this holds it.
        let _ = self.inner.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }

    /// Follows Sidle's revocations, at one replica or another.
    pub async fn follow(self) {
        let mut pause = PAUSES.0;
        loop {
            let (at, mut heard) = (self.inner.link.at(), false);
            let status = match self.watch(&mut heard).await {
                Ok(()) => Status::unavailable("the stream ended"),
                Err(status) => status,
            };
            tracing::info!(code = ?status.code(), "revocations are not told any more: {}", status.message());
            self.inner.link.heed(&status).await;
            match status.code() {
                // CURSOR_AHEAD, LOG_FORKED: Sidle's database went back to an earlier state. CURSOR_EXPIRED: too many
                // events since.
                Code::OutOfRange | Code::Aborted => self.begin_anew(),
                Code::InvalidArgument => lock(&self.inner.cursor).clear(),
                _ => {}
            }
            self.inner.link.give_up(at);
            pause = if heard { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn watch(&self, heard: &mut bool) -> Result<(), Status> {
        let link = &self.inner.link;
        let cursor = lock(&self.inner.cursor).clone();
        let request = link.request(WatchRevocationsRequest { cursor }).await?;
        let asked = link.clock().instant();
        let mut client = SessionServiceClient::new(link.channel());
        let mut stream = link.patiently(client.watch_revocations(request)).await?.into_inner();
        let mut anchor = None;
        loop {
            // A replica that was silent for half of the bound may be cut off; there is time left to ask another.
            let late = |_| Err(Status::deadline_exceeded("Sidle was not heard in time"));
            let message = tokio::time::timeout(self.bound() / 2, stream.message()).await.unwrap_or_else(late)?;
            let Some(message) = message else { return Ok(()) };
            *heard = true;
            self.take(message, asked, &mut anchor);
        }
    }

    /// The snapshot is unknown until it has been sent again completely.
    fn begin_anew(&self) {
        tracing::warn!("Sidle's log is not the one that revocations came from; they are asked for anew");
        lock(&self.inner.freshness).complete = None;
        *lock(&self.inner.next) = Some(RevocationSnapshot::default());
        lock(&self.inner.cursor).clear();
    }

    fn take(&self, message: WatchRevocationsResponse, asked: Instant, anchor: &mut Option<Anchor>) {
        {
            let mut snapshot = self.inner.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            let mut next = lock(&self.inner.next);
            for revocation in message.revocations.iter().filter_map(revocation) {
                snapshot.apply(revocation);
                if let Some(next) = &mut *next {
                    next.apply(revocation);
                }
            }
            // In one step, so that no reader sees half a snapshot.
            if message.caught_up
                && let Some(next) = next.take()
            {
                *snapshot = next;
            }
            snapshot.forget(self.inner.link.clock().now());
        }
        if !message.cursor.is_empty() {
            *lock(&self.inner.cursor) = message.cursor;
        }
        let sent = message.sent_at.and_then(wire::time);
        if anchor.is_none() {
            *anchor = sent.map(|first_sent| Anchor { asked, first_sent });
        }
        let complete = message.complete_until.and_then(wire::time);
        let mut freshness = lock(&self.inner.freshness);
        freshness.bound = message.bound.and_then(wire::duration).or(freshness.bound);
        // Before it has caught up, the snapshot is incomplete.
        if message.caught_up
            && let (Some(anchor), Some(complete)) = (*anchor, complete)
        {
            freshness.complete = freshness.complete.max(anchor.local(complete, self.inner.link.clock().instant()));
            self.inner.loaded.send_replace(true);
        }
    }
}

fn revocation(revocation: &proto::Revocation) -> Option<Revocation> {
    use proto::revocation::Revoked as Wire;
    let id = |text: &str| Uuid::try_parse(text).ok();
    let revoked = match revocation.revoked.as_ref()? {
        Wire::SessionId(session) => Revoked::Session(id(session)?),
        Wire::Kid(kid) => Revoked::Key(id(kid)?),
        Wire::Principal(principal) => {
            let revoked = principal.tokens_valid_from.and_then(wire::time)?;
            Revoked::Principal(id(&principal.subject)?, Epoch::of(Some(revoked)))
        }
    };
    Some(Revocation { revoked, forget_after: revocation.forget_after.and_then(wire::time)? })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    use prost::Message as _;

    use super::*;
    use crate::{Clock, Secret};

    /// Messages of one stream, each with its length before it. Whatever they are: what was revoked is refused until it
    /// may be forgotten, nothing else is, and the snapshot never looks younger than it is.
    pub(crate) fn stream(mut data: &[u8]) {
        let own = Duration::from_secs(5);
        let settings = Settings { bound: Some(own), ..Settings::default() };
        let revocations = Revocations::new(Link::new(&[], Secret::default(), Clock::default()), &settings);
        let inner = &*revocations.inner;
        let (asked, mut anchor, mut told) = (Clock::default().instant(), None, Vec::new());
        while !data.is_empty()
            && let Ok(message) = WatchRevocationsResponse::decode_length_delimited(&mut data)
        {
            told.extend(message.revocations.iter().filter_map(revocation));
            let (caught_up, cursor) = (message.caught_up, message.cursor.clone());
            let (before, cursor_before) = (lock(&inner.freshness).complete, lock(&inner.cursor).clone());
            let earlier = Clock::default().now();
            revocations.take(message, asked, &mut anchor);
            let (later, instant) = (Clock::default().now(), Clock::default().instant());

            let complete = lock(&inner.freshness).complete;
            assert!(complete >= before && complete <= Some(instant), "the snapshot looks younger than it is");
            assert!(caught_up || complete == before, "what is no snapshot yet passes for one");
            assert!(complete.is_some() || !revocations.is_usable());
            assert!(revocations.bound() <= own);
            let expected = if cursor.is_empty() { cursor_before } else { cursor };
            assert_eq!(*lock(&inner.cursor), expected);

            let snapshot = inner.snapshot.read().unwrap_or_else(PoisonError::into_inner);
            assert!(snapshot.len() <= told.len(), "something is refused that nobody revoked");
            assert!(snapshot.all().iter().all(|one| one.forget_after > earlier), "what is over is remembered");
            for one in told.iter().filter(|one| one.forget_after > later) {
                assert!(is_refused(&snapshot, one.revoked), "{one:?} is let through");
            }
        }

        // The result does not depend on order or repetition.
        let (mut once, mut twice) = (RevocationSnapshot::default(), RevocationSnapshot::default());
        told.iter().for_each(|one| once.apply(*one));
        told.iter().rev().chain(&told).for_each(|one| twice.apply(*one));
        let sorted = |snapshot: &RevocationSnapshot| {
            let mut all = snapshot.all();
            all.sort_unstable();
            all
        };
        assert_eq!(sorted(&once), sorted(&twice));
    }

    fn is_refused(snapshot: &RevocationSnapshot, revoked: Revoked) -> bool {
        let (nobody, latest) = (Uuid::max(), Epoch::from_micros(i64::MAX));
        match revoked {
            Revoked::Session(id) => snapshot.refuses(Some(id), nobody, None, latest),
            Revoked::Key(id) => snapshot.refuses(None, nobody, Some(id), latest),
            // One at the beginning of time revokes no possible token.
            Revoked::Principal(_, epoch) if epoch <= Epoch::FIRST => true,
            Revoked::Principal(id, epoch) => snapshot.refuses(None, id, None, Epoch::from_micros(epoch.micros() - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clock, Secret};

    #[test]
    fn after_the_log_was_replaced_nothing_is_accepted_until_everything_was_told_again() {
        let revocations = Revocations::new(Link::new(&[], Secret::default(), Clock::default()), &Settings::default());
        let now = Clock::default().now();
        let message = |session: u128, caught_up| {
            let time = |time: DateTime<Utc>| prost_types::Timestamp { seconds: time.timestamp(), nanos: 0 };
            let revoked = Some(proto::revocation::Revoked::SessionId(Uuid::from_u128(session).to_string()));
            let forget_after = Some(time(now + chrono::TimeDelta::hours(1)));
            WatchRevocationsResponse {
                revocations: vec![proto::Revocation { revoked, forget_after }],
                cursor: session.to_string(),
                complete_until: Some(time(now)),
                sent_at: Some(time(now)),
                caught_up,
                ..Default::default()
            }
        };
        let refused = |session: u128| {
            let snapshot = revocations.inner.snapshot.read().unwrap();
            snapshot.refuses(Some(Uuid::from_u128(session)), Uuid::nil(), None, Epoch::FIRST)
        };
        let mut anchor = None;
        revocations.take(message(1, true), Clock::default().instant(), &mut anchor);
        assert!(revocations.is_usable() && refused(1));

        revocations.begin_anew();
        assert!(!revocations.is_usable() && lock(&revocations.inner.cursor).is_empty());
        revocations.take(message(2, false), Clock::default().instant(), &mut anchor);
        assert!(!revocations.is_usable() && refused(2), "half a snapshot is none");
        revocations.take(message(3, true), Clock::default().instant(), &mut anchor);
        assert!(revocations.is_usable() && refused(2) && refused(3));
        assert!(!refused(1), "what the log does not know of any more");
    }

    #[test]
    fn a_message_that_was_long_on_its_way_does_not_look_young() {
        let start = Clock::default().instant();
        let at = |seconds| start + Duration::from_secs(seconds);
        // Sidle's clock is a year behind, which does not matter.
        let theirs = |seconds| DateTime::from_timestamp(1_700_000_000 + i64::from(seconds), 0).unwrap();
        let anchor = Anchor { asked: at(100), first_sent: theirs(0) };
        assert_eq!(anchor.local(theirs(0), at(101)), Some(at(100)), "at the earliest when it was asked for");
        assert_eq!(anchor.local(theirs(-3), at(101)), Some(at(97)), "the replica itself knew only that much");
        assert_eq!(anchor.local(theirs(5), at(130)), Some(at(105)), "made at 105, arrived at 130");
        assert_eq!(anchor.local(theirs(500), at(130)), Some(at(130)), "nobody knows the future");
    }
}
