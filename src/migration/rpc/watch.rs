//! One open stream of progress: what it sends, when a heartbeat is due, when its caller is no longer authorised.

use uuid::Uuid;

use super::convert;
use crate::access::Call;
use crate::access::live::{Admission, Heartbeat, RECHECK};
use crate::access::paging::Paging;
use crate::context::Context;
use crate::fault::Result;
use crate::migration::jobs::{Seen, Watch};
use crate::proto::WatchMigrationResponse;

/// The method that cursors belong to.
pub(super) const WATCH: &str = "WatchMigration";

pub(super) struct Stream {
    pub context: Context,
    pub paging: Paging,
    pub admission: Admission,
    pub heartbeat: Heartbeat,
    pub call: Call,
    pub migration_id: Uuid,
    pub watch: Watch,
}

impl Stream {
    /// The messages; after an error there are no more.
    pub(super) fn messages(self) -> impl futures_util::Stream<Item = Result<WatchMigrationResponse>> + Send {
        futures_util::stream::try_unfold(self, |mut stream| async move {
            Ok(stream.next().await?.map(|message| (message, stream)))
        })
    }

    async fn next(&mut self) -> Result<Option<WatchMigrationResponse>> {
        loop {
            let seen = self.watch.next(self.heartbeat.left().min(RECHECK)).await?;
            let welcome = self.admission.recheck(&self.call);
            // No token is accepted at that moment, and this is why.
            self.watch.ensure_current()?;
            welcome?;
            let (update, is_heartbeat) = match seen {
                Seen::Step(update) => (update, false),
                Seen::End => return Ok(None),
                Seen::Nothing if self.heartbeat.is_due() => (self.watch.still(self.context.now()), true),
                Seen::Nothing => continue,
            };
            self.heartbeat.sent();
            let cursor = self.paging.encode(&self.call, WATCH, &self.migration_id, &update.cursor);
            return Ok(Some(convert::update(&update, cursor, is_heartbeat)));
        }
    }
}
