//! What several conversions share.

use chrono::{DateTime, Utc};
use prost_types::{FieldMask, Timestamp};

use super::super::made::Made;
use crate::access::{etag, input};
use crate::fault::{Fault, Result};
use crate::proto::MadeCredentials;

/// Credentials for programs, by their maker.
pub(super) fn made(made: Made) -> MadeCredentials {
    let ids = |ids: Vec<uuid::Uuid>| ids.into_iter().map(|id| id.to_string()).collect();
    MadeCredentials {
        api_key_ids: ids(made.keys),
        certificate_account_ids: ids(made.certified),
        service_account_ids: ids(made.accounts),
        kept: made.kept,
    }
}

/// A time that may be absent.
pub(super) fn time(at: Option<DateTime<Utc>>) -> Option<Timestamp> {
    at.map(input::to_proto)
}

/// The version in an etag that must be there.
pub(super) fn version(etag: &str) -> Result<i64> {
    etag::decode(etag)
}

/// The version in an etag that may be left out.
pub(super) fn optional_version(etag: &str) -> Result<Option<i64>> {
    if etag.is_empty() { Ok(None) } else { etag::decode(etag).map(Some) }
}

/// The fields that an update names, all of which must be among `known`.
pub(super) fn fields(mask: Option<FieldMask>, known: &'static [&'static str]) -> Result<Vec<&'static str>> {
    let paths = mask.unwrap_or_default().paths;
    let problem =
        || Fault::field("update_mask", format!("must name at least one of {}, and nothing else", known.join(", ")));
    if paths.is_empty() {
        return Err(problem());
    }
    paths.iter().map(|path| known.iter().copied().find(|known| known == path).ok_or_else(problem)).collect()
}

/// The resource of an update.
pub(super) fn resource<T>(field: &'static str, resource: Option<T>) -> Result<T> {
    resource.ok_or_else(|| Fault::field(field, "must be set"))
}

/// A text, none when it is empty.
pub(super) fn optional_text(field: &'static str, value: &str, max: usize) -> Result<Option<String>> {
    let text = input::text(field, value, max)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// The value of an enum that may be unspecified.
pub(super) fn choice<P: TryFrom<i32>, T>(
    field: &'static str,
    number: i32,
    read: impl Fn(P) -> Option<T>,
) -> Result<Option<T>> {
    match (number, P::try_from(number)) {
        (0, _) => Ok(None),
        (_, Ok(value)) => Ok(read(value)),
        (_, Err(_)) => Err(Fault::field(field, "must be one of the values in the contract")),
    }
}
