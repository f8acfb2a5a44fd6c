//! Following a migration: first where it stands, then its steps in the order of the log.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::stream::Stream;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Jobs;
use super::step::{Step, TYPES};
use crate::access::Call;
use crate::access::live::Heartbeat;
use crate::audit::{Content, Filter, Follow, Mark, Reaction, Start, StoredEvent, Streams};
use crate::context::Clock;
use crate::db::Scope;
use crate::fault::Result;

/// Where a watcher resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Everything in the log up to this event was seen.
    pub mark: Mark,
    /// The last step that was seen.
    pub step: i64,
}

/// What a watcher sees.
#[derive(Clone, Debug)]
pub struct ProgressUpdate {
    /// Where to go on after it.
    pub cursor: Cursor,
    pub step: Step,
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
    /// Whether nothing happened.
    pub is_heartbeat: bool,
}

/// What a watcher of one migration is sent. It is complete when the migration has ended.
struct Watch {
    clock: Clock,
    cursor: Cursor,
    last: Step,
    /// What the watcher has yet to be shown before anything else.
    first: Option<ProgressUpdate>,
    ended: bool,
}

impl Jobs {
    /// Follows a migration, from the cursor or from where it stands.
    ///
    /// # Errors
    /// `NOT_FOUND`, `CURSOR_EXPIRED`, `CURSOR_AHEAD`, `LOG_FORKED`.
    pub(in crate::migration) async fn watch(
        &self,
        call: Call,
        streams: &Streams,
        scope: Scope,
        migration_id: Uuid,
        cursor: Option<Cursor>,
        heartbeat: Duration,
    ) -> Result<impl Stream<Item = Result<ProgressUpdate>> + Send + use<>> {
        // The log's end is read before the job: a step in between is in both, and its number shows that it was seen.
        let start = cursor.map_or(Start::Now, |cursor| Start::After(cursor.mark));
        let origin = streams.log().resolve(start).await?;
        let job = self.get(scope, migration_id).await?;
        let follow = streams.log().follow(Filter::new(scope).types(&TYPES).target("migration", migration_id), origin);
        let clock = self.context.clock.clone();
        let mut watch = Watch {
            ended: cursor.is_some_and(|cursor| job.state.is_final() && cursor.step >= job.step),
            cursor: cursor.unwrap_or(Cursor { mark: follow.mark(), step: job.step }),
            last: Step::of(&job),
            first: None,
            clock: clock.clone(),
        };
        if cursor.is_none() {
            let occurred_at = job.ended_at.or(job.progressed_at).unwrap_or(job.created_at);
            watch.first = Some(watch.update(occurred_at));
        }
        Ok(streams.open(call, Heartbeat::new(clock, heartbeat), follow, watch))
    }
}

impl Watch {
    /// That the last step happened.
    fn update(&self, occurred_at: DateTime<Utc>) -> ProgressUpdate {
        ProgressUpdate { cursor: self.cursor, step: self.last.clone(), occurred_at, is_heartbeat: false }
    }
}

impl Content for Watch {
    type Message = ProgressUpdate;

    fn opening(&mut self, _: &Follow) -> Option<ProgressUpdate> {
        let first = self.first.take()?;
        self.ended = first.step.state.is_final();
        Some(first)
    }

    fn event(&mut self, event: &StoredEvent, follow: &Follow) -> Result<Reaction<ProgressUpdate>> {
        let step = Step::read(event)?;
        if step.step <= self.cursor.step {
            return Ok(Reaction::Skip);
        }
        self.cursor = Cursor { mark: follow.mark(), step: step.step };
        self.ended = step.state.is_final();
        self.last = step;
        Ok(Reaction::Send(self.update(event.occurred_at)))
    }

    /// Where the migration stood when something was last seen. None before a resumed watcher has been sent the steps up to
    /// where the migration stood then: they come first, with their failures.
    fn heartbeat(&mut self, follow: &Follow) -> Option<ProgressUpdate> {
        if self.cursor.step < self.last.step {
            return None;
        }
        // Others' events were passed by, so that a resumed watcher need not read them again.
        self.cursor.mark = follow.mark();
        let step = Step { finished: 0, failures: Vec::new(), ..self.last.clone() };
        Some(ProgressUpdate { step, is_heartbeat: true, ..self.update(self.clock.now()) })
    }

    fn is_complete(&self) -> bool {
        self.ended
    }
}
