//! Connections to Postgres, transactions with their tenant scope, and what driver errors mean. Knows no query of any
//! service.
//!
//! Statements reach the server in two ways only: alone, on [`Db`] itself, or within a [`Tx`]. Both lend a connection
//! from the pool and give it back when it is known to be idle; what a call that is dropped half-way left behind is
//! cancelled and rolled back first.

mod connection;
mod errors;
mod listener;
mod operation;
mod pool;
mod reach;
mod role;
mod target;
mod types;

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgListener, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, PgConnection, Postgres, Row as _, SqlStr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::connection::Connection;
pub use self::errors::{constraint, gave_up_waiting};
pub use self::listener::Notifications;
use self::pool::{Lease, Limits, Maker, Pool};
pub(crate) use self::reach::reach;
pub(crate) use self::target::Target;
use crate::config::DatabaseConfig;
use crate::fault::{Fault, Reason, Result};

/// How often the pool is maintained.
const UPKEEP: Duration = Duration::from_millis(100);
/// A statement that has waited for a lock for so long is cancelled when calls wait for a connection.
const CONTENDED: Duration = Duration::from_millis(100);

/// Longest time of a statement in a reserved pool.
const RESERVED_STATEMENT: Duration = Duration::from_secs(5);

/// What a transaction may see and change. Row-level security holds it to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every tenant.
    Platform,
    /// One tenant.
    Tenant(Uuid),
}

impl Scope {
    /// The tenant, where it is one.
    pub fn tenant(self) -> Option<Uuid> {
        match self {
            Self::Platform => None,
            Self::Tenant(id) => Some(id),
        }
    }

    /// The statement that sets the scope, once in a transaction. A UUID needs no quoting.
    fn enter(self) -> String {
        match self {
            Self::Platform => "scope_begin(NULL)".to_owned(),
            Self::Tenant(id) => format!("scope_begin('{id}')"),
        }
    }
}

/// A transaction in one scope. Rolled back unless committed.
pub struct Tx {
    lease: Lease,
    /// Held by one that may wait for others' keys.
    _contended: Option<ContendedPermit>,
}

impl Tx {
    /// Commits the transaction.
    ///
    /// # Errors
    /// When the database could not commit; the caller may not know whether it did.
    pub async fn commit(mut self) -> Result<()> {
        Ok(self.lease.get_mut().commit().await?)
    }
}

impl Deref for Tx {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.lease.get()
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Connection {
        self.lease.get_mut()
    }
}

/// Connections to Postgres. As an executor it runs single statements, each on a connection of the pool.
#[derive(Clone)]
pub struct Db {
    pool: Arc<Pool>,
    direct: Target,
    config: Arc<DatabaseConfig>,
    /// Connections that may be taken by transactions which may wait for others' keys.
    contended: Arc<Contended>,
}

/// Permits to wait for others' keys: so many together and, of these, half at most for one tenant, so that an import into one
/// holds up none of the others.
#[derive(Debug)]
struct Contended {
    all: Arc<Semaphore>,
    each: usize,
    /// By tenant; one for what is nobody's tenant's.
    shares: Mutex<HashMap<Option<Uuid>, Weak<Semaphore>>>,
}

/// What a transaction holds that may wait for others' keys.
struct ContendedPermit {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Contended {
    fn new(all: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), each: (all / 2).max(1), shares: Mutex::default() }
    }

    /// Waits its turn: within its share first, so that few of one tenant's stand before others'.
    async fn acquire(&self, share: Option<Uuid>) -> Result<ContendedPermit> {
        let own = self.of(share).acquire_owned().await.map_err(Fault::internal)?;
        let all = Arc::clone(&self.all).acquire_owned().await.map_err(Fault::internal)?;
        Ok(ContendedPermit { _own: own, _all: all })
    }

    fn of(&self, share: Option<Uuid>) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shares.get(&share).and_then(Weak::upgrade) {
            return known;
        }
        shares.retain(|_, semaphore| semaphore.strong_count() > 0);
        let own = Arc::new(Semaphore::new(self.each));
        shares.insert(share, Arc::downgrade(&own));
        own
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("figures", &self.figures()).finish_non_exhaustive()
    }
}

