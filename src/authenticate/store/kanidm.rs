//! SQL of logins through Kanidm.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::login::Finished;
use crate::audit::Prepared;
use crate::authenticate::UserView;
use crate::fault::{Fault, Result};
use crate::session::{Rights, Wish};

/// Remembers a login that goes to Kanidm.
pub(in crate::authenticate) async fn begin_kanidm(pool: &PgPool, login: &Value, pkce_verifier: &[u8]) -> Result<()> {
    sqlx::query!("SELECT kanidm_login_begin($1, $2)", login, pkce_verifier).fetch_one(pool).await?;
    Ok(())
}

/// A login that was at Kanidm.
pub(in crate::authenticate) struct Taken {
    pub login_id: Uuid,
    pub nonce_hash: Vec<u8>,
    pub pkce_verifier: Vec<u8>,
    pub redirect_uri: String,
    pub wish: Wish,
    pub live: bool,
}

/// Takes a begun login, which can be done once, and only with its secret.
pub(in crate::authenticate) async fn take_kanidm(
    pool: &PgPool,
    state: &[u8; 32],
    secret: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Option<Taken>> {
    let row = sqlx::query!(
        r#"SELECT login_id AS "login_id!", nonce_hash AS "nonce_hash!", pkce_verifier AS "pkce_verifier!",
               redirect_uri AS "redirect_uri!", request AS "request!", live AS "live!"
           FROM kanidm_login_take($1, $2, $3)"#,
        state,
        secret,
        now,
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Taken {
        login_id: row.login_id,
        nonce_hash: row.nonce_hash,
        pkce_verifier: row.pkce_verifier,
        redirect_uri: row.redirect_uri,
        wish: serde_json::from_value(row.request).map_err(Fault::internal)?,
        live: row.live,
    }))
}

/// What the function `kanidm_login_finish` takes.
pub(in crate::authenticate) struct KanidmFinish<'a> {
    pub person: Uuid,
    pub groups: &'a [Uuid],
    pub tenant_id: Option<Uuid>,
    pub now: DateTime<Utc>,
    pub session: Value,
    pub event: Prepared,
    pub refused: Prepared,
    pub groups_changed: Prepared,
    pub migrated: Prepared,
}

/// Signs in the user that is linked to a person; none when nobody is.
pub(in crate::authenticate) async fn finish_kanidm(
    pool: &PgPool,
    finish: &KanidmFinish<'_>,
) -> Result<Option<Finished>> {
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!", user_id, tenant_id, choices, roles, permissions, platform_permissions,
               tokens_valid_from, must_change_password, email, username, full_name, auth_method
           FROM kanidm_login_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"#,
        finish.person,
        finish.groups,
        finish.tenant_id,
        finish.now,
        finish.session,
        finish.event.event,
        finish.event.personal.as_deref(),
        finish.refused.event,
        finish.refused.personal.as_deref(),
        finish.groups_changed.event,
        finish.migrated.event,
    )
    .fetch_one(pool)
    .await?;
    Ok(match (row.outcome.as_str(), row.user_id) {
        ("signed_in", Some(user_id)) => Some(Finished::SignedIn {
            rights: Rights {
                tenant_id: row.tenant_id,
                roles: row.roles.unwrap_or_default(),
                permissions: row.permissions.unwrap_or_default(),
                platform_permissions: row.platform_permissions.unwrap_or_default(),
                tokens_valid_from: row.tokens_valid_from,
                must_change_password: row.must_change_password.unwrap_or(true),
            },
            user: UserView {
                user_id,
                email: row.email.unwrap_or_default(),
                username: row.username,
                full_name: row.full_name.unwrap_or_default(),
                auth_method: row.auth_method.unwrap_or_default(),
            },
            known_device: true,
        }),
        ("not_linked", _) => None,
        ("no_tenant", _) => Some(Finished::NoTenant),
        ("tenant_required", _) => Some(Finished::TenantRequired(row.choices.unwrap_or_default())),
        _ => Some(Finished::Refused),
    })
}
