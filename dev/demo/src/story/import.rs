//! Imports the legacy users. Every verdict is compared with what the sample expects for its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use sidle::migration::legacy_file::{Format, read};
use sidle::proto::{
    ImportEnd, ImportHeader, ImportOutcome, ImportReason, ImportRow, ImportRows, ImportSummary, ImportUsersRequest,
    ImportVerdict, import_users_request, import_users_response,
};

use super::Demo;
use crate::Result;
use crate::client::{refused, word};
use crate::output::{self, fact, note};

/// Rows in a message.
const CHUNK: usize = 200;
/// Reasons from here on are remarks on accepted rows.
const FIRST_REMARK: i32 = ImportReason::NoPassword as i32;

/// What was found in a file: by reason the lines, and what can be done.
type Findings = BTreeMap<String, (BTreeSet<i64>, String)>;

/// Imports the files in order.
pub async fn files(demo: &mut Demo<'_>) -> Result<()> {
    let step = output::step(4, "The old user table comes in: ImportUsers");
    let mut hashes: BTreeMap<String, usize> = BTreeMap::new();
    let mut totals = ImportSummary::default();
    for file in demo.expected.files.clone() {
        let rows = rows_of(demo, &file)?;
        let (verdicts, summary) = import(demo, rows).await?;
        let findings = collect(&verdicts);
        show(&file, &summary, &findings);
        compare(demo, &file, &verdicts, &summary, &findings);
        for hash in summary.hashes.iter().filter(|hash| !hash.kind.is_empty()) {
            *hashes.entry(format!("{}{:02}$", hash.kind, hash.cost)).or_default() += usize::try_from(hash.users)?;
        }
        totals.rows += summary.rows;
        totals.accepted += summary.accepted;
        totals.refused += summary.refused;
    }
    let (expected, checks) = (&demo.expected.totals, &mut demo.checks);
    checks.number("rows in both files", expected.rows, usize::try_from(totals.rows)?);
    checks.number("users imported", expected.accepted, usize::try_from(totals.accepted)?);
    checks.number("rows refused", expected.refused, usize::try_from(totals.refused)?);
    checks.same("imported hashes by kind and cost", &demo.expected.hashes, &hashes);
    let kinds: Vec<String> = ["$2a$", "$2b$", "$2y$"].map(|kind| sum_of(&hashes, kind)).to_vec();
    fact("hashes by kind", kinds.join(", "));
    step.done();
    Ok(())
}

fn sum_of(hashes: &BTreeMap<String, usize>, kind: &str) -> String {
    let users: usize = hashes.iter().filter(|(hash, _)| hash.starts_with(kind)).map(|(_, users)| users).sum();
    format!("{users} {kind}")
}

