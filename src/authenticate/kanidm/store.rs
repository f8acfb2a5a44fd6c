//! SQL of logins through Kanidm.

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub(in crate::authenticate) use crate::access::words::{AuthMethod, LockReason, UserStatus};
use crate::audit::Prepared;
use crate::db::{Connection, constraint};
use crate::fault::{Fault, Result};
use crate::session::{NewSession, SessionRequest};

/// What a person goes to Kanidm for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(in crate::authenticate) enum Purpose {
    /// To begin a session.
    Login,
    /// To prove that the user of a session is there.
    StepUp,
    /// To link the person to the user of a session.
    Link,
}

impl Purpose {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::StepUp => "step_up",
            Self::Link => "link",
        }
    }
}

/// Why a person may not be linked to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "person_refusal", rename_all = "snake_case")]
pub(crate) enum PersonRefusal {
    /// A migration is at work on the user.
    Migrating,
    /// The person is another user's.
    PersonTaken,
}

/// A user, locked until the transaction ends.
pub(in crate::authenticate) struct User {
    pub user_id: Uuid,
    pub tenant_id: Uuid,
    pub email: String,
    pub username: Option<String>,
    pub full_name: String,
    pub status: UserStatus,
    pub auth_method: AuthMethod,
    pub kanidm_user_id: Option<Uuid>,
    pub must_change_password: bool,
    pub locked_until: Option<DateTime<Utc>>,
    pub lock_reason: Option<LockReason>,
    pub migration_completed_at: Option<DateTime<Utc>>,
    pub deleted_at: Option<DateTime<Utc>>,
}

macro_rules! locked_user {
    ($tail:tt, $id:expr) => {
        sqlx::query_as!(
            User,
            r#"SELECT user_id, tenant_id, email, username, full_name, status AS "status: UserStatus",
                   auth_method AS "auth_method: AuthMethod", kanidm_user_id, must_change_password, locked_until,
                   lock_reason AS "lock_reason: LockReason", migration_completed_at, deleted_at
               FROM users "#
                + $tail
                + " FOR NO KEY UPDATE",
            $id
        )
    };
}

/// The living user that is linked to a person.
pub(in crate::authenticate) async fn lock_linked(tx: &mut Connection, person: Uuid) -> Result<Option<User>> {
    Ok(locked_user!("WHERE kanidm_user_id = $1 AND deleted_at IS NULL", person).fetch_optional(tx).await?)
}

/// The user of this id, also one who is deleted.
pub(in crate::authenticate) async fn lock_user(tx: &mut Connection, user: Uuid) -> Result<Option<User>> {
    Ok(locked_user!("WHERE user_id = $1", user).fetch_optional(tx).await?)
}

/// Locks a session of the user until the transaction ends; says whether it is one and active.
pub(in crate::authenticate) async fn hold_session(tx: &mut Connection, user: Uuid, session: Uuid) -> Result<bool> {
    Ok(sqlx::query_scalar!(r#"SELECT session_hold($1, $2) AS "is_active!""#, user, session).fetch_one(tx).await?)
}

/// The person that a user is linked to and may sign in as.
pub(in crate::authenticate) async fn linked_person(tx: &mut Connection, user: Uuid) -> Result<Option<Uuid>> {
    let person = sqlx::query_scalar!(
        "SELECT kanidm_user_id FROM users
         WHERE user_id = $1 AND auth_method <> 'password' AND status = 'active' AND deleted_at IS NULL",
        user,
    );
    Ok(person.fetch_optional(tx).await?.flatten())
}

/// A login that goes to Kanidm.
pub(in crate::authenticate) struct Going<'a> {
    pub login_id: Uuid,
    pub purpose: Purpose,
    /// The user and the session that it belongs to.
    pub holder: Option<(Uuid, Uuid)>,
    pub state: [u8; 32],
    pub secret: [u8; 32],
    pub nonce: [u8; 32],
    /// Sealed.
    pub pkce_verifier: Vec<u8>,
    pub redirect_uri: &'a str,
    pub session_request: &'a SessionRequest,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// Whether a tenant, this one if one is named, makes users of persons at their first login.
pub(in crate::authenticate) async fn makes_users(tx: &mut Connection, tenant: Option<Uuid>) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM tenants
               WHERE settings @> '{"sidle": {"kanidm_first_login": true}}' AND status = 'active' AND deleted_at IS NULL
                   AND ($1::uuid IS NULL OR tenant_id = $1)) AS "makes_users!""#,
        tenant,
    )
    .fetch_one(tx)
    .await?)
}

