//! What an answer of Kanidm means. Releases say the same thing in different shapes: 1.7 answers a duplicate with status
//! 500 and `{"plugin":{"attrunique":..}}`, 1.10 with 409 and a list of attributes. Both are read here and nowhere else.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::fault::{Fault, Reason};

/// A result of a call to Kanidm.
pub type Result<T, E = KanidmError> = std::result::Result<T, E>;

/// Why a call to Kanidm did not do what was asked. Holds names of attributes and codes, never values of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KanidmError {
    /// It cannot be reached, does not answer in time or says that it is not able to. What was asked may have been done.
    Unavailable(String),
    /// Its answer cannot be understood. What was asked may have been done.
    Nonsense(String),
    /// It did not answer of late, so for this long it is not asked at all. What was asked was not done.
    Resting(Duration),
    /// It does not know our credential.
    NotAuthenticated,
    /// It knows us and does not allow this.
    AccessDenied,
    /// Another entry has the same value of an attribute that must be unique. Older releases do not say which attribute.
    Duplicate(Vec<String>),
    /// An entry has the uuid already, perhaps a deleted one.
    UuidTaken,
    /// A value does not obey the schema; the attribute, where it is told.
    Invalid(Option<String>),
    /// An entry that is referred to does not exist.
    ReferenceMissing,
    /// The entry does not exist.
    NotFound,
    /// The query asks for too much at once.
    TooMuch,
    /// Any other refusal: status and code.
    Refused(u16, String),
}

impl KanidmError {
    /// Reads an answer that is not a success.
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        match status {
            401 => return Self::NotAuthenticated,
            429 | 502..=504 => return Self::Unavailable(format!("status {status}")),
            _ => {}
        }
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return match status {
                500.. => Self::Unavailable(format!("status {status} without an explanation")),
                403 => Self::AccessDenied,
                404 => Self::NotFound,
                _ => Self::Nonsense(format!("status {status} without an explanation")),
            };
        };
        if let Some(attributes) = body.get("conflicting_attributes") {
            return Self::Duplicate(strings(attributes));
        }
        match &body {
            Value::String(code) => Self::from_code(status, code),
            Value::Object(fields) => match fields.iter().next() {
                Some((code, detail)) => Self::from_detail(status, code, detail),
                None => Self::Nonsense(format!("status {status} with an empty explanation")),
            },
            _ => Self::Nonsense(format!("status {status} with an explanation of an unknown shape")),
        }
    }

    fn from_code(status: u16, code: &str) -> Self {
        match code {
            "notauthenticated" | "sessionexpired" => Self::NotAuthenticated,
            "accessdenied" | "notauthorised" | "systemprotectedobject" | "systemprotectedattribute" => {
                Self::AccessDenied
            }
            "nomatchingentries" | "missingentries" => Self::NotFound,
            "resourcelimit" => Self::TooMuch,
            "uniqueconstraintviolation" => Self::Duplicate(Vec::new()),
            "valuedenyname" => Self::Invalid(Some("name".to_owned())),
            // It is there, and is not able to at the moment.
            "databaselockacquisitiontimeout" | "queuedisconnected" | "kg001tasktimeout" | "kg002taskcommfailure" => {
                Self::Unavailable(word(code))
            }
            _ => Self::Refused(status, word(code)),
        }
    }

    fn from_detail(status: u16, code: &str, detail: &Value) -> Self {
        match code {
            "plugin" => match detail.as_object().and_then(|fields| fields.iter().next()) {
                Some((plugin, _)) if plugin == "attrunique" => Self::Duplicate(Vec::new()),
                Some((plugin, _)) if plugin == "referentialintegrity" => Self::ReferenceMissing,
                Some((plugin, message)) if plugin == "base" && mentions(message, "uuid duplicate") => Self::UuidTaken,
                _ => Self::Refused(status, "plugin".to_owned()),
            },
            "attributeuniqueness" => Self::Duplicate(strings(detail)),
            "schemaviolation" => {
                let attribute = detail.as_object().and_then(|fields| fields.values().next());
                Self::Invalid(attribute.and_then(|attribute| strings(attribute).into_iter().next()))
            }
            // The text is a sentence; of all we send, only an address is refused like that.
            "invalidattribute" if mentions(detail, "email") => Self::Invalid(Some("mail".to_owned())),
            "invalidattribute" | "invalidattributename" => Self::Invalid(None),
            "missingattribute" => Self::Invalid(strings(detail).into_iter().next()),
            _ => Self::Refused(status, word(code)),
        }
    }

    /// Whether what was asked may have been done all the same.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Nonsense(_))
    }
}

fn mentions(text: &Value, words: &str) -> bool {
    text.as_str().is_some_and(|text| text.to_lowercase().contains(words))
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![word(one)],
        Value::Array(many) => many.iter().filter_map(Value::as_str).map(word).take(8).collect(),
        _ => Vec::new(),
    }
}

/// Codes and names of attributes are short words. Whatever else comes is not repeated, neither in logs nor to callers.
fn word(text: &str) -> String {
    let fits = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if fits { text.to_owned() } else { "unreadable".to_owned() }
}

