//! `sidle users import`: a file's rows in, a verdict per row out.

mod verdicts;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

use self::verdicts::{Verdicts, reason};
use super::Global;
use super::connect::{Caller, random_id};
use super::failure::{Failure, Result, exit};
use super::output::{Out, dash};
use crate::migration::legacy_file::{self, Format};
use crate::proto::import_users_request::Part;
use crate::proto::import_users_response::Part as Answer;
use crate::proto::*;

/// Rows in one message.
const BATCH: usize = 500;

/// Imports legacy users. Nothing is imported unless the whole file could be read; rows that are refused never stop the
/// others. Importing a file again is harmless.
#[derive(Args)]
pub(super) struct Import {
    /// CSV with a line of column names (.csv), or one JSON object a line (.jsonl)
    file: PathBuf,
    /// Format, where the name of the file does not tell
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// Name of the system that the rows come from; with a row's id it recognises what was imported before
    #[arg(long, default_value = "legacy_users")]
    source: String,
    /// Slug or id of the tenant of rows that name none
    #[arg(long, default_value = "")]
    default_tenant: String,
    /// Which tenant a value in the file stands for; may be given several times
    #[arg(long = "tenant", value_name = "VALUE=SLUG", value_parser = pair)]
    tenants: Vec<(String, String)>,
    /// Role of rows that name none
    #[arg(long, default_value = "")]
    default_role: String,
    /// Which role a value in the file stands for; may be given several times
    #[arg(long = "role", value_name = "VALUE=ROLE", value_parser = pair)]
    roles: Vec<(String, String)>,
    /// What an inactive row means
    #[arg(long, value_enum, default_value_t = Inactive::Disabled)]
    inactive: Inactive,
    /// Answer everything as usual and import nothing
    #[arg(long)]
    dry_run: bool,
    /// List the remarks on imported rows as well, row by row
    #[arg(long)]
    remarks: bool,
}

/// How a file holds its rows.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum FileFormat {
    Csv,
    Jsonl,
}

/// What the old system meant by an inactive user.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Inactive {
    /// The user was disabled
    Disabled,
    /// The user never confirmed the address
    PendingVerification,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (value, meaning) = text.split_once('=').ok_or("must be VALUE=MEANING")?;
    Ok((value.to_owned(), meaning.to_owned()))
}

impl Import {
    pub async fn run(self, global: &Global, out: &Out) -> Result<ExitCode> {
        let format = match self.format {
            Some(FileFormat::Csv) => Format::Csv,
            Some(FileFormat::Jsonl) => Format::JsonLines,
            None => Format::of(&self.file).ok_or_else(|| {
                Failure::new(format!("the name of {} does not tell its format", self.file.display()))
                    .remedy("Say --format csv or --format jsonl.")
            })?,
        };
        let caller = Caller::open(global)?;
        let mut migration = caller.migration().await?;
        let header = self.header(&caller);
        let (mut proof, mut reopened) = (None, false);
        let mut verdicts = Verdicts::new(out, self.remarks);
        let summary = loop {
            let (sender, receiver) = mpsc::channel(4);
            let (path, header) = (self.file.clone(), header.clone());
            // Files are read where waiting is allowed; a full channel holds the reader back, so memory stays the same.
            let reader = tokio::task::spawn_blocking(move || send(&path, format, header, &sender));
            verdicts.restart();
            let answered = receive(&mut migration, receiver, proof.clone(), &mut verdicts, out).await;
            // A file that cannot be read ends the stream early, which the service refuses: the cause is the file.
            if let Ok(Err(failure)) = reader.await {
                return Err(failure);
            }
            match answered {
                // Asked for before the first row is looked at, so that nothing is sent twice in earnest.
                Err(asked) if proof.is_none() && asked.reason.as_deref() == Some("STEP_UP_REQUIRED") => {
                    proof = Some(caller.prove(&asked).await?);
                }
                // Refused before anything was read: opened again, for which the token that is refused is replaced.
                Err(refused)
                    if !verdicts.has_begun() && !reopened && refused.reason.as_deref() == Some("UNAUTHENTICATED") =>
                {
                    reopened = true;
                }
                answered => break answered?,
            }
        };
        report(&summary, out)?;
        verdicts.print_unknown()?;
        Ok(if summary.refused > 0 { ExitCode::from(exit::PARTLY) } else { ExitCode::SUCCESS })
    }

    fn header(&self, caller: &Caller) -> ImportHeader {
        let inactive = match self.inactive {
            Inactive::Disabled => InactiveMeaning::Disabled,
            Inactive::PendingVerification => InactiveMeaning::PendingVerification,
        };
        ImportHeader {
            source: self.source.clone(),
            request_id: random_id(&caller.context),
            validate_only: self.dry_run,
            tenants: self.tenants.iter().cloned().collect(),
            default_tenant: self.default_tenant.clone(),
            inactive_means: inactive.into(),
            roles: self.roles.iter().cloned().collect(),
            default_role: self.default_role.clone(),
        }
    }
}

