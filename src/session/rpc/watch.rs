//! `WatchRevocations` on the wire.

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, try_unfold};
use sidle_token::{Revocation, Revoked};
use tonic::Status;

use crate::access::{Call, input};
use crate::audit::Log;
use crate::fault::{Fault, Result};
use crate::proto;
use crate::session::Sessions;
use crate::session::watch::{News, Watch};

/// What a cursor is for.
const METHOD: &str = "sidle.v1.SessionService/WatchRevocations";

/// The messages of one who watches; after an error there are no more.
pub(super) type Messages = BoxStream<'static, std::result::Result<proto::WatchRevocationsResponse, Status>>;

pub(super) async fn open(sessions: &Sessions, log: &Log, call: Call, cursor: &str) -> Result<Messages> {
    let mark = sessions.paging.decode(&call, METHOD, &(), cursor)?;
    let watch = sessions.watch(call.clone(), log, mark).await?;
    let sessions = sessions.clone();
    let messages = try_unfold((watch, sessions, call), |(mut watch, sessions, call): (Watch, _, _)| async move {
        let news = watch.next().await?;
        Ok(news.map(|news| (message(&sessions, &call, news), (watch, sessions, call))))
    });
    Ok(messages.map(|message| message.map_err(|fault: Fault| fault.into())).boxed())
}

fn message(sessions: &Sessions, call: &Call, news: News) -> proto::WatchRevocationsResponse {
    let cursor = news.mark.map(|mark| sessions.paging.encode(call, METHOD, &(), &mark));
    proto::WatchRevocationsResponse {
        revocations: news.revocations.into_iter().map(revocation).collect(),
        cursor: cursor.unwrap_or_default(),
        complete_until: news.complete_until.map(input::to_proto),
        caught_up: news.caught_up,
        bound: prost_types::Duration::try_from(sessions.verifier.revocation_bound()).ok(),
        sent_at: Some(input::to_proto(news.sent_at)),
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
