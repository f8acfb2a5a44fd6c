//! Importing, planning and migrating over gRPC: tests that need no Kanidm, and helpers that the tests with one share.

mod contention;
mod import;
mod refusals;
mod watch;

use futures_util::StreamExt as _;
use sidle::proto::import_users_request::Part;
use sidle::proto::import_users_response::Part as Answer;
use sidle::proto::*;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::support::{Client, cheap_hash, within};

/// All answers of an import.
#[derive(Debug)]
pub struct Imported {
    pub verdicts: Vec<ImportVerdict>,
    pub summary: ImportSummary,
}

impl Imported {
    pub fn verdict(&self, line: i64) -> &ImportVerdict {
        self.verdicts.iter().find(|verdict| verdict.line == line).expect("a verdict for the line")
    }

    /// Names of the findings of a line.
    pub fn reasons(&self, line: i64) -> Vec<&'static str> {
        let findings = &self.verdict(line).findings;
        findings.iter().map(|f| f.reason().as_str_name().trim_start_matches("IMPORT_REASON_")).collect()
    }
}

/// A header for rows of the tenant with this slug.
pub fn header(slug: &str) -> ImportHeader {
    ImportHeader {
        source: "legacy".to_owned(),
        request_id: uuid::Uuid::new_v4().to_string(),
        default_tenant: slug.to_owned(),
        ..Default::default()
    }
}

/// A good row.
pub fn row(line: i64, email: &str) -> ImportRow {
    ImportRow {
        line,
        legacy_id: line.to_string(),
        email: email.to_owned(),
        full_name: format!("Person {line}"),
        password_hash: cheap_hash("a legacy password"),
        ..Default::default()
    }
}

/// The messages of a complete import.
pub fn messages(header: ImportHeader, rows: Vec<ImportRow>) -> Vec<ImportUsersRequest> {
    let row_count = i64::try_from(rows.len()).unwrap();
    let rows = rows.chunks(300).map(|rows| Part::Rows(ImportRows { rows: rows.to_vec() }));
    [Part::Header(header)]
        .into_iter()
        .chain(rows)
        .chain([Part::End(ImportEnd { row_count })])
        .map(|part| ImportUsersRequest { part: Some(part) })
        .collect()
}

/// Sends messages, with a fresh step-up token where one is required, closes the stream, and reads the answers.
pub async fn send(client: &Client, messages: Vec<ImportUsersRequest>) -> Result<Imported, Status> {
    match send_once(client, messages.clone(), "").await {
        Err(status) if reason(&status) == "STEP_UP_REQUIRED" => {
            let proof = client.prove(IMPORT, "").await;
            send_once(client, messages, &proof).await
        }
        answer => answer,
    }
}

/// Name of the RPC, as step-up tokens name it.
pub const IMPORT: &str = "sidle.v1.MigrationService/ImportUsers";

/// As [`send`], with this step-up token; none for the empty one.
pub async fn send_once(client: &Client, messages: Vec<ImportUsersRequest>, proof: &str) -> Result<Imported, Status> {
    let mut client = client.migration.clone();
    let request = crate::support::server::with_proof(tokio_stream::iter(messages), proof);
    let mut answers = client.import_users(request).await?.into_inner();
    let (mut verdicts, mut summary) = (Vec::new(), None);
    within("the import ends", async {
        while let Some(answer) = answers.next().await {
            match answer?.part.expect("a part") {
                Answer::Verdicts(some) => verdicts.extend(some.verdicts),
                Answer::Summary(one) => summary = Some(one),
            }
        }
        Ok::<_, Status>(())
    })
    .await?;
    Ok(Imported { verdicts, summary: summary.expect("a summary at the end") })
}

/// Imports rows.
pub async fn import(client: &Client, header: ImportHeader, rows: Vec<ImportRow>) -> Result<Imported, Status> {
    send(client, messages(header, rows)).await
}

/// The reason of a refusal.
pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}
