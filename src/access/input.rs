//! Reading fields of requests: every refusal names the field and what would be accepted.

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use uuid::Uuid;

use crate::fault::{Fault, Result};

/// A UUID.
///
/// # Errors
/// `INVALID_FIELD`.
pub fn uuid(field: &'static str, value: &str) -> Result<Uuid> {
    // Only the usual form, so that one id has one spelling.
    (value.len() == 36)
        .then(|| Uuid::try_parse(value).ok())
        .flatten()
        .ok_or_else(|| Fault::field(field, "must be a UUID such as 018f2f6e-7c1b-7c3a-9d5e-0a1b2c3d4e5f"))
}

/// A UUID, or nothing for the empty string.
///
/// # Errors
/// `INVALID_FIELD`.
pub fn optional_uuid(field: &'static str, value: &str) -> Result<Option<Uuid>> {
    if value.is_empty() { Ok(None) } else { uuid(field, value).map(Some) }
}

/// A text of 1 to `max` characters without control characters.
///
/// # Errors
/// `INVALID_FIELD`.
pub fn required(field: &'static str, value: &str, max: usize) -> Result<String> {
    if value.trim().is_empty() {
        return Err(Fault::field(field, "must not be empty"));
    }
    text(field, value, max)
}

/// A text of up to `max` characters without control characters; Postgres cannot store NUL, and terminals obey others.
///
/// # Errors
/// `INVALID_FIELD`.
pub fn text(field: &'static str, value: &str, max: usize) -> Result<String> {
    let value = value.trim();
    if value.chars().count() > max {
        return Err(Fault::field(field, format!("must be at most {max} characters long")));
    }
    if value.chars().any(char::is_control) {
        return Err(Fault::field(field, "must not contain control characters"));
    }
    Ok(value.to_owned())
}

/// An e-mail address: one `@`, a name before it, a domain after it, nothing that a mail header could misread.
///
/// # Errors
/// `INVALID_FIELD`.
pub fn email(field: &'static str, value: &str) -> Result<String> {
    let problem = "must be an address such as name@example.com, at most 254 characters long";
    let value = required(field, value, 254)?;
    let domain_is_fine = |domain: &str| {
        domain.split('.').count() >= 2
            && domain.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            })
    };
    let local_is_fine = |local: &str| {
        !local.is_empty()
            && local.len() <= 64
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..")
            && local.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+/=?^_`{|}~.-".contains(c))
    };
    match value.split_once('@') {
        Some((local, domain)) if local_is_fine(local) && domain_is_fine(domain) => Ok(value),
        _ => Err(Fault::field(field, problem)),
    }
}

/// A time for a response.
pub fn to_proto(time: DateTime<Utc>) -> Timestamp {
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default();
    Timestamp { seconds: time.timestamp(), nanos }
}

/// A time from a request.
///
/// # Errors
/// `INVALID_FIELD` for one that no calendar has.
pub fn from_proto(field: &'static str, time: &Timestamp) -> Result<DateTime<Utc>> {
    u32::try_from(time.nanos)
        .ok()
        .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
        // What Postgres can hold with room for arithmetic.
        .filter(|time| (-2_000_000_000_000..=9_000_000_000_000).contains(&time.timestamp()))
        .ok_or_else(|| Fault::field(field, "must be a time between the years 0001 and 9999"))
}

/// A length of time from a request; none for a negative one and for one that is none. The library's own conversion does
/// not survive the least of all numbers.
pub fn duration(duration: &prost_types::Duration) -> Option<std::time::Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(std::time::Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_that_work_and_that_do_not() {
        for good in ["a@example.com", "Ann.Lee+tag@mail.example.co.uk", "o'neill@x-y.example"] {
            assert_eq!(email("email", good).unwrap(), good);
        }
        for bad in [
            "",
            "a",
            "@example.com",
            "a@",
            "a@b",
            "a@b@c.example",
            "a b@c.example",
            ".a@c.example",
            "a..b@c.example",
            "a@-c.example",
            "a@c..example",
            "a\r\nBcc: x@c.example",
            "<a@c.example>",
            "å@c.example",
        ] {
            assert!(email("email", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_id_has_one_spelling() {
        let id = "018f2f6e-7c1b-7c3a-9d5e-0a1b2c3d4e5f";
        assert!(uuid("id", id).is_ok());
        for other in
            ["018f2f6e7c1b7c3a9d5e0a1b2c3d4e5f", "{018f2f6e-7c1b-7c3a-9d5e-0a1b2c3d4e5f}", "urn:uuid:018f2f6e", ""]
        {
            assert!(uuid("id", other).is_err(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn times_survive_the_wire(micros in -60_000_000_000_000_000i64..250_000_000_000_000_000) {
            let time = DateTime::from_timestamp_micros(micros).unwrap();
            prop_assert_eq!(from_proto("at", &to_proto(time)).unwrap(), time);
        }

        #[test]
        fn no_timestamp_panics(seconds: i64, nanos: i32) {
            let _ = from_proto("at", &Timestamp { seconds, nanos });
        }

        #[test]
        fn no_length_of_time_panics(seconds: i64, nanos: i32) {
            for (seconds, nanos) in [(seconds, nanos), (i64::MIN, nanos), (seconds, i32::MIN), (i64::MAX, i32::MAX)] {
                let read = duration(&prost_types::Duration { seconds, nanos });
                prop_assert_eq!(read.is_some(), seconds >= 0 && (0..1_000_000_000).contains(&nanos));
            }
        }

        #[test]
        fn accepted_text_has_no_control_characters(value in "\\PC*|.*") {
            if let Ok(text) = text("name", &value, 40) {
                prop_assert!(text.chars().count() <= 40 && !text.chars().any(char::is_control));
            }
        }
    }
}
