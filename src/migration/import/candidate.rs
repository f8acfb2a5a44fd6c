//! A row that was judged: what was found in it, and what would be inserted.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::access::names::username_key;
use crate::credential::hash_form::HashForm;
use crate::migration::vocabulary::{ImportOutcome, ImportReason};

/// Something found in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was found.
    pub reason: ImportReason,
    /// In which field; empty for the row as a whole.
    pub field: &'static str,
    /// What exactly, where the reason does not say it: short, and without control characters.
    pub detail: String,
}

impl Finding {
    pub(super) fn new(reason: ImportReason, field: &'static str) -> Self {
        Self { reason, field, detail: String::new() }
    }

    /// What exactly was found: a text of the client's, shortened.
    pub(super) fn of(mut self, detail: &str) -> Self {
        self.detail = shown(detail, LONGEST_DETAIL);
        self
    }
}

/// Most characters of a finding's detail, of an id and of an address that are answered.
const LONGEST_DETAIL: usize = 256;
const LONGEST_LEGACY_ID: usize = 128;
const LONGEST_EMAIL: usize = 254;

/// The beginning of a text of the client's, without control characters.
fn shown(text: &str, longest: usize) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(longest).collect()
}

/// What people find a row again by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowNames {
    /// Id in the old system, as the row gave it.
    pub legacy_id: String,
    /// Address, as the row gave it.
    pub email: String,
}

impl RowNames {
    pub(super) fn new(legacy_id: &str, email: &str) -> Self {
        Self { legacy_id: shown(legacy_id, LONGEST_LEGACY_ID), email: shown(email, LONGEST_EMAIL) }
    }
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The row's line.
    pub line: i64,
    /// Whether it is imported.
    pub outcome: ImportOutcome,
    /// The user, unless the row is refused.
    pub user_id: Option<Uuid>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// What the row is found by; empty where there are no findings.
    pub names: RowNames,
}

/// A row that may be imported, unless it collides with another user.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub line: i64,
    pub user_id: Uuid,
    pub keeps_id: bool,
    pub legacy_id: Option<String>,
    pub tenant_id: Uuid,
    pub role_id: Uuid,
    pub email: String,
    pub email_key: String,
    pub username: Option<String>,
    pub full_name: String,
    pub password_hash: Option<String>,
    pub form: Option<HashForm>,
    pub status: &'static str,
    pub created_at: Option<DateTime<Utc>>,
    pub digest: [u8; 32],
    pub remarks: Vec<Finding>,
}

impl Candidate {
    pub(super) fn names(&self) -> RowNames {
        RowNames::new(self.legacy_id.as_deref().unwrap_or_default(), &self.email)
    }

    pub(super) fn username_key(&self) -> Option<String> {
        self.username.as_deref().and_then(username_key)
    }

    /// Drops the username, which another user has.
    pub(super) fn drop_username(&mut self) {
        let name = self.username.take().unwrap_or_default();
        self.remarks.push(Finding::new(ImportReason::UsernameTaken, "username").of(&name));
    }
}
