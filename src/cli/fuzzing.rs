//! Fuzz targets of the command line.

use prost::Message as _;
use serde_json::Value;

use super::output::{clean, escape, fuzzing::as_json};
use crate::proto::{GetUserResponse, StreamEventsResponse};

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
