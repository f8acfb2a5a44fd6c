//! Between the contract's messages and the module's types.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use prost_types::Timestamp;
use uuid::Uuid;

use crate::access::{etag, input};
use crate::fault::{Fault, Result};
use crate::migration::groups::{GroupRole, Standing};
use crate::migration::import::{HashCounts, Header, Row, Summary, Unreadable, Verdict};
use crate::migration::jobs::{Counts, ItemFilter, Job, JobItem, ProgressUpdate};
use crate::migration::legacy_file::LegacyRow;
use crate::migration::plan::{self, PlanItem};
use crate::migration::vocabulary as enums;
use crate::proto;

/// The value of the contract's enum that has the same name, in capitals and behind its prefix.
macro_rules! code {
    ($proto:ident, $prefix:literal, $word:expr) => {
        proto::$proto::from_str_name(&format!(concat!($prefix, "_{}"), $word.as_str().to_uppercase()))
            .unwrap_or_default() as i32
    };
}

/// The database's value for one of the contract's enum; none for the unspecified one.
macro_rules! word {
    ($proto:ident, $prefix:literal, $word:ident, $field:literal, $value:expr) => {
        match proto::$proto::try_from($value) {
            Ok(proto::$proto::Unspecified) => Ok(None),
            Ok(known) => {
                let name = known.as_str_name().trim_start_matches(concat!($prefix, "_")).to_lowercase();
                enums::$word::parse(&name).map(Some).ok_or_else(|| Fault::field($field, "must be a known value"))
            }
            Err(_) => Err(Fault::field($field, "must be a known value")),
        }
    };
}

pub(super) fn header(header: proto::ImportHeader) -> Result<Header> {
    let fits = |name: &str| {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        (1..=64).contains(&name.len()) && name.chars().all(allowed)
    };
    if !fits(&header.source) {
        return Err(Fault::field("header.source", "must be 1 to 64 of a-z 0-9 . _ -"));
    }
    if header.tenants.len() > 10_000 {
        return Err(Fault::field("header.tenants", "must have at most 10,000 entries"));
    }
    if header.roles.len() > 1_000 {
        return Err(Fault::field("header.roles", "must have at most 1,000 entries"));
    }
    let inactive = proto::InactiveMeaning::try_from(header.inactive_means)
        .map_err(|_| Fault::field("header.inactive_means", "must be a known value"))?;
    Ok(Header {
        source: header.source,
        request_id: input::uuid("header.request_id", &header.request_id)?,
        validate_only: header.validate_only,
        tenants: header.tenants.into_iter().collect(),
        default_tenant: header.default_tenant.trim().to_owned(),
        inactive_is_unverified: inactive == proto::InactiveMeaning::PendingVerification,
        roles: header.roles.into_iter().collect(),
        default_role: header.default_role.trim().to_owned(),
    })
}

pub(super) fn row(row: proto::ImportRow) -> Row {
    let created_at = match row.created_at {
        None => Ok(None),
        Some(time) => input::from_proto("created_at", &time).map(Some).map_err(|_| ()),
    };
    Row {
        line: row.line,
        legacy_id: row.legacy_id,
        email: row.email,
        username: row.username,
        full_name: row.full_name,
        password_hash: row.password_hash,
        is_active: row.is_active.unwrap_or(true),
        created_at,
        tenant: row.tenant,
        role: row.role,
        unreadable: Unreadable::read(&row.unreadable_field, row.unreadable),
    }
}

/// For clients that read a file and send it: the command-line tool, the demonstration, tests.
impl From<LegacyRow> for proto::ImportRow {
    fn from(row: LegacyRow) -> Self {
        let (unreadable, field) = row.unreadable.map(|found| (found.why, found.field)).unwrap_or_default();
        Self {
            line: i64::try_from(row.line).unwrap_or(i64::MAX),
            legacy_id: row.legacy_id,
            email: row.email,
            username: row.username,
            full_name: row.full_name,
            password_hash: row.password_hash,
            is_active: row.is_active,
            created_at: row.created_at.map(input::to_proto),
            tenant: row.tenant,
            role: row.role,
            unreadable,
            unreadable_field: field.to_owned(),
        }
    }
}

