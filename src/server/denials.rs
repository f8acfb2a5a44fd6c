//! The audit event of a call whose caller is known and was not allowed what they asked for: durable before it is answered.
//! Also here a caller could make the log grow as long as they like, so that denials beyond a rate are counted, and one
//! event says how many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::quota::Client;
use super::rate_limit::{Rate, RateLimit};
use super::refusals::Refusal;
use crate::access::Call;
use crate::audit::{Event, EventType, Outcome, Recorder};
use crate::context::Clock;
use crate::correlation;
use crate::db::{Db, Scope};
use crate::fault::{Reason, Result};

/// Events about one caller.
const EACH: Rate = Rate { burst: 60.0, per_second: 0.2 };
/// Events about all callers together, on this replica.
const TOGETHER: Rate = Rate { burst: 1_000.0, per_second: 10.0 };
/// After this time one event says how many had none.
const SUMMARY: Duration = Duration::from_secs(60);

/// The word of an event for a refusal that says that the caller may not; none for refusals for any other cause.
fn word(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::PermissionDenied => "permission_denied",
        Reason::StepUpRequired => "step_up_required",
        Reason::UserRequired => "user_required",
        Reason::NoTenant => "no_tenant",
        Reason::PersonNotLinked => "person_not_linked",
        Reason::LastAdmin => "last_admin",
        Reason::MasterAdmin => "master_admin",
        _ => return None,
    })
}

/// Records denials.
#[derive(Clone)]
pub struct Denials {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    recorder: Recorder,
    clock: Clock,
    limit: RateLimit,
    /// Denials without an event, by caller; an entry is there while an event is due that says how many.
    left_out: Mutex<HashMap<Uuid, u64>>,
}

impl Denials {
    pub fn new(db: Db, recorder: Recorder, clock: Clock) -> Self {
        let limit = RateLimit::new(EACH, TOGETHER, clock.instant());
        Self { inner: Arc::new(Inner { db, recorder, clock, limit, left_out: Mutex::default() }) }
    }

    /// Records that `call` was refused, if the refusal is one that says that its caller may not.
    ///
    /// # Errors
    /// When the database fails; then the caller must not be told either.
    pub(super) async fn record(&self, method: &'static str, call: &Call, refusal: &Refusal) -> Result<()> {
        let (Some(word), Some(principal)) = (word(refusal.reason), &call.principal) else { return Ok(()) };
        let event = Event::new(EventType::AccessDenied, call).outcome(Outcome::Refused).reason(word);
        let event = event.detail("method", method.trim_start_matches('/'));
        if !self.inner.limit.take(Some(Client::Caller(principal.id)), self.inner.clock.instant()) {
            self.leave_out(principal.id, event);
            return Ok(());
        }
        let event = match &refusal.permission {
            Some(permission) => event.detail("permission", permission),
            None => event,
        };
        let left_out = self.left_out().remove(&principal.id);
        let written = self.write(match left_out {
            Some(count) => event.detail("left_out", count),
            None => event,
        });
        let written = written.await;
        if let (Err(_), Some(count)) = (&written, left_out) {
            // The next event says it.
            *self.left_out().entry(principal.id).or_default() += count;
        }
        written
    }

    async fn write(&self, event: Event) -> Result<()> {
        let mut tx = self.inner.db.begin(Scope::Platform).await?;
        self.inner.recorder.record(&mut tx, event).await?;
        tx.commit().await
    }

    /// Counts a denial. The next event says how many there were; there is one after a while, whatever the caller does.
    fn leave_out(&self, caller: Uuid, event: Event) {
        let mut left_out = self.left_out();
        let count = left_out.entry(caller).or_default();
        *count += 1;
        if *count == 1 {
            let denials = self.clone();
            drop(correlation::spawn(async move { denials.sum_up(caller, event).await }));
        }
    }

    async fn sum_up(&self, caller: Uuid, event: Event) {
        tokio::time::sleep(SUMMARY).await;
        // None where another event has said it.
        let Some(count) = self.left_out().remove(&caller) else { return };
        if let Err(fault) = self.write(event.detail("left_out", count)).await {
            tracing::error!(event = "denials_not_recorded", %caller, count, cause = %fault, "an event about denials is lost");
        }
    }

    fn left_out(&self) -> MutexGuard<'_, HashMap<Uuid, u64>> {
        // Nothing panics while it is held.
        self.inner.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::fault::answers;

    #[test]
    fn every_reason_that_says_that_a_caller_may_not_has_a_word() {
        for answer in answers().iter().filter(|answer| Code::from(answer.code) == Code::PermissionDenied) {
            let word = word(Reason::try_from(answer.reason).unwrap());
            assert_eq!(word, Some(answer.name.to_lowercase().as_str()));
        }
        assert_eq!(word(Reason::NotFound), None, "who asks for what is not there is not denied");
    }
}
