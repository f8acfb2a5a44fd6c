//! API keys. Only digests are stored.

use crate::db::Connection;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::KeyKind;
use crate::fault::Result;

/// A key of a service account, without its secret.
#[derive(Clone, Debug)]
pub struct ApiKey {
    pub api_key_id: Uuid,
    pub service_account_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub kind: KeyKind,
    pub display_prefix: String,
    pub description: String,
    pub scopes: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// User or service account.
    pub created_by: Option<Uuid>,
}

macro_rules! api_keys {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            ApiKey,
            r#"SELECT api_key_id, service_account_id, tenant_id, kind AS "kind: KeyKind", display_prefix, description,
                scopes, expires_at, last_used_at, revoked_at, created_at, created_by
             FROM api_keys "# + $tail
            $(, $argument)*
        )
    };
}

/// The key of this id.
pub async fn by_id(tx: &mut Connection, id: Uuid) -> Result<Option<ApiKey>> {
    Ok(api_keys!("WHERE api_key_id = $1", id).fetch_optional(tx).await?)
}

/// Keys after `after` by id.
pub async fn list(
    tx: &mut Connection,
    service_account: Option<Uuid>,
    include_revoked: bool,
    after: Uuid,
    limit: i64,
) -> Result<Vec<ApiKey>> {
    let found = api_keys!(
        "WHERE api_key_id > $1 AND ($2::uuid IS NULL OR service_account_id = $2) AND ($3 OR revoked_at IS NULL)
         ORDER BY api_key_id LIMIT $4",
        after,
        service_account,
        include_revoked,
        limit,
    );
    Ok(found.fetch_all(tx).await?)
}

pub async fn insert(tx: &mut Connection, key: &ApiKey, digest: &[u8; 32]) -> Result<()> {
    sqlx::query!(
        "INSERT INTO api_keys (api_key_id, service_account_id, tenant_id, display_prefix, key_hash, description, scopes,
            expires_at, created_at, kind, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        key.api_key_id,
        key.service_account_id,
        key.tenant_id,
        key.display_prefix,
        digest,
        key.description,
        &key.scopes,
        key.expires_at,
        key.created_at,
        key.kind.as_str(),
        key.created_by,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// A credential for programs, by its maker.
#[derive(Debug)]
pub struct MadeBy {
    pub service_account_id: Uuid,
    pub tenant_id: Option<Uuid>,
    /// None for the client certificates of the account.
    pub api_key_id: Option<Uuid>,
    /// What it permits.
    pub permissions: Vec<String>,
}

/// The living keys for which this maker answers, and the accounts for which they registered certificates, themselves or
/// through programs that they created, as far as the scope reaches; by account.
pub async fn made_by(tx: &mut Connection, maker: Uuid, now: DateTime<Utc>) -> Result<Vec<MadeBy>> {
    let found = sqlx::query_as!(
        MadeBy,
        r#"SELECT service_account_id AS "service_account_id!", tenant_id, api_key_id, permissions AS "permissions!"
           FROM (SELECT a.service_account_id, a.tenant_id, k.api_key_id,
                   CASE WHEN cardinality(k.scopes) = 0 THEN a.permissions ELSE k.scopes END AS permissions
               FROM api_keys k JOIN service_accounts a ON a.service_account_id = k.service_account_id
               WHERE k.makers @> ARRAY[$1]::uuid[] AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $2)
                   AND a.deleted_at IS NULL
               UNION ALL
               SELECT a.service_account_id, a.tenant_id, NULL, a.permissions FROM service_accounts a
               WHERE a.deleted_at IS NULL AND EXISTS (SELECT FROM service_account_certificates c
                   WHERE c.service_account_id = a.service_account_id AND c.makers @> ARRAY[$1]::uuid[])) made
           ORDER BY service_account_id, api_key_id"#,
        maker,
        now,
    );
    Ok(found.fetch_all(tx).await?)
}

/// How many client secrets of a service account work.
pub async fn live_secrets(tx: &mut Connection, service_account: Uuid, now: DateTime<Utc>) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM api_keys WHERE service_account_id = $1 AND kind = 'client_secret'
            AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)"#,
        service_account,
        now
    );
    Ok(count.fetch_one(tx).await?)
}

/// Revokes a key; false when it was revoked already.
pub async fn revoke(tx: &mut Connection, id: Uuid, now: DateTime<Utc>) -> Result<bool> {
    let done =
        sqlx::query!("UPDATE api_keys SET revoked_at = $2 WHERE api_key_id = $1 AND revoked_at IS NULL", id, now)
            .execute(tx)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Revokes every key of a service account and says how many.
pub async fn revoke_all(tx: &mut Connection, service_account: Uuid, now: DateTime<Utc>) -> Result<u64> {
    let done = sqlx::query!(
        "UPDATE api_keys SET revoked_at = $2 WHERE service_account_id = $1 AND revoked_at IS NULL",
        service_account,
        now
    )
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}
