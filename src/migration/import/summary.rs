//! What became of an import, and how it is kept.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::fault::{Fault, Result};
use crate::migration::vocabulary::ImportReason;

/// Rows by finding.
pub type ReasonCounts = BTreeMap<ImportReason, i64>;
/// Users by prefix and cost of their hash; `("", 0)` for none.
pub type HashCounts = BTreeMap<(String, i32), i64>;

/// What became of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The import; none when it was only validated.
    pub import_id: Option<Uuid>,
    /// Rows that arrived.
    pub rows: i64,
    /// Rows that were imported.
    pub accepted: i64,
    /// Those of them with remarks.
    pub with_remarks: i64,
    /// Rows that were there already.
    pub already_there: i64,
    /// Rows that were refused.
    pub refused: i64,
    /// Rows by finding.
    pub reasons: ReasonCounts,
    /// Hashes that were imported.
    pub hashes: HashCounts,
    /// Digest over mapping and rows.
    pub digest: Vec<u8>,
    /// Whether this repeats an earlier import's summary.
    pub repeated: bool,
}

/// Counts of findings as they are kept.
pub(super) fn reasons_to_json(reasons: &ReasonCounts) -> Value {
    reasons.iter().map(|(reason, rows)| (reason.as_str().to_owned(), Value::from(*rows))).collect()
}

/// Counts of findings as they were kept.
///
/// # Errors
/// When they hold a reason that this release does not know.
pub(super) fn reasons_from_json(reasons: &Value, import: Uuid) -> Result<ReasonCounts> {
    let entries = reasons.as_object().into_iter().flatten();
    let read = |(word, rows): (&String, &Value)| Some((ImportReason::parse(word)?, rows.as_i64()?));
    entries.map(|entry| read(entry).ok_or_else(|| Fault::unknown_word("user_imports.reasons", import))).collect()
}

/// Counts of hashes as they are kept.
pub(in crate::migration) fn hashes_to_json(hashes: &HashCounts) -> Value {
    hashes.iter().map(|((kind, cost), users)| json!({"kind": kind, "cost": cost, "users": users})).collect()
}

/// Counts of hashes as they were kept.
///
/// # Errors
/// When they are not of the shape that this release knows.
pub(in crate::migration) fn hashes_from_json(hashes: &Value, column: &'static str, row: Uuid) -> Result<HashCounts> {
    let entries = hashes.as_array().into_iter().flatten();
    let read = |entry: &Value| {
        let cost = i32::try_from(entry["cost"].as_i64()?).ok()?;
        Some(((entry["kind"].as_str()?.to_owned(), cost), entry["users"].as_i64()?))
    };
    entries.map(|entry| read(entry).ok_or_else(|| Fault::unknown_word(column, row))).collect()
}