/// How long a transaction waits for a permit to wait for others' keys, and then for the keys.
const CONTENDED_WAIT: Duration = Duration::from_secs(2);

/// How the pool is used at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFigures {
    /// Connections that exist.
    pub size: u32,
    /// Connections that wait for work.
    pub checked_in: u32,
    /// Connections at work.
    pub checked_out: u32,
    /// Connections over the configured size; the pool never makes any, so always 0.
    pub overflow: u32,
    /// Connections there may be.
    pub limit: u32,
}

impl Db {
    /// Makes the pool. Connects on first use, so that a service can start before its database.
    ///
    /// # Errors
    /// When an address in the configuration cannot be read or must not be used.
    pub fn new(config: &DatabaseConfig) -> Result<Self> {
        let (url, direct) = config.targets()?;
        Self::with_pool(Arc::new(config.clone()), url, direct, config.pool_size)
    }

    /// The same database through a pool of its own, which calls cannot exhaust: for what must go on whatever they do. Its
    /// statements are short, so that a server that vanished is noticed before their work is overdue.
    ///
    /// # Errors
    /// As [`Db::new`].
    pub fn reserved(&self, size: u32) -> Result<Self> {
        let (url, direct) = self.config.targets()?;
        let statement_timeout = self.config.statement_timeout.min(RESERVED_STATEMENT);
        let config = DatabaseConfig { statement_timeout, ..(*self.config).clone() };
        Self::with_pool(Arc::new(config), url, direct, size)
    }

    fn with_pool(config: Arc<DatabaseConfig>, url: Target, direct: Target, size: u32) -> Result<Self> {
        let maker = Maker {
            target: url,
            limits: Limits {
                statement: config.statement_timeout,
                lock: config.lock_timeout,
                idle_in_transaction: config.idle_in_transaction_timeout,
            },
            pooler: config.pooler.is_transaction(),
            prepared: config.prepared_statements,
            recycle_after: config.recycle_after,
            generation: Arc::default(),
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX).max(1);
        let pool = Pool::new(maker, direct.named("sidle-cancel"), size, config.acquire_timeout)?;
        let contended = Arc::new(Contended::new((size / 4).max(1)));
        Ok(Self { pool: Arc::new(pool), direct, config, contended })
    }

    /// Begins a transaction in `scope` that writes values which must be unique over all tenants. An import holds those of
    /// its rows until it ends, which may take minutes, and calls that want one of them meanwhile have to wait for that: for
    /// a short time only, and with a quarter of the pool at most and half of that within one tenant, so that it holds up
    /// no others.
    ///
    /// # Errors
    /// `VALUE_CONTENDED` when too many wait already; `DATABASE_UNAVAILABLE`.
    pub async fn begin_contended(&self, scope: Scope) -> Result<Tx> {
        self.begin_contended_for(scope, scope.tenant()).await
    }

    /// As [`Db::begin_contended`], within the share of `tenant`: for calls that act for the platform on behalf of a tenant's
    /// users before those have signed in.
    ///
    /// # Errors
    /// As [`Db::begin_contended`].
    pub async fn begin_contended_for(&self, scope: Scope, tenant: Option<Uuid>) -> Result<Tx> {
        let permit =
            tokio::time::timeout(CONTENDED_WAIT, self.contended.acquire(tenant)).await.map_err(|_| contended())??;
        let mut tx = self.begin(scope).await?;
        let wait = format!("SET LOCAL lock_timeout = {}", CONTENDED_WAIT.as_millis());
        tx.lease.get_mut().simple(wait).await?;
        tx._contended = Some(permit);
        Ok(tx)
    }

