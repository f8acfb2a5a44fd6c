//! What the service must find before it serves: a role that row-level security holds, and a session that keeps what is
//! prepared in it, or a configuration that does without.

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::{Db, reach};
use crate::fault::{self, Fault};
use crate::startup::{Result, StartFailure};

const PROCESS: &str = "SELECT pg_backend_pid()";

impl Db {
    /// Connects for the first time, on both ways where there are two.
    ///
    /// # Errors
    /// Where the database was looked for, what is wrong and what to do.
    pub async fn reach(&self) -> Result<()> {
        let (url, limit) = (&self.pool.maker().target, self.config.acquire_timeout);
        reach("database.url", url, limit).await?;
        if self.config.direct_url.is_some() {
            reach("database.direct_url", &self.direct, limit).await?;
        }
        Ok(())
    }

    /// Whether the service may work with what it is connected to: as a role that row-level security holds, and through a
    /// pooler only as the configuration says.
    ///
    /// # Errors
    /// Says what is wrong and what to do.
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
    if !keeps_session(db).await? {
        return Err(StartFailure::of_setting(
            "database.pooler",
            "must be \"transaction\": a pooler in front of the database gives each transaction another session. Set \
             database.direct_url beside it, and database.prepared_statements = false unless the pooler keeps prepared \
             statements apart",
        ));
    }
    Ok(())
}

/// Whether two connections have a process each, and keep it.
async fn keeps_session(db: &Db) -> fault::Result<bool> {
    let mut lease = db.pool.lease().await?;
    let mut other = db.pool.maker().target.connect_within(db.config.acquire_timeout).await?;
    let first = lease.get().pid;
    let (second, third) = (process(&mut other).await?, process(&mut other).await?);
    let last: Option<i32> = lease.get_mut().simple(PROCESS.to_owned()).await?.map(|row| row.try_get(0)).transpose()?;
    sqlx::Connection::close(other).await?;
    Ok(first != Some(second) && second == third && first == last)
}

async fn process(connection: &mut PgConnection) -> fault::Result<i32> {
    // As one message without parameters: nothing is prepared, which a pooler might not bear.
    Ok(sqlx::raw_sql(AssertSqlSafe(PROCESS.to_owned())).fetch_one(connection).await?.try_get(0)?)
}

/// Refuses a role that row-level security does not hold.
async fn check_role(db: &Db) -> Result<()> {
    let Some((name, what)) = too_mighty(db).await? else { return Ok(()) };
    let cause = format!(
        "connects as the role {name}, which {what}, or is a member of a role that does: row-level security would not keep \
         tenants apart"
    );
    let remedy = "Connect as sidle_app, or as a role of your own that has nothing but membership in it; the owner belongs \
                  into database.owner_url.";
    Err(StartFailure::of_setting("database.url", cause).remedy(remedy))
}

/// The role and what it should not be able to do; none where all is well.
async fn too_mighty(db: &Db) -> fault::Result<Option<(String, &'static str)>> {
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
    let is = |column| row.try_get::<bool, _>(column).map_err(Fault::from);
    Ok(match (is("superuser")?, is("bypasses")?, is("owns")?) {
        (true, ..) => Some((name, "is a superuser")),
        (_, true, _) => Some((name, "has or can take on BYPASSRLS")),
        (_, _, true) => Some((name, "owns Sidle's tables")),
        _ => None,
    })
}
