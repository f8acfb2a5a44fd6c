//! SQL of the ways in that go through mail.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sidle_token::Epoch;
use uuid::Uuid;

use crate::audit::Prepared;
use crate::db::{Connection, Db, Scope};
use crate::fault::{Fault, Result};

/// An address that was confirmed.
#[derive(Debug)]
pub(in crate::authenticate) struct Verified {
    pub user_id: Uuid,
    pub verified_at: DateTime<Utc>,
    /// Whether the user has a password to sign in with.
    pub password_kept: bool,
}

/// What became of a registration.
pub(in crate::authenticate) enum Asked {
    /// Written down, now or before; its token is good until then.
    Until(DateTime<Utc>),
    /// The tenant takes none, or there is no such tenant.
    Closed,
    /// Another one came under this id.
    Reused,
}

/// Whether anybody may register in a tenant.
pub(in crate::authenticate) async fn registration_is_open(db: &Db, tenant: Uuid) -> Result<bool> {
    let mut tx = db.begin(Scope::Platform).await?;
    let open = sqlx::query_scalar!(r#"SELECT registration_is_open($1) AS "open!""#, tenant).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(open)
}

/// Writes a registration down.
pub(in crate::authenticate) async fn ask_registration(
    db: &Db,
    registration: &Value,
    now: DateTime<Utc>,
    event: &Prepared,
) -> Result<Asked> {
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!", expires_at FROM registration_request($1, $2, $3, $4)"#,
        registration,
        now,
        event.event,
        event.personal.as_deref(),
    )
    .fetch_one(db)
    .await?;
    Ok(match (row.outcome.as_str(), row.expires_at) {
        ("asked" | "repeated", Some(at)) => Asked::Until(at),
        ("reused", _) => Asked::Reused,
        ("closed", _) => Asked::Closed,
        (other, _) => return Err(Fault::internal(format!("registration_request gave the unknown outcome {other}"))),
    })
}

/// Whether there is a registration without an answer.
pub(in crate::authenticate) async fn has_registration(db: &Db) -> Result<bool> {
    let mut tx = db.begin(Scope::Platform).await?;
    let found = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM registrations WHERE state = 'asked') AS "found!""#)
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(found)
}

/// Answers the oldest registration.
pub(in crate::authenticate) async fn answer_registration(
    db: &Db,
    now: DateTime<Utc>,
    token: &Value,
    verify: Option<&Value>,
    attempt: Option<&Value>,
    most: u32,
) -> Result<Option<String>> {
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    let answer =
        sqlx::query_scalar!("SELECT registration_process($1, $2, $3, $4, $5)", now, token, verify, attempt, most)
            .fetch_one(db)
            .await?;
    Ok(answer)
}

/// A confirmed address, and what ended with that.
pub(in crate::authenticate) struct Confirmed {
    pub verified: Verified,
    pub sessions: Vec<Uuid>,
    pub epoch: Option<Epoch>,
}

/// What is recorded and told of an address that is confirmed.
pub(in crate::authenticate) struct Told {
    pub verified: Prepared,
    pub created: Prepared,
    /// That credentials went with it.
    pub removed: Value,
    /// What the user is told of that.
    pub notice: Option<Value>,
}

/// Takes a token as the proof of an address; none when it is not good.
pub(in crate::authenticate) async fn verify(
    db: &Db,
    token: &[u8; 32],
    secret: Option<&[u8; 32]>,
    now: DateTime<Utc>,
    user: &Value,
    told: &Told,
) -> Result<Option<Confirmed>> {
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!", user_id, verified_at, password_kept, sessions, tokens_valid_from
           FROM email_verify($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"#,
        token.as_slice(),
        secret.map(<[u8; 32]>::as_slice),
        now,
        user,
        told.verified.event,
        told.verified.personal.as_deref(),
        told.created.event,
        told.created.personal.as_deref(),
        told.removed,
        told.notice,
    )
    .fetch_one(db)
    .await?;
    let (Some(user_id), Some(verified_at), true) = (row.user_id, row.verified_at, row.outcome != "refused") else {
        return Ok(None);
    };
    let verified = Verified { user_id, verified_at, password_kept: row.password_kept.unwrap_or_default() };
    let epoch = row.tokens_valid_from.map(|at| Epoch::of(Some(at)));
    Ok(Some(Confirmed { verified, sessions: row.sessions.unwrap_or_default(), epoch }))
}