    /// Begins a transaction in `scope`, in one round trip.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE` when no connection can be had in time.
    pub async fn begin(&self, scope: Scope) -> Result<Tx> {
        match self.begin_with(&scope.enter()).await {
            Ok(lease) => Ok(Tx { lease, _contended: None }),
            // The server may have closed a pooled connection while it was idle, for example by a restart. Nothing has
            // been done in this transaction, so another connection can take its place.
            Err(error) if errors::is_broken_connection(&error) => {
                Ok(Tx { lease: self.begin_with(&scope.enter()).await?, _contended: None })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Begins a transaction whose first statement computes `first`.
    async fn begin_with(&self, first: &str) -> sqlx::Result<Lease> {
        let mut lease = self.pool.lease().await?;
        let maker = self.pool.maker();
        if maker.pooler {
            // The session is another client's afterwards, so that nothing may be set for longer than the transaction.
            let limits = maker.limits.sql(true);
            let begin = format!("BEGIN; {limits}; SELECT pg_backend_pid(), {first}");
            let row = lease.get_mut().begin(begin).await?;
            lease.note(row.map(|row| row.try_get(0)).transpose()?);
        } else {
            lease.get_mut().begin(format!("BEGIN; SELECT {first}")).await?;
        }
        Ok(lease)
    }

    /// A connection for a single statement.
    async fn single(&self) -> sqlx::Result<Lease> {
        // Behind a transaction pooler only a transaction holds what is prepared, and only it can be bounded.
        if self.pool.maker().pooler { self.begin_with("NULL").await } else { self.pool.lease().await }
    }

    async fn finish(&self, lease: &mut Lease) -> sqlx::Result<()> {
        if self.pool.maker().pooler { lease.get_mut().commit().await } else { Ok(()) }
    }

    /// A connection of its own past any transaction pooler, for listening and for advisory locks.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE` when the database cannot be reached.
    pub async fn direct(&self) -> Result<PgConnection> {
        Ok(self.direct.connect_within(self.config.acquire_timeout).await?)
    }

    /// Listens for notifications on `channel`, on a connection of its own past any transaction pooler.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE` when the database cannot be reached.
    pub async fn listen(&self, channel: &str) -> Result<Notifications> {
        // Found anew each time: after a fail-over another server is the one that is written to.
        let (connection, server) = self.direct.named("sidle-listen").connect().await?;
        sqlx::Connection::close(connection).await?;
        // The driver's listener takes its connection from a pool; a pool of one gives it no other.
        let own = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.config.acquire_timeout)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(server);
        let mut listener = PgListener::connect_with(&own).await?;
        listener.listen(channel).await?;
        Ok(Notifications::new(listener))
    }

    /// Longest pause within a transaction.
    pub fn idle_in_transaction_timeout(&self) -> Duration {
        self.config.idle_in_transaction_timeout
    }

    /// Maintains the pool until `stop`: closes idle connections, and cancels statements that wait for locks when calls wait
    /// for a connection, so that one locked row delays only the calls that want it.
    pub async fn upkeep(self, stop: CancellationToken) {
        // Said once while it lasts: a database that is away would fill the log.
        let mut is_unknown = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UPKEEP) => {}
            }
            self.pool.close_idle(self.config.idle_timeout).await;
            let (_, _, waiting) = self.pool.figures();
            if waiting == 0 {
                continue;
            }
            let working = self.pool.working();
            let relieved = self.pool.canceller.cancel_waiting(&working, CONTENDED, self.pool.size / 2);
            match tokio::time::timeout(self.config.acquire_timeout, relieved).await {
                Ok(Ok(cancelled)) => {
                    is_unknown = false;
                    if cancelled > 0 {
                        tracing::warn!(
                            event = "database_lock_waits_cancelled",
                            cancelled,
                            waiting,
                            "statements that waited for locks gave way to calls that waited for a connection"
                        );
                    }
                }
                Ok(Err(_)) | Err(_) if !is_unknown => {
                    is_unknown = true;
                    tracing::warn!(
                        event = "database_lock_waits_unknown",
                        waiting,
                        "calls wait for a connection, and the database does not say what the others wait for"
                    );
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// How the pool is used at the moment.
    pub fn figures(&self) -> PoolFigures {
        let (size, idle, _) = self.pool.figures();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        PoolFigures {
            size: count(size),
            checked_in: count(idle),
            checked_out: count(size.saturating_sub(idle)),
            overflow: 0,
            limit: count(self.pool.size),
        }
    }

    /// Asks the database for an answer, and whether it takes writes.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE` when there is none, or it does not.
    pub async fn ping(&self) -> Result<()> {
        let mut lease = self.single().await?;
        // Any statement that writes would say so; this one says so without writing.
        let asked = "SELECT current_setting('transaction_read_only')".to_owned();
        let row = lease.get_mut().simple(asked).await?;
        let answer: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
        let is_read_only = answer.as_deref() != Some("off");
        self.pool.tell_read_only(is_read_only);
        if is_read_only {
            lease.get_mut().retire();
            return Err(errors::read_only());
        }
        Ok(self.finish(&mut lease).await?)
    }

    /// Closes the pool.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl DatabaseConfig {
    /// Where calls go, and where what needs a session of its own goes.
    ///
    /// # Errors
    /// When an address cannot be read or must not be used.
    pub(crate) fn targets(&self) -> Result<(Target, Target)> {
        let url = Target::read("database.url", self.url.expose(), self.allow_plaintext)?;
        let direct = match &self.direct_url {
            Some(direct) => Target::read("database.direct_url", direct.expose(), self.allow_plaintext)?,
            None if self.pooler.is_transaction() => {
                return Err(Fault::field(
                    "database.direct_url",
                    "is needed beside database.pooler = \"transaction\": listening and advisory locks need a session of \
                     their own, so give the address of Postgres itself",
                ));
            }
            None => url.clone(),
        };
        Ok((url, direct))
    }

    /// Where schema migrations run, and the setting that says so.
    ///
    /// # Errors
    /// When the address cannot be read or must not be used.
    pub(crate) fn owner_target(&self) -> Result<(&'static str, Target)> {
        match &self.owner_url {
            Some(url) => {
                let setting = "database.owner_url";
                Ok((setting, Target::read(setting, url.expose(), self.allow_plaintext)?))
            }
            None if self.direct_url.is_some() => Ok(("database.direct_url", self.targets()?.1)),
            None => Ok(("database.url", self.targets()?.1)),
        }
    }
}

impl<'p> Executor<'p> for &'p Db {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        // Read to the end immediately: a slow reader must not hold the connection.
        let rows = async move {
            let mut lease = self.single().await?;
            let rows: Vec<_> = lease.get_mut().fetch_many(query).try_collect().await?;
            self.finish(&mut lease).await?;
            Ok::<_, sqlx::Error>(stream::iter(rows).map(Ok))
        };
        Box::pin(stream::once(rows).try_flatten())
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let mut lease = self.single().await?;
            let row = lease.get_mut().fetch_optional(query).await?;
            self.finish(&mut lease).await?;
            Ok(row)
        })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'p: 'e,
    {
        Box::pin(async move {
            let mut lease = self.single().await?;
            let statement = lease.get_mut().prepare_with(sql, parameters).await?;
            self.finish(&mut lease).await?;
            Ok(statement)
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'p: 'e,
    {
        Box::pin(async move {
            let mut lease = self.single().await?;
            let description = lease.get_mut().describe(sql).await?;
            self.finish(&mut lease).await?;
            Ok(description)
        })
    }
}

/// The refusal for a value that another transaction is writing.
pub fn contended() -> Fault {
    let text = "Another transaction, such as an import in progress, is writing the same address or username.";
    Fault::new(Reason::ValueContended, text).retry_after(Duration::from_secs(5))
}

/// A duration as Postgres' `interval`, which has microseconds.
pub fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}
