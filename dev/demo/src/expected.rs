//! The expected results, from `dev/sample/expected.json`. Its other keys are for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::Result;

#[derive(Deserialize)]
pub struct Expected {
    pub files: Vec<String>,
    pub tenants: Vec<String>,
    pub totals: Totals,
    pub totals_by_file: BTreeMap<String, Totals>,
    pub refused: BTreeMap<String, Rows>,
    pub remarks: BTreeMap<String, Rows>,
    pub hashes: BTreeMap<String, usize>,
    pub migration: Migration,
    pub names: BTreeMap<String, Rows>,
    pub names_derived: Bounds,
    pub hero: Person,
    pub kanidm_preexisting: Vec<Preexisting>,
}

#[derive(Deserialize)]
pub struct Totals {
    pub rows: usize,
    pub accepted: usize,
    pub refused: usize,
    pub refused_by_reason: BTreeMap<String, usize>,
    pub active: usize,
    pub disabled: usize,
    pub accepted_by_tenant: BTreeMap<String, usize>,
    pub accepted_by_role: BTreeMap<String, usize>,
}

/// How many rows, and where the sample says it, which.
#[derive(Deserialize)]
pub struct Rows {
    pub count: usize,
    pub rows: Option<Vec<Row>>,
}

#[derive(Deserialize)]
pub struct Row {
    pub file: String,
    pub line: i64,
    pub id: String,
}

#[derive(Deserialize)]
pub struct Migration {
    pub total: usize,
    pub succeeds: usize,
    pub fails: usize,
    pub fails_by_reason: BTreeMap<String, Rows>,
    pub total_by_tenant: BTreeMap<String, usize>,
    pub fails_by_tenant: BTreeMap<String, usize>,
    pub group_admins_by_tenant: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
pub struct Bounds {
    pub at_least: usize,
    pub at_most: usize,
}

/// The user whom the demonstration follows.
#[derive(Clone, Deserialize)]
pub struct Person {
    pub id: String,
    pub email: String,
    pub full_name: String,
    pub tenant: String,
    pub password: String,
}

/// A person that is in Kanidm before the migration.
#[derive(Deserialize)]
pub struct Preexisting {
    pub name: String,
    pub displayname: String,
    pub mail: String,
}

impl Expected {
    /// Reads `expected.json` beside the sample files.
    pub fn read(samples: &Path) -> Result<Self> {
        let path = samples.join("expected.json");
        let text = std::fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        Ok(serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?)
    }
}

impl Rows {
    /// Lines of one file.
    pub fn lines_of(&self, file: &str) -> BTreeSet<i64> {
        self.rows.iter().flatten().filter(|row| row.file == file).map(|row| row.line).collect()
    }

    /// Ids in the old system.
    pub fn ids(&self) -> BTreeSet<String> {
        self.rows.iter().flatten().map(|row| row.id.clone()).collect()
    }
}