/// Asks a user to confirm the address they have now.
pub(in crate::authenticate) async fn ask_verification(
    tx: &mut Connection,
    user: Uuid,
    token: &Value,
    now: DateTime<Utc>,
    mail: Option<&Value>,
) -> Result<()> {
    sqlx::query!("SELECT email_verification_request($1, $2, $3, $4)", user, token, now, mail).execute(tx).await?;
    Ok(())
}

/// Writes down that somebody asks for a new password.
pub(in crate::authenticate) async fn ask_reset(
    db: &Db,
    request: &Value,
    now: DateTime<Utc>,
    event: &Prepared,
) -> Result<()> {
    let personal = event.personal.as_deref();
    sqlx::query!("SELECT password_reset_request($1, $2, $3, $4)", request, now, event.event, personal)
        .execute(db)
        .await?;
    Ok(())
}

/// Whether there is a request for a new password without an answer.
pub(in crate::authenticate) async fn has_reset(db: &Db) -> Result<bool> {
    let mut tx = db.begin(Scope::Platform).await?;
    let found = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM password_reset_requests) AS "found!""#)
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(found)
}

/// Answers the oldest request for a new password.
pub(in crate::authenticate) async fn answer_reset(
    db: &Db,
    now: DateTime<Utc>,
    token: &Value,
    reset: Option<&Value>,
    kanidm: Option<&Value>,
    most: u32,
    event: &Value,
) -> Result<Option<String>> {
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    let answer = sqlx::query_scalar!(
        "SELECT password_reset_process($1, $2, $3, $4, $5, $6)",
        now,
        token,
        reset,
        kanidm,
        most,
        event
    )
    .fetch_one(db)
    .await?;
    Ok(answer)
}

/// SessionOwner a reset token is.
pub(in crate::authenticate) struct Holder {
    pub user_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub email: String,
    pub username: Option<String>,
    pub full_name: String,
    pub has_factor: bool,
}

/// A user, where the token was somebody's, and why it is not accepted.
pub(in crate::authenticate) type Refusal = (Option<Uuid>, &'static str);

/// SessionOwner a reset token is, or why it is not accepted; holds the user until the transaction ends.
pub(in crate::authenticate) async fn reset_holder(
    tx: &mut Connection,
    token: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<std::result::Result<Holder, Refusal>> {
    let row = sqlx::query!(
        "SELECT user_id, tenant_id, email, username, full_name, has_factor, refusal FROM password_reset_begin($1, $2)",
        token.as_slice(),
        now,
    )
    .fetch_one(tx)
    .await?;
    if let Some(refusal) = row.refusal {
        return Ok(Err((row.user_id, word(&refusal)?)));
    }
    let missing = || Fault::internal("a reset token without a user");
    Ok(Ok(Holder {
        user_id: row.user_id.ok_or_else(missing)?,
        tenant_id: row.tenant_id,
        email: row.email.ok_or_else(missing)?,
        username: row.username,
        full_name: row.full_name.unwrap_or_default(),
        has_factor: row.has_factor.unwrap_or(true),
    }))
}

/// As [`reset_holder`], holding nobody.
pub(in crate::authenticate) async fn reset_holder_now(
    db: &Db,
    token: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<std::result::Result<Holder, Refusal>> {
    let mut tx = db.begin(Scope::Platform).await?;
    let holder = reset_holder(&mut tx, token, now).await?;
    tx.commit().await?;
    Ok(holder)
}

/// # Errors
/// `INTERNAL` for a word that is not known here.
fn word(refusal: &str) -> Result<&'static str> {
    let known = ["unknown", "used", "expired", "disabled", "unverified", "other_address", "kanidm_only", "superseded"];
    let found = known.into_iter().find(|known| *known == refusal);
    found.ok_or_else(|| Fault::internal(format!("password_reset_begin gave the unknown refusal {refusal}")))
}

/// Voids a user's tokens by mail and ends their sessions, which it tells, and their tokens, by which revocation.
pub(in crate::authenticate) async fn finish_reset(
    tx: &mut Connection,
    user: Uuid,
    now: DateTime<Utc>,
) -> Result<(Vec<Uuid>, Epoch)> {
    let row = sqlx::query!(
        r#"SELECT sessions AS "sessions!", tokens_valid_from AS "revoked!" FROM password_reset_finish($1, $2)"#,
        user,
        now
    )
    .fetch_one(tx)
    .await?;
    Ok((row.sessions, Epoch::of(Some(row.revoked))))
}

/// Removes what has lapsed.
pub(in crate::authenticate) async fn purge_expired(db: &Db, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!("SELECT purge_one_time_tokens($1)", now).execute(db).await?;
    Ok(())
}
