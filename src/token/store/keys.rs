//! SQL of signing keys.

use crate::db::Connection;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::fault::Result;

/// Where a key stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum KeyState {
    /// Published, so that verifiers know it before the first token.
    Pending,
    /// Signs.
    Active,
    /// Signs no more; its tokens are still good.
    Retiring,
    /// Neither signs nor is accepted.
    Retired,
}

/// A key as it lies in the database.
pub(in crate::token) struct Row {
    pub kid: Uuid,
    pub algorithm: String,
    pub state: KeyState,
    pub private_key: Vec<u8>,
    pub created_at: DateTime<Utc>,
    pub activates_at: DateTime<Utc>,
    pub retiring_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
}

macro_rules! rows {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"SELECT kid, algorithm, state AS "state: KeyState", private_key, created_at, activates_at, retiring_at,
                expires_at
               FROM signing_keys WHERE "# + $tail
            $(, $argument)*
        )
    };
}

/// Every key that a living token may be signed with, and the one that comes next.
pub(in crate::token) async fn usable(tx: &mut Connection) -> Result<Vec<Row>> {
    Ok(rows!("state <> 'retired' ORDER BY created_at, kid").fetch_all(tx).await?)
}

/// Keys before `before` by id, the newest first.
pub(in crate::token) async fn list(tx: &mut Connection, before: Uuid, retired: bool, limit: i64) -> Result<Vec<Row>> {
    let found = rows!("kid < $1 AND ($2 OR state <> 'retired') ORDER BY kid DESC LIMIT $3", before, retired, limit);
    Ok(found.fetch_all(tx).await?)
}

/// Keys that stopped being accepted since then.
pub(in crate::token) async fn retired(tx: &mut Connection, since: DateTime<Utc>) -> Result<Vec<(Uuid, DateTime<Utc>)>> {
    let rows = sqlx::query!(r#"SELECT kid, retired_at AS "at!" FROM signing_keys WHERE retired_at > $1"#, since)
        .fetch_all(tx)
        .await?;
    Ok(rows.into_iter().map(|row| (row.kid, row.at)).collect())
}

/// Keeps other replicas from changing keys until the transaction ends.
pub(in crate::token) async fn lock(tx: &mut Connection) -> Result<()> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('sidle signing keys', 0))").execute(tx).await?;
    Ok(())
}

/// Adds a key that is published and does not sign yet.
pub(in crate::token) async fn insert(
    tx: &mut Connection,
    kid: Uuid,
    algorithm: &str,
    private_key: &[u8],
    now: DateTime<Utc>,
    activates_at: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO signing_keys (kid, algorithm, private_key, state, created_at, activates_at)
         VALUES ($1, $2, $3, 'pending', $4, $5)",
        kid,
        algorithm,
        private_key,
        now,
        activates_at,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Has the active key sign no more; its tokens are good until `expires_at`.
pub(in crate::token) async fn retire_active(
    tx: &mut Connection,
    now: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> Result<Option<Uuid>> {
    let kid = sqlx::query_scalar!(
        "UPDATE signing_keys SET state = 'retiring', retiring_at = $1, expires_at = $2 WHERE state = 'active' RETURNING kid",
        now,
        expires_at,
    )
    .fetch_optional(tx)
    .await?;
    Ok(kid)
}

/// Has the pending key sign.
pub(in crate::token) async fn activate(tx: &mut Connection, kid: Uuid, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!(
        "UPDATE signing_keys SET state = 'active', activated_at = $2 WHERE kid = $1 AND state = 'pending'",
        kid,
        now,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Has these keys be accepted no more, and forgets their private halves; returns which were not retired before.
pub(in crate::token) async fn retire(
    tx: &mut Connection,
    kids: &[Uuid],
    reason: &str,
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>> {
    let kids = sqlx::query_scalar!(
        "UPDATE signing_keys SET state = 'retired', retired_at = $3, retire_reason = $2, private_key = '',
            retiring_at = coalesce(retiring_at, $3), expires_at = least(coalesce(expires_at, $3), $3)
         WHERE kid = ANY ($1) AND state <> 'retired' RETURNING kid",
        kids,
        reason,
        now,
    )
    .fetch_all(tx)
    .await?;
    Ok(kids)
}
