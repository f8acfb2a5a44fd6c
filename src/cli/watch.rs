//! Following a migration until it ends, across broken connections and restarts of the service.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tonic::{Status, Streaming};

use super::connect::Caller;
use super::failure::{Failure, Result, exit, is_of_another_log, is_passing};
use super::lookup::pages;
use super::output::{Out, dash, time, word};
use crate::proto::*;

/// How long a stream is retried before giving up.
const RETRY_LIMIT: Duration = Duration::from_secs(120);

/// Bounds how long to retry.
pub(super) struct Backoff {
    waited: Duration,
    pause: Duration,
    reopened: bool,
}

impl Backoff {
    pub fn new() -> Self {
        Self { waited: Duration::ZERO, pause: Duration::from_millis(250), reopened: false }
    }

    /// A message came: retries begin anew.
    pub fn restore(&mut self) {
        *self = Self::new();
    }

    /// Whether to open the stream again whose caller was refused: once, until something came.
    pub fn may_reopen(&mut self) -> bool {
        !std::mem::replace(&mut self.reopened, true)
    }

    /// Waits before another retry, longer each time.
    pub async fn pause(&mut self, why: Option<Status>, out: &Out) -> Result<()> {
        if let Some(status) = why {
            if self.waited > RETRY_LIMIT {
                return Err(status.into());
            }
            if self.waited.is_zero() {
                out.note("The connection broke; going on where it was as soon as the service answers.");
            }
        }
        tokio::time::sleep(self.pause).await;
        self.waited += self.pause;
        self.pause = (self.pause * 2).min(Duration::from_secs(5));
        Ok(())
    }
}

/// The next message of a stream, none at its end. A connection that went silent is as good as broken.
pub(super) async fn next_message<T>(stream: &mut Streaming<T>) -> std::result::Result<Option<T>, Status> {
    let next = tokio::time::timeout(Duration::from_secs(30), stream.message()).await;
    next.unwrap_or_else(|_| Err(Status::unavailable("nothing came for 30 seconds")))
}

/// Follows a migration to its end; shows how it went, and whom it could not move.
pub(super) async fn watch(caller: &Caller, migration_id: &str, out: &Out) -> Result<u8> {
    let mut screen = Screen::new(out);
    let mut cursor = String::new();
    let mut backoff = Backoff::new();
    while !screen.is_over() {
        let request = WatchMigrationRequest {
            migration_id: migration_id.to_owned(),
            cursor: cursor.clone(),
            heartbeat_interval: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        };
        let ended = match caller.migration().await?.watch_migration(request).await {
            Ok(stream) => screen.follow(stream.into_inner(), &mut cursor, &mut backoff).await?,
            Err(status) => Some(status),
        };
        match ended {
            // A stream that ends by itself has nothing more to report: the migration is over.
            None if screen.is_over() => break,
            // Opened again, for which a token that is refused is replaced: only who cannot open one is not authorised.
            Some(status) if status.code() == tonic::Code::Unauthenticated && backoff.may_reopen() => {}
            // The log was replaced by an earlier state: what counts is where the migration stands now.
            Some(status) if is_of_another_log(&status) && !cursor.is_empty() => cursor.clear(),
            Some(status) if !is_passing(&status) => return Err(Failure::from(status)),
            ended => backoff.pause(ended, out).await?,
        }
        // The last message may have been seen before the connection broke: ask where the migration stands.
        screen.settle(caller, migration_id).await?;
    }
    screen.close();
    report(caller, migration_id, out).await
}

fn is_final(state: i32) -> bool {
    [MigrationState::Completed, MigrationState::Cancelled].map(i32::from).contains(&state)
}

/// What is shown while it goes on: a bar for people, lines for files, JSON for programs.
struct Screen<'a> {
    out: &'a Out,
    bar: ProgressBar,
    last: Option<(i64, i32, i32)>,
    over: bool,
}

