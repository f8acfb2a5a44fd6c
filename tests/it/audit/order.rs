//! One order for every reader, whatever writers, sequencers, connections and readers do.

use std::collections::{BTreeMap, HashSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use sidle::audit::{EventType, Filter, Follow, Progress, Start, Step, StoredEvent};
use sidle::db::Scope;
use sqlx::postgres::PgListener;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{Parts, numbered, superuser};
use crate::support::{Setup, within};

const WRITERS: i64 = 6;
const ROUNDS: i64 = 12;
/// Transactions that a writer holds open concurrently.
const OPEN: i64 = 4;

/// The events that a reader got which resumes again and again.
type Seen = Vec<(i64, Uuid)>;

/// Follows until `count` events came, and every few events begins again at the last cursor, on the other replica.
async fn read(replicas: [Parts; 2], scope: Scope, count: usize, restless: usize) -> Seen {
    let mut seen = Seen::new();
    let mut follow = replicas[0].log.follow(Filter::new(scope), replicas[0].log.beginning());
    within("every event comes", async {
        while seen.len() < count {
            let event = follow.next().await.unwrap().expect("the replica runs");
            if scope == Scope::Platform {
                assert_eq!(
                    event.position,
                    seen.last().map_or(1, |(last, _)| last + 1),
                    "nothing is left out or repeated"
                );
            }
            seen.push((event.position, event.event_id));
            if seen.len().is_multiple_of(restless) {
                let replica = &replicas[(seen.len() / restless) % 2];
                let origin = replica.log.resolve(Start::After(follow.mark())).await.unwrap();
                follow = replica.log.follow(Filter::new(scope), origin);
            }
        }
    })
    .await;
    seen
}

/// Holds several transactions open, commits them in the reverse order of their writing, and rolls some back.
async fn write(parts: Parts, writer: i64, tenants: [Uuid; 2]) -> Vec<(Uuid, Uuid)> {
    let mut committed = Vec::new();
    for round in 0..ROUNDS {
        let mut open = Vec::new();
        for number in 0..OPEN {
            let tenant = tenants[usize::try_from((writer + number) % 2).unwrap()];
            let mut tx = parts.db.begin(Scope::Platform).await.unwrap();
            let mut ids = Vec::new();
            for part in 0..=number {
                let event = numbered(Some(tenant), writer * 1_000_000 + round * 1000 + number * 10 + part);
                ids.push((parts.recorder.record(&mut tx, event).await.unwrap(), tenant));
            }
            open.push((tx, ids));
        }
        for (at, (tx, ids)) in open.into_iter().enumerate().rev() {
            // The third of four is rolled back.
            if at == 2 {
                drop(tx);
            } else {
                tx.commit().await.unwrap();
                committed.extend(ids);
            }
        }
    }
    committed
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_every_event_once_and_in_the_same_order() {
    let setup = Setup::new().await.with("DATABASE__POOL_SIZE", "12");
    let replicas = [Parts::new(&setup), Parts::new(&setup)];
    let _running = replicas.each_ref().map(Parts::run);
    let tenants = [Uuid::from_u128(1), Uuid::from_u128(2)];

    // Of four transactions with 1, 2, 3 and 4 events the third is rolled back.
    let count = usize::try_from(WRITERS * ROUNDS * (1 + 2 + 4)).unwrap();
    let mut readers = JoinSet::new();
    for restless in [1, 2, 3, 7, 50, usize::MAX] {
        readers.spawn(read(replicas.clone(), Scope::Platform, count, restless));
    }
    let mut writers = JoinSet::new();
    let writer_pools: Vec<Parts> = (0..3).map(|_| Parts::new(&setup)).collect();
    for writer in 0..WRITERS {
        let parts = writer_pools[usize::try_from(writer % 3).unwrap()].clone();
        writers.spawn(write(parts, writer, tenants));
    }

    let committed: BTreeMap<Uuid, Uuid> = writers.join_all().await.into_iter().flatten().collect();
    assert_eq!(committed.len(), count);
    let all = readers.join_all().await;
    let first = &all[0];
    assert!(first.iter().map(|(position, _)| *position).eq(1..=i64::try_from(count).unwrap()), "no gap, no repeat");
    let ids: HashSet<Uuid> = first.iter().map(|(_, id)| *id).collect();
    assert_eq!(ids.len(), count, "no event twice");
    assert!(first.iter().all(|(_, id)| committed.contains_key(id)), "only what was committed");
    for other in &all {
        assert_eq!(other, first, "the same for everybody");
    }

    // A tenant's readers get the tenant's part of the same order.
    for tenant in tenants {
        let own: Seen = first.iter().copied().filter(|(_, id)| committed[id] == tenant).collect();
        for restless in [3, usize::MAX] {
            assert_eq!(read(replicas.clone(), Scope::Tenant(tenant), own.len(), restless).await, own);
        }
    }
}

#[tokio::test]
async fn what_is_rolled_back_leaves_no_event_and_no_gap() {
    let parts = Parts::new(&Setup::new().await);
    parts.record([numbered(None, 1)]).await;
    let mut undone = parts.db.begin(Scope::Platform).await.unwrap();
    parts.recorder.record(&mut undone, numbered(None, 2)).await.unwrap();
    drop(undone);
    parts.record([numbered(None, 3)]).await;
    parts.sequence().await;
    let found: Vec<(i64, i64)> = everything(&parts).await.iter().map(|event| (event.position, number(event))).collect();
    assert_eq!(found, [(1, 1), (2, 3)]);
}

#[tokio::test]
async fn an_event_that_commits_late_comes_after_those_that_readers_have_seen() {
    let parts = Parts::new(&Setup::new().await);
    let mut late = parts.db.begin(Scope::Platform).await.unwrap();
    parts.recorder.record(&mut late, numbered(None, 1)).await.unwrap();
    parts.record([numbered(None, 2)]).await;
    parts.sequence().await;
    let seen = parts.log.head().await.unwrap();
    late.commit().await.unwrap();
    parts.sequence().await;
    let found: Vec<(i64, i64)> = everything(&parts).await.iter().map(|event| (event.position, number(event))).collect();
    assert_eq!((seen, found), (1, vec![(1, 2), (2, 1)]));
}

#[tokio::test]
async fn a_sequencer_that_is_dropped_at_any_point_loses_nothing() {
    let parts = Parts::new(&Setup::new().await);
    let mut written = 0;
    for polls in 0..60 {
        parts.record([numbered(None, written), numbered(None, written + 1)]).await;
        written += 2;
        let sequencer = parts.sequencer.clone();
        let mut step = Box::pin(async move { sequencer.step().await });
        let mut left = polls;
        poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            step.as_mut().poll(cx).map(|_| ())
        })
        .await;
    }
    parts.sequence().await;
    let found: Vec<(i64, i64)> = everything(&parts).await.iter().map(|event| (event.position, number(event))).collect();
    let expected: Vec<(i64, i64)> = (0..written).map(|number| (number + 1, number)).collect();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_lose_nothing_and_repeat_nothing() {
    let setup = Setup::new().await;
    let (replicas, admin) = ([Parts::new(&setup), Parts::new(&setup)], superuser(&setup));
    let count = 4000;
    let events = (0..count).map(|number| numbered(None, number));
    let mut tx = replicas[0].db.begin(Scope::Platform).await.unwrap();
    replicas[0].recorder.record_all(&mut tx, events).await.unwrap();
    tx.commit().await.unwrap();

    let _running = replicas.each_ref().map(Parts::run);
    let mut follow = replicas[1].log.follow(Filter::new(Scope::Platform), replicas[1].log.beginning());
    let mut seen = Vec::new();
    let mut cuts = 0;
    within("every event comes", async {
        while seen.len() < usize::try_from(count).unwrap() {
            // After an error a follower continues where it was.
            let Ok(event) = follow.next().await else { continue };
            let event = event.expect("the replica runs");
            assert_eq!(number(&event), i64::try_from(seen.len()).unwrap(), "nothing is left out or repeated");
            seen.push(event.position);
            if seen.len() > cuts * 700 {
                cuts += 1;
                let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                       WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = 'sidle_app'";
                sqlx::query(cut).execute(&admin).await.unwrap();
            }
        }
    })
    .await;
    assert!(cuts > 4, "{cuts} cuts");
    assert!(seen.into_iter().eq(1..=count), "no gap in the positions");
}

#[tokio::test]
async fn a_batch_is_announced_once_when_it_is_committed() {
    let setup = Setup::new().await;
    let parts = Parts::new(&setup);
    let mut listener = PgListener::connect_with(&superuser(&setup)).await.unwrap();
    listener.listen("sidle_audit").await.unwrap();
    parts.record((0..3).map(|number| numbered(None, number))).await;
    assert_eq!(parts.sequencer.step().await.unwrap(), Step::Moved(3));
    assert_eq!(parts.sequencer.step().await.unwrap(), Step::Nothing);
    sqlx::query("SELECT pg_notify('sidle_audit', 'marker')").execute(&parts.db).await.unwrap();
    assert_eq!(within("a notification", listener.recv()).await.unwrap().payload(), "3");
    assert_eq!(within("a notification", listener.recv()).await.unwrap().payload(), "marker");
}

#[tokio::test]
async fn one_sequencer_works_at_a_time() {
    let setup = Setup::new().await;
    let (parts, other) = (Parts::new(&setup), Parts::new(&setup));
    parts.record([numbered(None, 1)]).await;
    let mut holder = parts.db.begin(Scope::Platform).await.unwrap();
    sqlx::query("SELECT FROM audit_head FOR UPDATE").execute(&mut *holder).await.unwrap();
    assert_eq!(other.sequencer.step().await.unwrap(), Step::Elsewhere);
    drop(holder);
    other.sequence().await;
    assert_eq!(other.log.head().await.unwrap(), 1);
}

#[tokio::test]
async fn a_reader_that_falls_behind_catches_up_from_the_table() {
    let parts = Parts::new(&Setup::new().await);
    let stop = tokio_util::sync::CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(parts.feed.clone().run(stop));
    let tenant = Uuid::from_u128(1);
    let mut followers: Vec<Follow> = [Scope::Platform, Scope::Tenant(tenant)]
        .map(|scope| parts.log.follow(Filter::new(scope), parts.log.beginning()))
        .into_iter()
        .collect();
    for follow in &mut followers {
        within("the follower has caught up", async {
            while !follow.is_live() {
                follow.progress().await.unwrap();
            }
        })
        .await;
    }
    // More deliveries than the channel holds.
    for number in 0..100 {
        parts.record([numbered(Some(tenant), number)]).await;
        parts.sequence().await;
        within("the feed has read it", parts.feed.reached(number + 1)).await;
    }
    for mut follow in followers {
        assert_eq!(follow.position(), 0, "nothing was taken yet");
        let (mut seen, mut live_again) = (0, 0);
        within("every event comes", async {
            while seen < 100 {
                match follow.progress().await.unwrap() {
                    Progress::Event(event) => {
                        assert_eq!(number(&event), seen, "nothing is left out or repeated");
                        seen += 1;
                        // Until it is live again: a reader that resumes here misses none that still wait or were
                        // dropped.
                        assert!(follow.position() == seen || seen == 100);
                    }
                    Progress::Live => live_again += 1,
                    Progress::Further => {}
                    Progress::End => panic!("the replica runs"),
                }
            }
        })
        .await;
        assert!(live_again <= 1, "let go once at most");
    }
}

#[tokio::test]
async fn a_cursor_moves_with_the_log_as_far_as_nothing_waits() {
    let parts = Parts::new(&Setup::new().await);
    let _running = parts.run();
    let [mut quiet, mut busy] = [1, 2]
        .map(|tenant| parts.log.follow(Filter::new(Scope::Tenant(Uuid::from_u128(tenant))), parts.log.beginning()));
    for follow in [&mut quiet, &mut busy] {
        within("the follower has caught up", async {
            while !follow.is_live() {
                follow.progress().await.unwrap();
            }
        })
        .await;
    }
    parts.record((0..5).map(|number| numbered(Some(Uuid::from_u128(2)), number))).await;
    within("the feed has read it", parts.feed.reached(5)).await;
    assert_eq!((quiet.position(), busy.position()), (5, 0));
}

#[tokio::test]
async fn a_stream_ends_when_its_replica_stops() {
    let parts = Parts::new(&Setup::new().await);
    let running = parts.run();
    let mut follow = parts.log.follow(Filter::new(Scope::Platform), parts.log.beginning());
    within("the follower has caught up", async {
        while !follow.is_live() {
            follow.progress().await.unwrap();
        }
    })
    .await;
    drop(running);
    assert!(within("the end of the stream", follow.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn filters_mean_the_same_live_as_in_the_table() {
    let parts = Parts::new(&Setup::new().await);
    let ids: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
    let mut events = Vec::new();
    for at in 0..36_usize {
        let kind = [EventType::SessionRevoked, EventType::UserLocked, EventType::UserUpdated][at % 3];
        let event = sidle::audit::Event::by_system(kind, ids[at % 2]).tenant(ids[at % 2]);
        let event = if at % 4 == 0 { event.target("user", ids[at % 3]) } else { event.target("session", ids[at % 2]) };
        let event = if at % 5 == 0 { event.by_user(ids[at % 3]).session(ids[at % 2]) } else { event };
        events.push(if at % 7 == 0 { event.outcome(sidle::audit::Outcome::Refused) } else { event });
    }
    parts.record(events).await;
    parts.sequence().await;
    let all = everything(&parts).await;
    let wanted = |change: fn(&mut sidle::audit::Wanted, Uuid)| {
        let mut wanted = sidle::audit::Wanted::default();
        change(&mut wanted, Uuid::from_u128(1));
        wanted
    };
    let filters = [
        wanted(|_, _| {}),
        wanted(|wanted, _| wanted.types = vec!["session.revoked".to_owned(), "user.locked".to_owned()]),
        wanted(|wanted, id| wanted.actor_id = Some(id)),
        wanted(|wanted, _| wanted.target_kind = Some("user".to_owned())),
        wanted(|wanted, id| wanted.target_id = Some(id.to_string())),
        wanted(|wanted, id| wanted.session_id = Some(id)),
        wanted(|wanted, id| wanted.correlation_id = Some(id)),
        wanted(|wanted, _| wanted.outcome = Some("refused")),
    ];
    for scope in [Scope::Platform, Scope::Tenant(ids[0])] {
        for wanted in &filters {
            let filter = Filter::wanting(scope, wanted.clone());
            for newest_first in [false, true] {
                let page = sidle::audit::Page { size: 1000, newest_first, ..Default::default() };
                let mut table: Vec<i64> =
                    parts.log.list(&filter, page).await.unwrap().iter().map(|event| event.position).collect();
                if newest_first {
                    table.reverse();
                }
                let live: Vec<i64> =
                    all.iter().filter(|event| filter.matches(event)).map(|event| event.position).collect();
                assert_eq!(table, live, "{filter:?}");
                assert!(!live.is_empty(), "{filter:?} matches something");
            }
        }
    }
}

async fn everything(parts: &Parts) -> Vec<Arc<StoredEvent>> {
    let page = sidle::audit::Page { size: 10_000, ..Default::default() };
    parts.log.list(&Filter::new(Scope::Platform), page).await.unwrap().into_iter().map(Arc::new).collect()
}

fn number(event: &StoredEvent) -> i64 {
    event.details["number"].as_i64().unwrap()
}
