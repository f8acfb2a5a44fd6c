//! An import at work: one transaction from the first row to the summary.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::candidate::{Candidate, Verdict};
use super::known_users::{KnownUsers, accepted, refused};
use super::mapping::{Header, Mapping};
use super::row::{Row, digest};
use super::store;
use super::summary::{Summary, hashes_from_json, hashes_to_json, reasons_from_json, reasons_to_json};
use crate::access::Call;
use crate::audit::{Event, EventType, Recorder};
use crate::authenticate::StepUps;
use crate::context::Context;
use crate::db::{Scope, Tx};
use crate::fault::{Fault, Reason, Result};
use crate::migration::vocabulary::{ImportOutcome, ImportReason};
use crate::shared::Core;

/// Name of the RPC, as proofs are made for it.
const IMPORT: &str = "sidle.v1.MigrationService/ImportUsers";
/// Rows that are written with one statement.
const BATCH: usize = 1000;
/// How long it is waited for an import that is about to end, and how often that is looked at.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Rows collide with users who are inserted concurrently at most so often in a row.
const ROUNDS: usize = 8;

/// An import at work. Dropped without [`Import::finish`], it has never been.
pub struct Import {
    tx: Tx,
    context: Context,
    recorder: Recorder,
    call: Call,
    header: Header,
    mapping: Mapping,
    import_id: Uuid,
    hasher: Sha256,
    summary: Summary,
}

impl Import {
    /// Begins an import.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a header that names what is not there, `PERMISSION_DENIED` for a caller who does not reach
    /// over the platform, `STEP_UP_REQUIRED`, `OVERLOADED` while another import runs.
    pub async fn begin(core: &Core, step_ups: &StepUps, call: &Call, header: Header) -> Result<Self> {
        let Core { db, context, recorder, .. } = core;
        // An address is unique over all tenants, so that an importer learns about all of them.
        if call.principal()?.authorize("migration.import", None)? != Scope::Platform {
            let text = "Importing users needs the permission migration.import on the platform.";
            return Err(Fault::new(Reason::PermissionDenied, text).with("permission", "migration.import"));
        }
        // An importer chooses passwords and roles. The proof is spent in a transaction of its own: the import's may last
        // for long, and would keep the caller's logins waiting.
        let mut tx = db.begin(Scope::Platform).await?;
        step_ups.require_of_people(&mut tx, call, IMPORT, None).await?;
        tx.commit().await?;
        let mut tx = db.begin(Scope::Platform).await?;
        lock(&mut tx, context).await?;
        store::plan_each_batch(&mut tx).await?;
        let mapping = Mapping::load(&mut tx, &header, &call.principal()?.platform_permissions).await?;
        let mut hasher = Sha256::new();
        hasher.update(header_digest(&header));
        Ok(Self {
            tx,
            context: context.clone(),
            recorder: recorder.clone(),
            call: call.clone(),
            mapping,
            import_id: context.new_id(),
            hasher,
            summary: Summary::default(),
            header,
        })
    }

