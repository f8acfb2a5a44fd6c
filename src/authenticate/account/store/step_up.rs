//! SQL of proofs for sensitive calls.

use crate::db::Connection;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::fault::Result;

/// A proof to keep until it is spent.
pub(in crate::authenticate) struct NewProof<'a> {
    pub id: Uuid,
    pub token_hash: &'a [u8; 32],
    pub user: Uuid,
    pub session: Uuid,
    pub method: &'a str,
    pub target: &'a str,
    pub change: &'a [u8; 32],
    pub factor: &'a str,
    pub now: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

pub(in crate::authenticate) async fn insert(tx: &mut Connection, proof: &NewProof<'_>) -> Result<()> {
    sqlx::query!(
        "INSERT INTO step_up_tokens (step_up_token_id, token_hash, user_id, session_id, method, target, change,
            factor, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        proof.id,
        proof.token_hash,
        proof.user,
        proof.session,
        proof.method,
        proof.target,
        proof.change,
        proof.factor,
        proof.now,
        proof.expires_at,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Spends the proof for a call; otherwise returns the methods by which the user can give one.
pub(in crate::authenticate) async fn take(
    tx: &mut Connection,
    token_hash: Option<&[u8; 32]>,
    (user, session): (Uuid, Uuid),
    (method, target, change): (&str, &str, &[u8; 32]),
    now: DateTime<Utc>,
) -> Result<std::result::Result<(), Vec<String>>> {
    let row = sqlx::query!(
        "SELECT factor, ways FROM step_up_consume($1, $2, $3, $4, $5, $6, $7)",
        token_hash.map(<[u8; 32]>::as_slice),
        user,
        session,
        method,
        target,
        change,
        now,
    )
    .fetch_one(tx)
    .await?;
    Ok(match row.factor {
        Some(_) => Ok(()),
        None => Err(row.ways.unwrap_or_default()),
    })
}

/// The methods by which a user can prove who they are once more. For transactions of the platform.
pub(in crate::authenticate) async fn ways(tx: &mut Connection, user: Uuid) -> Result<Vec<String>> {
    let ways = sqlx::query_scalar!("SELECT step_up_methods($1)", user).fetch_one(tx).await?;
    Ok(ways.unwrap_or_default())
}

/// Whether this is still the version of the user's password, and the password enough of a proof; the user is locked from
/// here on, so that it stays so until the proof is kept and any change of it voids the proof.
pub(in crate::authenticate) async fn goes_by_password(tx: &mut Connection, user: Uuid, version: i64) -> Result<bool> {
    let same = sqlx::query_scalar!(
        r#"SELECT password_version = $2 AS "same!" FROM users
           WHERE user_id = $1 AND password_hash IS NOT NULL AND deleted_at IS NULL FOR NO KEY UPDATE"#,
        user,
        version,
    )
    .fetch_optional(&mut *tx)
    .await?;
    Ok(same == Some(true) && ways(tx, user).await?.iter().any(|way| way == "password"))
}

/// Whether a login through Kanidm is a proof for this user; the user is locked from here on.
pub(in crate::authenticate) async fn goes_by_kanidm(tx: &mut Connection, user: Uuid) -> Result<bool> {
    sqlx::query!("SELECT FROM users WHERE user_id = $1 FOR NO KEY UPDATE", user).execute(&mut *tx).await?;
    Ok(ways(tx, user).await?.iter().any(|way| way == "kanidm"))
}
