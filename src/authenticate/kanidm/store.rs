//! SQL of logins through Kanidm.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sidle_token::Epoch;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::audit::Prepared;
use crate::authenticate::login::store::login::Finished;
use crate::authenticate::login::store::types::{LoginAccount, LoginOutcome, LoginResult};
use crate::db::{Db, Scope};
use crate::fault::{Fault, Result};
use crate::session::{NewSession, SessionRequest, UserRights};

/// What became of the request to begin a login.
pub(in crate::authenticate) struct Begun {
    /// `begun`, or why not.
    pub outcome: String,
    /// Whether the person may become a user by it.
    pub about_person: bool,
}

/// Remembers a login that goes to Kanidm.
pub(in crate::authenticate) async fn begin_kanidm(
    db: impl PgExecutor<'_>,
    login: &Value,
    pkce_verifier: &[u8],
) -> Result<Begun> {
    Ok(sqlx::query_as!(
        Begun,
        r#"SELECT outcome AS "outcome!", about_person AS "about_person!" FROM kanidm_login_begin($1, $2)"#,
        login,
        pkce_verifier,
    )
    .fetch_one(db)
    .await?)
}

/// A login that was at Kanidm.
pub(in crate::authenticate) struct Taken {
    pub login_id: Uuid,
    pub nonce_hash: Vec<u8>,
    pub pkce_verifier: Vec<u8>,
    pub redirect_uri: String,
    pub session_request: SessionRequest,
    pub purpose: String,
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

/// Takes a begun login, which can be done once, and only with its secret and by whom it belongs to.
pub(in crate::authenticate) async fn take_kanidm(db: &Db, taker: Taker<'_>) -> Result<Option<Taken>> {
    let row = sqlx::query!(
        r#"SELECT login_id AS "login_id!", nonce_hash AS "nonce_hash!", pkce_verifier AS "pkce_verifier!",
               redirect_uri AS "redirect_uri!", request AS "request!", purpose AS "purpose!", live AS "live!"
           FROM kanidm_login_consume($1, $2, $3, $4, $5, $6)"#,
        &taker.state,
        &taker.secret,
        taker.purposes,
        taker.user_id,
        taker.session_id,
        taker.now,
    )
    .fetch_optional(db)
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

/// What the function `kanidm_login_finish` takes.
pub(in crate::authenticate) struct KanidmFinish<'a> {
    pub person: Uuid,
    pub groups: &'a [Uuid],
    /// What a user would be made of: e-mail address with its comparable form, and name.
    pub about: Value,
    pub tenant_id: Option<Uuid>,
    pub now: DateTime<Utc>,
    pub session: &'a NewSession,
    pub event: Prepared,
    pub refused: Prepared,
    pub groups_changed: Prepared,
    pub migrated: Prepared,
    pub created: Prepared,
}

/// Signs in the user that is linked to a person.
pub(in crate::authenticate) async fn finish_kanidm(db: &Db, finish: &KanidmFinish<'_>) -> Result<Finished> {
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!: LoginOutcome", account AS "account: LoginAccount", rights AS "rights: UserRights",
               choices
           FROM kanidm_login_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"#,
        finish.person,
        finish.groups,
        finish.about,
        finish.tenant_id,
        finish.now,
        finish.session as &NewSession,
        &finish.event as &Prepared,
        &finish.refused as &Prepared,
        &finish.groups_changed as &Prepared,
        &finish.migrated as &Prepared,
        &finish.created as &Prepared,
    )
    .fetch_one(db)
    .await?;
    let (outcome, account, rights, choices) = (row.outcome, row.account, row.rights, row.choices);
    LoginResult { outcome, account, rights, choices, known_device: None, recovery_codes: None }.finished()
}

/// The user of a person, and the latest revocation of their tokens.
pub(in crate::authenticate) async fn voided(db: &Db, person: Uuid) -> Result<Option<(Uuid, Epoch)>> {
    let mut tx = db.begin(Scope::Platform).await?;
    let row = sqlx::query!(
        r#"SELECT user_id, tokens_valid_from AS "void!" FROM users
           WHERE kanidm_user_id = $1 AND deleted_at IS NULL AND tokens_valid_from IS NOT NULL"#,
        person,
    );
    let row = row.fetch_optional(&mut *tx).await?;
    tx.commit().await?;
    Ok(row.map(|row| (row.user_id, Epoch::of(Some(row.void)))))
}

/// What the function `kanidm_link_finish` takes.
pub(in crate::authenticate) struct Link<'a> {
    pub user_id: Uuid,
    pub session_id: Uuid,
    pub person: Uuid,
    pub groups: &'a [Uuid],
    /// What Kanidm gave for the session.
    pub kanidm: Value,
    pub now: DateTime<Utc>,
    pub linked: Prepared,
    pub refused: Prepared,
    pub groups_changed: Prepared,
    pub migrated: Prepared,
    /// What the user is told by mail.
    pub notice: Option<Value>,
}

/// What became of it.
pub(in crate::authenticate) struct Linked {
    /// `linked`, or why not.
    pub outcome: String,
    /// The user's other sessions, which ended.
    pub ended: Option<Vec<Uuid>>,
    pub tokens_valid_from: Option<DateTime<Utc>>,
}

/// Links a person to the user of a session.
pub(in crate::authenticate) async fn link_kanidm(db: &Db, link: &Link<'_>) -> Result<Linked> {
    Ok(sqlx::query_as!(
        Linked,
        r#"SELECT outcome AS "outcome!", ended, tokens_valid_from
           FROM kanidm_link_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"#,
        link.user_id,
        link.session_id,
        link.person,
        link.groups,
        link.kanidm,
        link.now,
        link.linked.event,
        link.linked.personal.as_deref(),
        link.refused.event,
        link.refused.personal.as_deref(),
        link.groups_changed.event,
        link.migrated.event,
        link.notice,
    )
    .fetch_one(db)
    .await?)
}

/// The person that a user is linked to and may sign in as.
pub(in crate::authenticate) async fn linked_person(tx: &mut crate::db::Connection, user: Uuid) -> Result<Option<Uuid>> {
    let person = sqlx::query_scalar!(
        "SELECT kanidm_user_id FROM users
         WHERE user_id = $1 AND auth_method <> 'password' AND status = 'active' AND deleted_at IS NULL",
        user,
    );
    Ok(person.fetch_optional(tx).await?.flatten())
}
