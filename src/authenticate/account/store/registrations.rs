//! SQL of registrations.

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub(in crate::authenticate) use super::words::RegistrationState as State;
use crate::credential::StoredHash;
use crate::db::Connection;
use crate::fault::Result;

/// Whether anybody may register in a tenant, and with this address if one is named; closed unless the tenant's settings
/// say otherwise. For transactions of the platform.
pub(in crate::authenticate) async fn is_open(
    tx: &mut Connection,
    tenant: Uuid,
    email_key: Option<&str>,
) -> Result<bool> {
    let open = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM tenants t WHERE t.tenant_id = $1 AND t.status = 'active' AND t.deleted_at IS NULL
               AND t.settings -> 'allow_registration' = 'true'::jsonb
               AND ($2::text IS NULL OR tenant_accepts_address(t.tenant_id, $2))) AS "open!""#,
        tenant,
        email_key,
    )
    .fetch_one(tx)
    .await?;
    Ok(open)
}

/// A registration to write down.
pub(in crate::authenticate) struct NewRegistration<'a> {
    pub registration_id: Uuid,
    pub request_id: Uuid,
    pub request_hash: &'a [u8; 32],
    pub tenant_id: Uuid,
    pub email: &'a str,
    pub email_key: &'a str,
    pub username: Option<&'a str>,
    pub username_key: Option<&'a str>,
    pub full_name: &'a str,
    pub password: &'a StoredHash,
    pub secret_hash: &'a [u8; 32],
    pub now: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// Writes a registration down; false when there is one of this request.
