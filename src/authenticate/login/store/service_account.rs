//! SQL of API keys.

use crate::db::Db;
use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

use super::types::KeyOutcome;
use crate::audit::Prepared;
use crate::fault::{Fault, Result};

/// What became of an API key.
pub(in crate::authenticate) enum KeyAnswer {
    Accepted(KeyOwner),
    Refused,
    Unknown,
}

/// The service account behind an API key, and what the key permits.
pub(in crate::authenticate) struct KeyOwner {
    pub service_account_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub permissions: Vec<String>,
    pub epoch: Epoch,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Checks an API key or, with the id of its client, a client's secret.
pub(in crate::authenticate) async fn exchange_key(
    db: &Db,
    digest: &[u8; 32],
    client: Option<Uuid>,
    now: DateTime<Utc>,
    event: &Prepared,
    refused: &Prepared,
) -> Result<KeyAnswer> {
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!: KeyOutcome", service_account_id, tenant_id, permissions, tokens_valid_from, expires_at
           FROM api_key_exchange($1, $2, $3, $4, $5, $6)"#,
        digest,
        if client.is_some() { "client_secret" } else { "api_key" },
        client,
        now,
        event as &Prepared,
        refused as &Prepared,
    )
    .fetch_one(db)
    .await?;
    Ok(match row.outcome {
        KeyOutcome::Accepted => KeyAnswer::Accepted(KeyOwner {
            service_account_id: row
                .service_account_id
                .ok_or_else(|| Fault::internal("api_key_exchange left out the service account"))?,
            tenant_id: row.tenant_id,
            permissions: row.permissions.unwrap_or_default(),
            epoch: Epoch::of(row.tokens_valid_from),
            expires_at: row.expires_at,
        }),
        KeyOutcome::Unknown => KeyAnswer::Unknown,
        KeyOutcome::Revoked | KeyOutcome::Expired | KeyOutcome::Disabled | KeyOutcome::TenantDisabled => {
            KeyAnswer::Refused
        }
    })
}
