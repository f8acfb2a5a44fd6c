//! Service accounts.

use crate::db::Connection;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{ActiveStatus, Unique, taken};
use crate::fault::Result;

const NAME: Unique = Unique {
    constraint: "service_accounts_name_key",
    field: "name",
    taken: "Another service account has this name already.",
};
const CERTIFICATE: Unique = Unique {
    constraint: "service_account_certificates_pkey",
    field: "certificates",
    taken: "Another service account has one of these certificates already.",
};

/// A program that calls.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    pub service_account_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub name: String,
    pub description: String,
    pub permissions: Vec<String>,
    /// Authority and URI of each, with a blank between them.
    pub certificates: Vec<String>,
    pub status: ActiveStatus,
    pub created_by: Option<Uuid>,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

macro_rules! service_accounts {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            ServiceAccount,
            r#"SELECT service_account_id, tenant_id, name, description, permissions,
                ARRAY(SELECT c.ca_name || ' ' || c.uri FROM service_account_certificates c
                    WHERE c.service_account_id = service_accounts.service_account_id ORDER BY 1) AS "certificates!",
                status AS "status: ActiveStatus", created_by, version, created_at, updated_at
               FROM service_accounts WHERE deleted_at IS NULL AND "# + $tail
            $(, $argument)*
        )
    };
}

/// The living service account of this id.
pub async fn by_id(tx: &mut Connection, id: Uuid) -> Result<Option<ServiceAccount>> {
    Ok(service_accounts!("service_account_id = $1", id).fetch_optional(tx).await?)
}

/// The living service account of this name.
pub async fn by_name(tx: &mut Connection, name: &str) -> Result<Option<ServiceAccount>> {
    Ok(service_accounts!("name = $1", name).fetch_optional(tx).await?)
}

/// The living service account of this id, locked until the transaction ends.
pub async fn lock(tx: &mut Connection, id: Uuid) -> Result<Option<ServiceAccount>> {
    Ok(service_accounts!("service_account_id = $1 FOR UPDATE", id).fetch_optional(tx).await?)
}

/// Service accounts after `after` by id.
pub async fn list(tx: &mut Connection, tenant: Option<Uuid>, after: Uuid, limit: i64) -> Result<Vec<ServiceAccount>> {
    let found = service_accounts!(
        "service_account_id > $1 AND ($2::uuid IS NULL OR tenant_id = $2) ORDER BY service_account_id LIMIT $3",
        after,
        tenant,
        limit,
    );
    Ok(found.fetch_all(tx).await?)
}

pub async fn insert(tx: &mut Connection, account: &ServiceAccount) -> Result<()> {
    sqlx::query!(
        "INSERT INTO service_accounts (service_account_id, tenant_id, name, description, permissions, created_by,
            created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
        account.service_account_id,
        account.tenant_id,
        account.name,
        account.description,
        &account.permissions,
        account.created_by,
        account.created_at,
    )
    .execute(tx)
    .await
    .map_err(|error| taken(error, &[NAME]))?;
    Ok(())
}

/// Writes what can be changed.
pub async fn update(tx: &mut Connection, account: &ServiceAccount) -> Result<()> {
    sqlx::query!(
        "UPDATE service_accounts SET description = $2, permissions = $3, status = $4 WHERE service_account_id = $1",
        account.service_account_id,
        account.description,
        &account.permissions,
        account.status.as_str(),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Makes these the client certificates of an account; `by` is who registers those that it did not have.
pub async fn set_certificates(
    tx: &mut Connection,
    account: &ServiceAccount,
    by: Uuid,
    now: DateTime<Utc>,
) -> Result<()> {
    let id = account.service_account_id;
    sqlx::query!(
        "DELETE FROM service_account_certificates
         WHERE service_account_id = $1 AND ca_name || ' ' || uri <> ALL ($2)",
        id,
        &account.certificates,
    )
    .execute(&mut *tx)
    .await?;
    let split = account.certificates.iter().filter_map(|certificate| certificate.split_once(' '));
    let (authorities, uris): (Vec<String>, Vec<String>) =
        split.map(|(ca, uri)| (ca.to_owned(), uri.to_owned())).unzip();
    sqlx::query!(
        "INSERT INTO service_account_certificates (ca_name, uri, service_account_id, tenant_id, created_at, created_by)
         SELECT ca, uri, $3, $4, $5, $6 FROM unnest($1::text[], $2::text[]) AS given (ca, uri)
         WHERE NOT EXISTS (SELECT FROM service_account_certificates c
             WHERE c.ca_name = ca AND c.uri = given.uri AND c.service_account_id = $3)",
        &authorities,
        &uris,
        id,
        account.tenant_id,
        now,
        by,
    )
    .execute(tx)
    .await
    .map_err(|error| taken(error, &[CERTIFICATE]))?;
    Ok(())
}

/// Living service accounts that this maker created, as far as the scope reaches.
pub async fn made_by(tx: &mut Connection, maker: Uuid) -> Result<Vec<Uuid>> {
    let ids = sqlx::query_scalar!(
        "SELECT service_account_id FROM service_accounts WHERE created_by = $1 AND deleted_at IS NULL
         ORDER BY service_account_id",
        maker
    );
    Ok(ids.fetch_all(tx).await?)
}

/// Removes the client certificates of an account for which this maker answers.
pub async fn remove_certificates_by(tx: &mut Connection, account: Uuid, maker: Uuid) -> Result<()> {
    sqlx::query!(
        "DELETE FROM service_account_certificates WHERE service_account_id = $1 AND makers @> ARRAY[$2]::uuid[]",
        account,
        maker
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Every service account of a tenant; exchanges of their keys wait until the transaction ends.
pub async fn lock_of_tenant(tx: &mut Connection, tenant: Uuid) -> Result<Vec<Uuid>> {
    let ids = sqlx::query_scalar!(
        "SELECT service_account_id FROM service_accounts WHERE tenant_id = $1 ORDER BY service_account_id FOR UPDATE",
        tenant
    )
    .fetch_all(tx)
    .await?;
    Ok(ids)
}

/// Marks a service account as deleted; its certificates may be another's from then on.
pub async fn delete(tx: &mut Connection, id: Uuid, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!("DELETE FROM service_account_certificates WHERE service_account_id = $1", id)
        .execute(&mut *tx)
        .await?;
    sqlx::query!(
        "UPDATE service_accounts SET deleted_at = $2, status = 'disabled' WHERE service_account_id = $1",
        id,
        now
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Locks the caller until the transaction ends, before `account` where it is a service account; says whether it may
/// still act, and when its tokens were revoked last.
pub async fn hold_caller(
    tx: &mut Connection,
    caller: Uuid,
    account: Option<Uuid>,
) -> Result<(bool, Option<DateTime<Utc>>)> {
    let held = sqlx::query!(
        r#"SELECT is_there AS "is_there!", tokens_valid_from FROM directory_lock_caller($1, $2)"#,
        caller,
        account,
    )
    .fetch_one(tx)
    .await?;
    Ok((held.is_there, held.tokens_valid_from))
}
