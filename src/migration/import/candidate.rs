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
}

impl Finding {
    pub(super) fn new(reason: ImportReason, field: &'static str) -> Self {
        Self { reason, field }
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
    pub(super) fn username_key(&self) -> Option<String> {
        self.username.as_deref().and_then(username_key)
    }

    /// Drops the username, which another user has.
    pub(super) fn drop_username(&mut self) {
        self.username = None;
        self.remarks.push(Finding::new(ImportReason::UsernameTaken, "username"));
    }
}