    /// Takes rows and says what becomes of each, in their order.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add(&mut self, rows: &[Row]) -> Result<Vec<Verdict>> {
        let mut verdicts = Vec::with_capacity(rows.len());
        for batch in rows.chunks(BATCH) {
            verdicts.extend(self.add_batch(batch).await?);
        }
        Ok(verdicts)
    }

    async fn add_batch(&mut self, rows: &[Row]) -> Result<Vec<Verdict>> {
        let inactive = if self.header.inactive_is_unverified { "pending_verification" } else { "disabled" };
        let mut verdicts: Vec<Option<Verdict>> = Vec::with_capacity(rows.len());
        let mut candidates = Vec::with_capacity(rows.len());
        for (index, row) in rows.iter().enumerate() {
            self.hasher.update(row.digest());
            match row.judge(&self.mapping, inactive, self.context.new_id()) {
                Ok(candidate) => {
                    candidates.push((index, candidate));
                    verdicts.push(None);
                }
                Err(findings) => verdicts.push(Some(refused(row.line, row.names(), findings))),
            }
        }
        self.settle(candidates, &mut verdicts).await?;
        let verdicts: Vec<Verdict> = verdicts.into_iter().flatten().collect();
        for verdict in &verdicts {
            self.count(verdict);
        }
        Ok(verdicts)
    }

    /// Decides about candidates by who is there already, and inserts those who may be imported.
    async fn settle(&mut self, mut undecided: Vec<(usize, Candidate)>, verdicts: &mut [Option<Verdict>]) -> Result<()> {
        for _ in 0..ROUNDS {
            let rows: Vec<Candidate> = undecided.iter().map(|(_, row)| row.clone()).collect();
            let holders = store::holders(&mut self.tx, &self.header.source, &rows).await?;
            let mut known = KnownUsers::new(&holders, &self.header.source, self.import_id);
            let mut indexes = Vec::new();
            let mut coming = Vec::new();
            for (index, mut row) in undecided {
                match known.decide(&mut row) {
                    Some(verdict) => verdicts[index] = Some(verdict),
                    None => {
                        indexes.push(index);
                        coming.push(row);
                    }
                }
            }
            let memberships: Vec<Uuid> = coming.iter().map(|_| self.context.new_id()).collect();
            let inserted = if coming.is_empty() {
                Vec::new()
            } else {
                store::insert(&mut self.tx, self.import_id, &self.header.source, &coming, &memberships).await?
            };
            let inserted: HashSet<Uuid> = inserted.into_iter().collect();
            undecided = Vec::new();
            for (index, row) in indexes.into_iter().zip(coming) {
                if inserted.contains(&row.user_id) {
                    self.count_hash(&row);
                    verdicts[index] = Some(accepted(row));
                } else {
                    undecided.push((index, row));
                }
            }
            if undecided.is_empty() {
                return Ok(());
            }
        }
        Err(Fault::internal("rows of an import collided with users who could not be found"))
    }

    fn count(&mut self, verdict: &Verdict) {
        let summary = &mut self.summary;
        summary.rows += 1;
        match verdict.outcome {
            ImportOutcome::Accepted => summary.accepted += 1,
            ImportOutcome::AcceptedWithRemarks => {
                summary.accepted += 1;
                summary.with_remarks += 1;
            }
            ImportOutcome::AlreadyImported => summary.already_there += 1,
            ImportOutcome::Refused => summary.refused += 1,
        }
        let reasons: HashSet<ImportReason> = verdict.findings.iter().map(|finding| finding.reason).collect();
        for reason in reasons {
            *summary.reasons.entry(reason).or_default() += 1;
        }
    }

    fn count_hash(&mut self, row: &Candidate) {
        let key = row.form.map_or((String::new(), 0), |form| (form.kind.to_owned(), i32::from(form.cost)));
        *self.summary.hashes.entry(key).or_default() += 1;
    }

    /// Commits, if as many rows came as were sent.
    ///
    /// # Errors
    /// `IMPORT_UNREADABLE` when rows are missing; `REQUEST_ID_REUSED` when the `request_id` belongs to an import of other
    /// rows. Nothing is imported then.
    pub async fn finish(mut self, row_count: i64) -> Result<Summary> {
        if row_count != self.summary.rows {
            let text = "The stream ended after another number of rows than its end says.";
            return Err(unreadable(text).with("rows_received", self.summary.rows).with("rows_announced", row_count));
        }
        self.summary.digest = self.hasher.finalize_reset().to_vec();
        if self.header.validate_only {
            return Ok(self.summary);
        }
        let principal_id = self.call.principal()?.id;
        if !self.keep(principal_id).await? {
            return self.repeated(principal_id).await;
        }
        self.summary.import_id = Some(self.import_id);
        let event = self.event();
        self.recorder.record(&mut self.tx, event).await?;
        self.tx.commit().await?;
        tracing::info!(
            event = "users_imported",
            import_id = %self.import_id,
            rows = self.summary.rows,
            accepted = self.summary.accepted,
            refused = self.summary.refused,
            "imported users"
        );
        Ok(self.summary)
    }

    /// Stores what the import came to. False when the same caller's `request_id` was used already.
    async fn keep(&mut self, principal_id: Uuid) -> Result<bool> {
        let record = store::Record {
            import_id: self.import_id,
            source: &self.header.source,
            principal_id,
            request_id: self.header.request_id,
            rows: self.summary.rows,
            accepted: self.summary.accepted,
            with_remarks: self.summary.with_remarks,
            already_there: self.summary.already_there,
            refused: self.summary.refused,
            reasons: reasons_to_json(&self.summary.reasons),
            hashes: hashes_to_json(&self.summary.hashes),
            digest: &self.summary.digest,
        };
        store::keep(&mut self.tx, &record).await
    }

    fn event(&self) -> Event {
        let summary = &self.summary;
        Event::new(EventType::MigrationUsersImported, &self.call)
            .tenant(None)
            .target("import", self.import_id)
            .request(self.header.request_id)
            .detail("source", &self.header.source)
            .detail("rows", summary.rows)
            .detail("accepted", summary.accepted)
            .detail("accepted_with_remarks", summary.with_remarks)
            .detail("already_imported", summary.already_there)
            .detail("refused", summary.refused)
            .detail("reasons", reasons_to_json(&summary.reasons))
            .detail("digest", HEXLOWER.encode(&summary.digest))
    }

    /// The summary that the first import with this `request_id` gave, if it was of the same rows.
    async fn repeated(mut self, principal_id: Uuid) -> Result<Summary> {
        let kept = store::kept(&mut self.tx, principal_id, self.header.request_id).await?;
        let Some(kept) = kept.filter(|kept| kept.digest == self.summary.digest) else {
            let text = "This request_id was used before for an import of other rows.";
            return Err(Fault::new(Reason::RequestIdReused, text));
        };
        Ok(Summary {
            import_id: Some(kept.import_id),
            rows: kept.row_count,
            accepted: kept.accepted,
            with_remarks: kept.with_remarks,
            already_there: kept.already_there,
            refused: kept.refused,
            reasons: reasons_from_json(&kept.reasons, kept.import_id)?,
            hashes: hashes_from_json(&kept.hashes, "user_imports.hashes", kept.import_id)?,
            digest: kept.digest,
            repeated: true,
        })
    }
}

