//! One open stream of progress: what it sends, when it shows that it lives, when its caller is no longer welcome.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Service, WATCH, convert};
use crate::access::Call;
use crate::fault::Result;
use crate::migration::jobs::{Seen, Watch};
use crate::proto::WatchMigrationResponse;

/// Longest time between two looks at whether the caller is still welcome.
const RECHECK: Duration = Duration::from_secs(5);

pub(super) struct Stream {
    service: Service,
    call: Call,
    migration_id: Uuid,
    watch: Watch,
    heartbeat: Duration,
    last_sent: Instant,
}

impl Stream {
    pub(super) fn new(service: Service, call: Call, migration_id: Uuid, watch: Watch, heartbeat: Duration) -> Self {
        let last_sent = service.context.clock.instant();
        Self { service, call, migration_id, watch, heartbeat, last_sent }
    }

    /// The messages; after an error there are no more.
    pub(super) fn messages(self) -> impl futures_util::Stream<Item = Result<WatchMigrationResponse>> + Send {
        futures_util::stream::try_unfold(self, |mut stream| async move {
            Ok(stream.next().await?.map(|message| (message, stream)))
        })
    }

    async fn next(&mut self) -> Result<Option<WatchMigrationResponse>> {
        loop {
            let seen = self.watch.next(self.heartbeat.saturating_sub(self.silence()).min(RECHECK)).await?;
            let welcome = self.service.verifier.recheck_call(&self.call);
            // Nobody is vouched for at that moment, and this is why.
            self.watch.ensure_current()?;
            welcome?;
            let (sight, is_heartbeat) = match seen {
                Seen::Step(sight) => (sight, false),
                Seen::End => return Ok(None),
                Seen::Nothing if self.silence() >= self.heartbeat => {
                    (self.watch.still(self.service.context.now()), true)
                }
                Seen::Nothing => continue,
            };
            self.last_sent = self.service.context.clock.instant();
            let cursor = self.service.paging.encode(&self.call, WATCH, &self.migration_id, &sight.cursor);
            return Ok(Some(convert::sight(&sight, cursor, is_heartbeat)));
        }
    }

    fn silence(&self) -> Duration {
        self.service.context.clock.instant().saturating_duration_since(self.last_sent)
    }
}