pub(in crate::authenticate) async fn insert(tx: &mut Connection, new: &NewRegistration<'_>) -> Result<bool> {
    let done = sqlx::query!(
        "INSERT INTO registrations (registration_id, request_id, request_hash, tenant_id, email, email_key, username,
            username_key, full_name, password_hash, password_cost, password_pepper_id, secret_hash, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
         ON CONFLICT (request_id) DO NOTHING",
        new.registration_id,
        new.request_id,
        new.request_hash,
        new.tenant_id,
        new.email,
        new.email_key,
        new.username,
        new.username_key,
        new.full_name,
        new.password.hash,
        new.password.cost,
        new.password.pepper_id,
        new.secret_hash,
        new.now,
        new.expires_at,
    )
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A registration that was written down before.
pub(in crate::authenticate) struct Earlier {
    pub request_hash: Vec<u8>,
    pub expires_at: DateTime<Utc>,
}

/// The registration of a request.
pub(in crate::authenticate) async fn of_request(tx: &mut Connection, request: Uuid) -> Result<Option<Earlier>> {
    let row =
        sqlx::query_as!(Earlier, "SELECT request_hash, expires_at FROM registrations WHERE request_id = $1", request,)
            .fetch_optional(tx)
            .await?;
    Ok(row)
}

/// A registration without an answer.
pub(in crate::authenticate) struct Unanswered {
    pub registration_id: Uuid,
    pub tenant_id: Uuid,
    pub email: String,
    pub email_key: String,
    pub expires_at: DateTime<Utc>,
}

/// Locks the oldest registration without an answer that no other worker is answering.
pub(in crate::authenticate) async fn lock_oldest(tx: &mut Connection) -> Result<Option<Unanswered>> {
    let row = sqlx::query_as!(
        Unanswered,
        r#"SELECT registration_id, tenant_id, email AS "email!", email_key AS "email_key!", expires_at
           FROM registrations WHERE state = 'asked' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED"#,
    )
    .fetch_optional(tx)
    .await?;
    Ok(row)
}

/// Locks the registrations of an address in a tenant that can be confirmed, in one order.
pub(in crate::authenticate) async fn lock_sent(
    tx: &mut Connection,
    email_key: &str,
    tenant: Uuid,
) -> Result<Vec<Uuid>> {
    let ids = sqlx::query_scalar!(
        "SELECT registration_id FROM registrations WHERE email_key = $1 AND tenant_id = $2 AND state = 'sent'
         ORDER BY registration_id FOR UPDATE",
        email_key,
        tenant,
    )
    .fetch_all(tx)
    .await?;
    Ok(ids)
}

/// Locks the registrations of an address in all tenants that can be confirmed and that no other transaction has locked.
pub(in crate::authenticate) async fn lock_sent_and_free(tx: &mut Connection, email_key: &str) -> Result<Vec<Uuid>> {
    let ids = sqlx::query_scalar!(
        "SELECT registration_id FROM registrations WHERE email_key = $1 AND state = 'sent'
         ORDER BY registration_id FOR UPDATE SKIP LOCKED",
        email_key,
    )
    .fetch_all(tx)
    .await?;
    Ok(ids)
}

/// Ends registrations and forgets who asked for them.
pub(in crate::authenticate) async fn close(tx: &mut Connection, registrations: &[Uuid], state: State) -> Result<()> {
    sqlx::query!(
        "UPDATE registrations SET state = $2, email = NULL, email_key = NULL, username = NULL, username_key = NULL,
             full_name = NULL, password_hash = NULL, password_cost = NULL, password_pepper_id = NULL
         WHERE registration_id = ANY ($1)",
        registrations,
        state as State,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Notes that the way to confirm the address is on its way.
pub(in crate::authenticate) async fn send(tx: &mut Connection, registration: Uuid, token: &[u8; 32]) -> Result<()> {
    sqlx::query!(
        "UPDATE registrations SET state = 'sent', token_hash = $2 WHERE registration_id = $1",
        registration,
        token,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Notes that a registration, which was closed, has become this user.
pub(in crate::authenticate) async fn become_user(
    tx: &mut Connection,
    registration: Uuid,
    user: Uuid,
    password_kept: bool,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "UPDATE registrations SET state = 'verified', user_id = $2, password_kept = $3, verified_at = $4
         WHERE registration_id = $1",
        registration,
        user,
        password_kept,
        now,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// How the registration of a token stands, and of which tenant it is.
pub(in crate::authenticate) async fn of_token(tx: &mut Connection, token: &[u8; 32]) -> Result<Option<(State, Uuid)>> {
    let row = sqlx::query!(
        r#"SELECT state AS "state: State", tenant_id FROM registrations WHERE token_hash = $1"#,
        token.as_slice(),
    )
    .fetch_optional(tx)
    .await?;
    Ok(row.map(|row| (row.state, row.tenant_id)))
}

/// A registration that was answered; who asked for one that has ended is not kept.
pub(in crate::authenticate) struct Registration {
    pub registration_id: Uuid,
    pub tenant_id: Uuid,
    pub state: State,
    pub email: Option<String>,
    pub email_key: Option<String>,
    pub username: Option<String>,
    pub username_key: Option<String>,
    pub full_name: Option<String>,
    pub password_hash: Option<String>,
    pub password_cost: Option<i16>,
    pub password_pepper_id: Option<i16>,
    pub secret_hash: Vec<u8>,
    pub user_id: Option<Uuid>,
    pub verified_at: Option<DateTime<Utc>>,
    pub password_kept: bool,
    pub expires_at: DateTime<Utc>,
}

/// Locks the registration of a token, together with every other one that would confirm the same address.
pub(in crate::authenticate) async fn lock_by_token(
    tx: &mut Connection,
    token: &[u8; 32],
) -> Result<Option<Registration>> {
    // All of the address in one statement and order: each of two calls for it would otherwise hold its own and wait for
    // the other's. A registration that has ended has no address any more, and is only itself.
    sqlx::query!(
        "SELECT FROM registrations x WHERE x.token_hash = $1 OR (x.state = 'sent'
             AND x.email_key = (SELECT y.email_key FROM registrations y WHERE y.token_hash = $1))
         ORDER BY x.registration_id FOR UPDATE OF x",
        token,
    )
    .execute(&mut *tx)
    .await?;
    // As it is now that it is locked.
    let row = sqlx::query_as!(
        Registration,
        r#"SELECT registration_id, tenant_id, state AS "state: State", email, email_key, username, username_key, full_name,
               password_hash, password_cost, password_pepper_id, secret_hash, user_id, verified_at, password_kept, expires_at
           FROM registrations WHERE token_hash = $1"#,
        token,
    )
    .fetch_optional(tx)
    .await?;
    Ok(row)
}
