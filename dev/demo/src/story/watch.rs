//! Watching the migration: a progress bar on a terminal, lines otherwise, and counts that add up in every message.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sidle::proto::{ItemCounts, MigrationState, WatchMigrationRequest, WatchMigrationResponse};
use tonic::Streaming;

use super::Demo;
use crate::Result;
use crate::client::{refused, word};
use crate::output::{self, fact, note};

/// The stream is cancelled once after so many messages, to show that it resumes from its cursor.
const BREAK_AFTER: usize = 5;

/// Follows the migration until it ends.
pub async fn to_the_end(demo: &mut Demo<'_>, migration_id: &str) -> Result<ItemCounts> {
    let bar = bar();
    let (mut messages, mut wrong): (Vec<WatchMigrationResponse>, Vec<String>) = (Vec::new(), Vec::new());
    let mut stream = open(demo, migration_id, String::new()).await?;
    let mut resumed = false;
    while let Some(message) = stream.message().await.map_err(refused("WatchMigration"))? {
        wrong.extend(problems(messages.last(), &message));
        show(&bar, &message);
        let cursor = message.cursor.clone();
        messages.push(message);
        if messages.len() == BREAK_AFTER && !resumed {
            resumed = true;
            drop(stream);
            stream = open(demo, migration_id, cursor).await?;
        }
    }
    bar.finish_and_clear();
    let last = messages.last().ok_or("WatchMigration ended without a message")?;
    let counts = last.counts.unwrap_or_default();
    fact("state", word(last.state().as_str_name(), "MIGRATION_STATE_"));
    let sum =
        format!("{} done + {} failed + {} skipped = {}", counts.done, counts.failed, counts.skipped, counts.total);
    fact("users", sum);
    fact("speed", format!("{:.0} users a second", last.items_per_second));
    let verdict =
        if wrong.is_empty() { "each added up, no step was missing" } else { "NOT all right, see the summary" };
    fact("messages", format!("{}, {verdict}", messages.len()));
    if resumed {
        fact("", format!("broken off after message {BREAK_AFTER} on purpose and resumed with its cursor"));
    }
    demo.checks.same("what is wrong with progress messages", &Vec::new(), &wrong);
    demo.checks.same("last state", &MigrationState::Completed, &last.state());
    demo.checks.holds("the migration could be watched in more than one message", messages.len() > 1);
    Ok(counts)
}

async fn open(demo: &mut Demo<'_>, migration_id: &str, cursor: String) -> Result<Streaming<WatchMigrationResponse>> {
    let request = WatchMigrationRequest { migration_id: migration_id.to_owned(), cursor, ..Default::default() };
    let answer = demo.admin.migration.watch_migration(request).await;
    Ok(answer.map_err(refused("WatchMigration"))?.into_inner())
}

/// What is wrong with a message that follows `before`.
fn problems(before: Option<&WatchMigrationResponse>, message: &WatchMigrationResponse) -> Vec<String> {
    let counts = message.counts.unwrap_or_default();
    let mut problems = Vec::new();
    if counts.pending + counts.done + counts.failed + counts.skipped != counts.total {
        problems.push(format!("step {}: {counts:?} does not add up", message.step));
    }
    let Some(before) = before else { return problems };
    let earlier = before.counts.unwrap_or_default();
    let (step, finished) = if message.heartbeat { (0, 0) } else { (1, i64::from(message.finished)) };
    if message.step != before.step + step {
        problems.push(format!("step {} follows step {}", message.step, before.step));
    }
    if earlier.pending - counts.pending != finished {
        let moved = earlier.pending - counts.pending;
        problems.push(format!("step {} says that {finished} were finished, but {moved} were", message.step));
    }
    if earlier.total != counts.total {
        problems.push(format!("step {}: the total changed from {} to {}", message.step, earlier.total, counts.total));
    }
    problems
}

fn bar() -> ProgressBar {
    if !output::is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
    match ProgressStyle::with_template("   {bar:30} {msg}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

fn show(bar: &ProgressBar, message: &WatchMigrationResponse) {
    let counts = message.counts.unwrap_or_default();
    let finished = counts.total - counts.pending;
    let what = format!("{} done, {} failed, {} skipped", counts.done, counts.failed, counts.skipped);
    if output::is_terminal() {
        // The text first: the bar is drawn again for each of these.
        bar.set_message(format!("{finished}/{}  {what}", counts.total));
        bar.set_length(counts.total.cast_unsigned());
        bar.set_position(finished.cast_unsigned());
    } else if !message.heartbeat {
        note(format!("  step {:>3}  {finished:>4} of {} users: {what}", message.step, counts.total));
    }
}
