//! Why the service cannot start: what was being done, which setting it comes from, why it failed, what to do. Nobody has
//! called yet, so that this is no [`Fault`]: it speaks of no call, and goes to whoever started the service.

use std::fmt;

use crate::config::{ConfigError, Problem};
use crate::fault::{Fault, Reason};
use crate::network::{Cause, Peer};

/// Where it stands what a setting must be.
pub const DEFAULTS: &str = "`sidle config defaults` prints every setting with its meaning and default.";

/// A result of a part of the start.
pub type Result<T, E = StartFailure> = std::result::Result<T, E>;

/// What keeps the service from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    inner: Box<Inner>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    /// What was to be done, as it follows "cannot"; empty where the setting itself is wrong.
    doing: String,
    setting: Option<String>,
    cause: String,
    remedy: Option<String>,
    may_pass: bool,
}

impl StartFailure {
    /// `doing` with its object, such as "listen on 127.0.0.1:50051", and why that failed. No secrets.
    pub fn new(doing: impl Into<String>, cause: impl fmt::Display) -> Self {
        let (doing, cause) = (doing.into(), cause.to_string());
        Self { inner: Box::new(Inner { doing, setting: None, cause, remedy: None, may_pass: false }) }
    }

    /// A setting whose value cannot be used; `problem` follows its name, such as "must be at least 1".
    pub fn of_setting(key: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self::new("", problem).setting(key)
    }

    /// A connection that could not be made.
    pub fn of_connection(peer: &Peer, cause: &Cause) -> Self {
        let failure = Self::new(format!("connect to {} at {}", peer.what, peer.address), cause);
        let failure = failure.setting(peer.setting).remedy(cause.remedy(peer));
        if cause.may_pass() { failure.may_pass() } else { failure }
    }

    /// The setting that it comes from.
    #[must_use]
    pub fn setting(mut self, key: impl Into<String>) -> Self {
        self.inner.setting = Some(key.into());
        self
    }

    /// What to do about it: a sentence or more.
    #[must_use]
    pub fn remedy(mut self, text: impl Into<String>) -> Self {
        self.inner.remedy = Some(text.into());
        self
    }

    /// Another start may succeed although nobody has changed anything.
    #[must_use]
    pub fn may_pass(mut self) -> Self {
        self.inner.may_pass = true;
        self
    }

    /// The setting that it comes from, where one is known.
    pub fn key(&self) -> Option<&str> {
        self.inner.setting.as_deref()
    }

    /// What to do about it, where that is known.
    pub fn what_to_do(&self) -> Option<&str> {
        self.inner.remedy.as_deref()
    }

    /// Whether another start may succeed although nobody has changed anything.
    pub fn is_passing(&self) -> bool {
        self.inner.may_pass
    }

    /// Whether the message begins with the setting.
    pub fn is_of_setting(&self) -> bool {
        self.inner.doing.is_empty()
    }

    /// What follows the setting in the message of one that is about a setting.
    pub fn cause(&self) -> &str {
        &self.inner.cause
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { doing, setting, cause, .. } = &*self.inner;
        match (doing.as_str(), setting) {
            ("", Some(setting)) => write!(f, "{setting} {cause}"),
            ("", None) => f.write_str(cause),
            (doing, _) => write!(f, "cannot {doing}: {cause}"),
        }
    }
}

impl std::error::Error for StartFailure {}

impl From<ConfigError> for StartFailure {
    fn from(error: ConfigError) -> Self {
        match error.problems() {
            [problem] => problem.into(),
            _ => Self::new("", &error).remedy(DEFAULTS),
        }
    }
}

impl From<&Problem> for StartFailure {
    fn from(problem: &Problem) -> Self {
        let failure = match problem.key.as_str() {
            "" => Self::new("", &problem.text),
            key => Self::of_setting(key, &problem.text),
        };
        failure.remedy(problem.remedy.as_deref().unwrap_or(DEFAULTS))
    }
}

/// What parts say that calls use as well. Their words for callers are replaced by the cause, which nobody but the
/// operator sees here.
impl From<Fault> for StartFailure {
    fn from(fault: Fault) -> Self {
        if let Some((field, problem)) = fault.fields().first() {
            let cause = fault.cause().map(|cause| format!(" ({cause})")).unwrap_or_default();
            return Self::of_setting(field.clone(), format!("{problem}{cause}"));
        }
        let cause = match fault.cause() {
            Some(cause) => match cause.downcast_ref::<ConfigError>() {
                Some(error) => return error.clone().into(),
                None => cause.to_string(),
            },
            None => fault.message().to_owned(),
        };
        let failure = Self::new("start", cause);
        if fault.reason() == Reason::DatabaseUnavailable {
            return failure.remedy("See that the database runs, has connections to spare and answers.").may_pass();
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_start_speaks_of_no_call() {
        let failure = StartFailure::from(Fault::internal("the disk is full"));
        assert_eq!(failure.to_string(), "cannot start: the disk is full");
        assert_eq!(failure.what_to_do(), None);
        let failure = StartFailure::from(Fault::field("database.url", "must be a URL"));
        assert_eq!((failure.to_string().as_str(), failure.key()), ("database.url must be a URL", Some("database.url")));
    }
}
