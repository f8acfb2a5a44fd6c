//! What the service must find before it serves: a role that row-level security holds, and a session that keeps what is
//! prepared in it, or a configuration that does without.

use sqlx::Row as _;

use super::Db;
use crate::fault::{Fault, Result};

impl Db {
    /// Whether the service may work with what it is connected to: as a role that row-level security holds, and through a
    /// pooler only as the configuration says.
    ///
    /// # Errors
    /// Says what is wrong and what to do; `DATABASE_UNAVAILABLE` when the database does not answer.
    pub async fn check(&self) -> Result<()> {
        check(self).await
    }
}

/// Refuses a role that row-level security does not hold.
async fn check(db: &Db) -> Result<()> {
    // Twice on two connections: a pooler that mixes up prepared statements does so at the latest now.
    let (first, second) = futures_util::future::join(ask(db), ask(db)).await;
    first?;
    second?;
    let problem = ask(db).await?;
    problem.map_or(Ok(()), Err)
}

async fn ask(db: &Db) -> Result<Option<Fault>> {
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
        _ => return Ok(None),
    };
    Ok(Some(Fault::field(
        "database.url",
        format!(
            "connects as the role {name}, which {what}, or is a member of a role that does: row-level security would not \
             keep tenants apart; connect as sidle_app, or as a role of your own that has nothing but membership in it"
        ),
    )))
}
