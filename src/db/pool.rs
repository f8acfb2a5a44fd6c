//! The pool: makes connections, lends them, and takes back only those that are known to be idle and without settings.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::connection::{Connection, Generation};
use super::target::Target;
use super::types;

/// How long an abandoned statement may go on by itself before it is cancelled.
const GRACE: Duration = Duration::from_millis(20);
/// How long a connection may take to become idle after that, before it is given up.
const RESET: Duration = Duration::from_secs(2);

/// Bounds that the server holds every statement of a connection to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Longest time of a statement.
    pub statement: Duration,
    /// Longest wait for a lock.
    pub lock: Duration,
    /// Longest pause within a transaction.
    pub idle_in_transaction: Duration,
}

impl Limits {
    /// Statements that set the bounds, for the session or for the transaction that they stand in.
    pub(super) fn sql(self, local: bool) -> String {
        let set = if local { "SET LOCAL" } else { "SET" };
        format!(
            "{set} client_min_messages = error; {set} statement_timeout = {}; {set} lock_timeout = {}; {set} idle_in_transaction_session_timeout = {}",
            self.statement.as_millis(),
            self.lock.as_millis(),
            self.idle_in_transaction.as_millis(),
        )
    }
}

/// Makes connections.
pub(super) struct Maker {
    pub target: Target,
    pub limits: Limits,
    /// Whether a transaction pooler stands in front, so that a session is not the service's own.
    pub pooler: bool,
    pub prepared: bool,
    pub recycle_after: Duration,
    pub generation: Generation,
}

impl Manager for Maker {
    type Type = Connection;
    type Error = sqlx::Error;

    async fn create(&self) -> sqlx::Result<Connection> {
        let mut pause = Duration::from_millis(10);
        let (mut connection, _) = loop {
            match self.target.connect().await {
                Ok(connected) => break connected,
                // A server that is starting. The caller that waits for the connection bounds this.
                Err(error) if super::errors::is_starting(&error) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Err(error) => return Err(error),
            }
        };
        let pid = if self.pooler { None } else { Some(prepare(&mut connection, self.limits).await?) };
        if !self.prepared {
            types::learn(&mut connection).await?;
        }
        Ok(Connection::new(connection, self.limits.statement, pid, self.prepared, Generation::clone(&self.generation)))
    }

    async fn recycle(&self, connection: &mut Connection, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.age() > self.recycle_after || connection.progress.is_lost() {
            return Err(RecycleError::message("replaced"));
        }
        Ok(())
    }
}

/// Sets the bounds for the session, and gives the id of the server's process.
async fn prepare(connection: &mut PgConnection, limits: Limits) -> sqlx::Result<i32> {
    // A server whose client is gone notices that within seconds also while it waits for a lock.
    let sql = format!("{}; SET client_connection_check_interval = '5s'; SELECT pg_backend_pid()", limits.sql(false));
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await?;
    row.try_get(0)
}

/// The pool of one purpose, and a connection beside it that cancels.
pub(super) struct Pool {
    objects: deadpool::managed::Pool<Maker>,
    pub(super) canceller: Canceller,
    /// Server processes of the leases there are at the moment.
    lent: Mutex<HashSet<i32>>,
    pub(super) size: usize,
    told: AtomicBool,
}

/// Ends statements of other connections, from a connection of its own.
pub(super) struct Canceller {
    target: Target,
    connection: tokio::sync::Mutex<Option<PgConnection>>,
}

/// A connection that is lent. Comes back to the pool when it is known to be idle, however it is dropped.
pub(super) struct Lease {
    pool: Arc<Pool>,
    object: Option<Object<Maker>>,
    lent: Option<i32>,
}

impl Pool {
    pub(super) fn new(maker: Maker, direct: Target, size: usize, acquire_timeout: Duration) -> sqlx::Result<Self> {
        let canceller = Canceller { target: direct, connection: tokio::sync::Mutex::new(None) };
        let objects = deadpool::managed::Pool::builder(maker)
            .max_size(size)
            .queue_mode(QueueMode::Lifo)
            .runtime(deadpool::Runtime::Tokio1)
            .wait_timeout(Some(acquire_timeout))
            .create_timeout(Some(acquire_timeout))
            .build()
            .map_err(|error| sqlx::Error::Configuration(Box::new(error)))?;
        Ok(Self { objects, canceller, lent: Mutex::default(), size, told: AtomicBool::new(false) })
    }

    pub(super) fn maker(&self) -> &Maker {
        self.objects.manager()
    }

