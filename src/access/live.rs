//! What every stream that stays open has in common: whether its caller is still authorised, and when a heartbeat is due.
//!
//! A stream may outlast the access token that opened it. Until that expires the snapshot of revocations in memory says
//! whether it is still good. After that, revocations that concern it may have left the snapshot, and nothing in it says when
//! a session lapses: so the database is asked as well, at intervals, whether what the caller was authenticated by is still
//! good.

use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::{Call, input};
use crate::context::Clock;
use crate::fault::{Fault, Reason, Result};

/// Longest time between two checks whether the caller is still authorised, while nothing is sent.
pub(crate) const RECHECK: Duration = Duration::from_secs(5);

/// Checks whether callers of open streams are still authorised. Made of what verifies tokens and what knows sessions.
#[derive(Clone)]
pub struct Admission(Arc<Checks>);

/// Whether the caller is authorised as far as is known in memory, and, if so, since when the access token has expired.
type InMemory = dyn Fn(&Call) -> Result<Option<DateTime<Utc>>> + Send + Sync;
/// Whether what the caller was authenticated by is still good, as the database knows it.
type InDatabase = dyn Fn(Call) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync;

struct Checks {
    in_memory: Box<InMemory>,
    in_database: Box<InDatabase>,
    clock: Clock,
    bound: Duration,
}

impl Admission {
    /// One that asks `in_memory` every time and, once the access token has expired, `in_database` at intervals. When that
    /// cannot be asked, its last answer counts for `bound`, as the snapshot of revocations does.
    pub fn new<F>(
        in_memory: impl Fn(&Call) -> Result<Option<DateTime<Utc>>> + Send + Sync + 'static,
        in_database: impl Fn(Call) -> F + Send + Sync + 'static,
        clock: Clock,
        bound: Duration,
    ) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let in_database: Box<InDatabase> = Box::new(move |call| Box::pin(in_database(call)));
        Self(Arc::new(Checks { in_memory: Box::new(in_memory), in_database, clock, bound }))
    }

    /// The caller of a stream that begins now.
    pub(crate) fn of(&self, call: Call) -> StreamCaller {
        StreamCaller { call, checks: Arc::clone(&self.0), confirmed: Mutex::default() }
    }
}

/// The caller of an open stream, who may lose their rights while it is open.
pub(crate) struct StreamCaller {
    pub call: Call,
    checks: Arc<Checks>,
    confirmed: Mutex<Confirmed>,
}

/// What the database said since the access token expired.
#[derive(Clone, Copy, Default)]
struct Confirmed {
    /// When it was asked for the answer that counts; none before the first.
    at: Option<Instant>,
    /// When it is to be asked again.
    again: Option<Instant>,
}

impl StreamCaller {
    /// Checks that the caller is still authorised as when the stream began.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`, `REVOCATIONS_STALE`.
    pub async fn recheck(&self) -> Result<()> {
        match (self.checks.in_memory)(&self.call)? {
            None => Ok(()),
            Some(expired_at) => self.confirm(expired_at).await,
        }
    }

    /// What `wait` gives, if the caller is still authorised then.
    ///
    /// # Errors
    /// As [`Self::recheck`], and those of `wait`.
    pub async fn after<T>(&self, wait: impl Future<Output = Result<T>>) -> Result<T> {
        let given = wait.await?;
        self.recheck().await?;
        Ok(given)
    }

    /// Asks the database, unless it was asked just now.
    async fn confirm(&self, expired_at: DateTime<Utc>) -> Result<()> {
        let Checks { in_database, clock, bound, .. } = &*self.checks;
        let (asked_at, last) = (clock.instant(), *self.confirmed());
        if last.again.is_some_and(|again| asked_at < again) {
            return Ok(());
        }
        let answer = in_database(self.call.clone()).await;
        let (at, wait) = match answer {
            Ok(()) => (Some(asked_at), RECHECK),
            Err(fault) if fault.reason() == Reason::Unauthenticated => return Err(fault),
            // The last answer counts a while longer; the snapshot was complete until the token expired.
            Err(fault) => {
                let since_expiry = (clock.now() - expired_at).to_std().unwrap_or_default();
                let age = last.at.map_or(since_expiry, |at| clock.instant().saturating_duration_since(at));
                let left = bound.checked_sub(age).filter(|left| !left.is_zero()).ok_or_else(|| stale(fault))?;
                (last.at, left.min(RECHECK))
            }
        };
        *self.confirmed() = Confirmed { at, again: asked_at.checked_add(wait) };
        Ok(())
    }

    fn confirmed(&self) -> std::sync::MutexGuard<'_, Confirmed> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stale(cause: Fault) -> Fault {
    Fault::new(Reason::RevocationsStale, "Whether the caller is still authorised cannot be asked at the moment.")
        .retry_after(Duration::from_secs(1))
        .because(cause)
}

/// When the next heartbeat of a stream is due.
pub(crate) struct Heartbeat {
    clock: Clock,
    interval: Duration,
    last_sent: Option<Instant>,
}

impl Heartbeat {
    /// Due immediately: nothing was sent yet.
    pub fn due(clock: Clock, interval: Duration) -> Self {
        Self { clock, interval, last_sent: None }
    }

    /// Due when nothing is sent for a whole interval from now.
    pub fn new(clock: Clock, interval: Duration) -> Self {
        let last_sent = Some(clock.instant());
        Self { clock, interval, last_sent }
    }

