//! SQL of users as their own account changes: what ends with what they had.

use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

use crate::db::Connection;
use crate::fault::Result;

/// Revokes the access tokens of a user, and tells by which revocation. For transactions of the platform.
pub(in crate::authenticate) async fn revoke_tokens(tx: &mut Connection, user: Uuid) -> Result<Epoch> {
    let at = sqlx::query_scalar!(r#"SELECT tokens_revoke(ARRAY[$1::uuid], NULL) AS "at!""#, user).fetch_one(tx).await?;
    Ok(Epoch::of(Some(at)))
}

/// Ends the sessions of a user whose credentials have changed, except one, voids what waits to become one, and tells which
/// sessions ended.
pub(in crate::authenticate) async fn end_sessions(
    tx: &mut Connection,
    user: Uuid,
    except: Option<Uuid>,
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>> {
    let ended = sqlx::query_scalar!(
        r#"SELECT session_end_all($1, $2, 'credential_changed', $3) AS "ended!""#,
        user,
        except,
        now
    )
    .fetch_one(tx)
    .await?;
    Ok(ended)
}
