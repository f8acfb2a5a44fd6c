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
    /// It cannot be reached, or says that it is not able to answer. What was asked may have been done.
    Unavailable(String),
    /// It did not answer within the time limit. What was asked may have been done.
    TimedOut,
    /// It says, by this code, that it cannot do its work: its disk is full, its database fails. What was asked may have
    /// been done.
    Failing(String),
    /// Its answer cannot be understood. What was asked may have been done.
    Nonsense(String),
    /// Nothing but this status, or something that is no explanation of Kanidm's: a page, a text. What was asked may have
    /// been done.
    Unexplained(u16),
    /// The request is larger than it, or something before it, accepts.
    TooLarge,
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
    /// A value does not obey the schema; the attribute, where it is named.
    Invalid(Option<String>),
    /// An entry that is referred to does not exist.
    ReferenceMissing,
    /// The entry does not exist.
    NotFound,
    /// The query asks for too much in one call.
    TooMuch,
    /// Any other refusal: status and code.
    Refused(u16, String),
}

impl KanidmError {
    /// What kept a request from an answer, as metrics name it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::TimedOut => "timeout",
            _ => "unreadable",
        }
    }
}

/// What an answer that is no success says something about. Only what is about the entry is a verdict on the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// One of the entries that were sent.
    Entry,
    /// What the caller may do.
    Access,
    /// Kanidm's reachability at the moment.
    Reach,
    /// Kanidm's own state: it serves no call.
    State,
    /// The time limit.
    Time,
    /// How much was asked for in one call.
    Size,
    /// Unknown: perhaps one of the entries, perhaps everything. Trying entries apart shows which.
    Unclear,
}

impl KanidmError {
    /// What it says something about. Every answer that is not known to be about an entry is about something else.
    pub fn concern(&self) -> Concern {
        match self {
            Self::Duplicate(_) | Self::UuidTaken | Self::Invalid(_) | Self::ReferenceMissing | Self::NotFound => {
                Concern::Entry
            }
            Self::NotAuthenticated | Self::AccessDenied => Concern::Access,
            Self::Unavailable(_) | Self::Resting(_) => Concern::Reach,
            Self::Failing(_) => Concern::State,
            Self::TimedOut => Concern::Time,
            Self::TooLarge | Self::TooMuch => Concern::Size,
            Self::Nonsense(_) | Self::Unexplained(_) | Self::Refused(..) => Concern::Unclear,
        }
    }

    /// Reads an answer that is not a success.
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        match status {
            401 => return Self::NotAuthenticated,
            413 => return Self::TooLarge,
            429 | 502..=504 => return Self::Unavailable(format!("status {status}")),
            _ => {}
        }
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return match status {
                403 => Self::AccessDenied,
                // Also a 404: something in Kanidm's place may know nothing of its paths. That an entry is not there only
                // Kanidm's own code says.
                _ => Self::Unexplained(status),
            };
        };
        if let Some(attributes) = body.get("conflicting_attributes") {
            return Self::Duplicate(strings(attributes));
        }
        match &body {
            Value::String(code) => Self::from_code(status, code),
            Value::Object(fields) => match fields.iter().next() {
                Some((code, detail)) => Self::from_detail(status, code, detail),
                None => Self::Unexplained(status),
            },
            _ => Self::Unexplained(status),
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
            // Conditions of its database, its files or its memory: the next entry meets them as well.
            "backend"
            | "backendengine"
            | "sqliteerror"
            | "fserror"
            | "serdejsonerror"
            | "serdecborerror"
            | "invaliddbstate"
            | "invalidcachestate"
            | "invalidstate"
            | "cryptographyerror"
            | "transactionalreadycommitted"
            | "filtergeneration"
            | "kg003cacheclearfailed"
            | "db0003filterresolvecachebuild" => Self::Failing(word(code)),
            "invaliduuid" | "invalidentryid" => Self::Invalid(Some("uuid".to_owned())),
            _ => Self::Refused(status, word(code)),
        }
    }

    fn from_detail(status: u16, code: &str, detail: &Value) -> Self {
        match code {
            "plugin" => match detail.as_object().and_then(|fields| fields.iter().next()) {
                Some((plugin, _)) if plugin == "attrunique" => Self::Duplicate(Vec::new()),
                Some((plugin, _)) if plugin == "referentialintegrity" => Self::ReferenceMissing,
                Some((plugin, message)) if plugin == "base" && mentions(message, "uuid duplicate") => Self::UuidTaken,
                // Plugins look at entries and at nothing else: a uuid in the protected range, for one.
                Some((plugin, _)) if plugin == "base" => Self::Invalid(Some("uuid".to_owned())),
                _ => Self::Invalid(None),
            },
            "consistencyerror" | "corruptedentry" | "corruptedindex" | "invalidschemastate" | "invalidacpstate" => {
                Self::Failing(word(code))
            }
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

    /// Whether what was asked may have been done, as far as is known: also after a refusal that is not known.
    pub fn may_have_been_done(&self) -> bool {
        self.is_outcome_unknown() || self.concern() == Concern::Unclear
    }

    /// Whether what was asked may have been done all the same.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::TimedOut | Self::Failing(_) | Self::Nonsense(_) | Self::Unexplained(_)
        )
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
            Self::TimedOut => f.write_str("Kanidm did not answer in time"),
            Self::Failing(code) => write!(f, "Kanidm cannot do its work, code {code}"),
            Self::Unexplained(status) => write!(f, "Kanidm answered status {status} without an explanation"),
            Self::TooLarge => f.write_str("Kanidm finds the request too large"),
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
        assert!(read(404, "").is_outcome_unknown());
        assert!(read(404, "404 page not found").is_outcome_unknown());
        assert!(!read(500, r#"{"plugin":{"credimport":"x"}}"#).is_outcome_unknown());
    }

    #[test]
    fn a_condition_of_the_server_is_no_verdict_on_an_entry() {
        let concern = |status: u16, body: &str| read(status, body).concern();
        for code in ["backend", "backendengine", "sqliteerror", "fserror"] {
            assert_eq!(concern(500, &format!("\"{code}\"")), Concern::State, "{code}");
        }
        assert_eq!(concern(500, r#"{"consistencyerror":[]}"#), Concern::State);
        assert_eq!(concern(500, r#""resourcelimit""#), Concern::Size);
        assert_eq!(concern(413, ""), Concern::Size);
        assert_eq!(concern(503, r#""backendengine""#), Concern::Reach);
        assert_eq!(concern(401, ""), Concern::Access);
        assert_eq!(concern(403, r#""accessdenied""#), Concern::Access);
        for (status, body) in [
            (500, ""),
            (500, "Internal Server Error"),
            (400, "<html>"),
            (422, "Failed to deserialize the JSON body"),
            (404, ""),
            (404, "<html>not found</html>"),
            (404, "{}"),
            (418, r#""teapot""#),
            (500, r#""somethingnew""#),
            (500, r#"{"somethingnew":1}"#),
            (500, "{}"),
            (500, "[]"),
        ] {
            assert_eq!(concern(status, body), Concern::Unclear, "{status} {body}");
        }
        for body in [r#"{"plugin":{"base":"Uuid must not be in protected range"}}"#, r#"{"plugin":{"gidnumber":"x"}}"#]
        {
            assert_eq!(concern(500, body), Concern::Entry, "{body}");
        }
        assert_eq!(concern(409, r#"{"conflicting_attributes":["mail"]}"#), Concern::Entry);
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
