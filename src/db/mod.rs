//! The pool, transactions with their tenant scope, and what driver errors mean. Knows no query of any service.

mod errors;

use std::ops::{Deref, DerefMut};

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, PgPool, Postgres};
use uuid::Uuid;

pub use self::errors::constraint;
use crate::config::DatabaseConfig;
use crate::fault::{Fault, Result};

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

    fn begin(self) -> String {
        // Sent as one simple query, so that a scope costs no round trip of its own. A UUID needs no quoting.
        match self {
            Self::Platform => "BEGIN; SET LOCAL sidle.platform = 'on'".to_owned(),
            Self::Tenant(id) => format!("BEGIN; SET LOCAL sidle.tenant_id = '{id}'"),
        }
    }
}

/// A transaction in one scope. Rolled back unless committed.
pub struct Tx {
    inner: sqlx::Transaction<'static, Postgres>,
}

impl Tx {
    /// Makes it so.
    ///
    /// # Errors
    /// When the database could not commit; the caller may not know whether it did.
    pub async fn commit(self) -> Result<()> {
        Ok(self.inner.commit().await?)
    }
}

impl Deref for Tx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}

/// The way to Postgres.
#[derive(Clone, Debug)]
pub struct Db {
    pool: PgPool,
    direct: PgConnectOptions,
}

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
    /// Opens the pool. Connects on first use, so that a service can start before its database.
    ///
    /// # Errors
    /// When an address in the configuration cannot be read.
    pub fn new(config: &DatabaseConfig) -> Result<Self> {
        let options = |url: &str| -> Result<PgConnectOptions> {
            let options: PgConnectOptions = url.parse().map_err(|e: sqlx::Error| {
                Fault::field("database.url", "must be a Postgres URL such as postgres://user@host:5432/name").because(e)
            })?;
            // Statements are logged nowhere: their parameters are people's data.
            Ok(options.application_name("sidle").disable_statement_logging())
        };
        let url = config.url.expose();
        let direct = config.direct_url.as_ref().map_or(url, |direct| direct.expose());
        let pool = PgPoolOptions::new()
            .max_connections(config.pool_size)
            .acquire_timeout(config.acquire_timeout)
            .idle_timeout(config.idle_timeout)
            .max_lifetime(config.recycle_after)
            // A broken connection shows at its first statement anyhow; asking first would double every round trip.
            .test_before_acquire(false)
            .connect_lazy_with(options(url)?);
        Ok(Self { pool, direct: options(direct)? })
    }

    /// Begins a transaction in `scope`, in one round trip.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE` when no connection can be had in time.
    pub async fn begin(&self, scope: Scope) -> Result<Tx> {
        match self.pool.begin_with(AssertSqlSafe(scope.begin())).await {
            Ok(inner) => Ok(Tx { inner }),
            // The server may have closed a pooled connection while it was idle, for example by a restart. Nothing has
            // been sent in this transaction, so a second connection can take its place.
            Err(error) if errors::is_broken_connection(&error) => {
                Ok(Tx { inner: self.pool.begin_with(AssertSqlSafe(scope.begin())).await? })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The pool itself, for calls of functions that bring their own scope.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection of its own past any transaction pooler, for listening and for advisory locks.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE` when the database cannot be reached.
    pub async fn direct(&self) -> Result<PgConnection> {
        Ok(self.direct.connect().await?)
    }

    /// Listens for notifications on `channel`, on a connection of its own past any transaction pooler.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE` when the database cannot be reached.
    pub async fn listen(&self, channel: &str) -> Result<PgListener> {
        // The driver's listener takes its connection from a pool; a pool of one gives it nobody else's.
        let own = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.pool.options().get_acquire_timeout())
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(self.direct.clone());
        let mut listener = PgListener::connect_with(&own).await?;
        listener.listen(channel).await?;
        Ok(listener)
    }

    /// How the pool is used at the moment.
    pub fn figures(&self) -> PoolFigures {
        let size = self.pool.size();
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(size);
        PoolFigures {
            size,
            checked_in: idle,
            checked_out: size.saturating_sub(idle),
            overflow: 0,
            limit: self.pool.options().get_max_connections(),
        }
    }

    /// Asks the database for an answer.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE` when there is none.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Closes the pool after the work in hand.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