/// Remembers a login that goes to Kanidm.
pub(in crate::authenticate) async fn insert(tx: &mut Connection, going: &Going<'_>) -> Result<()> {
    sqlx::query!(
        "INSERT INTO kanidm_logins (login_id, purpose, user_id, session_id, state_hash, secret_hash, nonce_hash,
             pkce_verifier, redirect_uri, request, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        going.login_id,
        going.purpose.as_str(),
        going.holder.map(|(user, _)| user),
        going.holder.map(|(_, session)| session),
        &going.state,
        &going.secret,
        &going.nonce,
        going.pkce_verifier,
        going.redirect_uri,
        serde_json::to_value(going.session_request).map_err(Fault::internal)?,
        going.created_at,
        going.expires_at,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// A login that was at Kanidm.
pub(in crate::authenticate) struct Taken {
    pub login_id: Uuid,
    pub nonce_hash: Vec<u8>,
    pub pkce_verifier: Vec<u8>,
    pub redirect_uri: String,
    pub session_request: SessionRequest,
    pub purpose: Purpose,
    pub live: bool,
}

/// Who completes a login, and for what.
pub(in crate::authenticate) struct Taker<'a> {
    pub state: [u8; 32],
    pub secret: [u8; 32],
    pub purposes: &'a [String],
    pub user_id: Option<Uuid>,
    pub session_id: Option<Uuid>,
    pub now: DateTime<Utc>,
}

/// Takes a begun login, which can be done once. The secret is in the condition: an attacker who only saw the state
/// cannot spend another client's attempt. So is the session of an attempt that belongs to one.
pub(in crate::authenticate) async fn take(tx: &mut Connection, taker: Taker<'_>) -> Result<Option<Taken>> {
    let row = sqlx::query!(
        r#"DELETE FROM kanidm_logins
           WHERE state_hash = $1 AND secret_hash = $2 AND purpose = ANY ($3)
               AND (purpose = 'login' OR (user_id = $4 AND session_id = $5))
           RETURNING login_id, nonce_hash, pkce_verifier, redirect_uri, request, purpose AS "purpose: Purpose",
               expires_at > $6 AS "live!""#,
        &taker.state,
        &taker.secret,
        taker.purposes,
        taker.user_id,
        taker.session_id,
        taker.now,
    )
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Taken {
        login_id: row.login_id,
        nonce_hash: row.nonce_hash,
        pkce_verifier: row.pkce_verifier,
        redirect_uri: row.redirect_uri,
        session_request: serde_json::from_value(row.request).map_err(Fault::internal)?,
        purpose: row.purpose,
        live: row.live,
    }))
}

/// The tenants that these groups stand for and that make users of persons at their first login.
pub(in crate::authenticate) async fn tenants_that_make_users(
    tx: &mut Connection,
    groups: &[Uuid],
) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"SELECT DISTINCT t.tenant_id FROM kanidm_tenant_groups g
               JOIN tenants t ON t.tenant_id = g.tenant_id JOIN roles r ON r.role_id = g.role_id
           WHERE g.kanidm_group_uuid = ANY ($1) AND NOT r.is_platform AND t.status = 'active' AND t.deleted_at IS NULL
               AND t.settings @> '{"sidle": {"kanidm_first_login": true}}' ORDER BY 1"#,
        groups,
    )
    .fetch_all(tx)
    .await?)
}

