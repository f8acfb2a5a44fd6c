//! The one place that builds a gRPC status: code and `ErrorInfo` from the reason, details from the fault, and the
//! line in the log.

use std::error::Error as StdError;
use std::fmt::Write as _;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};
use uuid::Uuid;

use crate::fault::{Fault, Reason, answer, answers};

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "sidle";

tokio::task_local! {
    /// The correlation id of the call that the current task works for.
    pub(super) static CORRELATION: Uuid;
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let answer = answer(fault.reason());
        let code = Code::from(answer.code);
        log(&fault, answer.name, code);

        let mut details = ErrorDetails::new();
        let mut metadata: std::collections::HashMap<String, String> =
            fault.metadata().iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        if let Ok(id) = CORRELATION.try_with(|id| *id) {
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

/// The fault that a status of ours was made from, such as one that came out of a request's stream; none for others'.
pub fn fault(status: &Status) -> Option<Fault> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    let answer = answers().iter().find(|answer| answer.name == info.reason)?;
    let fault = Fault::new(Reason::try_from(answer.reason).ok()?, status.message().to_owned());
    Some(match status.get_details_retry_info().and_then(|info| info.retry_delay) {
        Some(delay) => fault.retry_after(delay),
        None => fault,
    })
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
    let cause = fault.cause().map(|cause| chain(cause));
    let cause = cause.as_deref();
    match code {
        Code::Internal | Code::Unknown | Code::DataLoss => {
            tracing::error!(event = "call_failed", reason, cause, "the service failed");
        }
        Code::Unavailable | Code::ResourceExhausted => {
            tracing::warn!(event = "call_unavailable", reason, cause, "{}", fault.message());
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

    #[test]
    fn a_cause_reaches_no_caller() {
        let status = Status::from(Fault::new(Reason::Internal, "It failed.").because("password=hunter2"));
        assert!(!format!("{status:?}").contains("hunter2"));
    }
}
