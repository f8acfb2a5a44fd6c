//! What is printed of the verdicts of an import: rows that were refused, remarks where they are asked for, and the values
//! that stand for no tenant or role, each with the option that maps it.

use std::collections::BTreeMap;

use crate::cli::failure::Result;
use crate::cli::output::{Out, word};
use crate::proto::{ImportFinding, ImportOutcome, ImportReason, ImportVerdict};

/// Most different values that are listed after an import.
const MOST_VALUES: usize = 50;
/// Most different values that are counted: a file may have one in every row.
const MOST_COUNTED: usize = 10_000;

/// Prints verdicts as they come, and remembers what the options could map.
pub(super) struct Verdicts<'a> {
    out: &'a Out,
    with_remarks: bool,
    /// Rows by option and the value that stands for nothing.
    unknown: BTreeMap<(&'static str, String), u64>,
    has_more_values: bool,
    has_begun: bool,
}

impl<'a> Verdicts<'a> {
    pub fn new(out: &'a Out, with_remarks: bool) -> Self {
        Self { out, with_remarks, unknown: BTreeMap::new(), has_more_values: false, has_begun: false }
    }

    /// Prints a row that was refused, or remarked on where remarks are asked for: its line, what it is found by, what was
    /// found, what to do.
    pub fn print(&mut self, verdict: &ImportVerdict) -> Result<()> {
        self.count_unknown(verdict);
        let what = match verdict.outcome() {
            ImportOutcome::Refused => "refused",
            ImportOutcome::AcceptedWithRemarks if self.with_remarks => "imported",
            _ => return Ok(()),
        };
        if self.out.is_json() {
            return self.out.message_line(verdict);
        }
        let row = row(verdict);
        verdict.findings.iter().try_for_each(|finding| {
            self.out.line(&format!("{row}: {what}, {}. {}", finding_text(finding), remedy(finding)))
        })
    }

    /// Forgets what was counted, as when the rows are sent again.
    pub fn restart(&mut self) {
        self.unknown.clear();
        self.has_more_values = false;
        self.has_begun = false;
    }

    /// Notes that the service answers: what was sent is being read.
    pub fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Whether the service has answered anything since the rows were sent.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    fn count_unknown(&mut self, verdict: &ImportVerdict) {
        for finding in &verdict.findings {
            let Some(option) = mapping_option(finding) else { continue };
            let key = (option, finding.detail.clone());
            if self.unknown.len() < MOST_COUNTED || self.unknown.contains_key(&key) {
                *self.unknown.entry(key).or_default() += 1;
            } else {
                self.has_more_values = true;
            }
        }
    }

    /// After the summary: each value that stands for no tenant or role, and the option that maps it.
    pub fn print_unknown(&self) -> Result<()> {
        if self.unknown.is_empty() || self.out.is_json() {
            return Ok(());
        }
        let mut values: Vec<_> = self.unknown.iter().collect();
        values.sort_by_key(|(_, rows)| std::cmp::Reverse(**rows));
        let is_cut = self.has_more_values || values.len() > MOST_VALUES;
        values.truncate(MOST_VALUES);
        let rows = values.into_iter().map(|((option, value), rows)| {
            let field = if *option == "--tenant" { "tenant" } else { "role" };
            vec![field.to_owned(), value.clone(), rows.to_string(), mapping(option, value)]
        });
        self.out.line("")?;
        self.out.table(&["UNKNOWN", "VALUE", "ROWS", "MAP IT WITH"], rows.collect())?;
        if is_cut {
            self.out.note("There are more unknown values; these are the most frequent ones.");
        }
        Ok(())
    }
}

/// The row's line, and what people find it by.
fn row(verdict: &ImportVerdict) -> String {
    let id = if verdict.legacy_id.is_empty() { String::new() } else { format!("id {}", verdict.legacy_id) };
    let names: Vec<&str> = [id.as_str(), &verdict.email].into_iter().filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return format!("line {}", verdict.line);
    }
    format!("line {} ({})", verdict.line, names.join(", "))
}

