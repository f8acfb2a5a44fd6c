//! SQL of the snapshot of revocations, as a replica loads it.

use crate::db::Connection;
use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

use crate::fault::Result;

/// Sessions that were ended since then.
pub(in crate::token) async fn ended_sessions(tx: &mut Connection, since: DateTime<Utc>) -> Result<Vec<Uuid>> {
    let ids = sqlx::query_scalar!("SELECT session_id FROM sessions WHERE revoked_at > $1", since).fetch_all(tx).await?;
    Ok(ids)
}

/// Principals whose tokens were revoked since then, and by which revocation.
pub(in crate::token) async fn ended_tokens(tx: &mut Connection, since: DateTime<Utc>) -> Result<Vec<(Uuid, Epoch)>> {
    let rows = sqlx::query!(
        r#"SELECT user_id AS "id!", tokens_valid_from AS "at!" FROM users WHERE tokens_valid_from > $1
           UNION ALL
           SELECT service_account_id, tokens_valid_from FROM service_accounts WHERE tokens_valid_from > $1"#,
        since,
    )
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, Epoch::of(Some(row.at)))).collect())
}