/// Takes the lock of imports until the transaction ends.
async fn lock(tx: &mut Tx, context: &Context) -> Result<()> {
    let since = context.clock.instant();
    while !store::lock(tx).await? {
        // One that ended a moment ago without a commit may not have released its lock yet.
        if context.clock.instant().saturating_duration_since(since) < LOCK_WAIT {
            tokio::time::sleep(LOCK_POLL).await;
            continue;
        }
        let text = "Another import is running; two at a time would wait for each other's rows.";
        return Err(Fault::new(Reason::Overloaded, text).retry_after(Duration::from_secs(10)));
    }
    Ok(())
}

/// The refusal of a stream that is not an import.
pub(in crate::migration) fn unreadable(text: &'static str) -> Fault {
    Fault::new(Reason::ImportUnreadable, text)
}

/// Digest over what decides how rows are read. Not over `request_id`, which may differ between two tries.
fn header_digest(header: &Header) -> [u8; 32] {
    let mapping = |map: &BTreeMap<String, String>| digest(map.iter().flat_map(|(k, v)| [k.as_bytes(), v.as_bytes()]));
    digest([
        header.source.as_bytes(),
        &mapping(&header.tenants),
        header.default_tenant.as_bytes(),
        &[u8::from(header.inactive_is_unverified)],
        &mapping(&header.roles),
        header.default_role.as_bytes(),
    ])
}
