//! SQL of imports.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::candidate::Candidate;
use crate::db::Connection;
use crate::fault::Result;

pub(super) struct TenantRow {
    pub tenant_id: Uuid,
    pub slug: String,
    pub external_id: Option<String>,
    /// Of which its users' addresses must be; none for any.
    pub domains: Option<Value>,
}

impl TenantRow {
    /// The domains that the tenant is confined to, if it is.
    pub(super) fn domains(&self) -> Option<Vec<String>> {
        let domains = self.domains.as_ref()?.as_array().into_iter().flatten();
        Some(domains.filter_map(|domain| domain.as_str()).map(str::to_owned).collect())
    }
}

/// Tenants that users can be imported into.
pub(super) async fn tenants(tx: &mut Connection) -> Result<Vec<TenantRow>> {
    Ok(sqlx::query_as!(
        TenantRow,
        "SELECT tenant_id, slug, external_id, settings #> '{sidle,domains}' AS domains FROM tenants
         WHERE status = 'active' AND deleted_at IS NULL"
    )
    .fetch_all(tx)
    .await?)
}

pub(super) struct RoleRow {
    pub role_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub name: String,
    pub permissions: Vec<String>,
    pub is_admin: bool,
    pub is_built_in: bool,
}

/// Roles that can be imported: those that reach no further than a tenant.
pub(super) async fn roles(tx: &mut Connection) -> Result<Vec<RoleRow>> {
    Ok(sqlx::query_as!(
        RoleRow,
        "SELECT role_id, tenant_id, name, permissions, is_admin, is_built_in FROM roles WHERE NOT is_platform"
    )
    .fetch_all(tx)
    .await?)
}

/// Makes the statements of this transaction be planned for the table as it has become: it may begin empty and end with
/// millions of rows, and a plan that was good for the first batch would read all of them for each of the last.
pub(super) async fn plan_each_batch(tx: &mut Connection) -> Result<()> {
    sqlx::query!("SET LOCAL plan_cache_mode = force_custom_plan").execute(tx).await?;
    Ok(())
}

/// A user who has something that a row wants.
#[derive(Debug)]
pub(super) struct Holder {
    pub user_id: Uuid,
    pub email_key: String,
    pub username_key: Option<String>,
    pub legacy_id: Option<String>,
    pub import_source: Option<String>,
    pub import_id: Option<Uuid>,
    pub import_digest: Option<Vec<u8>>,
    pub is_deleted: bool,
}

/// Users who have an id, address, username or legacy id that one of the rows wants.
pub(super) async fn holders(tx: &mut Connection, source: &str, rows: &[Candidate]) -> Result<Vec<Holder>> {
    let ids: Vec<Uuid> = rows.iter().filter(|row| row.keeps_id).map(|row| row.user_id).collect();
    let emails: Vec<&str> = rows.iter().map(|row| row.email_key.as_str()).collect();
    let usernames: Vec<String> = rows.iter().filter_map(Candidate::username_key).collect();
    let legacy_ids: Vec<&str> = rows.iter().filter_map(|row| row.legacy_id.as_deref()).collect();
    Ok(sqlx::query_as!(
        Holder,
        r#"SELECT user_id AS "user_id!", email_key AS "email_key!", username_key, legacy_id, import_source, import_id,
               import_digest, is_deleted AS "is_deleted!"
           FROM (
               SELECT user_id, email_key, username_key, legacy_id, import_source, import_id, import_digest,
                   deleted_at IS NOT NULL AS is_deleted
               FROM users WHERE user_id = ANY ($1)
               UNION ALL
               SELECT user_id, email_key, username_key, legacy_id, import_source, import_id, import_digest, false
               FROM users WHERE email_key = ANY ($2) AND deleted_at IS NULL
               UNION ALL
               SELECT user_id, email_key, username_key, legacy_id, import_source, import_id, import_digest, false
               FROM users WHERE username_key = ANY ($3) AND deleted_at IS NULL AND username_key IS NOT NULL
               UNION ALL
               SELECT user_id, email_key, username_key, legacy_id, import_source, import_id, import_digest,
                   deleted_at IS NOT NULL
               FROM users WHERE legacy_id = ANY ($4) AND import_source = $5
           ) AS holders"#,
        &ids,
        &emails as &[&str],
        &usernames,
        &legacy_ids as &[&str],
        source,
    )
    .fetch_all(tx)
    .await?)
}

/// Users as the statement that inserts them takes them: one entry per user and column.
struct UserColumns<'a> {
    user_ids: Vec<Uuid>,
    tenant_ids: Vec<Uuid>,
    role_ids: Vec<Uuid>,
    emails: Vec<&'a str>,
    email_keys: Vec<&'a str>,
    usernames: Vec<Option<&'a str>>,
    username_keys: Vec<Option<String>>,
    full_names: Vec<&'a str>,
    statuses: Vec<&'a str>,
    hashes: Vec<Option<&'a str>>,
    costs: Vec<Option<i16>>,
    legacy_ids: Vec<Option<&'a str>>,
    digests: Vec<&'a [u8]>,
    created_at: Vec<Option<DateTime<Utc>>>,
}

