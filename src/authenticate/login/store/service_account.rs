//! SQL of API keys.

use crate::db::Db;
use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

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
        r#"SELECT outcome AS "outcome!", service_account_id, tenant_id, permissions, tokens_valid_from, expires_at
           FROM api_key_exchange($1, $2, $3, $4, $5, $6, $7, $8)"#,
        digest,
        if client.is_some() { "client_secret" } else { "api_key" },
        client,
        now,
        event.event,
        event.personal.as_deref(),
        refused.event,
        refused.personal.as_deref(),
    )
    .fetch_one(db)
    .await?;
    Ok(match (row.outcome.as_str(), row.service_account_id) {
        ("accepted", Some(service_account_id)) => KeyAnswer::Accepted(KeyOwner {
            service_account_id,
            tenant_id: row.tenant_id,
            permissions: row.permissions.unwrap_or_default(),
            epoch: Epoch::of(row.tokens_valid_from),
            expires_at: row.expires_at,
        }),
        ("unknown", _) => KeyAnswer::Unknown,
        ("revoked" | "expired" | "disabled" | "tenant_disabled", _) => KeyAnswer::Refused,
        _ => return Err(Fault::unknown_word("api_key_exchange.outcome")),
    })
}
