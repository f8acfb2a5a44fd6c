//! The audit log.

mod age;
mod deaf;
mod fork;
mod ledger;
mod long_transaction;
mod order;
mod rpc;
mod walls;

use std::collections::HashMap;

pub use self::fork::rewind;
use sidle::access::Call;
use sidle::audit::{Event, EventType, Feed, Log, Recorder, Sequencer, Step};
use sidle::config::Config;
use sidle::context::Context;
use sidle::db::{Db, Scope};
use sidle::metrics::Metrics;
use sidle::seal::Keyring;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;
use uuid::Uuid;

use crate::support::{Setup, within};

/// The parts of a replica that make and read the log, without a server around them.
#[derive(Clone)]
struct Parts {
    db: Db,
    context: Context,
    keyring: Keyring,
    recorder: Recorder,
    sequencer: Sequencer,
    feed: Feed,
    log: Log,
    metrics: Metrics,
    /// Keeps the database.
    _setup: Setup,
}

impl Parts {
    fn new(setup: &Setup) -> Self {
        let config = Config::load(None, setup.environment().clone().into_iter().collect::<HashMap<_, _>>()).unwrap();
        let (context, metrics) = (Context::system(), Metrics::new());
        let db = Db::new(&config.database).unwrap();
        let keyring = config.seal.keyring().unwrap();
        let recorder = Recorder::new(context.clone(), keyring.clone());
        let feed = Feed::new(db.clone(), context.clone(), recorder.clone(), metrics.clone());
        let parts = (db.clone(), context.clone(), keyring.clone(), recorder.clone());
        let sequencer = Sequencer::new(parts.0, parts.1, parts.2, parts.3, feed.clone(), metrics.clone());
        let log = Log::new(db.clone(), feed.clone());
        Self { db, context, keyring, recorder, sequencer, feed, log, metrics, _setup: setup.clone() }
    }

    /// Runs sequencer and feed until the guard is dropped.
    fn run(&self) -> DropGuard {
        let stop = CancellationToken::new();
        tokio::spawn(self.sequencer.clone().run(stop.clone()));
        tokio::spawn(self.feed.clone().run(stop.clone()));
        stop.drop_guard()
    }

    /// Records events in a transaction of their own.
    async fn record(&self, events: impl IntoIterator<Item = Event>) -> Vec<Uuid> {
        let mut tx = self.db.begin(Scope::Platform).await.unwrap();
        let mut ids = Vec::new();
        for event in events {
            ids.push(self.recorder.record(&mut tx, event).await.unwrap());
        }
        tx.commit().await.unwrap();
        ids
    }

    /// Gives positions to all waiting events.
    async fn sequence(&self) {
        within("everything that waits has its position", async {
            while self.sequencer.step().await.unwrap() != Step::Nothing {}
        })
        .await;
    }
}

fn superuser(setup: &Setup) -> PgPool {
    let url = std::env::var("SIDLE_DEV_PG_SUPER_URL").expect("started through ./run");
    let (server, _) = url.rsplit_once('/').unwrap();
    PgPool::connect_lazy(&format!("{server}/{}", setup.database().name)).unwrap()
}

/// An anonymous call from some address.
fn call() -> Call {
    let address = Some([203, 0, 113, 7].into());
    Call { address, user_agent: Some("agent/1.0".to_owned()), ..Call::internal(Uuid::from_u128(77)) }
}

/// An event that is distinguished from others by its number.
fn numbered(tenant: Option<Uuid>, number: i64) -> Event {
    Event::by_system(EventType::MigrationItemLinked, Uuid::nil()).tenant(tenant).detail("number", number)
}