/// What was found, in which field, and what exactly.
fn finding_text(finding: &ImportFinding) -> String {
    let mut text = reason(finding.reason);
    if !finding.field.is_empty() {
        text = format!("{text} ({})", finding.field);
    }
    match (finding.reason(), finding.detail.is_empty()) {
        (_, true) => text,
        (ImportReason::Unreadable, false) if !finding.field.is_empty() => {
            format!("{}: {} {}", reason(finding.reason), finding.field, finding.detail)
        }
        (ImportReason::Unreadable | ImportReason::ValueTooLong, false) => format!("{text}: {}", finding.detail),
        _ => format!("{text}: {:?}", finding.detail),
    }
}

pub(super) fn reason(reason: i32) -> String {
    word(reason, ImportReason::as_str_name, "IMPORT_REASON_")
}

/// The option that says what a value stands for.
fn mapping_option(finding: &ImportFinding) -> Option<&'static str> {
    match finding.reason() {
        ImportReason::UnknownTenant => Some("--tenant"),
        ImportReason::UnknownRole => Some("--role"),
        _ => None,
    }
}

fn mapping(option: &str, value: &str) -> String {
    let meaning = if option == "--tenant" { "SLUG" } else { "ROLE" };
    format!("{option} {}", quoted(&format!("{value}={meaning}")))
}

/// What can be done, in this command's own terms.
fn remedy(finding: &ImportFinding) -> String {
    match (finding.reason(), mapping_option(finding)) {
        (ImportReason::UnknownTenant, Some(option)) => {
            format!("Create the tenant, or map the value: {}.", mapping(option, &finding.detail))
        }
        (ImportReason::UnknownRole, Some(option)) => format!(
            "Create the role, or map the value: {}; platform roles are given by an administrator.",
            mapping(option, &finding.detail)
        ),
        (ImportReason::TenantMissing, _) => {
            "Name the tenant in the row, or one for all such rows: --default-tenant SLUG.".to_owned()
        }
        _ => finding.remedy.clone(),
    }
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-@:/=+".contains(c);
    if argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(reason: ImportReason, field: &str, detail: &str) -> ImportFinding {
        let (field, detail, remedy) = (field.to_owned(), detail.to_owned(), "Correct it.".to_owned());
        ImportFinding { reason: reason.into(), field, remedy, detail }
    }

    #[test]
    fn a_row_is_named_by_line_id_and_address() {
        let named = |legacy_id: &str, email: &str| {
            row(&ImportVerdict { line: 7, legacy_id: legacy_id.into(), email: email.into(), ..Default::default() })
        };
        assert_eq!(named("42", "ann@a.example"), "line 7 (id 42, ann@a.example)");
        assert_eq!(named("", "ann@a.example"), "line 7 (ann@a.example)");
        assert_eq!(named("42", ""), "line 7 (id 42)");
        assert_eq!(named("", ""), "line 7");
    }

    #[test]
    fn a_finding_says_which_field_and_why() {
        let text = |reason, field, detail| finding_text(&finding(reason, field, detail));
        assert_eq!(
            text(ImportReason::Unreadable, "created_at", "is not a time"),
            "unreadable: created_at is not a time"
        );
        assert_eq!(text(ImportReason::Unreadable, "", "no JSON object"), "unreadable: no JSON object");
        assert_eq!(text(ImportReason::EmailTaken, "email", ""), "email_taken (email)");
        assert_eq!(
            text(ImportReason::ValueTooLong, "full_name", "at most 256 characters"),
            "value_too_long (full_name): at most 256 characters"
        );
        assert_eq!(text(ImportReason::UnknownRole, "role", "boss"), "unknown_role (role): \"boss\"");
    }

    #[test]
    fn an_unknown_value_comes_with_the_option_that_maps_it() {
        let told = |reason, detail| remedy(&finding(reason, "", detail));
        assert!(told(ImportReason::UnknownTenant, "hafen").contains("--tenant hafen=SLUG."));
        assert!(told(ImportReason::UnknownTenant, "Haus am See").contains("--tenant 'Haus am See=SLUG'."));
        assert!(told(ImportReason::UnknownRole, "it's").contains(r"--role 'it'\''s=ROLE';"));
        assert_eq!(told(ImportReason::EmailTaken, ""), "Correct it.");
    }
}
