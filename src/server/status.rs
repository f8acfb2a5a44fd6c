//! The one place that builds a gRPC status: code and `ErrorInfo` from the reason, details from the fault, and the
//! line in the log.

use std::error::Error as StdError;
use std::fmt::Write as _;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};

use super::details::{self, Fitted};
use super::refusals::{ANSWERING, Refusal};
pub use crate::access::status::{DOMAIN, fault};
use crate::correlation;
use crate::fault::{Fault, answer};

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let answer = answer(fault.reason());
        let code = Code::from(answer.code);
        note(&fault, answer.name, code);

        let remedy = if code == Code::FailedPrecondition { answer.name.len() + answer.remedy.len() } else { 0 };
        let texts = answer.name.len() + remedy;
        let Fitted { message, metadata, fields } = details::fit(&fault, correlation::current(), texts);
        let mut details = ErrorDetails::new();
        details.set_error_info(answer.name, DOMAIN, metadata);
        if !fields.is_empty() {
            let violations = fields.iter().map(|(field, problem)| FieldViolation::new(field, problem));
            details.set_bad_request(violations.collect::<Vec<_>>());
        }
        if code == Code::FailedPrecondition {
            let violation = PreconditionViolation::new(answer.name, "", answer.remedy);
            details.set_precondition_failure(vec![violation]);
        }
        if let Some(delay) = fault.retry_delay() {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code, message, details)
    }
}

/// Notes the refusal for the line that is written when it is the answer. A failure has its line immediately: its cause
/// matters also when nobody waits for the answer any more.
fn note(fault: &Fault, reason: &'static str, code: Code) {
    let cause = fault.cause().map(|cause| chain(cause));
    if matches!(code, Code::Internal | Code::Unknown | Code::DataLoss) {
        tracing::error!(event = "call_failed", reason, cause, "the service failed");
    } else if let Some(cause) = &cause {
        tracing::debug!(event = "call_refused_because", reason, cause, "{}", fault.message());
    }
    let own = matches!(code, Code::Unavailable | Code::ResourceExhausted);
    let refusal = Refusal::of(fault, code, cause.filter(|_| own));
    let _ = ANSWERING.try_with(|answering| answering.note(refusal));
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

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::super::details::{MOST_BYTES, MOST_MESSAGE};
    use super::*;
    use crate::fault::{Reason, answers};

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

    const KEYS: [&str; 4] = ["tenants", "permission", "resource", "a_key_that_is_longer_than_most_of_those_there_are"];

    fn texts() -> impl Strategy<Value = String> {
        let list = (0..400usize).prop_map(|count| vec![Uuid::from_u128(7).to_string(); count].join(","));
        let same = (prop_oneof![Just("é"), Just(","), Just("x"), Just("\u{1f511}")], 0..3_000usize);
        prop_oneof!["[a-z]{0,40}", "\\PC{0,400}", list, same.prop_map(|(text, count)| text.repeat(count))]
    }

    /// What the details of `status` take as a header, and what all of its headers take as HTTP/2 counts them.
    fn headers(status: &Status) -> (usize, usize) {
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        let each = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
        (headers["grpc-status-details-bin"].len(), each.sum())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn every_error_fits_into_a_clients_headers_and_says_what_it_leaves_out(
            at in 0..answers().len(),
            message in texts(),
            fields in prop::collection::vec((texts(), texts()), 0..20),
            metadata in prop::collection::vec((0..KEYS.len(), texts()), 0..8),
            delay in prop::option::of(any::<u32>()),
        ) {
            let answer = &answers()[at];
            let mut fault = Fault::new(Reason::try_from(answer.reason).unwrap(), message.clone());
            for (name, problem) in &fields {
                fault = fault.and_field(name, problem);
            }
            for (key, value) in &metadata {
                fault = fault.with(KEYS[*key], value);
            }
            if let Some(delay) = delay {
                fault = fault.retry_after(Duration::from_secs(delay.into()));
            }
            let status = correlation::sync_scope(Uuid::from_u128(7), || Status::from(fault));

            prop_assert!(status.details().len() <= MOST_BYTES, "{} bytes", status.details().len());
            let (details, all) = headers(&status);
            prop_assert!(details < 4_096 && all < 7_680, "a header of {details} bytes, {all} together");
            prop_assert!(status.message().len() <= MOST_MESSAGE, "a message of {} bytes", status.message().len());
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            prop_assert_eq!(&info.reason, answer.name);
            prop_assert_eq!(&info.metadata["correlation_id"], &Uuid::from_u128(7).to_string());
            prop_assert_eq!(details.retry_info().is_some(), delay.is_some());

            let kept = details.bad_request().map_or(0, |request| request.field_violations.len());
            let left_out: usize = info.metadata.get("left_out").map_or(0, |count| count.parse().unwrap());
            prop_assert!(fields.len() - kept <= left_out, "{} of {} fields, {left_out} left out", kept, fields.len());
            for (key, _) in metadata.iter() {
                let (key, values) = (KEYS[*key], metadata.iter().filter(|(other, _)| other == key));
                let whole = values.clone().any(|(_, value)| info.metadata.get(key) == Some(value));
                let said = info.metadata.contains_key(&format!("{key}_left_out")) || left_out > 0;
                prop_assert!(whole || said, "{key} is cut and nothing says so");
            }
        }
    }

    #[test]
    fn a_list_is_cut_between_its_entries_and_the_rest_is_counted() {
        let tenants: Vec<String> = (0..400).map(|tenant| Uuid::from_u128(tenant).to_string()).collect();
        let status = Status::from(Fault::new(Reason::TenantRequired, "Which?").with("tenants", tenants.join(",")));
        let info = status.get_details_error_info().unwrap();
        let kept: Vec<&str> = info.metadata["tenants"].split(',').collect();
        assert!(kept.len() > 20 && kept.iter().all(|tenant| Uuid::parse_str(tenant).is_ok()), "{kept:?}");
        let left_out: usize = info.metadata["tenants_left_out"].parse().unwrap();
        assert_eq!(kept.len() + left_out, 400);
        assert!(status.message().contains(&format!("{left_out} entries are left out")), "{}", status.message());
    }

    #[test]
    fn what_fits_is_sent_as_it_is() {
        let fault = Fault::field("email", "must be an address").and_field("username", "must not be empty");
        let status = Status::from(fault.with("resource", "user"));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations.len(), 2);
        assert_eq!(details.error_info().unwrap().metadata.len(), 1);
        assert_eq!(
            status.message(),
            "The request has a field that is not accepted. `email` must be an address. `username` must not be empty."
        );
    }
}
