//! Why a command did not do what it was to do, as a person sees it: what, why, what to do about it, and where to look.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prost::Message as _;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::{RetryInfo, StatusExt as _, pb};

use crate::access::input;
use crate::config::{ConfigError, Problem};
use crate::fault::{self, Fault, Reason};
use crate::network::{Cause, Peer};
use crate::startup::{self, StartFailure};

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

/// The service that calls go to; set once, before the first of them.
static SERVER: OnceLock<String> = OnceLock::new();

/// Notes which service calls go to, for what is said when it cannot be reached.
pub(super) fn calls_go_to(server: &str) {
    let _ = SERVER.set(without_credentials(server));
}

/// An address as it may be shown, also where somebody put a password into it.
fn without_credentials(server: &str) -> String {
    let (scheme, rest) = server.split_once("://").unwrap_or(("", server));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

/// Not the service's own answer: a proxy's, or there was no connection, or it broke.
fn unanswered(status: &Status, exit_code: u8) -> Failure {
    let server = SERVER.get().map_or("", String::as_str);
    let Some(source) = std::error::Error::source(status) else {
        let message = format!("something else than the service answers at {server}: {}", status.message());
        let failure = Failure::new(message).exit(exit_code);
        return failure.remedy("See that --server is right, and what stands in front of the service.");
    };
    let cause = Cause::of(source);
    let peer = Peer {
        what: "the service",
        address: server.to_owned(),
        setting: "--server",
        authority: "--ca FILE",
        encryption: "the scheme",
    };
    let remedy = match &cause {
        Cause::WrongProtocol if server.starts_with("https://") => {
            "If the service runs without TLS there, use http://; otherwise correct the port.".to_owned()
        }
        Cause::Closed | Cause::WrongProtocol | Cause::Other(_) if server.starts_with("http://") => {
            "If the service speaks TLS there, use https://; otherwise see its log for why the connection ended."
                .to_owned()
        }
        cause => cause.remedy(&peer),
    };
    let failure = Failure::new(format!("cannot reach the service at {server}: {cause}")).remedy(remedy);
    match cause {
        Cause::Untrusted(_) | Cause::WrongProtocol | Cause::NoTls | Cause::Rejected | Cause::Forbidden => failure,
        _ => failure.exit(exit_code),
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
            // It has too much to do, and says when to come back.
            Code::ResourceExhausted if retry_delay(&status).is_some() => exit::UNAVAILABLE,
            _ if is_passing(&status) => exit::UNAVAILABLE,
            _ => exit::FAILED,
        };
        let mut failure = Self::new(status.message()).exit(exit_code);
        let Some(info) = status.get_details_error_info() else {
            return unanswered(&status, exit_code);
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

/// What a command meets itself that runs beside the service, for its operator: nobody has called, and there is no other log.
impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let answer = fault::answer(fault.reason());
        let cause = fault.cause().map(ToString::to_string);
        let mut failure = match (fault.reason(), &cause) {
            // Its words are for a caller, who must not know more.
            (Reason::Internal, Some(cause)) => return Self::new(cause),
            (Reason::Internal, None) => return Self::new(fault.message()),
            (Reason::DatabaseUnavailable, _) => Self::new(fault.message())
                .remedy("See that the database runs and takes connections; `sidle config check` says what is wrong.")
                .exit(exit::UNAVAILABLE),
            (Reason::InvalidField, _) => {
                Self::new("a value cannot be accepted:").remedy("Correct what is named above.")
            }
            _ => Self::new(fault.message()).remedy(answer.remedy),
        };
        failure.reason = Some(answer.name.to_owned());
        failure.fields = fault
            .fields()
            .iter()
            .map(|(field, problem)| FieldProblem { field: field.clone(), problem: problem.clone() })
            .collect();
        failure.metadata = fault.metadata().iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        failure.metadata.extend(cause.map(|cause| ("cause".to_owned(), cause)));
        failure
    }
}

impl From<StartFailure> for Failure {
    fn from(start: StartFailure) -> Self {
        let mut failure = Self::new(start.to_string());
        if let Some(key) = start.key().filter(|_| !start.is_of_setting()) {
            failure.metadata.insert("setting".to_owned(), key.to_owned());
        }
        failure.remedy = start.what_to_do().map(str::to_owned);
        if start.is_passing() { failure.exit(exit::UNAVAILABLE) } else { failure }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let problems = match error.problems() {
            [problem] => return StartFailure::from(problem).into(),
            problems => problems,
        };
        let mut failure = Self::new(format!("{} settings cannot be used:", problems.len())).remedy(startup::DEFAULTS);
        let field = |Problem { key, text, remedy }: &Problem| {
            let remedy = remedy.as_ref().map(|remedy| format!(". {remedy}")).unwrap_or_default();
            FieldProblem { field: key.clone(), problem: format!("{text}{remedy}") }
        };
        failure.fields = problems.iter().map(field).collect();
        failure
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
    fn a_password_in_an_address_is_not_shown() {
        assert_eq!(without_credentials("https://ann:hunter2@sidle.example:1"), "https://sidle.example:1");
        assert_eq!(without_credentials("http://127.0.0.1:50051"), "http://127.0.0.1:50051");
    }

    #[test]
    fn exit_codes_tell_whether_signing_in_or_waiting_helps() {
        let code = |reason| Failure::from(Status::from(Fault::new(reason, "No."))).exit_code;
        assert_eq!(code(Reason::Unauthenticated), exit::SIGNED_OUT);
        assert_eq!(code(Reason::DatabaseUnavailable), exit::UNAVAILABLE);
        assert_eq!(code(Reason::PermissionDenied), exit::FAILED);
        assert_eq!(Failure::from(Status::unknown("h2 protocol error")).exit_code, exit::UNAVAILABLE);
        assert_eq!(code(Reason::Internal), exit::FAILED);
        let busy = |reason| {
            let fault = Fault::new(reason, "Later.").retry_after(Duration::from_secs(1));
            Failure::from(Status::from(fault)).exit_code
        };
        assert_eq!((busy(Reason::Overloaded), busy(Reason::Throttled)), (exit::UNAVAILABLE, exit::UNAVAILABLE));
        assert_eq!(code(Reason::Overloaded), exit::FAILED, "without a time to come back at");
    }
}
