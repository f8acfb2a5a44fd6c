//! What is known of the call that the current task answers, and the line in the log about its refusal: a person who quotes
//! the id of an error finds it there. Anybody can be refused as often as they like, so lines have bounds.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tonic::Code;
use uuid::Uuid;

use super::quota::Client;
use super::rate_limit::{Rate, RateLimit};
use crate::access::Call;
use crate::context::Clock;
use crate::fault::{Fault, Reason, answer};

/// Lines about one client address, or about one caller who has signed in.
const EACH: Rate = Rate { burst: 60.0, per_second: 1.0 };
/// Lines about all of them together, of each kind of line.
const TOGETHER: Rate = Rate { burst: 1_000.0, per_second: 10.0 };

tokio::task_local! {
    /// The call that the current task answers.
    pub(super) static ANSWERING: Answering;
}

/// Lines about refused calls, in three kinds, so that none leaves another without lines: what strangers are refused, what
/// callers are refused who have signed in, and calls that cannot be served now. Clones count together.
#[derive(Clone)]
pub(super) struct Refusals {
    clock: Clock,
    kinds: Arc<[Lines; 3]>,
}

struct Lines {
    limit: RateLimit,
    left_out: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Stranger,
    Caller,
    Unavailable,
}

impl Refusals {
    pub(super) fn new(clock: Clock) -> Self {
        let now = clock.instant();
        let lines = |_| Lines { limit: RateLimit::new(EACH, TOGETHER, now), left_out: AtomicU64::new(0) };
        Self { clock, kinds: Arc::new([0, 1, 2].map(lines)) }
    }

    /// How many lines of this kind were left out since the last one, if there may be another about this client.
    fn tell(&self, kind: Kind, client: Option<Client>, now: Instant) -> Option<u64> {
        let lines = &self.kinds[kind as usize];
        if lines.limit.take(client, now) {
            return Some(lines.left_out.swap(0, Ordering::Relaxed));
        }
        lines.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// What is known of a call while it is answered. Clones are about the same call.
#[derive(Clone)]
pub(super) struct Answering {
    inner: Arc<Inner>,
}

struct Inner {
    refusals: Refusals,
    address: Option<IpAddr>,
    /// The call with its principal, once that is known.
    known: OnceLock<Call>,
    /// The last refusal that was made for the call.
    noted: Mutex<Option<Refusal>>,
}

/// A refusal, as far as it may be written down.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub reason: Reason,
    code: Code,
    /// The sentence for the caller where it is a fixed one: others may hold what the caller sent.
    message: Option<&'static str>,
    /// The permission that is missing.
    pub permission: Option<String>,
    cause: Option<String>,
}

impl Answering {
    /// A call from this address.
    pub(super) fn new(refusals: Refusals, address: Option<IpAddr>) -> Self {
        let inner = Inner { refusals, address, known: OnceLock::new(), noted: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Notes who calls.
    pub(super) fn identified(&self, call: &Call) {
        if call.principal.is_some() {
            // Only the first time counts: a call has one caller.
            let _ = self.inner.known.set(call.clone());
        }
    }

    /// The call, where its caller is known.
    pub(super) fn known(&self) -> Option<&Call> {
        self.inner.known.get()
    }

    /// Notes a refusal. Nothing is written before it is the answer.
    pub(super) fn note(&self, refusal: Refusal) {
        *self.noted() = Some(refusal);
    }

    /// The refusal that an answer with this code is; none for answers that were not made of a fault of ours.
    pub(super) fn refusal(&self, code: Code) -> Option<Refusal> {
        self.noted().clone().filter(|refusal| refusal.code == code)
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Option<Refusal>> {
        // Nothing panics while it is held.
        self.inner.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the line about a call that ended with `code`. Method and correlation id are in the span.
    pub(super) fn ended(&self, code: Code) {
        // What failed has a line of its own, with its cause; who hangs up is not refused.
        if matches!(code, Code::Ok | Code::Cancelled | Code::Internal | Code::Unknown | Code::DataLoss) {
            return;
        }
        let Inner { refusals, address, .. } = &*self.inner;
        let caller: Option<Uuid> = self.known().and_then(|call| call.principal.as_ref()).map(|known| known.id);
        let client = caller.map(Client::Caller).or_else(|| address.map(Client::from));
        let kind = match code {
            Code::Unavailable | Code::ResourceExhausted => Kind::Unavailable,
            _ if caller.is_some() => Kind::Caller,
            _ => Kind::Stranger,
        };
        let Some(left_out) = refusals.tell(kind, client, refusals.clock.instant()) else { return };
        let left_out = (left_out > 0).then_some(left_out);
        let refusal = self.refusal(code);
        let reason = refusal.as_ref().map(|refusal| answer(refusal.reason).name);
        let message = refusal.as_ref().and_then(|refusal| refusal.message).unwrap_or("refused");
        let cause = refusal.as_ref().and_then(|refusal| refusal.cause.as_deref());
        let address = address.map(tracing::field::display);
        let caller = caller.map(tracing::field::display);
        if matches!(kind, Kind::Unavailable) {
            tracing::warn!(event = "call_unavailable", ?code, reason, address, caller, left_out, cause, "{message}");
        } else {
            tracing::info!(event = "call_refused", ?code, reason, address, caller, left_out, "{message}");
        }
    }
}

impl Refusal {
    /// What of `fault`, answered with `code`, may be written down. `cause` only where it is the service's own trouble: those
    /// of other refusals may hold what the caller sent.
    pub(super) fn of(fault: &Fault, code: Code, cause: Option<String>) -> Self {
        let message = match fault.text() {
            Cow::Borrowed(text) => Some(*text),
            Cow::Owned(_) => None,
        };
        let permission = fault.metadata().iter().find(|(key, _)| *key == "permission").map(|(_, value)| value.clone());
        Self { reason: fault.reason(), code, message, permission, cause }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lines(refusals: &Refusals, kind: Kind, client: u8, times: usize, now: Instant) -> Vec<u64> {
        let client = Some(Client::from(IpAddr::from([192, 0, 2, client])));
        (0..times).filter_map(|_| refusals.tell(kind, client, now)).collect()
    }

    #[test]
    fn a_flood_is_bounded_counted_and_leaves_others_their_lines() {
        let clock = Clock::system();
        let (refusals, now) = (Refusals::new(clock.clone()), clock.instant());
        assert_eq!(lines(&refusals, Kind::Stranger, 1, 10_000, now), vec![0; 60]);
        assert_eq!(lines(&refusals, Kind::Stranger, 2, 1, now), [9_940], "the next line says what was left out");
        let flood: usize = (3..=255).map(|client| lines(&refusals, Kind::Stranger, client, 100, now).len()).sum();
        assert_eq!(flood, 1_000 - 61, "many clients have a bound together");
        assert_eq!(lines(&refusals, Kind::Caller, 1, 1, now), [0], "a flood of strangers");
        assert_eq!(lines(&refusals, Kind::Unavailable, 1, 1, now), [0], "a flood of refusals");
        let later = now + Duration::from_secs(10);
        assert_eq!(lines(&refusals, Kind::Stranger, 1, 1_000, later).len(), 10);
    }

    #[test]
    fn only_fixed_sentences_are_written() {
        let fixed = Fault::new(Reason::NotFound, "There is none.");
        let made = Fault::new(Reason::NotFound, format!("There is no {}.", "ann@example.com"));
        let message = |fault| Refusal::of(&fault, Code::NotFound, None).message;
        assert_eq!([message(fixed), message(made)], [Some("There is none."), None]);
    }
}
