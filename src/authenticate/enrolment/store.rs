//! SQL of invitations, reset links and passwords that are carried over.

use std::time::Duration;

use crate::db::Db;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::audit::Prepared;
use crate::fault::{Fault, Result};

/// Whose invitation a token is.
#[derive(Clone, Copy, Debug)]
pub(in crate::authenticate) struct Invited {
    pub invitation_id: Uuid,
    pub user_id: Uuid,
    /// Whether the user has a second factor.
    pub second_factor: bool,
}

/// Who is about to give a person a credential, and for how long nobody else is.
#[derive(Clone, Copy, Debug)]
pub(in crate::authenticate) struct Lease {
    pub id: Uuid,
    pub time: Duration,
}

/// A reset link that may still work.
pub(in crate::authenticate) struct LiveLink {
    pub link_id: Uuid,
    /// Sealed; none when it never arrived or must not be handed out.
    pub sealed: Option<Vec<u8>>,
    pub wait: Duration,
}

/// How taking the lease on a person ended.
pub(in crate::authenticate) enum Begun {
    /// The invitation has died meanwhile.
    Gone,
    /// Somebody else holds it.
    Busy,
    /// It is ours now.
    Leased { person: Uuid, link: Option<LiveLink> },
}

/// A password that may be carried over.
#[derive(Clone, Copy, Debug)]
pub(in crate::authenticate) struct CarryOver {
    pub person: Uuid,
    pub tenant_id: Option<Uuid>,
    pub password_changed_at: Option<DateTime<Utc>>,
}

/// Whose invitation this is, if it can be redeemed.
pub(in crate::authenticate) async fn find(db: &Db, token_hash: &[u8], now: DateTime<Utc>) -> Result<Option<Invited>> {
    let row =
        sqlx::query!("SELECT invitation_id, user_id, second_factor FROM invitation_find($1, $2)", token_hash, now)
            .fetch_one(db)
            .await?;
    let (Some(invitation_id), Some(user_id)) = (row.invitation_id, row.user_id) else { return Ok(None) };
    // What is not told is taken for the stricter case.
    let second_factor = row.second_factor.unwrap_or(true);
    Ok(Some(Invited { invitation_id, user_id, second_factor }))
}

/// Takes the lease on the person of somebody who has shown all that redeeming an invitation takes.
pub(in crate::authenticate) async fn begin(
    db: &Db,
    invited: &Invited,
    now: DateTime<Utc>,
    lease: Lease,
) -> Result<Begun> {
    let row = sqlx::query!(
        "SELECT outcome, person_id, link_id, link, extract(epoch FROM wait)::double precision AS wait
         FROM enrolment_begin($1, $2, $3, $4, $5, make_interval(secs => $6))",
        invited.invitation_id,
        invited.user_id,
        invited.second_factor,
        now,
        lease.id,
        lease.time.as_secs_f64(),
    )
    .fetch_one(db)
    .await?;
    match (row.outcome.as_deref(), row.person_id) {
        (Some("begun"), Some(person)) => {
            let link = row.link_id.map(|link_id| LiveLink {
                link_id,
                sealed: row.link,
                wait: Duration::try_from_secs_f64(row.wait.unwrap_or_default()).unwrap_or_default(),
            });
            Ok(Begun::Leased { person, link })
        }
        (Some("busy"), _) => Ok(Begun::Busy),
        (Some("gone"), _) => Ok(Begun::Gone),
        _ => Err(Fault::internal("enrolment_begin gave no outcome")),
    }
}

/// Writes down that a link is about to be made. False when that may not be.
pub(in crate::authenticate) async fn intend(
    db: &Db,
    person: Uuid,
    lease: Lease,
    link_id: Uuid,
    lifetime: Duration,
) -> Result<bool> {
    let row = sqlx::query!(
        r#"SELECT enrolment_intend($1, $2, $3, make_interval(secs => $4)) AS "may!""#,
        person,
        lease.id,
        link_id,
        lifetime.as_secs_f64(),
    )
    .fetch_one(db)
    .await?;
    Ok(row.may)
}

/// A link that was made.
pub(in crate::authenticate) struct Minted {
    pub link_id: Uuid,
    pub sealed: Vec<u8>,
    pub lifetime: Duration,
}

