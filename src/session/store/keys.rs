//! SQL of signing keys.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::fault::Result;
use crate::session::keys::KeyState;

/// A key as it lies in the database.
pub(in crate::session) struct Row {
    pub kid: Uuid,
    pub algorithm: String,
    pub state: KeyState,
    pub private_key: Vec<u8>,
}

/// Every key that a living token may be signed with, and the one that comes next.
pub(in crate::session) async fn usable(tx: &mut PgConnection) -> Result<Vec<Row>> {
    let rows = sqlx::query!(
        "SELECT kid, algorithm, state, private_key FROM signing_keys WHERE state <> 'retired' ORDER BY created_at, kid"
    )
    .fetch_all(tx)
    .await?;
    let state = |name: &str| match name {
        "active" => KeyState::Active,
        "retiring" => KeyState::Retiring,
        _ => KeyState::Pending,
    };
    let rows = rows.into_iter().map(|row| Row {
        kid: row.kid,
        algorithm: row.algorithm,
        state: state(&row.state),
        private_key: row.private_key,
    });
    Ok(rows.collect())
}

/// Makes a key the active one unless there is one; says whether it did. Waits for another replica that is at it.
pub(in crate::session) async fn insert_first(
    tx: &mut PgConnection,
    kid: Uuid,
    algorithm: &str,
    private_key: &[u8],
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query!(
        "INSERT INTO signing_keys (kid, algorithm, private_key, state, created_at, activated_at)
         VALUES ($1, $2, $3, 'active', $4, $4) ON CONFLICT (state) WHERE state = 'active' DO NOTHING",
        kid,
        algorithm,
        private_key,
        now,
    )
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}
