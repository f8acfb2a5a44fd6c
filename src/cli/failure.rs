//! Why a command did not do what it was to do, as a person sees it: what, why, what to do about it, and where to look.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::{RetryInfo, StatusExt as _, pb};

use crate::access::input;
use crate::config::ConfigError;
use crate::fault::{self, Fault};

pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Exit codes, besides 0 for success and 2 for a command line that cannot be read.
pub(super) mod exit {
    /// It was refused or failed.
    pub const FAILED: u8 = 1;
    /// It was done, but not for every row or user.
    pub const PARTLY: u8 = 3;
    /// Not signed in, or not any more.
    pub const SIGNED_OUT: u8 = 4;
    /// The service cannot be reached or is not able to answer now; a later retry may help.
    pub const UNAVAILABLE: u8 = 5;
}

/// A failure; boxed, since results carry it through every function.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Failure(Box<Told>);

/// What is reported about a failure.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Told {
    #[serde(skip)]
    pub exit_code: u8,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldProblem>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// What is wrong with a field.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FieldProblem {
    pub field: String,
    pub problem: String,
}

impl Deref for Failure {
    type Target = Told;
    fn deref(&self) -> &Told {
        &self.0
    }
}

impl DerefMut for Failure {
    fn deref_mut(&mut self) -> &mut Told {
        &mut self.0
    }
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Told {
            exit_code: exit::FAILED,
            message: message.into(),
            reason: None,
            fields: Vec::new(),
            metadata: BTreeMap::new(),
            remedy: None,
            retry_after_seconds: None,
            correlation_id: None,
        }))
    }

    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub fn exit(mut self, code: u8) -> Self {
        self.exit_code = code;
        self
    }

    /// Lines for a terminal.
    pub fn lines(&self) -> Vec<String> {
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let mut lines = vec![format!("error: {}{reason}", self.message)];
        lines.extend(self.fields.iter().map(|field| format!("  {} {}", field.field, field.problem)));
        lines.extend(self.metadata.iter().map(|(key, value)| format!("  {key}: {value}")));
        lines.extend(self.remedy.iter().map(|remedy| format!("  remedy: {remedy}")));
        lines.extend(self.retry_after_seconds.iter().map(|delay| format!("  try again in: {delay} s")));
        lines.extend(self.correlation_id.iter().map(|id| format!("  correlation id: {id}")));
        lines
    }
}

/// Whether a stream or its cursor was refused because the audit log was replaced by an earlier state.
pub(super) fn is_of_another_log(status: &Status) -> bool {
    let told = status.get_details_error_info().map(|info| info.reason);
    told.is_some_and(|reason| ["LOG_FORKED", "CURSOR_AHEAD"].contains(&reason.as_str()))
}

/// Whether a call or stream broke because the service was gone or could not answer now, rather than being refused.
pub(super) fn is_passing(status: &Status) -> bool {
    let refused = status.get_details_error_info().is_some();
    match status.code() {
        Code::Unavailable => true,
        // What the transport makes of a connection that broke.
        Code::Unknown | Code::Internal | Code::Cancelled => !refused,
        _ => false,
    }
}

/// How long the service asks to wait. The library's own reader does not survive the least of all numbers.
fn retry_delay(status: &Status) -> Option<Duration> {
    let details = pb::Status::decode(status.details()).ok()?.details;
    let retry = details.iter().find(|detail| detail.type_url == RetryInfo::TYPE_URL)?;
    input::duration(&pb::RetryInfo::decode(retry.value.as_slice()).ok()?.retry_delay?)
}

/// The reason that the service gave for a refusal; none for what is not the service's own answer.
pub(super) fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {}

/// A failure on this side of a call, on its way through the generated client: see the way back below.
impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let code = match failure.exit_code {
            exit::SIGNED_OUT => Code::Unauthenticated,
            exit::UNAVAILABLE => Code::Unavailable,
            _ => Code::FailedPrecondition,
        };
        let mut status = Self::new(code, failure.message.clone());
        status.set_source(Arc::new(failure));
        status
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if let Some(own) = status.source().and_then(|source| source.downcast_ref::<Self>()) {
            return own.clone();
        }
        let exit_code = match status.code() {
            Code::Unauthenticated => exit::SIGNED_OUT,
            _ if is_passing(&status) => exit::UNAVAILABLE,
            _ => exit::FAILED,
        };
        let mut failure = Self::new(status.message()).exit(exit_code);
        let Some(info) = status.get_details_error_info() else {
            // Not the service's own answer: a proxy's, or the connection broke.
            failure.message = format!("the service did not answer: {}", status.message());
            return failure;
        };
        failure.remedy = fault::remedy(&info.reason).map(str::to_owned);
        failure.reason = Some(info.reason);
        failure.metadata = info.metadata.into_iter().collect();
        failure.correlation_id = failure.metadata.remove("correlation_id");
        failure.retry_after_seconds =
            retry_delay(&status).map(|delay| delay.as_secs() + u64::from(delay.subsec_nanos() > 0));
        if let Some(bad) = status.get_details_bad_request() {
            failure.fields = bad
                .field_violations
                .iter()
                .map(|violation| FieldProblem {
                    field: violation.field.clone(),
                    problem: violation.description.clone(),
                })
                .collect();
            // The message repeats the fields for clients that show nothing else.
            if let Some((sentence, _)) = failure.message.split_once(" `") {
                failure.message = sentence.to_owned();
            }
        }
        failure
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let answer = fault::answer(fault.reason());
        let mut failure = Self::new(fault.message()).remedy(answer.remedy);
        failure.reason = Some(answer.name.to_owned());
        failure.fields = fault
            .fields()
            .iter()
            .map(|(field, problem)| FieldProblem { field: field.clone(), problem: problem.clone() })
            .collect();
        failure.metadata = fault.metadata().iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        // Commands that meet a fault themselves run beside the service, for its operator: who has no other log.
        if let Some(cause) = fault.cause() {
            failure.metadata.insert("cause".to_owned(), cause.to_string());
        }
        failure
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(error.to_string()).remedy("`sidle config defaults` prints every key with its meaning and default.")
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Reason;

    #[test]
    fn a_refusal_tells_reason_fields_remedy_and_where_to_look() {
        let fault = Fault::field("email", "must be an address").and_field("slug", "must be short");
        let failure = Failure::from(Status::from(fault));
        let lines = failure.lines();
        assert_eq!(lines[0], "error: The request has a field that is not accepted. (INVALID_FIELD)");
        assert_eq!(lines[1..3], ["  email must be an address", "  slug must be short"]);
        assert!(lines[3].starts_with("  remedy: "), "{lines:?}");
        assert_eq!(failure.exit_code, exit::FAILED);
    }

    #[test]
    fn exit_codes_tell_whether_signing_in_or_waiting_helps() {
        let code = |reason| Failure::from(Status::from(Fault::new(reason, "No."))).exit_code;
        assert_eq!(code(Reason::Unauthenticated), exit::SIGNED_OUT);
        assert_eq!(code(Reason::DatabaseUnavailable), exit::UNAVAILABLE);
        assert_eq!(code(Reason::PermissionDenied), exit::FAILED);
        assert_eq!(Failure::from(Status::unknown("h2 protocol error")).exit_code, exit::UNAVAILABLE);
        assert_eq!(code(Reason::Internal), exit::FAILED);
    }
}
