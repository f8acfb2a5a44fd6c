//! The stream of an import: the order of its messages, and answers that never pile up.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Service, convert};
use crate::access::Call;
use crate::access::status::fault;
use crate::correlation;
use crate::fault::{Fault, Reason, Result};
use crate::migration::import::{Import, Row, unreadable};
use crate::proto::import_users_request::Part;
use crate::proto::import_users_response::Part as Answer;
use crate::proto::{ImportUsersRequest, ImportUsersResponse, ImportVerdicts};

/// How long an import waits for its client at most: for the next message, and for an answer to be taken. It holds locks that
/// others may wait for.
const PATIENCE: Duration = Duration::from_secs(45);
/// Rows in one message at most.
const LARGEST: usize = 5_000;
/// Answers that may wait for the client to read them; then the import waits as well.
const BACKLOG: usize = 8;

/// The answers to an import. It goes on when its client disconnects, until it has noticed that.
pub(super) async fn open(
    service: &Service,
    call: Call,
    stream: Streaming<ImportUsersRequest>,
) -> Result<ReceiverStream<Result<ImportUsersResponse>>> {
    let (answers, received) = mpsc::channel(BACKLOG);
    let service = service.clone();
    correlation::spawn(async move {
        if let Err(fault) = run(service, call, stream, &answers).await {
            // Without a receiver it cannot be reported.
            let _ = answers.send(Err(fault)).await;
        }
    });
    Ok(ReceiverStream::new(received))
}

/// Imports what comes in, and reports what becomes of it. When the client disconnects, sending fails and the import ends
/// without a commit.
async fn run(
    service: Service,
    call: Call,
    mut stream: Streaming<ImportUsersRequest>,
    answers: &mpsc::Sender<Result<ImportUsersResponse>>,
) -> Result<()> {
    // Less than the database waits, so that the client is told why it ended.
    let patience = PATIENCE.min(service.core.db.idle_in_transaction_timeout() / 4 * 3);
    // Rights may end while the import waits for its client.
    let caller = service.streams.caller(call);
    let Some(Part::Header(header)) = caller.after(next(&mut stream, patience)).await? else {
        return Err(unreadable("The first message of an import must be its header."));
    };
    let header = convert::header(header)?;
    let validate_only = header.validate_only;
    let mut import = Import::begin(&service.core, &service.step_ups, &caller.call, header).await?;
    loop {
        match caller.after(next(&mut stream, patience)).await? {
            Some(Part::Rows(rows)) if rows.rows.len() > LARGEST => {
                return Err(Fault::field("rows", format!("must be at most {LARGEST} in a message")));
            }
            Some(Part::Rows(rows)) => {
                let rows: Vec<Row> = rows.rows.into_iter().map(convert::row).collect();
                let verdicts = import.add(&rows).await?.into_iter().map(convert::verdict).collect();
                send(answers, Answer::Verdicts(ImportVerdicts { verdicts }), patience).await?;
            }
            Some(Part::End(end)) => {
                let summary = import.finish(end.row_count).await?;
                return send(answers, Answer::Summary(convert::summary(summary, validate_only)), patience).await;
            }
            Some(Part::Header(_)) => return Err(unreadable("An import has one header, in its first message.")),
            None => return Err(unreadable("The stream ended without the message that says that it is complete.")),
        }
    }
}

/// The next message; none at the end of the stream.
async fn next(stream: &mut Streaming<ImportUsersRequest>, patience: Duration) -> Result<Option<Part>> {
    match tokio::time::timeout(patience, stream.message()).await {
        Err(_) => Err(late("The import waited too long for its next message.")),
        Ok(Err(status)) => Err(fault(&status).unwrap_or_else(|| unreadable("The stream broke.").because(status))),
        Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(message))) => match message.part {
            Some(part) => Ok(Some(part)),
            None => Err(unreadable("A message of the stream holds neither header nor rows nor end.")),
        },
    }
}

async fn send(answers: &mpsc::Sender<Result<ImportUsersResponse>>, part: Answer, patience: Duration) -> Result<()> {
    let answer = ImportUsersResponse { part: Some(part) };
    match tokio::time::timeout(patience, answers.send(Ok(answer))).await {
        Err(_) => Err(late("The import waited too long for its client to read the answers.")),
        Ok(sent) => sent.map_err(|_| unreadable("The client went away.")),
    }
}

fn late(text: &'static str) -> Fault {
    Fault::new(Reason::DeadlineExceeded, text)
}