impl<'a> Screen<'a> {
    fn new(out: &'a Out) -> Self {
        let bar = if out.is_watched() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} users  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { out, bar, last: None, over: false }
    }

    fn is_over(&self) -> bool {
        self.over
    }

    /// Shows messages until the stream ends; gives why it broke, if it did.
    async fn follow(
        &mut self,
        mut stream: Streaming<WatchMigrationResponse>,
        cursor: &mut String,
        backoff: &mut Backoff,
    ) -> Result<Option<Status>> {
        loop {
            match next_message(&mut stream).await {
                Ok(Some(message)) => {
                    backoff.restore();
                    cursor.clone_from(&message.cursor);
                    self.show(&message)?;
                }
                Ok(None) => return Ok(None),
                Err(status) => return Ok(Some(status)),
            }
        }
    }

    fn show(&mut self, message: &WatchMigrationResponse) -> Result<()> {
        self.over = is_final(message.state);
        if self.out.is_json() {
            return self.out.message_line(message);
        }
        let counts = message.counts.unwrap_or_default();
        let finished = counts.done + counts.failed + counts.skipped;
        let waiting = match message.waiting_for {
            0 => String::new(),
            reason => format!(", waiting: {}", word(reason, WaitReason::as_str_name, "WAIT_REASON_")),
        };
        let text = format!(
            "{} done, {} failed, {} skipped, {:.0}/s{waiting}",
            counts.done, counts.failed, counts.skipped, message.items_per_second
        );
        self.bar.set_length(u64::try_from(counts.total).unwrap_or_default());
        self.bar.set_position(u64::try_from(finished).unwrap_or_default());
        self.bar.set_message(text.clone());
        let now = (message.step, message.state, message.waiting_for);
        if self.bar.is_hidden() && self.last != Some(now) {
            let state = word(message.state, MigrationState::as_str_name, "MIGRATION_STATE_");
            let at = time(message.occurred_at.as_ref());
            self.out.line(&format!("{at}  {state}  {finished}/{}  {text}", counts.total))?;
        }
        self.last = Some(now);
        Ok(())
    }

    /// Looks whether the migration has ended meanwhile.
    async fn settle(&mut self, caller: &Caller, migration_id: &str) -> Result<()> {
        if self.over {
            return Ok(());
        }
        let request = GetMigrationRequest { migration_id: migration_id.to_owned() };
        match caller.migration().await?.get_migration(request).await {
            Ok(answer) => self.over = answer.into_inner().migration.is_some_and(|migration| is_final(migration.state)),
            Err(status) if is_passing(&status) => {}
            Err(status) => return Err(status.into()),
        }
        Ok(())
    }

    fn close(&self) {
        self.bar.finish_and_clear();
    }
}

/// The end: the numbers, then each user who was not moved, why, and what to do.
async fn report(caller: &Caller, migration_id: &str, out: &Out) -> Result<u8> {
    let request = GetMigrationRequest { migration_id: migration_id.to_owned() };
    let migration = caller.migration().await?.get_migration(request).await?.into_inner().migration.unwrap_or_default();
    let counts = migration.counts.unwrap_or_default();
    if out.is_json() {
        out.message_line(&migration)?;
    } else {
        out.line(&format!(
            "{}: {} users, {} done, {} failed, {} skipped",
            word(migration.state, MigrationState::as_str_name, "MIGRATION_STATE_"),
            counts.total,
            counts.done,
            counts.failed,
            counts.skipped,
        ))?;
    }
    if counts.failed > 0 {
        let states = vec![ItemState::Failed.into(), ItemState::NeedsReview.into()];
        items(caller, migration_id, states, usize::MAX, out).await?;
        return Ok(exit::PARTLY);
    }
    Ok(0)
}

/// Prints items of a migration.
pub(super) async fn items(
    caller: &Caller,
    migration_id: &str,
    states: Vec<i32>,
    limit: usize,
    out: &Out,
) -> Result<()> {
    let (items, more) = pages(limit, |page_size, page_token| {
        let (migration_id, states) = (migration_id.to_owned(), states.clone());
        let request = ListMigrationItemsRequest { migration_id, states, reasons: Vec::new(), page_size, page_token };
        async move {
            let answer = caller.migration().await?.list_migration_items(request).await?.into_inner();
            Ok((answer.items, answer.next_page_token))
        }
    })
    .await?;
    out.list(&items, &["USER", "E-MAIL", "PERSON", "STATE", "REASON", "REMEDY"], |item| {
        vec![
            item.user_id.clone(),
            item.email.clone(),
            dash(item.person.as_ref().map_or("", |person| person.name.as_str())),
            word(item.state, ItemState::as_str_name, "ITEM_STATE_"),
            if item.reason == 0 { "-".to_owned() } else { item_reason(item.reason) },
            dash(&item.remedy),
        ]
    })?;
    out.more(more);
    Ok(())
}

/// The name of an item's reason.
pub(super) fn item_reason(reason: i32) -> String {
    word(reason, ItemReason::as_str_name, "ITEM_REASON_")
}
