//! What the service must find before it serves: a role that row-level security holds, and a session that keeps what is
//! prepared in it, or a configuration that does without.

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::Db;
use crate::fault::{Fault, Result};

const PROCESS: &str = "SELECT pg_backend_pid()";

impl Db {
    /// Whether the service may work with what it is connected to: as a role that row-level security holds, and through a
    /// pooler only as the configuration says.
    ///
    /// # Errors
    /// Says what is wrong and what to do; `DATABASE_UNAVAILABLE` when the database does not answer.
    pub async fn check(&self) -> Result<()> {
        check_session(self).await?;
        check_role(self).await
    }
}

/// Refuses a transaction pooler that the configuration does not mention. Such a pooler gives each statement any server
/// process that is idle: the one that served the other connection a moment ago, or in turn the next one.
async fn check_session(db: &Db) -> Result<()> {
    let maker = db.pool.maker();
    if maker.pooler {
        return Ok(());
    }
    let mut lease = db.pool.lease().await?;
    let mut other = maker.target.connect_within(db.config.acquire_timeout).await?;
    let first = lease.get().pid;
    let (second, third) = (process(&mut other).await?, process(&mut other).await?);
    let last: Option<i32> = lease.get_mut().simple(PROCESS.to_owned()).await?.map(|row| row.try_get(0)).transpose()?;
    sqlx::Connection::close(other).await?;
    if first == Some(second) || second != third || first != last {
        return Err(Fault::field(
            "database.pooler",
            "must be \"transaction\": a pooler in front of the database gives each transaction another session. Set \
             database.direct_url beside it, and database.prepared_statements = false unless the pooler keeps prepared \
             statements apart",
        ));
    }
    Ok(())
}

async fn process(connection: &mut PgConnection) -> Result<i32> {
    // As one message without parameters: nothing is prepared, which a pooler might not bear.
    Ok(sqlx::raw_sql(AssertSqlSafe(PROCESS.to_owned())).fetch_one(connection).await?.try_get(0)?)
}

/// Refuses a role that row-level security does not hold.
async fn check_role(db: &Db) -> Result<()> {
    // By the role of the session as well, since it can go back to that.
    let row = sqlx::query(
        "SELECT session_user::text AS name,
            bool_or(r.rolsuper) AS superuser, bool_or(r.rolbypassrls) AS bypasses,
            coalesce(bool_or(r.oid = (SELECT relowner FROM pg_class WHERE oid = to_regclass('public.users'))), false) AS owns
         FROM pg_roles r
         WHERE pg_has_role(session_user, r.oid, 'MEMBER') OR pg_has_role(current_user, r.oid, 'MEMBER')",
    )
    .fetch_one(db)
    .await?;
    let name: String = row.try_get("name")?;
    let is = |column| row.try_get::<bool, _>(column);
    let what = match (is("superuser")?, is("bypasses")?, is("owns")?) {
        (true, ..) => "is a superuser",
        (_, true, _) => "has or can take on BYPASSRLS",
        (_, _, true) => "owns Sidle's tables",
        _ => return Ok(()),
    };
    Err(Fault::field(
        "database.url",
        format!(
            "connects as the role {name}, which {what}, or is a member of a role that does: row-level security would not \
             keep tenants apart; connect as sidle_app, or as a role of your own that has nothing but membership in it"
        ),
    ))
}
