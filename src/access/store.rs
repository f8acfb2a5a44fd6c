//! SQL of stored answers, and of the accounts behind client certificates.

pub mod words;

use crate::db::{Connection, Db};
use sidle_token::Epoch;
use uuid::Uuid;

use crate::fault::Result;

/// Makes a second call with the same id wait until the first one's transaction has ended.
pub(super) async fn lock_request(tx: &mut Connection, principal: Uuid, method: &str, request: Uuid) -> Result<()> {
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended($1::text || $2 || $3::text, 0))",
        principal.to_string(),
        method,
        request.to_string(),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The stored answer and the digest of the request it answered.
pub(super) async fn answer(
    tx: &mut Connection,
    principal: Uuid,
    method: &str,
    request: Uuid,
) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    let row = sqlx::query!(
        "SELECT body_digest, answer FROM request_answers
         WHERE principal_id = $1 AND method = $2 AND request_id = $3 AND created_at > now() - interval '24 hours'",
        principal,
        method,
        request,
    )
    .fetch_optional(tx)
    .await?;
    Ok(row.map(|row| (row.body_digest, row.answer)))
}

/// Stores the answer, over one that is older than a day.
pub(super) async fn keep_answer(
    tx: &mut Connection,
    principal: Uuid,
    method: &str,
    request: Uuid,
    digest: &[u8],
    answer: &[u8],
) -> Result<()> {
    sqlx::query!(
        "DELETE FROM request_answers WHERE principal_id = $1 AND method = $2 AND request_id = $3
         AND created_at <= now() - interval '24 hours'",
        principal,
        method,
        request,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "INSERT INTO request_answers (principal_id, method, request_id, body_digest, answer) VALUES ($1, $2, $3, $4, $5)",
        principal,
        method,
        request,
        digest,
        answer,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The service account behind a client certificate.
pub(crate) struct CertificateAccount {
    pub service_account_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub permissions: Vec<String>,
    pub epoch: Epoch,
}

/// The account that certificates of this authority with this URI act as, if it can be used.
pub(crate) async fn certificate_account(db: &Db, authority: &str, uri: &str) -> Result<Option<CertificateAccount>> {
    let row = sqlx::query!(
        "SELECT service_account_id, tenant_id, permissions, tokens_valid_from FROM certificate_account($1, $2)",
        authority,
        uri
    )
    .fetch_one(db)
    .await?;
    Ok(row.service_account_id.map(|service_account_id| CertificateAccount {
        service_account_id,
        tenant_id: row.tenant_id,
        permissions: row.permissions.unwrap_or_default(),
        epoch: Epoch::of(row.tokens_valid_from),
    }))
}

/// What a user may do, by tenant; none stands for the platform. One for each role, also for those without permissions.
pub(super) async fn rights(tx: &mut Connection, user: Uuid) -> Result<Vec<(Option<Uuid>, Vec<String>)>> {
    let rows = sqlx::query!(r#"SELECT tenant_id, permissions AS "permissions!" FROM directory_rights($1)"#, user)
        .fetch_all(tx)
        .await?;
    Ok(rows.into_iter().map(|row| (row.tenant_id, row.permissions)).collect())
}
