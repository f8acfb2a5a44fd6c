//! The one place that builds a gRPC status: code and `ErrorInfo` from the reason, details from the fault, and the
//! line in the log.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};

use super::accept::Told;
pub use crate::access::status::{DOMAIN, fault};
use crate::context::Clock;
use crate::correlation;
use crate::fault::{Fault, answer};

tokio::task_local! {
    /// Where lines about calls that were shed are counted, while the current task works for a call.
    pub(super) static LINES: Lines;
}

/// Lines about calls that could not be served now: anybody can cause as many of those as they like, so there is one for each
/// reason now and then, with their number. Clones count together.
#[derive(Clone)]
pub(super) struct Lines {
    clock: Clock,
    told: Arc<Mutex<HashMap<&'static str, Told>>>,
}

impl Lines {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, told: Arc::default() }
    }

    /// How many calls the line for one that was shed for `reason` stands for; none when it is left out.
    fn tell(&self, reason: &'static str) -> Option<u64> {
        // Nothing panics while it is held, and counts are never half written.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.entry(reason).or_default().tell(self.clock.instant())
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let answer = answer(fault.reason());
        let code = Code::from(answer.code);
        log(&fault, answer.name, code);

        let mut details = ErrorDetails::new();
        let mut metadata: std::collections::HashMap<String, String> =
            fault.metadata().iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        if let Some(id) = correlation::current() {
            metadata.insert("correlation_id".to_owned(), id.to_string());
        }
        details.set_error_info(answer.name, DOMAIN, metadata);
        if !fault.fields().is_empty() {
            let violations = fault.fields().iter().map(|(field, problem)| FieldViolation::new(field, problem));
            details.set_bad_request(violations.collect::<Vec<_>>());
        }
        if code == Code::FailedPrecondition {
            let violation = PreconditionViolation::new(answer.name, "", answer.remedy);
            details.set_precondition_failure(vec![violation]);
        }
        if let Some(delay) = fault.retry_delay() {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code, message(&fault), details)
    }
}

/// The fault's sentence, and each field with its problem, for clients that show only the message.
fn message(fault: &Fault) -> String {
    let mut text = fault.message().to_owned();
    for (field, problem) in fault.fields() {
        let _ = write!(text, " `{field}` {problem}.");
    }
    text
}

fn log(fault: &Fault, reason: &'static str, code: Code) {
    // Calls that the service has no place for: what is left out is counted in the next line, and all of them in the metrics.
    let turned_away = matches!(code, Code::Unavailable | Code::ResourceExhausted);
    let count = if turned_away { LINES.try_with(|lines| lines.tell(reason)).unwrap_or(Some(1)) } else { None };
    if turned_away && count.is_none() {
        return;
    }
    let cause = fault.cause().map(|cause| chain(cause));
    let cause = cause.as_deref();
    match code {
        Code::Internal | Code::Unknown | Code::DataLoss => {
            tracing::error!(event = "call_failed", reason, cause, "the service failed");
        }
        Code::Unavailable | Code::ResourceExhausted => {
            tracing::warn!(event = "call_unavailable", reason, count, cause, "{}", fault.message());
        }
        _ => tracing::debug!(event = "call_refused", reason, cause, "{}", fault.message()),
    }
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let _ = write!(text, ": {error}");
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fault::Reason;

    #[test]
    fn a_status_carries_reason_fields_and_delay() {
        let fault =
            Fault::field("email", "must be an address").with("resource", "user").retry_after(Duration::from_secs(3));
        let status = Status::from(fault);
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_FIELD", "sidle"));
        assert_eq!(info.metadata["resource"], "user");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "email");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_status_of_ours_becomes_its_fault_again_and_no_other_does() {
        let fault_of = |reason| Fault::new(reason, "Too much.").retry_after(Duration::from_secs(3));
        let again = fault(&Status::from(fault_of(Reason::TooManyUnfinishedBytes))).unwrap();
        assert_eq!((again.reason(), again.message()), (Reason::TooManyUnfinishedBytes, "Too much."));
        assert_eq!(again.retry_delay(), Some(Duration::from_secs(3)));
        assert!(fault(&Status::resource_exhausted("somebody else's")).is_none());
    }

    #[tokio::test]
    async fn a_flood_of_refusals_is_a_line_for_each_reason() {
        let lines = Lines::new(Clock::system());
        let flood = async {
            let refuse = |reason| drop(Status::from(Fault::new(reason, "Not now.")));
            for _ in 0..1_000 {
                refuse(Reason::Overloaded);
                refuse(Reason::Throttled);
                refuse(Reason::NotFound);
            }
        };
        LINES.scope(lines.clone(), flood).await;
        assert_eq!(lines.tell("OVERLOADED"), None, "the line has been written");
        let told = lines.told.lock().unwrap();
        let mut reasons: Vec<&str> = told.keys().copied().collect();
        reasons.sort_unstable();
        assert_eq!(reasons, ["OVERLOADED", "THROTTLED"], "what is the caller's own is no line at all");
    }

    #[test]
    fn a_cause_reaches_no_caller() {
        let status = Status::from(Fault::new(Reason::Internal, "It failed.").because("password=hunter2"));
        assert!(!format!("{status:?}").contains("hunter2"));
    }
}