pub(super) fn verdict(verdict: Verdict) -> proto::ImportVerdict {
    let findings = verdict.findings.into_iter().map(|finding| proto::ImportFinding {
        reason: code!(ImportReason, "IMPORT_REASON", finding.reason),
        field: finding.field.to_owned(),
        remedy: finding.reason.remedy().to_owned(),
        detail: finding.detail,
    });
    proto::ImportVerdict {
        line: verdict.line,
        outcome: code!(ImportOutcome, "IMPORT_OUTCOME", verdict.outcome),
        user_id: id(verdict.user_id),
        findings: findings.collect(),
        legacy_id: verdict.names.legacy_id,
        email: verdict.names.email,
    }
}

pub(super) fn summary(summary: Summary, validated_only: bool) -> proto::ImportSummary {
    let mut reasons: Vec<proto::ImportReasonCount> = summary
        .reasons
        .into_iter()
        .map(|(reason, rows)| proto::ImportReasonCount { reason: code!(ImportReason, "IMPORT_REASON", reason), rows })
        .collect();
    reasons.sort_by_key(|count| std::cmp::Reverse(count.rows));
    proto::ImportSummary {
        import_id: id(summary.import_id),
        rows: summary.rows,
        accepted: summary.accepted,
        accepted_with_remarks: summary.with_remarks,
        already_imported: summary.already_there,
        refused: summary.refused,
        reasons,
        hashes: hashes(summary.hashes),
        digest: HEXLOWER.encode(&summary.digest),
        validated_only,
        repeated: summary.repeated,
    }
}

fn hashes(hashes: HashCounts) -> Vec<proto::HashCount> {
    hashes.into_iter().map(|((kind, cost), users)| proto::HashCount { kind, cost, users }).collect()
}

/// Reads a plan's digest.
pub(super) fn plan_digest(text: &str) -> Result<Vec<u8>> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().filter(|bytes| bytes.len() == 32);
    bytes.ok_or_else(|| Fault::field("plan_digest", "must be the plan's digest, 64 hexadecimal digits"))
}