impl<'a> UserColumns<'a> {
    fn of(rows: &'a [Candidate]) -> Self {
        Self {
            user_ids: rows.iter().map(|row| row.user_id).collect(),
            tenant_ids: rows.iter().map(|row| row.tenant_id).collect(),
            role_ids: rows.iter().map(|row| row.role_id).collect(),
            emails: rows.iter().map(|row| row.email.as_str()).collect(),
            email_keys: rows.iter().map(|row| row.email_key.as_str()).collect(),
            usernames: rows.iter().map(|row| row.username.as_deref()).collect(),
            username_keys: rows.iter().map(Candidate::username_key).collect(),
            full_names: rows.iter().map(|row| row.full_name.as_str()).collect(),
            statuses: rows.iter().map(|row| row.status).collect(),
            hashes: rows.iter().map(|row| row.password_hash.as_deref()).collect(),
            costs: rows.iter().map(|row| row.form.map(|form| i16::from(form.cost))).collect(),
            legacy_ids: rows.iter().map(|row| row.legacy_id.as_deref()).collect(),
            digests: rows.iter().map(|row| row.digest.as_slice()).collect(),
            created_at: rows.iter().map(|row| row.created_at).collect(),
        }
    }
}

/// Inserts users and their memberships; returns those inserted. What collides with a user who was inserted meanwhile is
/// left out.
pub(super) async fn insert(
    tx: &mut Connection,
    import_id: Uuid,
    source: &str,
    rows: &[Candidate],
    memberships: &[Uuid],
) -> Result<Vec<Uuid>> {
    let users = UserColumns::of(rows);
    let inserted = sqlx::query_scalar!(
        r#"WITH given AS (
               SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[],
                   $8::text[], $9::text[], $10::text[], $11::int2[], $12::text[], $13::bytea[], $14::timestamptz[],
                   $15::uuid[])
               AS given (user_id, tenant_id, role_id, email, email_key, username, username_key, full_name, status,
                   password_hash, password_cost, legacy_id, digest, created_at, membership_id)
           ), inserted AS (
               INSERT INTO users (user_id, tenant_id, email, email_key, username, username_key, full_name, status,
                   password_hash, password_cost, must_change_password, verified_at, legacy_id, import_id, import_source,
                   import_digest, created_at)
               SELECT user_id, tenant_id, email, email_key, username, username_key, full_name, status, password_hash,
                   password_cost, password_hash IS NULL, CASE WHEN status = 'active' THEN now() END, legacy_id, $16, $17,
                   digest, coalesce(created_at, now())
               FROM given
               ON CONFLICT DO NOTHING
               RETURNING user_id
           ), members AS (
               INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
               SELECT given.membership_id, given.tenant_id, given.user_id, given.role_id, 'import'
               FROM given JOIN inserted USING (user_id)
           )
           SELECT user_id AS "user_id!" FROM inserted"#,
        &users.user_ids,
        &users.tenant_ids,
        &users.role_ids,
        &users.emails as &[&str],
        &users.email_keys as &[&str],
        &users.usernames as &[Option<&str>],
        &users.username_keys as &[Option<String>],
        &users.full_names as &[&str],
        &users.statuses as &[&str],
        &users.hashes as &[Option<&str>],
        &users.costs as &[Option<i16>],
        &users.legacy_ids as &[Option<&str>],
        &users.digests as &[&[u8]],
        &users.created_at as &[Option<DateTime<Utc>>],
        memberships,
        import_id,
        source,
    )
    .fetch_all(tx)
    .await?;
    Ok(inserted)
}

/// An import as it is kept.
pub(super) struct Record<'a> {
    pub import_id: Uuid,
    pub source: &'a str,
    pub principal_id: Uuid,
    pub request_id: Uuid,
    pub rows: i64,
    pub accepted: i64,
    pub with_remarks: i64,
    pub already_there: i64,
    pub refused: i64,
    pub reasons: Value,
    pub hashes: Value,
    pub digest: &'a [u8],
}

/// Keeps an import. False when the same caller's `request_id` was used already; of two concurrent ones the second waits.
pub(super) async fn keep(tx: &mut Connection, record: &Record<'_>) -> Result<bool> {
    let kept = sqlx::query!(
        "INSERT INTO imports (import_id, source, principal_id, request_id, row_count, accepted, with_remarks,
             already_there, refused, reasons, hashes, digest)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (principal_id, request_id) DO NOTHING",
        record.import_id,
        record.source,
        record.principal_id,
        record.request_id,
        record.rows,
        record.accepted,
        record.with_remarks,
        record.already_there,
        record.refused,
        record.reasons,
        record.hashes,
        record.digest,
    )
    .execute(tx)
    .await?;
    Ok(kept.rows_affected() == 1)
}

/// An import that was kept.
pub(super) struct Kept {
    pub import_id: Uuid,
    pub row_count: i64,
    pub accepted: i64,
    pub with_remarks: i64,
    pub already_there: i64,
    pub refused: i64,
    pub reasons: Value,
    pub hashes: Value,
    pub digest: Vec<u8>,
}

/// The import that a caller made with this `request_id`.
pub(super) async fn kept(tx: &mut Connection, principal_id: Uuid, request_id: Uuid) -> Result<Option<Kept>> {
    Ok(sqlx::query_as!(
        Kept,
        "SELECT import_id, row_count, accepted, with_remarks, already_there, refused, reasons, hashes, digest
         FROM imports WHERE principal_id = $1 AND request_id = $2",
        principal_id,
        request_id,
    )
    .fetch_optional(tx)
    .await?)
}

/// Takes the lock of imports until the end of the transaction; false when another import has it.
pub(super) async fn lock(tx: &mut Connection) -> Result<bool> {
    Ok(sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock(hashtextextended('sidle import', 0)) AS "locked!""#)
        .fetch_one(tx)
        .await?)
}
