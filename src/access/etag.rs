//! Versions of changeable resources, as the opaque text that callers hand back.

use crate::fault::{Fault, Reason, Result};

/// The etag of a version.
pub fn encode(version: i64) -> String {
    format!("v{version}")
}

/// The version that a caller says the resource has.
///
/// # Errors
/// `INVALID_FIELD` for anything that [`encode`] did not make.
pub fn decode(etag: &str) -> Result<i64> {
    etag.strip_prefix('v')
        .and_then(|version| version.parse().ok())
        .filter(|version| *version > 0)
        .ok_or_else(|| Fault::field("etag", "must be the etag of the resource as it was read"))
}

/// The refusal for a resource that changed in the meantime.
pub fn mismatch(what: &'static str) -> Fault {
    Fault::new(Reason::EtagMismatch, format!("The {what} was changed since it was read.")).with("resource", what)
}