/// Reads the file into messages. When the service has ended the call nothing is received any more, and its answer says why.
fn send(path: &Path, format: Format, header: ImportHeader, to: &mpsc::Sender<ImportUsersRequest>) -> Result<()> {
    let unreadable = |fault: legacy_file::FileFault| {
        Failure::new(format!("{}: {fault}", path.display()))
            .remedy("Mend the file and import it again; nothing of it was imported.")
    };
    let file = File::open(path).map_err(|e| Failure::new(format!("cannot open {}: {e}", path.display())))?;
    let rows = legacy_file::read(file, format).map_err(unreadable)?;
    let message = |part| ImportUsersRequest { part: Some(part) };
    if to.blocking_send(message(Part::Header(header))).is_err() {
        return Ok(());
    }
    let (mut batch, mut row_count) = (Vec::with_capacity(BATCH), 0);
    for row in rows {
        batch.push(row.map_err(unreadable)?.into());
        row_count += 1;
        if batch.len() == BATCH {
            let rows = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            if to.blocking_send(message(Part::Rows(ImportRows { rows }))).is_err() {
                return Ok(());
            }
        }
    }
    let last = (!batch.is_empty()).then(|| message(Part::Rows(ImportRows { rows: batch })));
    for part in last.into_iter().chain([message(Part::End(ImportEnd { row_count }))]) {
        if to.blocking_send(part).is_err() {
            break;
        }
    }
    Ok(())
}

type Migration = migration_service_client::MigrationServiceClient<super::connect::Authorized>;

/// Sends the rows and prints what was refused, as it is refused.
async fn receive(
    migration: &mut Migration,
    rows: mpsc::Receiver<ImportUsersRequest>,
    proof: Option<MetadataValue<Ascii>>,
    printed: &mut Verdicts<'_>,
    out: &Out,
) -> Result<ImportSummary> {
    let mut request = Request::new(ReceiverStream::new(rows));
    if let Some(proof) = proof {
        request.metadata_mut().insert("sidle-step-up", proof);
    }
    let mut answers = migration.import_users(request).await?.into_inner();
    let progress = progress(out);
    while let Some(answer) = answers.message().await? {
        printed.begin();
        match answer.part {
            Some(Answer::Verdicts(verdicts)) => {
                progress.inc(verdicts.verdicts.len() as u64);
                for verdict in verdicts.verdicts {
                    progress.suspend(|| printed.print(&verdict))?;
                }
            }
            Some(Answer::Summary(summary)) => {
                progress.finish_and_clear();
                return Ok(summary);
            }
            None => {}
        }
    }
    Err(Failure::new("the service ended the import without a summary; nothing was imported"))
}

fn progress(out: &Out) -> ProgressBar {
    if !out.is_watched() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {human_pos} rows, {rate}, {elapsed}");
    let progress = ProgressBar::new_spinner()
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()).with_key("rate", rate));
    progress.enable_steady_tick(Duration::from_millis(100));
    progress
}

/// Rows a second, as a whole number: more digits tell nothing.
fn rate(state: &ProgressState, to: &mut dyn std::fmt::Write) {
    // Nothing is lost when it cannot be shown.
    let _ = write!(to, "{:.0} rows/s", state.per_sec());
}

fn report(summary: &ImportSummary, out: &Out) -> Result<()> {
    if out.is_json() {
        return out.message_line(summary);
    }
    let imported = if summary.validated_only { "would be imported" } else { "imported" };
    out.facts(&[
        ("rows", summary.rows.to_string()),
        (imported, summary.accepted.to_string()),
        ("of these with remarks", summary.accepted_with_remarks.to_string()),
        ("imported before", summary.already_imported.to_string()),
        ("refused", summary.refused.to_string()),
        ("import", dash(&summary.import_id)),
        ("digest", summary.digest.clone()),
    ])?;
    if summary.reasons.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let rows = summary.reasons.iter().map(|count| vec![reason(count.reason), count.rows.to_string()]);
    out.table(&["FINDING", "ROWS"], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(file: &str, text: &[u8]) -> (Result<()>, Vec<Part>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        let (sender, mut receiver) = mpsc::channel(100);
        let result = send(&path, Format::of(&path).unwrap(), ImportHeader::default(), &sender);
        drop(sender);
        let parts = std::iter::from_fn(|| receiver.try_recv().ok()).filter_map(|message| message.part);
        (result, parts.collect())
    }

    #[test]
    fn a_file_becomes_a_header_rows_and_their_number() {
        let rows: String = (0..501).map(|n| format!("{n},user{n}@example.com\n")).collect();
        let (result, parts) = sent("users.csv", format!("id,email\n{rows}").as_bytes());
        assert!(result.is_ok());
        let sizes: Vec<usize> = parts
            .iter()
            .filter_map(|part| if let Part::Rows(rows) = part { Some(rows.rows.len()) } else { None })
            .collect();
        assert!(matches!(parts[0], Part::Header(_)));
        assert_eq!(sizes, [500, 1]);
        assert_eq!(parts.last(), Some(&Part::End(ImportEnd { row_count: 501 })));
    }

    #[test]
    fn a_file_that_is_cut_short_never_says_that_it_ended() {
        let (result, parts) = sent("users.jsonl", b"{\"email\":\"a@example.com\"}\n{\"email\":\"b@exa");
        assert!(result.unwrap_err().message.contains("line 2"));
        assert!(!parts.iter().any(|part| matches!(part, Part::End(_))));
    }
}
