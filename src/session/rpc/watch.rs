//! `WatchRevocations` on the wire.

use futures_util::stream::{Stream, StreamExt as _};
use sidle_token::{Revocation, Revoked};

use crate::access::{Call, input};
use crate::audit::Streams;
use crate::fault::Result;
use crate::proto;
use crate::session::Sessions;
use crate::session::watch::RevocationBatch;

/// What a cursor is for.
const METHOD: &str = "sidle.v1.SessionService/WatchRevocations";

pub(super) async fn open(
    sessions: &Sessions,
    streams: &Streams,
    call: Call,
    cursor: &str,
) -> Result<impl Stream<Item = Result<proto::WatchRevocationsResponse>> + use<>> {
    let mark = sessions.paging.decode(&call, METHOD, &(), cursor)?;
    let batches = sessions.watch(call.clone(), streams, mark).await?;
    let sessions = sessions.clone();
    Ok(batches.map(move |batch| Ok(message(&sessions, &call, batch?))))
}

fn message(sessions: &Sessions, call: &Call, batch: RevocationBatch) -> proto::WatchRevocationsResponse {
    let cursor = batch.mark.map(|mark| sessions.paging.encode(call, METHOD, &(), &mark));
    proto::WatchRevocationsResponse {
        revocations: batch.revocations.into_iter().map(revocation).collect(),
        cursor: cursor.unwrap_or_default(),
        complete_until: batch.complete_until.map(input::to_proto),
        caught_up: batch.caught_up,
        bound: prost_types::Duration::try_from(sessions.verifier.revocation_bound()).ok(),
        sent_at: Some(input::to_proto(batch.sent_at)),
    }
}

fn revocation(revocation: Revocation) -> proto::Revocation {
    use proto::revocation::Revoked as Wire;
    let revoked = match revocation.revoked {
        Revoked::Session(id) => Wire::SessionId(id.to_string()),
        Revoked::Key(id) => Wire::Kid(id.to_string()),
        Revoked::Principal(id, epoch) => Wire::Principal(proto::PrincipalRevocation {
            subject: id.to_string(),
            tokens_valid_from: Some(input::to_proto(epoch.time())),
        }),
    };
    proto::Revocation { revoked: Some(revoked), forget_after: Some(input::to_proto(revocation.forget_after)) }
}
