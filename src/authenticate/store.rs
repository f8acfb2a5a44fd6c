//! SQL of this room: calls of the functions in `0003_sessions.up.sql`, each of them one round trip.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::UserView;
use super::hashing::StoredHash;
use crate::audit::{Event, Prepared, Recorder};
use crate::db::{Db, Scope};
use crate::fault::{Fault, Result};
use crate::session::{Rights, Wish};

/// A login that was begun: the user and the hash to compare with, or why there is none.
pub(super) struct Begun {
    pub user_id: Option<Uuid>,
    pub tenant_id: Option<Uuid>,
    pub password_hash: Option<String>,
    /// Number of the attempt since the last success.
    pub attempt: Option<u32>,
    pub refusal: Option<&'static str>,
    /// The highest cost of any user's hash.
    pub highest_cost: u32,
}

/// How a login ended once somebody was found to be who they say.
pub(super) enum Finished {
    SignedIn { rights: Rights, user: UserView },
    Refused,
    NoTenant,
    TenantRequired(Vec<Uuid>),
}

/// Finds the user and reserves the attempt.
pub(super) async fn login_begin(
    pool: &PgPool,
    key: &str,
    now: DateTime<Utc>,
    max_attempts: u32,
    lock: Duration,
) -> Result<Begun> {
    let row = sqlx::query!(
        "SELECT user_id, tenant_id, password_hash, attempt, refusal, highest_cost
         FROM login_begin($1, $2, $3, make_interval(secs => $4))",
        key,
        now,
        i32::try_from(max_attempts).unwrap_or(i32::MAX),
        lock.as_secs_f64(),
    )
    .fetch_one(pool)
    .await?;
    let refusal = row.refusal.as_deref().map(|reason| match reason {
        "unknown" => "unknown",
        "locked" => "locked",
        "disabled" => "disabled",
        "unverified" => "unverified",
        "kanidm_only" => "kanidm_only",
        _ => "no_password",
    });
    Ok(Begun {
        user_id: row.user_id,
        tenant_id: row.tenant_id,
        password_hash: row.password_hash,
        attempt: row.attempt.and_then(|attempt| u32::try_from(attempt).ok()),
        refusal,
        highest_cost: row.highest_cost.and_then(|cost| u32::try_from(cost).ok()).unwrap_or_default(),
    })
}

/// Records a refused login, and the lock that it led to.
pub(super) async fn login_refuse(pool: &PgPool, event: &Prepared, lock: Option<&Prepared>) -> Result<()> {
    sqlx::query!(
        "SELECT login_refuse($1, $2, $3)",
        event.event,
        event.personal.as_deref(),
        lock.map(|lock| &lock.event),
    )
    .fetch_one(pool)
    .await?;
    Ok(())
}

/// After the right password: begins the session.
#[expect(clippy::too_many_arguments, reason = "the arguments of one database function")]
pub(super) async fn login_finish(
    pool: &PgPool,
    user: Uuid,
    password_hash: &str,
    tenant: Option<Uuid>,
    now: DateTime<Utc>,
    session: &Value,
    event: &Prepared,
    refused: &Prepared,
) -> Result<Finished> {
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!", tenant_id, choices, roles, permissions, platform_permissions,
               tokens_valid_from, must_change_password, email, username, full_name, auth_method
           FROM login_finish($1, $2, $3, $4, $5, $6, $7, $8, $9)"#,
        user,
        password_hash,
        tenant,
        now,
        session,
        event.event,
        event.personal.as_deref(),
        refused.event,
        refused.personal.as_deref(),
    )
    .fetch_one(pool)
    .await?;
    Ok(match row.outcome.as_str() {
        "signed_in" => Finished::SignedIn {
            rights: Rights {
                tenant_id: row.tenant_id,
                roles: row.roles.unwrap_or_default(),
                permissions: row.permissions.unwrap_or_default(),
                platform_permissions: row.platform_permissions.unwrap_or_default(),
                tokens_valid_from: row.tokens_valid_from,
                must_change_password: row.must_change_password.unwrap_or(true),
            },
            user: UserView {
                user_id: user,
                email: row.email.unwrap_or_default(),
                username: row.username,
                full_name: row.full_name.unwrap_or_default(),
                auth_method: row.auth_method.unwrap_or_default(),
            },
        },
        "no_tenant" => Finished::NoTenant,
        "tenant_required" => Finished::TenantRequired(row.choices.unwrap_or_default()),
        _ => Finished::Refused,
    })
}