/// Whether a tenant takes users with this address.
pub(in crate::authenticate) async fn accepts_address(
    tx: &mut Connection,
    tenant: Uuid,
    email_key: &str,
) -> Result<bool> {
    Ok(sqlx::query_scalar!(r#"SELECT tenant_accepts_address($1, $2) AS "accepts!""#, tenant, email_key)
        .fetch_one(tx)
        .await?)
}

/// What a user is made of at a first login.
pub(in crate::authenticate) struct Newcomer {
    pub tenant_id: Uuid,
    pub email: String,
    pub email_key: String,
    pub full_name: String,
}

/// Makes a user of a person, with the person's id; false when the id, the address or the person is a user's already, which
/// must not end the transaction.
pub(in crate::authenticate) async fn make_user(
    tx: &mut Connection,
    person: Uuid,
    newcomer: &Newcomer,
    now: DateTime<Utc>,
) -> Result<bool> {
    let made = sqlx::query!(
        "INSERT INTO users (user_id, tenant_id, email, email_key, full_name, auth_method, kanidm_user_id,
             kanidm_synced_at, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, 'kanidm', $1, $6, $6, $6) ON CONFLICT DO NOTHING",
        person,
        newcomer.tenant_id,
        newcomer.email,
        newcomer.email_key,
        newcomer.full_name,
        now,
    )
    .execute(tx)
    .await?;
    Ok(made.rows_affected() == 1)
}

/// Whether a user, also a deleted one, has this id.
pub(in crate::authenticate) async fn is_id_taken(tx: &mut Connection, id: Uuid) -> Result<bool> {
    Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM users WHERE user_id = $1) AS "is_taken!""#, id)
        .fetch_one(tx)
        .await?)
}

/// Whether a living user has this address.
pub(in crate::authenticate) async fn is_mail_taken(tx: &mut Connection, email_key: &str) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM users WHERE email_key = $1 AND deleted_at IS NULL) AS "is_taken!""#,
        email_key,
    )
    .fetch_one(tx)
    .await?)
}

/// Makes a user's memberships those that these groups give; true when one went, with which access tokens ended.
pub(in crate::authenticate) async fn sync_groups(
    tx: &mut Connection,
    user: Uuid,
    groups: &[Uuid],
    now: DateTime<Utc>,
    event: &Prepared,
) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT session_sync_groups($1, $2, $3, $4) AS "lost!""#,
        user,
        groups,
        now,
        event as &Prepared,
    )
    .fetch_one(tx)
    .await?)
}

/// The latest revocation of a user's tokens.
pub(in crate::authenticate) async fn epoch(tx: &mut Connection, user: Uuid) -> Result<Option<DateTime<Utc>>> {
    Ok(sqlx::query_scalar!("SELECT tokens_valid_from FROM users WHERE user_id = $1", user).fetch_one(tx).await?)
}

/// Where a login acts.
pub(in crate::authenticate) enum Acting {
    /// In this tenant; in none only an administrator of the platform.
    In(Option<Uuid>),
    /// Nowhere.
    Nowhere,
    /// In one of these, which has to be said.
    OneOf(Vec<Uuid>),
}

#[derive(Debug, sqlx::Type)]
#[sqlx(type_name = "tenant_outcome", rename_all = "snake_case")]
enum TenantOutcome {
    Found,
    NoTenant,
    TenantRequired,
}

/// The tenant that a login acts in: asked for, else home, else the only one.
pub(in crate::authenticate) async fn tenant(
    tx: &mut Connection,
    user: Uuid,
    home: Uuid,
    asked: Option<Uuid>,
) -> Result<Acting> {
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!: TenantOutcome", tenant_id, choices AS "choices!" FROM session_tenant($1, $2, $3)"#,
        user,
        home,
        asked,
    )
    .fetch_one(tx)
    .await?;
    Ok(match row.outcome {
        TenantOutcome::Found => Acting::In(row.tenant_id),
        TenantOutcome::NoTenant => Acting::Nowhere,
        TenantOutcome::TenantRequired => Acting::OneOf(row.choices),
    })
}