impl fmt::Display for KanidmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "Kanidm is not available: {why}"),
            Self::Resting(_) => f.write_str("Kanidm did not answer of late and is not asked for a while"),
            Self::Nonsense(why) => write!(f, "Kanidm's answer cannot be understood: {why}"),
            Self::NotAuthenticated => f.write_str("Kanidm does not accept the credential"),
            Self::AccessDenied => f.write_str("Kanidm denies access"),
            Self::Duplicate(attributes) if attributes.is_empty() => {
                f.write_str("Kanidm has another entry with the same value")
            }
            Self::Duplicate(attributes) => {
                write!(f, "Kanidm has another entry with the same {}", attributes.join(", "))
            }
            Self::UuidTaken => f.write_str("Kanidm has an entry with this uuid"),
            Self::Invalid(Some(attribute)) => write!(f, "Kanidm does not accept the value of {attribute}"),
            Self::Invalid(None) => f.write_str("Kanidm does not accept a value"),
            Self::ReferenceMissing => f.write_str("Kanidm has no such entry to refer to"),
            Self::NotFound => f.write_str("Kanidm has no such entry"),
            Self::TooMuch => f.write_str("Kanidm finds the query too large"),
            Self::Refused(status, code) => write!(f, "Kanidm refused with status {status}, code {code}"),
        }
    }
}

impl std::error::Error for KanidmError {}

impl From<KanidmError> for Fault {
    fn from(error: KanidmError) -> Self {
        let delay = match error {
            KanidmError::Resting(delay) => Some(delay.max(Duration::from_secs(1))),
            _ => error.is_outcome_unknown().then_some(Duration::from_secs(5)),
        };
        if let Some(delay) = delay {
            return Self::new(Reason::KanidmUnavailable, "Kanidm does not answer as it should.")
                .retry_after(delay)
                .because(error);
        }
        Self::new(Reason::KanidmRefused, "Kanidm refused what Sidle asked for.").with("kanidm", &error).because(error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(status: u16, body: &str) -> KanidmError {
        KanidmError::read(status, body.as_bytes())
    }

    #[test]
    fn a_duplicate_is_read_in_the_shape_of_either_release() {
        let old = read(500, r#"{"plugin":{"attrunique":"duplicate value detected"}}"#);
        assert_eq!(old, KanidmError::Duplicate(Vec::new()));
        let new = read(409, r#"{"conflicting_attributes":["name","spn"],"error":"Attribute uniqueness error"}"#);
        assert_eq!(new, KanidmError::Duplicate(vec!["name".to_owned(), "spn".to_owned()]));
    }

    #[test]
    fn the_shapes_that_were_seen() {
        let uuid = r#"{"plugin":{"base":"Uuid duplicate found in database"}}"#;
        assert_eq!(read(500, uuid), KanidmError::UuidTaken);
        let syntax = r#"{"schemaviolation":{"invalidattributesyntax":"name"}}"#;
        assert_eq!(read(400, syntax), KanidmError::Invalid(Some("name".to_owned())));
        let missing = r#"{"schemaviolation":{"missingmustattribute":["displayname"]}}"#;
        assert_eq!(read(400, missing), KanidmError::Invalid(Some("displayname".to_owned())));
        let mail = r#"{"invalidattribute":"Invalid Email Address syntax"}"#;
        assert_eq!(read(400, mail), KanidmError::Invalid(Some("mail".to_owned())));
        let reference = r#"{"plugin":{"referentialintegrity":"Uuid referenced not found in database"}}"#;
        assert_eq!(read(500, reference), KanidmError::ReferenceMissing);
        assert_eq!(read(404, r#""nomatchingentries""#), KanidmError::NotFound);
        assert_eq!(read(403, r#""accessdenied""#), KanidmError::AccessDenied);
        assert_eq!(read(401, r#""notauthenticated""#), KanidmError::NotAuthenticated);
        assert_eq!(read(400, r#""notauthenticated""#), KanidmError::NotAuthenticated);
        assert_eq!(read(500, r#""resourcelimit""#), KanidmError::TooMuch);
    }

    #[test]
    fn what_does_not_explain_itself_is_not_taken_for_a_refusal() {
        assert!(read(503, "").is_outcome_unknown());
        assert!(read(500, "<html>").is_outcome_unknown());
        assert!(read(400, "<html>").is_outcome_unknown());
        assert!(!read(500, r#"{"plugin":{"credimport":"x"}}"#).is_outcome_unknown());
    }

    #[test]
    fn texts_of_the_other_side_are_not_repeated() {
        let error = read(500, r#"{"alice@example.com was refused":1}"#);
        assert!(!error.to_string().contains("alice"), "{error}");
        let error = read(409, r#"{"conflicting_attributes":["alice@example.com"]}"#);
        assert!(!error.to_string().contains("alice"), "{error}");
    }

    proptest! {
        #[test]
        fn no_answer_panics(status in 100u16..600, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let error = KanidmError::read(status, &body);
            prop_assert!(error.to_string().len() < 1000);
        }
    }
}
