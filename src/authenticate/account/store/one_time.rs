//! SQL of tokens that were sent to users by mail, and of requests for a new password.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::audit::Prepared;
use crate::db::{Connection, Db, Scope};
use crate::fault::Result;
use crate::mail::NewMessage;

/// What a token is for.
#[derive(Clone, Copy)]
pub(in crate::authenticate) enum Purpose {
    VerifyEmail,
    PasswordReset,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::VerifyEmail => "verify_email",
            Self::PasswordReset => "password_reset",
        }
    }
}

/// What the database keeps of a token that is to be sent.
pub(in crate::authenticate) struct NewToken {
    pub token_id: Uuid,
    pub token_hash: [u8; 32],
    pub expires_at: DateTime<Utc>,
}

/// A token that was sent.
pub(in crate::authenticate) struct Token {
    pub token_id: Uuid,
    /// Where it was sent.
    pub email_key: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub used_at: Option<DateTime<Utc>>,
}

/// Whose a token is.
pub(in crate::authenticate) async fn holder(
    tx: &mut Connection,
    purpose: Purpose,
    token: &[u8; 32],
) -> Result<Option<Uuid>> {
    let user = sqlx::query_scalar!(
        "SELECT user_id FROM one_time_tokens WHERE token_hash = $1 AND purpose = $2",
        token,
        purpose.as_str(),
    )
    .fetch_optional(tx)
    .await?;
    Ok(user)
}

/// Locks a token. For a transaction that has locked its user.
pub(in crate::authenticate) async fn lock(
    tx: &mut Connection,
    purpose: Purpose,
    token: &[u8; 32],
) -> Result<Option<Token>> {
    let row = sqlx::query_as!(
        Token,
        "SELECT token_id, email_key, created_at, expires_at, used_at FROM one_time_tokens
         WHERE token_hash = $1 AND purpose = $2 FOR UPDATE",
        token,
        purpose.as_str(),
    )
    .fetch_optional(tx)
    .await?;
    Ok(row)
}

/// Notes that a token was used.
pub(in crate::authenticate) async fn spend(tx: &mut Connection, token: Uuid, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!("UPDATE one_time_tokens SET used_at = $2 WHERE token_id = $1", token, now).execute(tx).await?;
    Ok(())
}

/// Voids every token of a user.
pub(in crate::authenticate) async fn void(tx: &mut Connection, user: Uuid, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!("UPDATE one_time_tokens SET used_at = $2 WHERE user_id = $1 AND used_at IS NULL", user, now)
        .execute(tx)
        .await?;
    Ok(())
}

/// Keeps a token that sets a password, for the address that its user has now; older ones are void. For a transaction
/// that has locked the user.
pub(in crate::authenticate) async fn issue_reset(
    tx: &mut Connection,
    user: Uuid,
    email_key: &str,
    token: &NewToken,
    now: DateTime<Utc>,
) -> Result<()> {
    let purpose = Purpose::PasswordReset.as_str();
    // A newer token of the same purpose is the only one.
    sqlx::query!("DELETE FROM one_time_tokens WHERE user_id = $1 AND purpose = $2 AND used_at IS NULL", user, purpose)
        .execute(&mut *tx)
        .await?;
    sqlx::query!(
        "INSERT INTO one_time_tokens (token_id, purpose, token_hash, user_id, email_key, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        token.token_id,
        purpose,
        &token.token_hash,
        user,
        email_key,
        now,
        token.expires_at,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Asks a user to confirm the address they have now, unless that has had its share of messages.
pub(in crate::authenticate) async fn ask_verification(
    tx: &mut Connection,
    user: Uuid,
    token: &NewToken,
    now: DateTime<Utc>,
    mail: Option<&NewMessage>,
) -> Result<()> {
    sqlx::query!(
        "SELECT email_verification_request($1, $2, $3, $4, $5, $6)",
        user,
        token.token_id,
        &token.token_hash,
        token.expires_at,
        now,
        mail as Option<&NewMessage>,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// A request for a new password.
pub(in crate::authenticate) struct ResetRequest {
    pub request_id: Uuid,
    /// The address or username.
    pub identifier_key: String,
    pub correlation_id: Uuid,
    /// The event of the request, should a user have the name.
    pub event: Value,
    pub personal: Option<Vec<u8>>,
}

/// Records a request for a new password; nothing when one is recorded for the name already.
pub(in crate::authenticate) async fn insert_reset_request(
    tx: &mut Connection,
    request: Uuid,
    identifier_key: &str,
    correlation: Uuid,
    event: &Prepared,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO password_reset_requests (request_id, identifier_key, correlation_id, event, personal, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (identifier_key) DO NOTHING",
        request,
        identifier_key,
        correlation,
        event.event,
        event.personal.as_deref(),
        now,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The oldest request for a new password that no other worker has, kept from them until the transaction ends.
pub(in crate::authenticate) async fn lock_reset_request(tx: &mut Connection) -> Result<Option<ResetRequest>> {
    let row = sqlx::query_as!(
        ResetRequest,
        "SELECT request_id, identifier_key, correlation_id, event, personal FROM password_reset_requests
         ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .fetch_optional(tx)
    .await?;
    Ok(row)
}

/// Removes a request for a new password that has its answer.
pub(in crate::authenticate) async fn delete_reset_request(tx: &mut Connection, request: Uuid) -> Result<()> {
    sqlx::query!("DELETE FROM password_reset_requests WHERE request_id = $1", request).execute(tx).await?;
    Ok(())
}

/// Purges what has lapsed of tokens and registrations, at most 1,000 of each.
pub(in crate::authenticate) async fn purge_expired(db: &Db, now: DateTime<Utc>) -> Result<()> {
    let mut tx = db.begin(Scope::Platform).await?;
    sqlx::query!(
        "DELETE FROM one_time_tokens WHERE token_id IN (
             SELECT t.token_id FROM one_time_tokens t WHERE t.expires_at <= $1 LIMIT 1000)",
        now,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "DELETE FROM registrations WHERE registration_id IN (
             SELECT r.registration_id FROM registrations r WHERE r.expires_at <= $1 LIMIT 1000 FOR UPDATE SKIP LOCKED)",
        now,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}