/// Notes that a user has signed in through Kanidm.
pub(in crate::authenticate) async fn signed_in(tx: &mut Connection, user: Uuid, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!(
        "UPDATE users SET last_login_at = $2, kanidm_synced_at = $2,
             migration_completed_at = coalesce(migration_completed_at, $2)
         WHERE user_id = $1",
        user,
        now,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Begins a session that depends on Kanidm.
pub(in crate::authenticate) async fn open_session(
    tx: &mut Connection,
    user: Uuid,
    tenant: Option<Uuid>,
    now: DateTime<Utc>,
    session: &NewSession,
) -> Result<()> {
    sqlx::query!("SELECT session_open_kanidm($1, $2, $3, $4)", user, tenant, now, session as &NewSession)
        .fetch_one(tx)
        .await?;
    Ok(())
}

/// What a user is and may do in a tenant and on the platform.
pub(in crate::authenticate) struct Standing {
    pub roles: Vec<String>,
    pub permissions: Vec<String>,
    pub platform_permissions: Vec<String>,
}

/// What a user is and may do in a tenant and on the platform, as it is now.
pub(in crate::authenticate) async fn standing(
    tx: &mut Connection,
    user: Uuid,
    tenant: Option<Uuid>,
) -> Result<Standing> {
    Ok(sqlx::query_as!(
        Standing,
        r#"SELECT roles AS "roles!", permissions AS "permissions!", platform_permissions AS "platform_permissions!"
           FROM session_rights($1, $2)"#,
        user,
        tenant,
    )
    .fetch_one(tx)
    .await?)
}

/// Why a person may not be linked to a user; none when it may, which then no migration changes until the transaction ends.
pub(crate) async fn person_refusal(tx: &mut Connection, user: Uuid, person: Uuid) -> Result<Option<PersonRefusal>> {
    Ok(sqlx::query_scalar!(r#"SELECT kanidm_person_refusal($1, $2) AS "refusal: PersonRefusal""#, user, person)
        .fetch_one(tx)
        .await?)
}

/// Links a user to a person; false when another user came first, with which the transaction has failed.
pub(in crate::authenticate) async fn link(
    tx: &mut Connection,
    user: Uuid,
    person: Uuid,
    now: DateTime<Utc>,
) -> Result<bool> {
    let linked = sqlx::query!(
        "UPDATE users SET kanidm_user_id = $2, auth_method = 'dual', kanidm_synced_at = $3,
             migration_completed_at = coalesce(migration_completed_at, $3)
         WHERE user_id = $1",
        user,
        person,
        now,
    )
    .execute(tx)
    .await;
    match linked {
        Err(error) if constraint(&error) == Some("users_kanidm_user_id_key") => Ok(false),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(true),
    }
}

/// Notes on a session that Kanidm confirms it as well, with Kanidm's session and refresh token, sealed.
pub(in crate::authenticate) async fn link_session(
    tx: &mut Connection,
    session: Uuid,
    kanidm_session: Option<Uuid>,
    refresh_token: &[u8],
) -> Result<()> {
    sqlx::query!("SELECT session_link_kanidm($1, $2, $3)", session, kanidm_session, refresh_token)
        .fetch_one(tx)
        .await?;
    Ok(())
}

/// Ends every other session of a user whose credentials changed, and returns their ids.
pub(in crate::authenticate) async fn end_other_sessions(
    tx: &mut Connection,
    user: Uuid,
    session: Uuid,
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"SELECT session_end_all($1, $2, 'credential_changed', $3) AS "ended!""#,
        user,
        session,
        now,
    )
    .fetch_one(tx)
    .await?)
}