    /// Lends a connection.
    pub(super) async fn lease(self: &Arc<Self>) -> sqlx::Result<Lease> {
        let object = self.objects.get().await.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Create) => {
                sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "connecting took too long"))
            }
            PoolError::Timeout(_) => sqlx::Error::PoolTimedOut,
            PoolError::Backend(error) => error,
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => sqlx::Error::PoolClosed,
        })?;
        let mut lease = Lease { pool: Arc::clone(self), object: Some(object), lent: None };
        let pid = lease.get().pid;
        lease.note(pid);
        Ok(lease)
    }

    /// Connections that exist, and those that wait for work; and how many callers wait for one.
    pub(super) fn figures(&self) -> (usize, usize, usize) {
        let status = self.objects.status();
        (status.size, status.available, status.waiting)
    }

    /// Closes connections that had nothing to do for so long.
    pub(super) async fn close_idle(&self, idle: Duration) {
        let closed = self.objects.retain(|_, metrics| metrics.last_used() < idle);
        for connection in closed.removed {
            connection.close().await;
        }
    }

    pub(super) async fn close(&self) {
        let closed = self.objects.retain(|_, _| false);
        self.objects.close();
        for connection in closed.removed {
            connection.close().await;
        }
    }

    /// The server processes of the leases there are.
    pub(super) fn working(&self) -> Vec<i32> {
        self.lent().iter().copied().collect()
    }

    fn lent(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an abandoned connection idle again, and gives it up when that does not work.
    async fn reset(&self, mut object: Object<Maker>, pid: Option<i32>) {
        let in_flight = object.progress.is_in_flight();
        let may_be_cancelled = object.progress.may_be_cancelled(self.maker().pooler);
        let is_clean = {
            let mut reset = pin!(object.reset());
            let mut done = if in_flight { tokio::time::timeout(GRACE, &mut reset).await.ok() } else { None };
            if let Some(pid) = pid.filter(|_| done.is_none() && may_be_cancelled) {
                // Where that fails the statement ends by its own time limit, on a connection that is closed here.
                let _ = tokio::time::timeout(RESET, self.canceller.cancel(pid)).await;
            }
            if done.is_none() {
                done = tokio::time::timeout(RESET, &mut reset).await.ok();
            }
            matches!(done, Some(Ok(true)))
        };
        if !is_clean {
            tracing::debug!(event = "database_connection_discarded", "a connection did not become idle and is closed");
            drop(Object::take(object));
        }
    }

    /// Says once, until it is so again, that the database is read-only.
    pub(super) fn tell_read_only(&self, is_read_only: bool) {
        if self.told.swap(is_read_only, Ordering::AcqRel) != is_read_only {
            if is_read_only {
                tracing::error!(
                    event = "database_read_only",
                    "the database takes no writes: connections are replaced until a server takes them again"
                );
            } else {
                tracing::info!(event = "database_writable", "the database takes writes again");
            }
        }
    }
}

impl Lease {
    /// The connection. It is there until the lease is dropped.
    #[expect(clippy::expect_used, reason = "only dropping the lease takes the connection out")]
    pub(super) fn get(&self) -> &Connection {
        self.object.as_deref().expect("a lease holds its connection")
    }

    /// As [`Lease::get`].
    #[expect(clippy::expect_used, reason = "only dropping the lease takes the connection out")]
    pub(super) fn get_mut(&mut self) -> &mut Connection {
        self.object.as_deref_mut().expect("a lease holds its connection")
    }

    /// Notes which server process works for this lease.
    pub(super) fn note(&mut self, pid: Option<i32>) {
        let mut lent = self.pool.lent();
        if let Some(old) = self.lent.take() {
            lent.remove(&old);
        }
        if let Some(pid) = pid {
            lent.insert(pid);
        }
        self.lent = pid;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        let pid = self.lent;
        self.note(None);
        if object.progress.is_lost() {
            drop(Object::take(object));
            // What ended this connection, a restart or a fail-over, has probably ended those that lie idle.
            self.pool.objects.retain(|_, _| false);
        } else if object.progress.is_idle() {
            drop(object);
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let pool = Arc::clone(&self.pool);
            runtime.spawn(async move { pool.reset(object, pid).await });
        } else {
            drop(Object::take(object));
        }
    }
}

impl Canceller {
    /// Cancels what this server process is doing.
    async fn cancel(&self, pid: i32) -> sqlx::Result<()> {
        self.ask(format!("SELECT pg_cancel_backend({pid})::integer::bigint")).await.map(|_| ())
    }

    /// Cancels, of the statements of these server processes that have waited for a lock for so long, all but `spared`,
    /// the oldest first, and gives their number.
    pub(super) async fn cancel_waiting(&self, pids: &[i32], waited: Duration, spared: usize) -> sqlx::Result<i64> {
        let pids = pids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        self.ask(format!(
            "SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM (
                SELECT pid, row_number() OVER (ORDER BY query_start DESC) AS rank FROM pg_stat_activity
                WHERE pid = ANY (ARRAY[{pids}]::integer[]) AND state = 'active' AND wait_event_type = 'Lock'
                    AND clock_timestamp() - query_start > interval '{} milliseconds') waiting
             WHERE rank > {spared}",
            waited.as_millis(),
        ))
        .await
    }

    /// Asks for one number. When dropped meanwhile, it drops the connection too.
    async fn ask(&self, sql: String) -> sqlx::Result<i64> {
        let mut kept = self.connection.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.target.connect().await?.0,
        };
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut connection).await?;
        *kept = Some(connection);
        row.try_get(0)
    }
}
