//! One JSON value, one sequence of bytes: sorted keys, no blanks, no floating point. What the log commits to must not
//! depend on who serialised it.

use serde_json::{Map, Value};

/// The canonical bytes of an object, as RFC 8785 writes it. Numbers that are not whole are written as strings, since
/// two languages seldom print them alike; the recorder makes none.
pub(super) fn canonical(object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    write_object(&mut out, object);
    out
}

fn write_object(out: &mut Vec<u8>, object: &Map<String, Value>) {
    let mut entries: Vec<(&String, &Value)> = object.iter().collect();
    // RFC 8785 sorts by UTF-16 code units, which differs from the order of bytes above the basic plane.
    entries.sort_unstable_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    out.push(b'{');
    for (at, (key, value)) in entries.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_text(out, key);
        out.push(b':');
        write_value(out, value);
    }
    out.push(b'}');
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) if is_exact(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Number(number) => write_text(out, &number.to_string()),
        Value::String(text) => write_text(out, text),
        Value::Array(values) => {
            out.push(b'[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_value(out, value);
            }
            out.push(b']');
        }
        Value::Object(object) => write_object(out, object),
    }
}

/// Whole, and within what a double holds exactly: readers in other languages parse JSON numbers as doubles.
fn is_exact(number: &serde_json::Number) -> bool {
    const LARGEST: i64 = (1 << 53) - 1;
    number.as_i64().is_some_and(|number| (-LARGEST..=LARGEST).contains(&number))
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\r' => out.extend_from_slice(b"\\r"),
            c if c < ' ' => out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// Takes out what Postgres cannot store in JSON and what has no canonical form, before an event is written: NUL
/// characters, and numbers that are not whole.
pub(super) fn storable(value: Value) -> Value {
    match value {
        Value::Number(number) if !is_exact(&number) => Value::String(number.to_string()),
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(values) => Value::Array(values.into_iter().map(storable).collect()),
        Value::Object(object) => {
            let stored = |(key, value): (String, Value)| {
                let key = if key.contains('\0') { key.replace('\0', "\u{fffd}") } else { key };
                (key, storable(value))
            };
            Value::Object(object.into_iter().map(stored).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn text(value: &Value) -> String {
        String::from_utf8(canonical(value.as_object().unwrap())).unwrap()
    }

    #[test]
    fn keys_are_sorted_and_nothing_is_superfluous() {
        let value = json!({"b": [1, true, null], "a": {"z": "\u{1}\n\"", "é": -5}, "\u{1F600}": 0, "\u{fb33}": 0});
        assert_eq!(
            text(&value),
            "{\"a\":{\"z\":\"\\u0001\\n\\\"\",\"é\":-5},\"b\":[1,true,null],\"\u{1F600}\":0,\"\u{fb33}\":0}"
        );
    }

    #[test]
    fn numbers_that_languages_read_differently_become_text() {
        assert_eq!(
            text(&storable(json!({"a": 1.5, "b": 9_007_199_254_740_993_i64, "c": 7}))),
            r#"{"a":"1.5","b":"9007199254740993","c":7}"#
        );
        assert_eq!(storable(json!({"a": "x\u{0}y"})), json!({"a": "x\u{fffd}y"}));
        assert_eq!(storable(json!([{"a\u{0}": 1}])), json!([{"a\u{fffd}": 1}]), "in names as well");
    }

    proptest! {
        #[test]
        fn canonical_bytes_say_the_same_as_the_value(pairs in prop::collection::btree_map("\\PC{0,6}", ("\\PC{0,12}", -1000i64..1000), 0..6)) {
            let object: Map<String, Value> = pairs.into_iter().map(|(key, (text, number))| (key, json!([text, number]))).collect();
            let bytes = canonical(&object);
            prop_assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), Value::Object(object));
        }
    }
}
