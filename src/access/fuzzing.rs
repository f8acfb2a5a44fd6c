//! Fuzz targets of this module.

use std::sync::Arc;

use chrono::DateTime;
use prost_types::Timestamp;
use serde_json::Value;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::paging::{Paging, page_size};
use super::{Call, Permissions, Principal, PrincipalKind, etag, input, names};
use crate::fault::{Reason, Result};
use crate::fuzzing::{Input, check_refusal};
use crate::seal::Keyring;

/// A call by the user of this number.
fn call(user: u128) -> Call {
    let principal = Principal {
        kind: PrincipalKind::User,
        id: Uuid::from_u128(user),
        session_id: None,
        tenant_id: Some(Uuid::from_u128(2)),
        permissions: Permissions::default(),
        platform_permissions: Permissions::default(),
        key_id: None,
        issued_at: DateTime::UNIX_EPOCH,
        epoch: sidle_token::Epoch::FIRST,
        expires_at: DateTime::UNIX_EPOCH,
        credential_expires_at: None,
    };
    Call { principal: Some(Arc::new(principal)), ..Call::internal(Uuid::nil()) }
}

/// Page tokens cannot be forged; one that Sidle made leads back to its position, and only for its caller.
pub(crate) fn page_tokens(data: &[u8]) {
    let paging = Paging::new(&Keyring::new([(1, Zeroizing::new([1; 32]))]).expect("one key"));
    let token = String::from_utf8_lossy(data);
    match paging.decode::<Value>(&call(1), "/a/B", &"filter", &token) {
        Ok(position) => assert!(position.is_none() && token.is_empty(), "a forged token was accepted"),
        Err(fault) => {
            assert_eq!(fault.reason(), Reason::InvalidPageToken);
            check_refusal(&fault);
        }
    }

    let position = token.into_owned();
    let made = paging.encode(&call(1), "/a/B", &"filter", &position);
    let again = paging.decode::<String>(&call(1), "/a/B", &"filter", &made);
    // A longer position than any list has does not come back, which is a refusal and no other position.
    assert!(made.len() > 2048 || again.is_ok_and(|again| again.as_deref() == Some(position.as_str())));
    for (user, method, filter) in [(2, "/a/B", "filter"), (1, "/a/C", "filter"), (1, "/a/B", "Filter")] {
        assert!(paging.decode::<String>(&call(user), method, &filter, &made).is_err(), "a token served another call");
    }
}

/// A field is taken or refused by name; what is taken holds to what its reader promises.
pub(crate) fn request_fields(data: &[u8]) {
    let mut reader = Input::new(data);
    let (seconds, nanos, size) = (reader.number(), reader.number(), reader.number());
    text_fields(&reader.rest_as_text());
    number_fields(seconds, nanos as i32, size as i32);
}

/// What was accepted; a refusal is checked.
fn taken<T>(result: Result<T>) -> Option<T> {
    result.inspect_err(check_refusal).ok()
}

fn text_fields(text: &str) {
    if let Some(id) = taken(input::uuid("id", text)) {
        assert!(id.to_string().eq_ignore_ascii_case(text), "an id with two spellings");
    }
    taken(input::optional_uuid("id", text));
    for value in [taken(input::required("name", text, 64)), taken(input::text("name", text, 64))].into_iter().flatten()
    {
        assert!(value.chars().count() <= 64 && !value.chars().any(char::is_control));
    }
    if let Some(address) = taken(input::email("email", text)) {
        let is_plain = address.bytes().all(|b| b.is_ascii_graphic() && !b"<>,;:\"\\()[]".contains(&b));
        assert!(
            is_plain && address.matches('@').count() == 1,
            "an address that a mail header could misread: {address}"
        );
    }
    let key = names::identifier_key(text);
    assert!(key.starts_with(' ') || names::identifier_key(&key) == key, "a key of a key is another key");
    if let Some(version) = taken(etag::decode(text)) {
        assert_eq!(etag::decode(&etag::encode(version)).ok(), Some(version));
    }
    let rights = Permissions::parse(text);
    assert_eq!(Permissions::parse(&rights.to_string()), rights);
    assert!(rights.covers(&rights.intersect(&Permissions::parse("users.read *"))));
}

/// Numbers of every size, also those that are neither zero nor far out.
fn number_fields(seconds: i64, nanos: i32, size: i32) {
    let time = Timestamp { seconds, nanos };
    if let Some(time) = taken(input::from_proto("time", &time)) {
        assert_eq!(input::from_proto("time", &input::to_proto(time)).ok(), Some(time));
    }
    let length = prost_types::Duration { seconds, nanos };
    if let Some(read) = input::duration(&length) {
        assert_eq!(prost_types::Duration::try_from(read).ok(), Some(length));
    }
    if let Some(size) = taken(page_size(size)) {
        assert!((1..=1000).contains(&size));
    }
}
