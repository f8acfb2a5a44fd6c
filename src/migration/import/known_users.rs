//! The decision about a row that is good by itself: by the users whom it could collide with.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::candidate::{Candidate, Finding, RowNames, Verdict};
use super::store::Holder;
use crate::migration::vocabulary::{ImportOutcome, ImportReason};

pub(super) fn refused(line: i64, names: RowNames, findings: Vec<Finding>) -> Verdict {
    Verdict { line, outcome: ImportOutcome::Refused, user_id: None, findings, names }
}

pub(super) fn accepted(row: Candidate) -> Verdict {
    let outcome = if row.remarks.is_empty() { ImportOutcome::Accepted } else { ImportOutcome::AcceptedWithRemarks };
    let names = if row.remarks.is_empty() { RowNames::default() } else { row.names() };
    Verdict { line: row.line, outcome, user_id: Some(row.user_id), findings: row.remarks, names }
}

/// Users whom rows could collide with: those in the database, and rows of the same batch that are about to be inserted.
pub(super) struct KnownUsers<'a> {
    import_id: Uuid,
    by_id: HashMap<Uuid, &'a Holder>,
    by_email: HashMap<&'a str, &'a Holder>,
    by_username: HashSet<&'a str>,
    by_legacy_id: HashMap<&'a str, &'a Holder>,
    source: &'a str,
    batch_emails: HashSet<String>,
    batch_usernames: HashSet<String>,
    batch_legacy_ids: HashSet<String>,
    batch_ids: HashSet<Uuid>,
}

impl<'a> KnownUsers<'a> {
    pub(super) fn new(holders: &'a [Holder], source: &'a str, import_id: Uuid) -> Self {
        let living = || holders.iter().filter(|holder| !holder.is_deleted);
        let from_here = holders.iter().filter(|holder| holder.import_source.as_deref() == Some(source));
        Self {
            import_id,
            by_id: holders.iter().map(|holder| (holder.user_id, holder)).collect(),
            by_email: living().map(|holder| (holder.email_key.as_str(), holder)).collect(),
            by_username: living().filter_map(|holder| holder.username_key.as_deref()).collect(),
            by_legacy_id: from_here.filter_map(|holder| Some((holder.legacy_id.as_deref()?, holder))).collect(),
            source,
            batch_emails: HashSet::new(),
            batch_usernames: HashSet::new(),
            batch_legacy_ids: HashSet::new(),
            batch_ids: HashSet::new(),
        }
    }

    /// The verdict about a row, or none when it may be imported; a username that is taken is dropped then.
    pub(super) fn decide(&mut self, row: &mut Candidate) -> Option<Verdict> {
        if let Some(same) = self.same_row(row)
            && same.import_id != Some(self.import_id)
        {
            return Some(if same.import_digest.as_deref() == Some(&row.digest) {
                Verdict {
                    line: row.line,
                    outcome: ImportOutcome::AlreadyImported,
                    user_id: Some(same.user_id),
                    findings: Vec::new(),
                    names: RowNames::default(),
                }
            } else {
                refused(row.line, row.names(), vec![Finding::new(ImportReason::RowChanged, "")])
            });
        }
        let findings = self.collisions(row);
        if !findings.is_empty() {
            return Some(refused(row.line, row.names(), findings));
        }
        if let Some(key) = row.username_key()
            && (self.by_username.contains(key.as_str()) || !self.batch_usernames.insert(key))
        {
            row.drop_username();
        }
        self.batch_emails.insert(row.email_key.clone());
        self.batch_ids.insert(row.user_id);
        self.batch_legacy_ids.extend(row.legacy_id.clone());
        None
    }

    /// The user whom this very row of the old system has become.
    fn same_row(&self, row: &Candidate) -> Option<&'a Holder> {
        match &row.legacy_id {
            Some(legacy_id) => self.by_legacy_id.get(legacy_id.as_str()).copied(),
            // A row without an id is known by its address.
            None => self
                .by_email
                .get(row.email_key.as_str())
                .copied()
                .filter(|holder| holder.legacy_id.is_none() && holder.import_source.as_deref() == Some(self.source)),
        }
    }

    fn collisions(&self, row: &Candidate) -> Vec<Finding> {
        let mut findings = Vec::new();
        let by_email = self.by_email.get(row.email_key.as_str());
        let of_this_import = |holder: &&Holder| holder.import_id == Some(self.import_id);
        if self.batch_emails.contains(&row.email_key) || by_email.is_some_and(of_this_import) {
            findings.push(Finding::new(ImportReason::EmailDuplicate, "email"));
        } else if by_email.is_some() {
            findings.push(Finding::new(ImportReason::EmailTaken, "email"));
        }
        let is_legacy_id_here = row.legacy_id.as_deref().is_some_and(|id| {
            self.batch_legacy_ids.contains(id) || self.by_legacy_id.get(id).is_some_and(of_this_import)
        });
        if is_legacy_id_here {
            findings.push(Finding::new(ImportReason::LegacyIdDuplicate, "legacy_id"));
        } else if row.keeps_id && (self.by_id.contains_key(&row.user_id) || self.batch_ids.contains(&row.user_id)) {
            findings.push(Finding::new(ImportReason::UserIdTaken, "legacy_id"));
        }
        findings
    }
}