fn id(id: Option<Uuid>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

fn time(time: Option<chrono::DateTime<chrono::Utc>>) -> Option<Timestamp> {
    time.map(input::to_proto)
}

pub(super) fn cohort(cohort: proto::Cohort) -> Result<plan::Cohort> {
    let ids = |field, ids: Vec<String>| ids.iter().map(|id| input::uuid(field, id)).collect::<Result<Vec<_>>>();
    if cohort.user_ids.len() > 10_000 {
        return Err(Fault::field("cohort.user_ids", "must be at most 10,000"));
    }
    if cohort.limit < 0 {
        return Err(Fault::field("cohort.limit", "must not be negative"));
    }
    let since = cohort.last_login_since.map(|time| input::from_proto("cohort.last_login_since", &time)).transpose()?;
    Ok(plan::Cohort {
        tenant_ids: ids("cohort.tenant_ids", cohort.tenant_ids)?,
        user_ids: ids("cohort.user_ids", cohort.user_ids)?,
        last_login_since: since,
        roles: cohort.roles,
        limit: (cohort.limit > 0).then_some(cohort.limit),
    })
}

fn cohort_to_proto(cohort: plan::Cohort) -> proto::Cohort {
    let ids = |ids: Vec<Uuid>| ids.into_iter().map(|id| id.to_string()).collect();
    proto::Cohort {
        tenant_ids: ids(cohort.tenant_ids),
        user_ids: ids(cohort.user_ids),
        last_login_since: time(cohort.last_login_since),
        roles: cohort.roles,
        limit: cohort.limit.unwrap_or_default(),
    }
}

pub(super) fn plan(plan: plan::Plan) -> proto::Plan {
    proto::Plan {
        plan_id: plan.plan_id.to_string(),
        digest: HEXLOWER.encode(&plan.digest),
        cohort: Some(cohort_to_proto(plan.cohort)),
        total: plan.total,
        will_be_created: plan.will_be_created,
        needs_review: plan.needs_review,
        will_be_refused: plan.will_be_refused,
        reasons: reasons(plan.reasons),
        hashes: hashes(plan.hashes),
        names_derived: plan.names_derived,
        created_at: time(Some(plan.created_at)),
        expires_at: time(Some(plan.expires_at)),
        migration_id: id(plan.migration_id),
    }
}

pub(super) fn reasons(reasons: std::collections::BTreeMap<enums::ItemReason, i64>) -> Vec<proto::ItemReasonCount> {
    let count =
        |(reason, items): (enums::ItemReason, i64)| proto::ItemReasonCount { reason: item_reason(Some(reason)), items };
    reasons.into_iter().map(count).collect()
}

fn item_reason(reason: Option<enums::ItemReason>) -> i32 {
    reason.map_or(0, |reason| code!(ItemReason, "ITEM_REASON", reason))
}

fn remedy(reason: Option<enums::ItemReason>) -> String {
    reason.map(|reason| reason.remedy().to_owned()).unwrap_or_default()
}

pub(super) fn plan_item(item: PlanItem) -> proto::PlanItem {
    proto::PlanItem {
        user_id: item.user_id.to_string(),
        tenant_id: item.tenant_id.to_string(),
        email: item.mail.clone(),
        person: Some(proto::IntendedPerson {
            uuid: item.user_id.to_string(),
            name: item.kanidm_name,
            display_name: item.display_name,
            mail: item.mail,
            groups: item.group_names,
        }),
        forecast: code!(Forecast, "FORECAST", item.forecast),
        reason: item_reason(item.reason),
        remedy: remedy(item.reason),
        credential_route: proto::CredentialRoute::EnrolmentLink as i32,
    }
}

pub(super) fn forecast(value: i32) -> Result<Option<enums::Forecast>> {
    word!(Forecast, "FORECAST", Forecast, "forecast", value)
}

pub(super) fn migration_state(value: i32) -> Result<Option<enums::MigrationState>> {
    word!(MigrationState, "MIGRATION_STATE", MigrationState, "state", value)
}

pub(super) fn migration_kind(value: i32) -> Result<Option<enums::MigrationKind>> {
    word!(MigrationKind, "MIGRATION_KIND", MigrationKind, "kind", value)
}

pub(super) fn item_filter(states: &[i32], reasons: &[i32]) -> Result<ItemFilter> {
    let state = |value: &i32| word!(ItemState, "ITEM_STATE", ItemState, "states", *value).transpose();
    let reason = |value: &i32| word!(ItemReason, "ITEM_REASON", ItemReason, "reasons", *value).transpose();
    Ok(ItemFilter {
        states: states.iter().filter_map(state).collect::<Result<_>>()?,
        reasons: reasons.iter().filter_map(reason).collect::<Result<_>>()?,
    })
}

fn counts(counts: Counts) -> proto::ItemCounts {
    proto::ItemCounts {
        total: counts.total,
        pending: counts.pending,
        done: counts.done,
        failed: counts.failed,
        skipped: counts.skipped,
        needs_review: counts.needs_review,
    }
}

fn wait(wait: Option<enums::WaitReason>) -> i32 {
    wait.map_or(0, |wait| code!(WaitReason, "WAIT_REASON", wait))
}

pub(super) fn migration(job: Job, reasons: Vec<proto::ItemReasonCount>) -> proto::Migration {
    proto::Migration {
        migration_id: job.migration_id.to_string(),
        kind: code!(MigrationKind, "MIGRATION_KIND", job.kind),
        state: code!(MigrationState, "MIGRATION_STATE", job.state),
        counts: Some(counts(job.counts)),
        plan_id: id(job.plan_id),
        tenant_id: id(job.tenant_id),
        created_at: time(Some(job.created_at)),
        progressed_at: time(job.progressed_at),
        ended_at: time(job.ended_at),
        waiting_for: wait(job.waiting_for),
        waiting_since: time(job.waiting_since),
        etag: etag::encode(job.version),
        started_by: job.started_by.to_string(),
        reasons,
    }
}

pub(super) fn item(migration_id: Uuid, item: JobItem) -> proto::MigrationItem {
    proto::MigrationItem {
        item_id: item.item_id.to_string(),
        migration_id: migration_id.to_string(),
        user_id: item.user_id.to_string(),
        tenant_id: item.tenant_id.to_string(),
        email: item.mail.clone(),
        state: code!(ItemState, "ITEM_STATE", item.state),
        reason: item_reason(item.reason),
        remedy: remedy(item.reason),
        person: Some(proto::IntendedPerson {
            uuid: item.user_id.to_string(),
            name: item.kanidm_name,
            display_name: item.display_name,
            mail: item.mail,
            groups: item.group_names,
        }),
        attempts: item.attempts,
        updated_at: time(Some(item.updated_at)),
        etag: etag::encode(item.version),
    }
}

pub(super) fn update(update: &ProgressUpdate, cursor: String) -> proto::WatchMigrationResponse {
    let step = &update.step;
    let failures = step.failures.iter().map(|failure| proto::ItemFailure {
        item_id: failure.item_id.to_string(),
        user_id: failure.user_id.to_string(),
        reason: item_reason(Some(failure.reason)),
        remedy: failure.reason.remedy().to_owned(),
    });
    proto::WatchMigrationResponse {
        cursor,
        state: code!(MigrationState, "MIGRATION_STATE", step.state),
        counts: Some(counts(step.counts)),
        step: step.step,
        finished: i32::try_from(step.finished).unwrap_or(i32::MAX),
        items_per_second: step.items_per_second(),
        failures: failures.collect(),
        waiting_for: wait(step.waiting_for),
        occurred_at: time(Some(update.occurred_at)),
        heartbeat: update.is_heartbeat,
    }
}

pub(super) fn group(group: crate::migration::groups::TenantGroup) -> proto::TenantGroup {
    let role = match group.role {
        GroupRole::Member => proto::TenantGroupRole::Member,
        GroupRole::Admin => proto::TenantGroupRole::Admin,
    };
    let outcome = match group.standing {
        Standing::Created => proto::TenantGroupOutcome::Created,
        Standing::Confirmed => proto::TenantGroupOutcome::Confirmed,
        // Such a group is never in an answer: the call was refused because of it.
        Standing::NotOurs | Standing::Deleted => proto::TenantGroupOutcome::Unspecified,
    };
    proto::TenantGroup {
        tenant_id: group.tenant_id.to_string(),
        tenant_slug: group.slug,
        role: role as i32,
        group_uuid: id(group.uuid),
        group_name: group.name,
        outcome: outcome as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The database and the contract say the same in different letters; a value that only one of them has would be lost.
    #[test]
    fn every_word_has_its_value_in_the_contract() {
        macro_rules! all {
            ($proto:ident, $prefix:literal, $words:ident) => {
                for word in enums::$words::ALL {
                    assert_ne!(code!($proto, $prefix, word), 0, "{word} is not in the contract");
                }
                let known = (1..200).filter(|number| proto::$proto::try_from(*number).is_ok()).count();
                assert_eq!(
                    known,
                    enums::$words::ALL.len(),
                    concat!(stringify!($proto), " has words that nothing stands for")
                );
            };
        }
        all!(ImportReason, "IMPORT_REASON", ImportReason);
        all!(ImportOutcome, "IMPORT_OUTCOME", ImportOutcome);
        all!(ItemReason, "ITEM_REASON", ItemReason);
        all!(ItemState, "ITEM_STATE", ItemState);
        all!(Forecast, "FORECAST", Forecast);
        all!(MigrationState, "MIGRATION_STATE", MigrationState);
        all!(MigrationKind, "MIGRATION_KIND", MigrationKind);
        all!(WaitReason, "WAIT_REASON", WaitReason);
        assert_eq!(migration_state(proto::MigrationState::Paused as i32).unwrap(), Some(enums::MigrationState::Paused));
        assert_eq!(migration_state(0).unwrap(), None);
        assert!(migration_state(99).is_err());
    }

    #[test]
    fn a_digest_is_read_back() {
        let bytes: Vec<u8> = (0..32).collect();
        assert_eq!(plan_digest(&HEXLOWER.encode(&bytes)).unwrap(), bytes);
        for broken in ["", "00", &"0".repeat(63), &"g".repeat(64), &"é".repeat(32)] {
            assert!(plan_digest(broken).is_err(), "{broken}");
        }
    }
}
