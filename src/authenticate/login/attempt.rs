//! Attempts at guessable secrets. Each is reserved, compared and recorded in a task that runs to its end, also when the
//! client disconnects: what was counted leaves its event, and the lock's.

use std::time::Duration;

use chrono::TimeDelta;

use super::Login;
use super::store::login::{self as store, Reserved};
pub(in crate::authenticate) use super::to_its_end::ToItsEnd;
use crate::access::Call;
use crate::audit::{Event, EventType, Outcome, Prepared};
use crate::credential::network;
use crate::db::Scope;
use crate::fault::{Fault, Result};

/// For how long refusals of unknown identifiers are counted before one event stands for them.
const INTERVAL: Duration = Duration::from_secs(300);

/// After so long no attempt that led to a lock is still comparing: one without its event was interrupted.
const UNRECORDED: TimeDelta = TimeDelta::minutes(5);

impl Login {
    /// Runs `work`, which reserves an attempt, in a task of its own and waits for it.
    pub(in crate::authenticate) async fn to_its_end<T, F>(&self, work: impl FnOnce(Self, ToItsEnd) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let login = self.clone();
        ToItsEnd::run(|end| work(login, end)).await
    }

    /// Writes a refusal down before it is answered, and the lock that this attempt led to. Those of unknown identifiers
    /// are counted for their address and recorded together.
    pub(in crate::authenticate) async fn refuse(&self, call: &Call, event: Event, reserved: &Reserved) -> Result<()> {
        if reserved.user_id.is_none() {
            let event = self.recorder.prepare(event.detail("refusals", 1));
            let network = call.address.map(network).unwrap_or_default();
            store::refuse_unknown(&self.db, &network, self.context.now(), INTERVAL, &event).await?;
        } else {
            let (event, lock) = self.refusal(call, event, reserved);
            store::login_refuse(&self.db, &event, lock.as_ref()).await?;
        }
        self.recorder.wake();
        Ok(())
    }

    /// The event of a refusal, and that of the lock that it led to.
    pub(in crate::authenticate) fn refusal(
        &self,
        call: &Call,
        event: Event,
        reserved: &Reserved,
    ) -> (Prepared, Option<Prepared>) {
        let mut event = event.tenant(reserved.tenant_id);
        if let Some(user) = reserved.user_id {
            event = event.target("user", user);
        }
        let is_last = reserved.attempt.is_some_and(|attempt| attempt >= self.config.passwords.max_attempts);
        let lock = reserved.user_id.filter(|_| is_last).map(|user| {
            let known_device = reserved.known_device;
            let what = if known_device { EventType::UserDeviceLocked } else { EventType::UserLocked };
            let event = Event::by_system(what, call.correlation_id).target("user", user);
            let address = call.address.map(tracing::field::display);
            tracing::warn!(event = "user_locked", user_id = %user, known_device, address, "too many failures");
            self.recorder.prepare(event.tenant(reserved.tenant_id).reason("too_many_failures"))
        });
        (self.recorder.prepare(event), lock)
    }

    /// Records locks that stand without an event, since the process or the database failed between the attempt and the
    /// refusal.
    pub(in crate::authenticate) async fn record_locks(&self) -> Result<()> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let found = store::take_unrecorded(&mut tx, self.context.now() - UNRECORDED).await?;
        let events = found.into_iter().map(|lock| {
            let what = if lock.known_device { EventType::UserDeviceLocked } else { EventType::UserLocked };
            tracing::warn!(event = "user_locked", user_id = %lock.user_id, known_device = lock.known_device, "too many failures");
            let event = Event::by_system(what, self.context.new_id()).target("user", lock.user_id);
            event.tenant(lock.tenant_id).reason("too_many_failures")
        });
        let events: Vec<Event> = events.collect();
        self.recorder.record_all(&mut tx, events).await?;
        tx.commit().await
    }

    /// Records what was counted of unknown identifiers in intervals that are over.
    pub(in crate::authenticate) async fn record_unknown(&self) -> Result<()> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let counted = store::take_unknown(&mut tx, self.context.now()).await?;
        let mut events = Vec::new();
        for counted in counted.into_iter().filter(|counted| counted.refusals > 0) {
            let unknown = || Fault::internal("unknown_refusals.event_type holds a type that there is not");
            let event_type = EventType::parse(&counted.event_type).ok_or_else(unknown)?;
            let event = Event::by_system(event_type, self.context.new_id()).outcome(Outcome::Refused).reason("unknown");
            events.push(event.detail("refusals", counted.refusals).personal("network", counted.network));
        }
        self.recorder.record_all(&mut tx, events).await?;
        tx.commit().await
    }
}
