//! Fuzz targets of the command line.

use bytes::Bytes;
use chrono::DateTime;
use prost::Message as _;
use serde_json::Value;
use tonic::{Code, Status};

use super::credentials::{Credentials, SignIn};
use super::failure::{Failure, exit, is_passing};
use super::output::{clean, escape, fuzzing::as_json};
use crate::fault;
use crate::fuzzing::Input;
use crate::proto::{GetUserResponse, StreamEventsResponse, TokenPair};

/// What can be read as a file of credentials is written as it was read. And as they come over the wire, tokens are taken
/// as they are and can be read from the file again, or they are not taken at all.
pub(crate) fn credentials(data: &[u8]) {
    if let Ok(read) = serde_json::from_slice::<Credentials>(data) {
        let written = serde_json::to_string_pretty(&read).expect("credentials are JSON");
        let again: Credentials = serde_json::from_str(&written).expect("what was written can be read");
        assert_eq!(serde_json::to_string_pretty(&again).ok(), Some(written));
    }
    let Ok(tokens) = TokenPair::decode(data) else { return };
    let mut sign_in = SignIn {
        email: "ann@example.com".to_owned(),
        session_id: String::new(),
        access_token: "before".to_owned(),
        access_token_obtained_at: None,
        access_token_expires_at: DateTime::UNIX_EPOCH,
        refresh_token: "before".to_owned(),
        pending_refresh: Some("repeated".to_owned()),
    };
    match sign_in.take(tokens.clone(), DateTime::UNIX_EPOCH) {
        Ok(()) => {
            assert_eq!([&sign_in.access_token, &sign_in.refresh_token], [&tokens.access_token, &tokens.refresh_token]);
            assert_eq!(sign_in.pending_refresh, None);
            let written = serde_json::to_string(&sign_in).expect("credentials are JSON");
            let again: SignIn = serde_json::from_str(&written).expect("what was written can be read");
            assert_eq!(again.access_token_expires_at, sign_in.access_token_expires_at);
        }
        Err(failure) => {
            assert_eq!(failure.fields.len(), 1, "{failure:?}");
            assert_eq!([&sign_in.access_token, &sign_in.refresh_token], ["before", "before"]);
        }
    }
}

/// A byte for the code, a line for the message, then the details as they come over the wire. Whatever answered: the exit
/// code is one of ours, what to do is said in our words, and no terminal obeys what is printed.
pub(crate) fn refusals(data: &[u8]) {
    let mut input = Input::new(data);
    let (code, message) = (Code::from_i32(i32::from(input.byte())), input.text());
    let details = Bytes::copy_from_slice(input.rest());
    let status = Status::with_details(code, message, details.clone());
    let passing = is_passing(&status);
    let failure = Failure::from(status);
    assert!([exit::FAILED, exit::SIGNED_OUT, exit::UNAVAILABLE].contains(&failure.exit_code));
    // Of those that are shed, the ones that say when to come back.
    assert!(code == Code::ResourceExhausted || (failure.exit_code == exit::UNAVAILABLE) == passing);
    match failure.reason.as_deref() {
        Some(reason) => assert_eq!(failure.remedy.as_deref(), fault::remedy(reason), "a stranger's advice"),
        None => assert_eq!(failure.remedy, Failure::from(Status::with_details(code, "", details)).remedy, "the same"),
    }
    assert!(failure.lines().iter().all(|line| is_harmless(&clean(line))), "{failure:?}");
    check_json(&serde_json::to_string(&failure).expect("a failure is JSON"));
}

/// Nothing that is printed is obeyed by a terminal, and JSON stays the same JSON.
pub(crate) fn terminal(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let cleaned = clean(&text);
    assert!(is_harmless(&cleaned), "{cleaned:?}");
    assert_eq!(cleaned.chars().count(), text.chars().count(), "columns would shift");
    assert_eq!(clean(&cleaned), cleaned);

    let value = Value::from(text.as_ref());
    check_json(&value.to_string());
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        check_json(&serde_json::to_string_pretty(&value).expect("a value is JSON"));
    }
    // Messages as a server may send them.
    if let Ok(message) = StreamEventsResponse::decode(data)
        && let Ok(json) = as_json(&message)
    {
        check_json(&json);
    }
    if let Ok(message) = GetUserResponse::decode(data)
        && let Ok(json) = as_json(&message)
    {
        check_json(&json);
    }
}

fn check_json(json: &str) {
    let escaped = escape(json);
    assert!(escaped.lines().all(is_harmless), "{escaped:?}");
    let (before, after) = (serde_json::from_str::<Value>(json), serde_json::from_str::<Value>(&escaped));
    assert_eq!(before.ok(), after.ok(), "escaping changed what is said");
}

/// Written apart from what it checks: escape sequences begin with a control character, C0 or C1; the others turn the
/// direction of what follows.
fn is_harmless(text: &str) -> bool {
    text.chars().all(|c| {
        let code = u32::from(c);
        !(code < 0x20
            || (0x7f..0xa0).contains(&code)
            || (0x202a..=0x202e).contains(&code)
            || (0x2066..=0x2069).contains(&code)
            || code == 0x200e
            || code == 0x200f)
    })
}
