//! A connection that knows what it is in the middle of: a statement, a transaction, or nothing. Every statement of the
//! service passes through here, so that nothing can be left half-way without being noticed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, Stream};
use sqlx::postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{AssertSqlSafe, Describe, Either, Execute, Executor, PgConnection, Postgres, SqlStr};
use tokio::time::{Sleep, sleep, timeout};

use super::errors;
use super::operation::Operation;

/// Counts the times that the database turned out to be read-only: connections from before the last one are of no use.
pub(super) type Generation = Arc<AtomicU64>;

/// How much later than the server would have ended a statement its answer may come.
const LATENESS: Duration = Duration::from_secs(2);

/// A connection to Postgres, in the middle of at most one transaction.
pub struct Connection {
    inner: PgConnection,
    /// Longest silence while an answer is awaited. The server ends statements by itself well before; when it says nothing,
    /// it or the network is gone, which no packet may ever report.
    patience: Duration,
    /// Process id of the server's side, for cancelling what it does. Behind a transaction pooler it is known only while a
    /// transaction is open.
    pub(super) pid: Option<i32>,
    /// Whether statements are prepared by name and kept.
    prepared: bool,
    pub(super) progress: Progress,
}

/// What a connection is in the middle of.
#[derive(Debug)]
pub(super) struct Progress {
    /// A statement was sent and not answered to its end.
    in_flight: bool,
    /// BEGIN may have been executed, and neither COMMIT nor ROLLBACK is known to have been.
    in_transaction: bool,
    /// COMMIT or ROLLBACK may have been executed: behind a transaction pooler the server's process may be another's by now.
    ending: bool,
    /// A statement failed since the transaction began, so that the server will not commit it.
    failed: bool,
    /// The connection itself failed.
    broken: bool,
    /// The generation that the connection belongs to.
    born: u64,
    generation: Generation,
}

impl Progress {
    /// Whether the connection can be lent again as it is.
    pub(super) fn is_idle(&self) -> bool {
        !(self.in_flight || self.in_transaction || self.failed || self.broken)
    }

