//! The one error that crosses modules: why a call was refused, in terms that the caller may see, and what caused it,
//! which only the log sees. `server::status` turns it into a gRPC status, and nothing else does.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

pub use crate::messages::Reason;

/// A result whose error can be answered to a caller.
pub type Result<T, E = Fault> = std::result::Result<T, E>;

/// How a reason is answered: generated from the options and comments in `errors.proto`.
#[derive(Debug)]
pub struct Answer {
    /// Number of the reason.
    pub reason: i32,
    /// Name without its prefix, as in `ErrorInfo.reason`.
    pub name: &'static str,
    /// gRPC status code.
    pub code: i32,
    /// What it means, from the proto comment.
    pub meaning: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

mod generated {
    use super::Answer;
    include!(concat!(env!("OUT_DIR"), "/reasons.rs"));
}

/// Every reason that can be answered, by number.
pub fn answers() -> &'static [Answer] {
    generated::ANSWERS
}

/// How `reason` is answered.
pub fn answer(reason: Reason) -> &'static Answer {
    let number = reason as i32;
    match generated::ANSWERS.binary_search_by_key(&number, |answer| answer.reason) {
        Ok(at) => &generated::ANSWERS[at],
        // REASON_UNSPECIFIED is never sent; a fault built with it is answered with the first reason, INTERNAL.
        Err(_) => &generated::ANSWERS[0],
    }
}

/// The remedy for the reason of this name, as `ErrorInfo.reason` gives it.
pub fn remedy(name: &str) -> Option<&'static str> {
    generated::ANSWERS.iter().find(|answer| answer.name == name).map(|answer| answer.remedy)
}

/// Why a call was refused.
#[derive(Debug)]
pub struct Fault {
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    reason: Reason,
    message: Cow<'static, str>,
    fields: Vec<(String, String)>,
    metadata: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Fault {
    /// A refusal for `reason`, with a sentence that the caller may see: no personal data, no secrets.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            inner: Box::new(Inner {
                reason,
                message: message.into(),
                fields: Vec::new(),
                metadata: Vec::new(),
                retry_after: None,
                source: None,
            }),
        }
    }

    /// A field that holds something unacceptable; `problem` says what would be acceptable.
    pub fn field(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::new(Reason::InvalidField, "The request has a field that is not accepted.").and_field(name, problem)
    }

    /// One more unacceptable field.
    #[must_use]
    pub fn and_field(mut self, name: impl Into<String>, problem: impl Into<String>) -> Self {
        self.inner.fields.push((name.into(), problem.into()));
        self
    }

    /// A failure whose cause is not shown to the caller.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Reason::Internal, "The service failed; its log has the cause under this correlation id.")
            .because(cause)
    }

    /// The failure to read what `column`, of the form `table.column`, of the row with this id says, as when a newer release has
    /// written it.
    pub fn unknown_word(column: &'static str, row: impl std::fmt::Display) -> Self {
        Self::internal(format!("{column} of the row {row} holds a word that this release does not know"))
    }

    /// An RPC of the contract that this release does not implement.
    pub fn not_implemented(rpc: &'static str) -> Self {
        Self::new(Reason::NotImplemented, format!("{rpc} is not implemented in this release."))
    }

    /// A resource that is not there, or that the caller may not know of.
    pub fn not_found(what: &'static str) -> Self {
        Self::new(Reason::NotFound, format!("There is no such {what}, or the caller may not see it."))
            .with("resource", what)
    }

    /// A fact for `ErrorInfo.metadata`.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.inner.metadata.push((key, value.to_string()));
        self
    }

    /// How long to wait before a retry.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.inner.retry_after = Some(delay);
        self
    }

    /// What caused it, for the log.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner.source = Some(cause.into());
        self
    }

    pub fn reason(&self) -> Reason {
        self.inner.reason
    }

    /// The sentence for the caller.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The same, borrowed where it is the same in every such fault.
    pub fn text(&self) -> &Cow<'static, str> {
        &self.inner.message
    }

    /// Unacceptable fields and what would be acceptable.
    pub fn fields(&self) -> &[(String, String)] {
        &self.inner.fields
    }

    /// Facts for `ErrorInfo.metadata`.
    pub fn metadata(&self) -> &[(&'static str, String)] {
        &self.inner.metadata
    }

    /// How long to wait before a retry.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// What caused it, for the log.
    pub fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.inner.source.as_deref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.inner.message, answer(self.inner.reason).name)?;
        for (name, problem) in &self.inner.fields {
            write!(f, "; {name} {problem}")?;
        }
        Ok(())
    }
}

impl StdError for Fault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_code_a_meaning_and_a_remedy() {
        for answer in answers() {
            assert!((1..=16).contains(&answer.code), "{}: code {}", answer.name, answer.code);
            assert!(!answer.meaning.is_empty(), "{} has no comment in errors.proto", answer.name);
            assert!(answer.remedy.ends_with('.'), "{} has no remedy", answer.name);
            assert!(Reason::try_from(answer.reason).is_ok(), "{}", answer.name);
        }
        assert!(answers().windows(2).all(|pair| pair[0].reason < pair[1].reason), "sorted for the binary search");
    }

    #[test]
    fn a_reason_finds_its_own_answer() {
        assert_eq!(answer(Reason::EtagMismatch).name, "ETAG_MISMATCH");
        assert_eq!(answer(Reason::EtagMismatch).code, 10);
        assert_eq!(remedy("LAST_ADMIN"), Some(answer(Reason::LastAdmin).remedy));
    }
}
