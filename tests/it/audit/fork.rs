//! The log goes back to an earlier state and continues from there, as after a restore, or a fail-over to a standby that
//! had not received the last events: its readers learn so, and none resumes from a position that now means another
//! event.

use sidle::audit::{Filter, Follow, Mark, Page, Progress, Start, Step, StoredEvent};
use sidle::db::Scope;
use sidle::fault::Reason;
use sqlx::PgPool;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Parts, numbered, superuser};
use crate::support::{Setup, within};

/// The log as a restore to `position` leaves it.
pub async fn rewind(admin: &PgPool, position: i64) {
    let mut tx = admin.begin().await.unwrap();
    // No sequencer runs meanwhile; and no trigger stops a superuser.
    sqlx::query("SET LOCAL session_replication_role = 'replica'").execute(&mut *tx).await.unwrap();
    sqlx::query("SELECT FROM audit_head FOR UPDATE").execute(&mut *tx).await.unwrap();
    sqlx::query("DELETE FROM audit_events WHERE position > $1").bind(position).execute(&mut *tx).await.unwrap();
    sqlx::query("UPDATE audit_head SET position = $1").bind(position).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// A replica whose log has `count` events, and a caller who has read them all.
async fn stage(setup: &Setup, count: i64) -> (Parts, Follow, Vec<Mark>, DropGuard) {
    let parts = Parts::new(setup);
    parts.record((0..count).map(|number| numbered(None, number))).await;
    parts.sequence().await;
    let mut follow = parts.log.follow(Filter::new(Scope::Platform), parts.log.beginning());
    let stop = CancellationToken::new();
    tokio::spawn(parts.feed.clone().run(stop.clone()));
    let mut marks = Vec::new();
    within("the follower has read everything", async {
        while !follow.is_live() {
            if let Progress::Event(_) = follow.progress().await.unwrap() {
                marks.push(follow.mark());
            }
        }
    })
    .await;
    assert_eq!(marks.len(), usize::try_from(count).unwrap());
    (parts, follow, marks, stop.drop_guard())
}

async fn all(parts: &Parts) -> Vec<StoredEvent> {
    let page = Page { size: 10_000, ..Page::default() };
    parts.log.list(&Filter::new(Scope::Platform), page).await.unwrap()
}

/// Reasons for which cursors after these events are refused; none for those that are not.
async fn refusals(parts: &Parts, marks: &[Mark]) -> Vec<Option<Reason>> {
    let mut reasons = Vec::new();
    for mark in marks {
        reasons.push(parts.log.resolve(Start::After(*mark)).await.err().map(|fault| fault.reason()));
    }
    reasons
}

/// How a follower ends; it must end.
async fn end(follow: &mut Follow) -> Reason {
    within("the follower ends", async {
        loop {
            match follow.progress().await {
                Ok(Progress::Event(event)) => panic!("event {} was delivered after the fork", event.position),
                Ok(Progress::End) => panic!("the replica runs"),
                Ok(_) => {}
                Err(fault) => return fault.reason(),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_follower_of_a_log_that_is_gone_ends_and_every_event_of_the_new_one_is_delivered() {
    let setup = Setup::new().await;
    let (parts, mut follow, marks, _running) = stage(&setup, 27).await;
    rewind(&superuser(&setup), 9).await;
    // The new log grows past the reader's position before any replica looks.
    parts.record((100..140).map(|number| numbered(None, number))).await;
    parts.sequence().await;

    assert_eq!(end(&mut follow).await, Reason::LogForked);
    assert_eq!(end(&mut follow).await, Reason::LogForked, "for good");
    assert_eq!((parts.feed.epoch(), parts.metrics.audit_forks.get() >= 1), (1, true));
    let expected: Vec<Option<Reason>> = (1..=27).map(|position| (position > 9).then_some(Reason::LogForked)).collect();
    assert_eq!(refusals(&parts, &marks).await, expected, "a cursor is good as long as the log holds its event");

    // A reader that begins anew, or resumes from what both logs hold, gets every event.
    let origin = parts.log.resolve(Start::After(marks[8])).await.unwrap();
    let mut follow = parts.log.follow(Filter::new(Scope::Platform), origin);
    let mut seen = Vec::new();
    within("every event of the new log", async {
        while seen.len() < 40 {
            let event = within("the next event", follow.next()).await.unwrap().unwrap();
            match event.event_type.as_str() {
                "audit.forked" => {
                    assert_eq!(
                        (&event.details["old_position"], &event.details["new_position"]),
                        (&27.into(), &9.into())
                    );
                    assert_eq!(event.details["old_hash"].as_str().unwrap().len(), 16);
                }
                _ => seen.push(event.details["number"].as_i64().unwrap()),
            }
        }
    })
    .await;
    assert!(seen.into_iter().eq(100..140), "nothing is left out or repeated");
    let forks = all(&parts).await.iter().filter(|event| event.event_type == "audit.forked").count();
    assert_eq!(forks, 1, "feed and sequencer had read equally far");
}

#[tokio::test]
async fn a_head_that_went_back_is_noticed_and_recorded_without_a_new_event() {
    let setup = Setup::new().await;
    let (parts, mut follow, marks, _running) = stage(&setup, 12).await;
    rewind(&superuser(&setup), 5).await;
    assert_eq!(end(&mut follow).await, Reason::LogForked);
    let refused = refusals(&parts, &marks).await;
    assert_eq!((refused[4], refused[11]), (None, Some(Reason::CursorAhead)));
    parts.sequence().await;
    let events = all(&parts).await;
    let last = events.last().unwrap();
    assert_eq!((last.position, last.event_type.as_str()), (6, "audit.forked"));
    assert_eq!((&last.details["old_position"], &last.details["new_position"]), (&12.into(), &5.into()));
    parts.sequence().await;
    assert_eq!(all(&parts).await.len(), 6, "once");
}

/// The sequencer gave a position to an event that was lost before it was read.
#[tokio::test]
async fn the_sequencer_notices_that_what_it_numbered_last_is_gone() {
    let setup = Setup::new().await;
    let parts = Parts::new(&setup);
    parts.record((0..3).map(|number| numbered(None, number))).await;
    parts.sequence().await;
    rewind(&superuser(&setup), 2).await;
    parts.record([numbered(None, 7)]).await;
    assert_eq!(parts.sequencer.step().await.unwrap(), Step::Moved(2));
    let events = all(&parts).await;
    let types: Vec<&str> = events.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types[2..].iter().filter(|name| **name == "audit.forked").count(), 1, "{types:?}");
    assert_eq!(parts.metrics.audit_forks.get(), 1);
    parts.record([numbered(None, 8)]).await;
    assert_eq!(parts.sequencer.step().await.unwrap(), Step::Moved(1));
    assert_eq!(parts.metrics.audit_forks.get(), 1, "once");
}

/// A reader of old events, while the log is replaced: it must not get an event of the new log as if it were the next
/// one of the old.
#[tokio::test]
async fn a_follower_that_reads_the_table_ends_before_it_delivers_from_another_log() {
    let setup = Setup::new().await;
    let (parts, _, _, _running) = stage(&setup, 1200).await;
    let mut follow = parts.log.follow(Filter::new(Scope::Platform), parts.log.beginning());
    for position in 1..=700 {
        assert_eq!(within("the next event", follow.next()).await.unwrap().unwrap().position, position);
    }
    rewind(&superuser(&setup), 600).await;
    parts.record((0..900).map(|number| numbered(None, 10_000 + number))).await;
    parts.sequence().await;
    let reason = within("the follower ends", async {
        loop {
            match follow.progress().await {
                // What was read before may still be delivered.
                Ok(Progress::Event(event)) => assert!(event.details["number"].as_i64().unwrap() < 10_000),
                Ok(Progress::End) => panic!("the replica runs"),
                Ok(_) => {}
                Err(fault) => break fault.reason(),
            }
        }
    })
    .await;
    assert_eq!(reason, Reason::LogForked);
}

/// A cursor of a replica that had read further than this one: in a log that holds its event this replica waits for it,
/// and in one that does not the cursor is refused.
#[tokio::test]
async fn a_cursor_that_is_ahead_of_the_replica_is_compared_with_the_log() {
    let setup = Setup::new().await;
    let parts = Parts::new(&setup);
    parts.record((0..5).map(|number| numbered(None, number))).await;
    parts.sequence().await;
    let newest = parts.log.resolve(Start::Now).await.unwrap();
    // The sequencer runs only from now on.
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(parts.feed.clone().run(stop));
    parts.feed.ready().await.unwrap();
    let mut follow = parts.log.follow(Filter::new(Scope::Platform), newest);
    parts.record([numbered(None, 5)]).await;
    parts.sequence().await;
    let event = within("the next event", follow.next()).await.unwrap().unwrap();
    assert_eq!(event.position, 6);

    let ahead = follow.mark();
    rewind(&superuser(&setup), 3).await;
    assert_eq!(refusals(&parts, &[ahead]).await, [Some(Reason::CursorAhead)]);
    parts.record((10..20).map(|number| numbered(None, number))).await;
    parts.sequence().await;
    assert_eq!(refusals(&parts, &[ahead]).await, [Some(Reason::LogForked)]);
}
