//! Following a migration: first where it stands, then its steps in the order of the log.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::step::{Step, TYPES};
use super::{Job, Jobs};
use crate::audit::{Filter, Follow, Log, Mark, Progress, Start};
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
}

/// What a watcher got for waiting.
#[derive(Clone, Debug)]
pub enum Seen {
    Step(ProgressUpdate),
    /// Nothing happened.
    Nothing,
    /// The migration has ended, or the replica shuts down.
    End,
}

/// A watcher of one migration.
pub struct Watch {
    follow: Follow,
    cursor: Cursor,
    last: Step,
    /// What the watcher has yet to be shown before anything else.
    first: Option<ProgressUpdate>,
    ended: bool,
}

impl Watch {
    /// Begins to follow `job`, as it was read before, from the cursor or from where it stands.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED`, `CURSOR_AHEAD`, `LOG_FORKED`.
    pub async fn begin(
        jobs: &Jobs,
        log: &Log,
        scope: Scope,
        migration_id: Uuid,
        cursor: Option<Cursor>,
    ) -> Result<Self> {
        // The log's end is read before the job: a step in between is in both, and its number shows that it was seen.
        let start = cursor.map_or(Start::Now, |cursor| Start::After(cursor.mark));
        let origin = log.resolve(start).await?;
        let job: Job = jobs.get(scope, migration_id).await?;
        let stands = Step::of(&job);
        let follow = log.follow(Filter::new(scope).types(&TYPES).target("migration", migration_id), origin);
        let cursor = cursor.unwrap_or(Cursor { mark: follow.mark(), step: -1 });
        let mut watch = Self {
            follow,
            ended: job.state.is_final() && cursor.step >= job.step,
            last: stands.clone(),
            first: None,
            cursor,
        };
        if cursor.step < 0 {
            watch.cursor.step = job.step;
            let occurred_at = job.ended_at.or(job.progressed_at).unwrap_or(job.created_at);
            watch.ended = false;
            watch.first = Some(ProgressUpdate { cursor: watch.cursor, step: stands, occurred_at });
        }
        Ok(watch)
    }

    /// What is seen next. Waits for a step for as long as `patience`; may be dropped while it waits.
    ///
    /// # Errors
    /// When the database fails; calling again goes on. `LOG_FORKED` when the log is another one.
    pub async fn next(&mut self, patience: Duration) -> Result<Seen> {
        if self.ended {
            return Ok(Seen::End);
        }
        if let Some(first) = self.first.take() {
            self.ended = first.step.state.is_final();
            return Ok(Seen::Step(first));
        }
        loop {
            // On the way to the live end there is always something to read, and a read that is cut short is lost.
            let progress = if self.follow.is_live() {
                tokio::select! {
                    progress = self.follow.progress() => progress?,
                    () = tokio::time::sleep(patience) => return Ok(Seen::Nothing),
                }
            } else {
                self.follow.progress().await?
            };
            let event = match progress {
                Progress::Event(event) => event,
                Progress::Further | Progress::Live => continue,
                Progress::End => return Ok(Seen::End),
            };
            let step = Step::read(&event)?;
            if step.step <= self.cursor.step {
                continue;
            }
            self.cursor = Cursor { mark: self.follow.mark(), step: step.step };
            self.ended = step.state.is_final();
            self.last = step.clone();
            return Ok(Seen::Step(ProgressUpdate { cursor: self.cursor, step, occurred_at: event.occurred_at }));
        }
    }

    /// Whether the log is still the one that is followed.
    ///
    /// # Errors
    /// `LOG_FORKED`.
    pub fn ensure_current(&self) -> Result<()> {
        self.follow.ensure_current()
    }

    /// Where the migration stood when something was last seen, for a heartbeat.
    pub fn still(&mut self, now: DateTime<Utc>) -> ProgressUpdate {
        // Others' events were passed by, so that a resumed watcher need not read them again.
        self.cursor.mark = self.follow.mark();
        let step = Step { finished: 0, failures: Vec::new(), ..self.last.clone() };
        ProgressUpdate { cursor: self.cursor, step, occurred_at: now }
    }
}