/// Puts a new hash of the same password in the place of the old one, if that is still there.
pub(super) async fn replace_hash(
    db: &Db,
    recorder: &Recorder,
    user: Uuid,
    old: &str,
    new: &StoredHash,
    event: Event,
) -> Result<()> {
    let mut tx = db.begin(Scope::Platform).await?;
    let done = sqlx::query!(
        "UPDATE users SET password_hash = $3, password_cost = $4, password_pepper_id = $5
         WHERE user_id = $1 AND password_hash = $2",
        user,
        old,
        new.hash,
        new.cost,
        new.pepper_id,
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 1 {
        recorder.record(&mut tx, event).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// What became of an API key.
pub(super) enum KeyAnswer {
    Accepted(KeyOwner),
    Refused,
    Unknown,
}

/// The service account behind an API key, and what the key permits.
pub(super) struct KeyOwner {
    pub service_account_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub permissions: Vec<String>,
    pub tokens_valid_from: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Checks an API key.
pub(super) async fn exchange_key(
    pool: &PgPool,
    digest: &[u8; 32],
    now: DateTime<Utc>,
    event: &Prepared,
    refused: &Prepared,
) -> Result<KeyAnswer> {
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!", service_account_id, tenant_id, permissions, tokens_valid_from, expires_at
           FROM api_key_exchange($1, $2, $3, $4, $5, $6)"#,
        digest,
        now,
        event.event,
        event.personal.as_deref(),
        refused.event,
        refused.personal.as_deref(),
    )
    .fetch_one(pool)
    .await?;
    Ok(match (row.outcome.as_str(), row.service_account_id) {
        ("accepted", Some(service_account_id)) => KeyAnswer::Accepted(KeyOwner {
            service_account_id,
            tenant_id: row.tenant_id,
            permissions: row.permissions.unwrap_or_default(),
            tokens_valid_from: row.tokens_valid_from,
            expires_at: row.expires_at,
        }),
        ("unknown", _) => KeyAnswer::Unknown,
        _ => KeyAnswer::Refused,
    })
}

/// Remembers a login that goes to Kanidm.
pub(super) async fn begin_kanidm(pool: &PgPool, login: &Value, pkce_verifier: &[u8]) -> Result<()> {
    sqlx::query!("SELECT kanidm_login_begin($1, $2)", login, pkce_verifier).fetch_one(pool).await?;
    Ok(())
}

/// A login that was at Kanidm.
pub(super) struct Taken {
    pub login_id: Uuid,
    pub nonce_hash: Vec<u8>,
    pub pkce_verifier: Vec<u8>,
    pub redirect_uri: String,
    pub wish: Wish,
    pub live: bool,
}

/// Takes a begun login, which can be done once, and only with its secret.
pub(super) async fn take_kanidm(
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
pub(super) struct KanidmFinish<'a> {
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
pub(super) async fn finish_kanidm(pool: &PgPool, finish: &KanidmFinish<'_>) -> Result<Option<Finished>> {
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
        }),
        ("not_linked", _) => None,
        ("no_tenant", _) => Some(Finished::NoTenant),
        ("tenant_required", _) => Some(Finished::TenantRequired(row.choices.unwrap_or_default())),
        _ => Some(Finished::Refused),
    })
}

/// A user with what they must do next.
pub(super) struct Account {
    pub user: UserView,
    pub must_change_password: bool,
}

/// A tenant that somebody can act in.
pub(super) struct MemberTenant {
    pub tenant_id: Uuid,
    pub slug: String,
    pub name: String,
    pub roles: Vec<String>,
    pub home: bool,
}

/// A user and the tenants they can act in, in one round trip after the transaction began.
pub(super) async fn account(db: &Db, user: Uuid) -> Result<Option<(Account, Vec<MemberTenant>)>> {
    let mut tx = db.begin(Scope::Platform).await?;
    let rows = sqlx::query!(
        r#"SELECT u.email, u.username, u.full_name, u.auth_method, u.must_change_password, u.tenant_id AS home_id,
               m.tenant_id AS "member_id?", m.slug AS "slug?", m.name AS "name?", m.roles AS "roles?"
           FROM users u LEFT JOIN LATERAL (
               SELECT t.tenant_id, t.slug, t.name, array_agg(DISTINCT r.name ORDER BY r.name) AS roles
               FROM memberships x JOIN tenants t ON t.tenant_id = x.tenant_id JOIN roles r ON r.role_id = x.role_id
               WHERE x.user_id = u.user_id AND t.status = 'active' AND t.deleted_at IS NULL
               GROUP BY t.tenant_id, t.slug, t.name ORDER BY t.slug LIMIT 1000) m ON true
           WHERE u.user_id = $1 AND u.deleted_at IS NULL
           ORDER BY m.slug"#,
        user,
    )
    .fetch_all(&mut *tx)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let account = Account {
        user: UserView {
            user_id: user,
            email: first.email.clone(),
            username: first.username.clone(),
            full_name: first.full_name.clone(),
            auth_method: first.auth_method.clone(),
        },
        must_change_password: first.must_change_password,
    };
    let tenants = rows.into_iter().filter_map(|row| {
        let tenant_id = row.member_id?;
        Some(MemberTenant {
            tenant_id,
            slug: row.slug.unwrap_or_default(),
            name: row.name.unwrap_or_default(),
            roles: row.roles.unwrap_or_default(),
            home: tenant_id == row.home_id,
        })
    });
    Ok(Some((account, tenants.collect())))
}

/// The name of a service account and the tenant that it is confined to.
pub(super) async fn service_account(db: &Db, account: Uuid) -> Result<Option<(String, Vec<MemberTenant>)>> {
    let mut tx = db.begin(Scope::Platform).await?;
    let row = sqlx::query!(
        r#"SELECT a.name AS account, t.tenant_id AS "tenant_id?", t.slug AS "slug?", t.name AS "name?"
           FROM service_accounts a LEFT JOIN tenants t ON t.tenant_id = a.tenant_id
           WHERE a.service_account_id = $1 AND a.deleted_at IS NULL"#,
        account,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let tenant = row.tenant_id.map(|tenant_id| MemberTenant {
        tenant_id,
        slug: row.slug.unwrap_or_default(),
        name: row.name.unwrap_or_default(),
        roles: Vec::new(),
        home: true,
    });
    Ok(Some((row.account, tenant.into_iter().collect())))
}