    /// The interval that a request asks for; 15 seconds when it asks for none.
    pub fn interval(requested: Option<prost_types::Duration>, allowed: RangeInclusive<u64>) -> Result<Duration> {
        let Some(requested) = requested else { return Ok(Duration::from_secs(15)) };
        let (shortest, longest) = (*allowed.start(), *allowed.end());
        input::duration(&requested)
            .filter(|interval| (Duration::from_secs(shortest)..=Duration::from_secs(longest)).contains(interval))
            .ok_or_else(|| Fault::field("heartbeat_interval", format!("must be from {shortest} to {longest} seconds")))
    }

    /// Notes that something is sent now.
    pub fn sent(&mut self) {
        self.last_sent = Some(self.clock.instant());
    }

    /// Whether the stream was silent for the whole interval.
    pub fn is_due(&self) -> bool {
        self.left().is_zero()
    }

    /// For how long the stream may still be silent.
    pub fn left(&self) -> Duration {
        let silence = |sent| self.clock.instant().saturating_duration_since(sent);
        self.last_sent.map_or(Duration::ZERO, |sent| self.interval.saturating_sub(silence(sent)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use uuid::Uuid;

    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    /// A caller whose token expires when the clock has advanced by a second, and what the database says of them: the
    /// reason of a fault, or nothing. And how often it was asked.
    struct Fixture {
        clock: Clock,
        answer: Arc<Mutex<Option<Reason>>>,
        asked: Arc<AtomicUsize>,
        caller: StreamCaller,
    }

    fn fixture() -> Fixture {
        let (clock, answer, asked) = (Clock::system(), Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
        let (now, expires_at) = (clock.clone(), clock.now() + Duration::from_secs(1));
        let in_memory = move |_: &Call| Ok((now.now() >= expires_at).then_some(expires_at));
        let (says, count) = (Arc::clone(&answer), Arc::clone(&asked));
        let in_database = move |_: Call| {
            count.fetch_add(1, Ordering::Relaxed);
            let reason: Option<Reason> = *says.lock().unwrap();
            async move { reason.map_or(Ok(()), |reason| Err(Fault::new(reason, "No."))) }
        };
        let caller = Admission::new(in_memory, in_database, clock.clone(), BOUND).of(Call::internal(Uuid::nil()));
        Fixture { clock, answer, asked, caller }
    }

    impl Fixture {
        fn says(&self, reason: Option<Reason>) {
            *self.answer.lock().unwrap() = reason;
        }

        async fn after(&self, seconds: u64) -> Option<Reason> {
            self.clock.advance(Duration::from_secs(seconds));
            self.caller.recheck().await.err().map(|fault| fault.reason())
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn the_database_is_asked_once_the_token_has_expired_and_not_more_often_than_needed() {
        let fixture = fixture();
        assert_eq!((fixture.after(0).await, fixture.asked()), (None, 0), "the token is good");
        assert_eq!((fixture.after(1).await, fixture.asked()), (None, 1));
        assert_eq!((fixture.after(4).await, fixture.asked()), (None, 1), "asked just now");
        assert_eq!((fixture.after(1).await, fixture.asked()), (None, 2));
        fixture.says(Some(Reason::Unauthenticated));
        assert_eq!(fixture.after(5).await, Some(Reason::Unauthenticated));
        assert_eq!(fixture.after(0).await, Some(Reason::Unauthenticated), "for good");
    }

    #[tokio::test]
    async fn what_cannot_be_asked_counts_for_the_bound_and_no_longer() {
        let fixture = fixture();
        assert_eq!(fixture.after(1).await, None);
        fixture.says(Some(Reason::DatabaseUnavailable));
        assert_eq!(fixture.after(6).await, None, "six seconds old");
        assert_eq!(fixture.after(5).await, Some(Reason::RevocationsStale), "eleven");
        fixture.says(None);
        assert_eq!(fixture.after(0).await, None, "it is there again");
    }

    #[tokio::test]
    async fn a_reader_that_comes_back_late_is_not_believed_without_asking() {
        let fixture = fixture();
        fixture.says(Some(Reason::DatabaseUnavailable));
        assert_eq!(
            fixture.after(600).await,
            Some(Reason::RevocationsStale),
            "nothing is known since the token expired"
        );
    }

    #[test]
    fn a_stream_shows_that_it_lives_once_an_interval() {
        let clock = Clock::system();
        assert!(Heartbeat::due(clock.clone(), Duration::from_secs(3600)).is_due(), "nothing was sent yet");
        let mut heartbeat = Heartbeat::new(clock.clone(), Duration::from_secs(3600));
        assert!(!heartbeat.is_due());
        heartbeat.interval = Duration::ZERO;
        assert!(heartbeat.is_due());
    }

    #[test]
    fn a_heartbeat_is_neither_a_flood_nor_a_silence() {
        let asked = |seconds, nanos| Heartbeat::interval(Some(prost_types::Duration { seconds, nanos }), 1..=300);
        assert_eq!(Heartbeat::interval(None, 1..=300).unwrap(), Duration::from_secs(15));
        assert_eq!(asked(1, 0).unwrap(), Duration::from_secs(1));
        assert_eq!(asked(300, 0).unwrap(), Duration::from_secs(300));
        for (seconds, nanos) in [(0, 0), (0, 999_999_999), (-1, 0), (301, 0), (i64::MAX, i32::MAX), (1, -1)] {
            assert!(asked(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
    }
}