fn rows_of(demo: &Demo<'_>, file: &str) -> Result<Vec<ImportRow>> {
    let path = demo.samples.join(file);
    let format = Format::of(&path).ok_or_else(|| format!("{file} is neither CSV nor JSON lines"))?;
    let opened = File::open(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let rows = read(opened, format).map_err(|e| format!("{file}: {e}"))?;
    rows.map(|row| Ok(row.map_err(|e| format!("{file}: {e}"))?.into())).collect()
}

async fn import(demo: &mut Demo<'_>, rows: Vec<ImportRow>) -> Result<(Vec<ImportVerdict>, ImportSummary)> {
    use import_users_request::Part;
    let header = ImportHeader {
        source: "legacy_users".to_owned(),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let end = ImportEnd { row_count: i64::try_from(rows.len())? };
    let mut parts = vec![Part::Header(header)];
    parts.extend(rows.chunks(CHUNK).map(|rows| Part::Rows(ImportRows { rows: rows.to_vec() })));
    parts.push(Part::End(end));
    let messages = tokio_stream::iter(parts.into_iter().map(|part| ImportUsersRequest { part: Some(part) }));
    // The caller of an import chooses passwords and roles: the administrator needs a step-up token.
    let messages = demo.proven("sidle.v1.MigrationService/ImportUsers", messages).await?;

    let answer = demo.admin.migration.import_users(messages).await.map_err(refused("ImportUsers"))?;
    let (mut answers, mut verdicts) = (answer.into_inner(), Vec::new());
    while let Some(message) = answers.message().await.map_err(refused("ImportUsers"))? {
        match message.part {
            Some(import_users_response::Part::Verdicts(some)) => verdicts.extend(some.verdicts),
            Some(import_users_response::Part::Summary(summary)) => return Ok((verdicts, summary)),
            None => {}
        }
    }
    Err("ImportUsers ended without a summary, so nothing was imported".into())
}

fn collect(verdicts: &[ImportVerdict]) -> Findings {
    let mut findings = Findings::new();
    for verdict in verdicts {
        for finding in &verdict.findings {
            let reason = word(finding.reason().as_str_name(), "IMPORT_REASON_");
            let entry = findings.entry(reason).or_default();
            entry.0.insert(verdict.line);
            entry.1.clone_from(&finding.remedy);
        }
    }
    findings
}

fn is_remark(reason: &str) -> bool {
    ImportReason::from_str_name(&format!("IMPORT_REASON_{reason}")).is_some_and(|r| r as i32 >= FIRST_REMARK)
}

fn show(file: &str, summary: &ImportSummary, findings: &Findings) {
    let what = format!("{} of {} rows imported, {} refused", summary.accepted, summary.rows, summary.refused);
    fact(file, what);
    for (reason, (lines, remedy)) in findings.iter().filter(|(reason, _)| !is_remark(reason)) {
        note(format!("  refused {:>2}  {reason:20}{}", lines.len(), list(lines)));
        note(format!("{:14}{remedy}", ""));
    }
    for (reason, (lines, _)) in findings.iter().filter(|(reason, _)| is_remark(reason)) {
        note(format!("  remark {:>3}  {reason:20}{}", lines.len(), list(lines)));
    }
}

/// `line 3`, `lines 3, 5, 9`, `lines 3, 5, 9, 12, ...`.
fn list(lines: &BTreeSet<i64>) -> String {
    let some: Vec<String> = lines.iter().take(5).map(ToString::to_string).collect();
    let more = if lines.len() > some.len() { ", ..." } else { "" };
    format!("{} {}{more}", if lines.len() == 1 { "line" } else { "lines" }, some.join(", "))
}

fn compare(demo: &mut Demo<'_>, file: &str, verdicts: &[ImportVerdict], summary: &ImportSummary, findings: &Findings) {
    let (expected, checks) = (&demo.expected, &mut demo.checks);
    let totals = &expected.totals_by_file[file];
    let of = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
    checks.same(&format!("{file}: rows"), &totals.rows, &of(summary.rows));
    checks.same(&format!("{file}: accepted"), &totals.accepted, &of(summary.accepted));
    checks.same(&format!("{file}: refused"), &totals.refused, &of(summary.refused));
    checks.same(&format!("{file}: a verdict for each row"), &totals.rows, &verdicts.len());
    let refused = verdicts.iter().filter(|verdict| verdict.outcome() == ImportOutcome::Refused).count();
    checks.same(&format!("{file}: verdicts that refuse"), &totals.refused, &refused);
    let counted: BTreeMap<String, usize> = findings
        .iter()
        .filter(|(reason, _)| !is_remark(reason))
        .map(|(reason, (lines, _))| (reason.clone(), lines.len()))
        .collect();
    checks.same(&format!("{file}: refusals by reason"), &totals.refused_by_reason, &counted);
    for (reason, rows) in expected.refused.iter().chain(&expected.remarks).filter(|(_, rows)| rows.rows.is_some()) {
        let found = findings.get(reason).map(|(lines, _)| lines.clone()).unwrap_or_default();
        checks.same(&format!("{file}: lines with {reason}"), &rows.lines_of(file), &found);
    }
    let refused_without_remedy = findings.iter().filter(|(reason, f)| !is_remark(reason) && f.1.is_empty()).count();
    checks.same(&format!("{file}: reasons without a remedy"), &0, &refused_without_remedy);
}
