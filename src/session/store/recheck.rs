//! SQL of what callers of open streams were authenticated by.

use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

use crate::db::{Db, Scope};
use crate::fault::Result;

/// Ids of what is asked about.
#[derive(Default)]
pub(in crate::session) struct Asked {
    pub sessions: Vec<Uuid>,
    pub service_accounts: Vec<Uuid>,
    pub keys: Vec<Uuid>,
}

/// What was found.
#[derive(Default)]
pub(in crate::session) struct Found {
    pub good: Vec<Good>,
    /// Signing keys that were revoked.
    pub revoked_keys: Vec<Uuid>,
}

/// A session or a service account that authorises somebody now.
pub(in crate::session) struct Good {
    pub id: Uuid,
    /// The tenant that it acts in.
    pub tenant_id: Option<Uuid>,
    /// The latest revocation of its principal's tokens.
    pub epoch: Epoch,
}

/// Which of these are good at `now`: one look at each by its primary key, however many ask.
pub(in crate::session) async fn good(db: &Db, asked: &Asked, now: DateTime<Utc>) -> Result<Found> {
    let mut tx = db.begin(Scope::Platform).await?;
    let rows = sqlx::query!(
        r#"SELECT 'principal' AS "what!", s.session_id AS "id!", s.tenant_id, u.tokens_valid_from
           FROM sessions s JOIN users u ON u.user_id = s.user_id
           WHERE s.session_id = ANY ($1) AND s.status = 'active' AND least(s.expires_at, s.idle_expires_at) > $4
               AND u.deleted_at IS NULL AND u.status = 'active'
               AND (u.lock_reason = 'administrator' AND u.locked_until > $4) IS NOT TRUE
           UNION ALL
           SELECT 'principal', a.service_account_id, a.tenant_id, a.tokens_valid_from
           FROM service_accounts a LEFT JOIN tenants t ON t.tenant_id = a.tenant_id
           WHERE a.service_account_id = ANY ($2) AND a.status = 'active' AND a.deleted_at IS NULL
               AND (a.tenant_id IS NULL OR t.status = 'active' AND t.deleted_at IS NULL)
           UNION ALL
           SELECT 'revoked key', k.kid, NULL, NULL FROM signing_keys k
           WHERE k.kid = ANY ($3) AND k.state = 'retired' AND k.retire_reason = 'revoked'"#,
        &asked.sessions,
        &asked.service_accounts,
        &asked.keys,
        now,
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let mut found = Found::default();
    for row in rows {
        match row.what.as_str() {
            "principal" => {
                let epoch = Epoch::of(row.tokens_valid_from);
                found.good.push(Good { id: row.id, tenant_id: row.tenant_id, epoch });
            }
            _ => found.revoked_keys.push(row.id),
        }
    }
    Ok(found)
}
