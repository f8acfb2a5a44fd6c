//! Free settings: `google.protobuf.Struct` on the wire, JSON inside.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as Proto};
use serde_json::{Map, Value};

use crate::fault::{Fault, Result};

const DEEPEST: usize = 16;
const LARGEST: usize = 64 * 1024;

/// Settings from a request.
pub(super) fn read(field: &'static str, settings: Option<Struct>) -> Result<Value> {
    let value = object(field, settings.unwrap_or_default(), 1)?;
    if value.to_string().len() > LARGEST {
        return Err(Fault::field(field, "must be at most 64 KiB as JSON"));
    }
    Ok(value)
}

fn object(field: &'static str, fields: Struct, depth: usize) -> Result<Value> {
    let mut map = Map::new();
    for (key, value) in fields.fields {
        map.insert(text(field, key)?, json(field, value, depth + 1)?);
    }
    Ok(Value::Object(map))
}

fn json(field: &'static str, value: Proto, depth: usize) -> Result<Value> {
    if depth > DEEPEST {
        return Err(Fault::field(field, format!("must be at most {DEEPEST} levels deep")));
    }
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::StringValue(value)) => Value::String(text(field, value)?),
        Some(Kind::NumberValue(value)) => {
            number(value).ok_or_else(|| Fault::field(field, "must hold finite numbers only"))?
        }
        Some(Kind::ListValue(list)) => {
            Value::Array(list.values.into_iter().map(|value| json(field, value, depth + 1)).collect::<Result<_>>()?)
        }
        Some(Kind::StructValue(fields)) => object(field, fields, depth)?,
    })
}

/// Postgres cannot store NUL in JSON.
fn text(field: &'static str, value: String) -> Result<String> {
    if value.contains('\0') { Err(Fault::field(field, "must not contain NUL characters")) } else { Ok(value) }
}

/// Whole numbers stay whole.
fn number(value: f64) -> Option<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        return Some(Value::from(value as i64));
    }
    serde_json::Number::from_f64(value).map(Value::Number)
}

/// Settings for a response.
pub(super) fn write(settings: Value) -> Struct {
    match settings {
        Value::Object(map) => Struct { fields: map.into_iter().map(|(key, value)| (key, proto(value))).collect() },
        _ => Struct::default(),
    }
}

fn proto(value: Value) -> Proto {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(proto).collect() }),
        object @ Value::Object(_) => Kind::StructValue(write(object)),
    };
    Proto { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let nested = (0..20).fold(json!(1), |inner, _| json!({ "a": inner }));
        for bad in [json!({"a": "\u{0}"}), json!({"\u{0}": 1}), nested, json!({"a": "x".repeat(70_000)})] {
            assert!(
                read("settings", Some(write(bad.clone()))).is_err(),
                "{}",
                &bad.to_string()[..20.min(bad.to_string().len())]
            );
        }
        let odd = Proto { kind: Some(Kind::NumberValue(f64::NAN)) };
        assert!(read("settings", Some(Struct { fields: [("a".to_owned(), odd)].into() })).is_err());
        assert_eq!(read("settings", None).unwrap(), json!({}));
    }

    proptest! {
        #[test]
        fn settings_survive_the_wire(texts in prop::collection::btree_map("[a-z]{1,5}", "\\PC{0,9}", 0..5), number in -1_000_000i64..1_000_000) {
            let value = json!({ "texts": texts, "number": number, "half": number as f64 + 0.5, "list": [null, true, []] });
            prop_assert_eq!(read("settings", Some(write(value.clone()))).unwrap(), value);
        }
    }
}