/// Keeps a link that was made. False when it must not be handed out, because the invitation died meanwhile.
pub(in crate::authenticate) async fn minted(
    db: &Db,
    invited: &Invited,
    person: Uuid,
    lease: Lease,
    minted: &Minted,
    now: DateTime<Utc>,
    event: &Prepared,
) -> Result<bool> {
    let row = sqlx::query!(
        r#"SELECT enrolment_minted($1, $2, $3, $4, $5, $6, make_interval(secs => $7), $8, $9, $10) AS "may!""#,
        invited.invitation_id,
        invited.user_id,
        person,
        lease.id,
        minted.link_id,
        minted.sealed,
        minted.lifetime.as_secs_f64(),
        now,
        event.event,
        event.personal.as_deref(),
    )
    .fetch_one(db)
    .await?;
    Ok(row.may)
}

/// Hands a link out once more. False when the invitation died meanwhile.
pub(in crate::authenticate) async fn repeat(
    db: &Db,
    invited: &Invited,
    person: Uuid,
    lease: Lease,
    link_id: Uuid,
    now: DateTime<Utc>,
    event: &Prepared,
) -> Result<bool> {
    let row = sqlx::query!(
        r#"SELECT enrolment_reissue($1, $2, $3, $4, $5, $6, $7, $8) AS "may!""#,
        invited.invitation_id,
        invited.user_id,
        person,
        lease.id,
        link_id,
        now,
        event.event,
        event.personal.as_deref(),
    )
    .fetch_one(db)
    .await?;
    Ok(row.may)
}

/// Gives a lease back, and forgets the link that was not made.
pub(in crate::authenticate) async fn release(db: &Db, person: Uuid, lease: Lease, unmade: Option<Uuid>) -> Result<()> {
    sqlx::query!("SELECT enrolment_release($1, $2, $3)", person, lease.id, unmade).fetch_one(db).await?;
    Ok(())
}

/// Writes down that a person has a credential, and gives the lease back.
pub(in crate::authenticate) async fn has_credential(
    db: &Db,
    person: Uuid,
    lease: Lease,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!("SELECT enrolment_credential($1, $2, $3)", person, lease.id, now).fetch_one(db).await?;
    Ok(())
}

/// Takes the lease on the person of a user whose password may be carried over: one of this version.
pub(in crate::authenticate) async fn carry_over_begin(
    db: &Db,
    user: Uuid,
    password_version: i64,
    tenants: &[String],
    now: DateTime<Utc>,
    again_after: Duration,
    lease: Lease,
) -> Result<Option<CarryOver>> {
    let row = sqlx::query!(
        "SELECT person_id, tenant_id, password_changed_at
         FROM carry_over_begin($1, $2, $3, $4, make_interval(secs => $5), $6, make_interval(secs => $7))",
        user,
        password_version,
        json!(tenants),
        now,
        again_after.as_secs_f64(),
        lease.id,
        lease.time.as_secs_f64(),
    )
    .fetch_one(db)
    .await?;
    let (tenant_id, password_changed_at) = (row.tenant_id, row.password_changed_at);
    Ok(row.person_id.map(|person| CarryOver { person, tenant_id, password_changed_at }))
}

/// Whether the password may still be carried over.
pub(in crate::authenticate) async fn carry_over_check(
    db: &Db,
    user: Uuid,
    carry_over: &CarryOver,
    lease: Lease,
    now: DateTime<Utc>,
) -> Result<bool> {
    let row = sqlx::query!(
        r#"SELECT carry_over_check($1, $2, $3, $4, $5) AS "may!""#,
        user,
        carry_over.person,
        lease.id,
        carry_over.password_changed_at,
        now,
    )
    .fetch_one(db)
    .await?;
    Ok(row.may)
}

/// Writes down how carrying a password over ended, gives the lease back and tells the user of a success.
pub(in crate::authenticate) async fn carry_over_end(
    db: &Db,
    person: Uuid,
    lease: Lease,
    outcome: &str,
    now: DateTime<Utc>,
    event: Option<&Prepared>,
    mail: Option<&Value>,
) -> Result<()> {
    sqlx::query!(
        "SELECT carry_over_end($1, $2, $3, $4, $5, $6, $7)",
        person,
        lease.id,
        outcome,
        now,
        event.map(|event| event.event.clone()).unwrap_or(Value::Null),
        event.and_then(|event| event.personal.as_deref()),
        mail,
    )
    .fetch_one(db)
    .await?;
    Ok(())
}

/// Removes invitations and sealed links that have lapsed.
pub(in crate::authenticate) async fn purge_expired(db: &Db, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!("SELECT purge_invitations($1)", now).fetch_one(db).await?;
    Ok(())
}
