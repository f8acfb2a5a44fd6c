//! Fuzz targets of this module.

use serde_json::{Map, Value};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::json::{canonical, storable};
use super::leaf::{Commitment, Leaf, hash};
use super::personal::{Part, SubjectKey, commitment, contents, opening};
use crate::context::Entropy;
use crate::fuzzing::Input;
use crate::seal::Keyring;

/// What is stored has one sequence of bytes, which reads as the same value again: otherwise the log would commit to one
/// thing and show another.
pub(crate) fn details(data: &[u8]) {
    let Ok(details) = serde_json::from_slice::<Map<String, Value>>(data) else { return };
    let Value::Object(stored) = storable(Value::Object(details)) else { panic!("an object became something else") };
    let bytes = canonical(&stored);
    let again: Map<String, Value> = serde_json::from_slice(&bytes).expect("canonical JSON is JSON");
    assert_eq!(again, stored, "what is committed to is not what is stored");
    assert_eq!(canonical(&again), bytes);
    assert!(!has_nul(&Value::Object(stored.clone())), "Postgres cannot store that");

    let leaf = Leaf {
        position: 1,
        event_id: Uuid::from_u128(1),
        event_type: "user.created",
        outcome: "success",
        reason: None,
        occurred_at_micros: 0,
        recorded_at_micros: 0,
        tenant_id: None,
        actor_kind: "system",
        actor_id: None,
        target_kind: None,
        target_id: None,
        session_id: None,
        correlation_id: None,
        request_id: None,
        source: None,
        details: &stored,
        origin: Commitment::None,
        personal: Commitment::None,
    };
    let encoded = leaf.encode();
    assert!(encoded.ends_with(&bytes), "the details are the last field of this leaf");
    assert_eq!(hash(&encoded), hash(&leaf.encode()));
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(object) => object.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

/// Nothing opens but what was sealed for this part of this event; and what opens is what the leaf commits to.
pub(crate) fn personal(data: &[u8]) {
    let keyring = Keyring::new([(1, Zeroizing::new([1; 32]))]).expect("one key");
    let (entropy, subject, event) = (Entropy::system(), Uuid::from_u128(1), Uuid::from_u128(2));
    assert!(SubjectKey::unwrap(&keyring, subject, data).is_err(), "a key that nobody wrapped");
    let (key, wrapped) = SubjectKey::create(&keyring, &entropy, subject);
    assert!(SubjectKey::unwrap(&keyring, event, &wrapped).is_err(), "a key opened for another person");
    assert!(key.open(event, Part::Personal, data).is_none(), "data that nobody sealed");
    // A database may hold anything where an opening should be.
    let _ = contents(data);

    let mut input = Input::new(data);
    let flip = input.byte();
    let Ok(facts) = serde_json::from_slice::<Map<String, Value>>(input.rest()) else { return };
    let Value::Object(facts) = storable(Value::Object(facts)) else { panic!("an object became something else") };
    let opening = opening(&entropy, &facts);
    let mut sealed = key.seal(&entropy, event, Part::Personal, &opening);
    let opened = key.open(event, Part::Personal, &sealed).expect("what was sealed opens");
    assert_eq!(commitment(&opened), commitment(&opening));
    assert_eq!(contents(&opened), Some(facts));
    assert!(key.open(event, Part::Origin, &sealed).is_none(), "one part opened as the other");
    assert!(key.open(subject, Part::Personal, &sealed).is_none(), "it opened in another event");
    let last = sealed.len() - 1;
    sealed[last] ^= flip;
    assert!(flip == 0 || key.open(event, Part::Personal, &sealed).is_none(), "changed data opened");
}