    /// Whether the connection is of no use any more.
    pub(super) fn is_lost(&self) -> bool {
        self.broken || self.born != self.generation.load(Ordering::Acquire)
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Whether what the server's process does at the moment is known to be this connection's statement.
    pub(super) fn may_be_cancelled(&self, pooler: bool) -> bool {
        self.in_flight && !(pooler && self.ending)
    }

    /// Notes what is left after a rollback: nothing, when it `is_clean`.
    fn settle(&mut self, is_clean: bool) {
        (self.in_transaction, self.failed, self.ending) = (!is_clean, !is_clean, false);
    }

    fn begin_statement(&mut self) {
        self.in_flight = true;
    }

    fn end_statement(&mut self, error: Option<&sqlx::Error>) {
        self.in_flight = false;
        let Some(error) = error else { return };
        self.failed = true;
        // Decoding and encoding fail on this side; the server may still be sending rows.
        self.in_flight = !matches!(error, sqlx::Error::Database(_) | sqlx::Error::RowNotFound);
        self.broken |= errors::is_broken_connection(error);
        if errors::is_read_only(error) {
            self.retire();
        }
    }

    /// A fail-over left a standby behind: no connection from before leads to a server that takes writes.
    fn retire(&self) {
        // Only the first of a generation to find that out begins the next one.
        let _ = self.generation.compare_exchange(self.born, self.born + 1, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl Connection {
    /// A connection whose server ends statements after `limit`.
    pub(super) fn new(
        inner: PgConnection,
        limit: Duration,
        pid: Option<i32>,
        prepared: bool,
        generation: Generation,
    ) -> Self {
        let born = generation.load(Ordering::Acquire);
        let progress = Progress {
            in_flight: false,
            in_transaction: false,
            ending: false,
            failed: false,
            broken: false,
            born,
            generation,
        };
        Self { inner, patience: limit.saturating_add(LATENESS), pid, prepared, progress }
    }

    /// Sends `sql`, which holds no parameter, as one message, and gives the first row of its answer.
    pub(super) async fn simple(&mut self, sql: String) -> sqlx::Result<Option<PgRow>> {
        sqlx::raw_sql(AssertSqlSafe(sql)).fetch_optional(self).await
    }

    /// Sends what begins a transaction. From before the first byte is sent the connection counts as being inside one.
    pub(super) async fn begin(&mut self, sql: String) -> sqlx::Result<Option<PgRow>> {
        self.progress.in_transaction = true;
        self.simple(sql).await
    }

    /// Commits.
    ///
    /// # Errors
    /// When a statement of the transaction failed, since the server rolls back then and says that all is well.
    pub(super) async fn commit(&mut self) -> sqlx::Result<()> {
        if self.progress.failed || self.progress.in_flight {
            return Err(sqlx::Error::Protocol("a transaction with a failed statement was to be committed".into()));
        }
        self.progress.ending = true;
        self.simple("COMMIT".to_owned()).await?;
        (self.progress.in_transaction, self.progress.ending) = (false, false);
        Ok(())
    }

    /// Ends whatever is open, and says whether that worked.
    pub(super) async fn reset(&mut self) -> sqlx::Result<bool> {
        if !self.progress.in_flight {
            // Every statement was answered, so that what is open is known, and ends with the answer to this.
            self.simple("ROLLBACK".to_owned()).await?;
            self.progress.settle(true);
            return Ok(true);
        }
        self.drain().await?;
        self.simple("ROLLBACK".to_owned()).await?;
        let is_clean = self.is_clean().await?;
        self.progress.settle(is_clean);
        Ok(is_clean)
    }

    /// Reads what an abandoned statement still has to say, its own error and that of a late cancellation among it.
    async fn drain(&mut self) -> sqlx::Result<()> {
        use sqlx::Connection as _;
        const MOST_ERRORS: u32 = 4;
        let mut errors = 0;
        while let Err(error) = self.inner.ping().await {
            errors += 1;
            if errors > MOST_ERRORS
                || !matches!(error, sqlx::Error::Database(_))
                || errors::is_broken_connection(&error)
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Asks the server whether neither a transaction nor a scope is left.
    async fn is_clean(&mut self) -> sqlx::Result<bool> {
        use sqlx::Row as _;
        // Outside a transaction block the statement begins the transaction that it runs in.
        let asked = "SELECT coalesce(current_setting('sidle.tenant_id', true), '') = ''
                AND coalesce(current_setting('sidle.platform', true), '') = ''
                AND transaction_timestamp() = statement_timestamp()";
        match self.simple(asked.to_owned()).await? {
            Some(row) => row.try_get(0),
            None => Ok(false),
        }
    }

    /// Has the connection, and every other from before, replaced: the server takes no writes.
    pub(super) fn retire(&mut self) {
        self.progress.retire();
    }

    /// Ends the connection in order.
    pub(super) async fn close(self) {
        use sqlx::Connection as _;
        // An error while closing a connection changes nothing.
        let _ = self.inner.close().await;
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("pid", &self.pid).field("progress", &self.progress).finish_non_exhaustive()
    }
}

/// A query as it is sent: without a name where names of prepared statements must not outlive the transaction.
struct Sent<E> {
    query: E,
    prepared: bool,
    operation: Operation,
}

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Sent<E> {
    fn sql(self) -> SqlStr {
        let sql = self.query.sql();
        self.operation.is_of(sql.as_str());
        sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        self.prepared && self.query.persistent()
    }
}

/// The answer to a statement, noted when it ends.
struct Answer<'e> {
    rows: BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>,
    patience: Duration,
    /// Ends the silence since the server said something last; none while no answer is awaited.
    silence: Option<Pin<Box<Sleep>>>,
    progress: &'e mut Progress,
    operation: Operation,
}

impl Answer<'_> {
    fn end(&mut self, error: Option<&sqlx::Error>) {
        self.progress.end_statement(error);
        self.operation.end(error);
    }
}

/// The error of an answer that does not come.
fn silent() -> sqlx::Error {
    let text = "the server said nothing for longer than a statement may take";
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

impl Stream for Answer<'_> {
    type Item = sqlx::Result<Either<PgQueryResult, PgRow>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.rows.as_mut().poll_next(cx);
        match &next {
            Poll::Ready(None) => self.end(None),
            Poll::Ready(Some(Err(error))) => self.end(Some(error)),
            Poll::Ready(Some(Ok(_))) => self.silence = None,
            Poll::Pending => {
                let patience = self.patience;
                let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(patience)));
                std::task::ready!(silence.as_mut().poll(cx));
                let error = silent();
                self.end(Some(&error));
                return Poll::Ready(Some(Err(error)));
            }
        }
        next
    }
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Connection { inner, patience, prepared, progress, .. } = self;
        progress.begin_statement();
        let operation = Operation::begin();
        let rows = inner.fetch_many(Sent { query, prepared: *prepared, operation: operation.clone() });
        Box::pin(Answer { rows, patience: *patience, silence: None, progress, operation })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            self.progress.begin_statement();
            let mut operation = Operation::begin();
            let sent = Sent { query, prepared: self.prepared, operation: operation.clone() };
            let row = timeout(self.patience, self.inner.fetch_optional(sent)).await.unwrap_or_else(|_| Err(silent()));
            self.progress.end_statement(row.as_ref().err());
            operation.end(row.as_ref().err());
            row
        })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        self.inner.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'c: 'e,
    {
        self.inner.describe(sql)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_pooler_nothing_is_cancelled_once_the_commit_was_sent() {
        let progress = |in_flight, ending| Progress {
            in_flight,
            in_transaction: true,
            ending,
            failed: false,
            broken: false,
            born: 0,
            generation: Generation::default(),
        };
        for (in_flight, ending, pooler, may) in [
            (true, false, true, true),
            (true, true, true, false),
            (true, true, false, true),
            (true, false, false, true),
            (false, false, false, false),
            (false, true, true, false),
        ] {
            let (answer, case) = (progress(in_flight, ending).may_be_cancelled(pooler), (in_flight, ending, pooler));
            assert_eq!(answer, may, "in flight, ending, pooler: {case:?}");
        }
    }
}
