//! What the RPCs of the directory have in common: how one that changes something begins and ends, and pages of lists.

use prost::Message;
use uuid::Uuid;

use crate::access::input;
use crate::access::paging::{Paging, cut};
use crate::access::replay::Replay;
use crate::directory::{Change, Directory};
use crate::fault::Result;

/// `sidle.v1.DirectoryService`.
#[derive(Clone)]
pub struct Service {
    pub(super) directory: Directory,
    pub(super) paging: Paging,
}

impl Service {
    pub fn new(directory: Directory, paging: Paging) -> Self {
        Self { directory, paging }
    }
}

/// Begins a call that creates something: the handle to finish it with, and the first answer if it was made before. A
/// call that only validates is never a repeat, so that the real one may follow with the same id.
pub(in crate::directory) async fn repeated<A: Message + Default>(
    change: &mut Change<'_>,
    method: &'static str,
    request_id: &str,
    validate_only: bool,
    body: &impl Message,
) -> Result<(Option<Replay>, Option<A>)> {
    input::optional_uuid("request_id", request_id)?;
    if validate_only {
        return Ok((None, None));
    }
    let call = change.call;
    Replay::begin(&mut change.tx, call, method, request_id, body).await
}

/// Commits a change with its answer. One that was only to be validated is dropped instead: it has met every rule and
/// every constraint that the real one would.
pub(in crate::directory) async fn finish(
    mut change: Change<'_>,
    replay: Option<Replay>,
    validate_only: bool,
    answer: &impl Message,
) -> Result<()> {
    if validate_only {
        return Ok(());
    }
    Replay::finish(replay, &mut change.tx, answer).await?;
    change.commit().await
}

/// Cuts what was read with one entry too many to a page, and says where the next one begins.
pub(in crate::directory) fn page<T, P>(
    mut found: Vec<T>,
    size: i64,
    position: impl Fn(&T) -> P,
) -> (Vec<T>, Option<P>) {
    let next = cut(&mut found, size).map(position);
    (found, next)
}

/// The first id that a list can begin after.
pub(in crate::directory) const BEGINNING: Uuid = Uuid::nil();
