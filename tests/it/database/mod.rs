//! What holds whatever a caller, a pooler or a server does to the connections to Postgres.

mod abandoned;
mod contention;
mod crossing;
mod pooler;
mod reserved;
mod servers;
mod silent;

use std::task::Poll;

use sidle::config::Config;
use sidle::db::Db;

use crate::support::{Setup, TestServer};

/// Polls `future` and drops it when it is pending once more than `waits` times; none then. Called with each number of
/// waits, so that every await in it is the last one once.
pub async fn abandoned<F: Future>(future: F, waits: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = waits;
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// A pool of its own for a test's database.
pub fn pool(setup: &Setup, size: u32) -> Db {
    let setup = setup.clone().with("DATABASE__POOL_SIZE", &size.to_string());
    Db::new(&Config::load(None, setup.environment().clone()).unwrap().database).unwrap()
}

/// Statements of the service's role that wait for a lock in this test's database.
pub async fn waiting_for_locks(server: &TestServer) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'sidle' AND wait_event_type = 'Lock'";
    sqlx::query_scalar(waiting).fetch_one(server.sql()).await.unwrap()
}
