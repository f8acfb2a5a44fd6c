//! SQL of invitations, reset links and passwords that are carried over.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

use crate::audit::Prepared;
use crate::db::Connection;
use crate::fault::Result;
use crate::mail::NewMessage;

/// An invitation for a user who is to be invited. A shipped type is never changed: see `session::store::types`.
#[derive(sqlx::Type)]
#[sqlx(type_name = "new_invitation")]
pub(in crate::authenticate) struct NewInvitation {
    pub invitation_id: Uuid,
    pub token_hash: Vec<u8>,
    pub expires_at: DateTime<Utc>,
    /// Tenants to whose users it may go; all where none is named.
    pub tenant_slugs: Vec<String>,
    /// The message that brings it, where there is mail.
    pub mail: Option<NewMessage>,
    /// How often a user is sent one at most.
    pub mail_every: PgInterval,
    pub issued: Prepared,
}

/// How an invitation reaches a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "invitation_route", rename_all = "snake_case")]
pub(in crate::authenticate) enum InvitationRoute {
    /// In the answer to a login.
    Login,
    /// By mail.
    Mail,
}

/// Whose invitation a token is.
#[derive(Clone, Copy, Debug)]
pub(in crate::authenticate) struct Invited {
    pub invitation_id: Uuid,
    pub user_id: Uuid,
    /// Whether the user has a second factor.
    pub second_factor: bool,
}

/// Which call is about to give a person a credential, and for how long no other is.
#[derive(Clone, Copy, Debug)]
pub(in crate::authenticate) struct Lease {
    pub id: Uuid,
    pub time: Duration,
}

/// A user on the way to a first credential, as they are now.
pub(in crate::authenticate) struct Enrollee {
    pub person: Option<Uuid>,
    pub tenant_id: Uuid,
    /// Slug of that tenant.
    pub tenant: String,
    /// Whether the user is linked to a person who is not known to have a credential, and could sign in here.
    pub is_pending: bool,
    pub must_change_password: bool,
    pub locked_until: Option<DateTime<Utc>>,
    /// Which password it is.
    pub password_version: i64,
    pub password_changed_at: Option<DateTime<Utc>>,
    pub has_second_factor: bool,
}

/// A reset link that may still work.
pub(in crate::authenticate) struct LiveLink {
    pub link_id: Uuid,
    /// Sealed; none when it never arrived or must not be handed out.
    pub sealed: Option<Vec<u8>>,
    pub wait: Duration,
}

/// The newest reset link of a person on whom the lease was just taken.
pub(in crate::authenticate) struct Leased {
    pub live: Option<LiveLink>,
}

/// A link that was made.
pub(in crate::authenticate) struct Minted {
    pub link_id: Uuid,
    pub sealed: Vec<u8>,
    pub lifetime: Duration,
}

/// Whose invitation this is, if it can be redeemed.
pub(in crate::authenticate) async fn find(
    tx: &mut Connection,
    token_hash: &[u8],
    now: DateTime<Utc>,
) -> Result<Option<Invited>> {
    Ok(sqlx::query_as!(
        Invited,
        r#"SELECT i.invitation_id, u.user_id,
               EXISTS (SELECT FROM user_totp t WHERE t.user_id = u.user_id AND t.confirmed_at IS NOT NULL)
                   AS "second_factor!"
           FROM invitations i JOIN users u ON u.user_id = i.user_id
           WHERE i.token_hash = $1 AND i.expires_at > $2 AND enrolment_pending(u)"#,
        token_hash,
        now,
    )
    .fetch_optional(tx)
    .await?)
}

/// Locks a user until the transaction ends. Users are locked before their person's row.
pub(in crate::authenticate) async fn lock_user(tx: &mut Connection, user: Uuid) -> Result<()> {
    sqlx::query!("SELECT FROM users WHERE user_id = $1 FOR NO KEY UPDATE", user).execute(tx).await?;
    Ok(())
}

/// As [`lock_user`], the user who is linked to the person.
pub(in crate::authenticate) async fn lock_user_of(tx: &mut Connection, person: Uuid) -> Result<()> {
    sqlx::query!("SELECT FROM users WHERE kanidm_user_id = $1 FOR NO KEY UPDATE", person).execute(tx).await?;
    Ok(())
}

/// The user as they are now; what is to hold until the transaction ends is read after the lock, in a statement of its own:
/// one that waits for a lock looks at other rows as they were before the wait.
pub(in crate::authenticate) async fn enrollee(tx: &mut Connection, user: Uuid) -> Result<Option<Enrollee>> {
    Ok(sqlx::query_as!(
        Enrollee,
        r#"SELECT u.kanidm_user_id AS person, u.tenant_id, t.slug AS tenant, enrolment_pending(u) AS "is_pending!",
               u.must_change_password, u.locked_until, u.password_version, u.password_changed_at,
               EXISTS (SELECT FROM user_totp f WHERE f.user_id = u.user_id AND f.confirmed_at IS NOT NULL)
                   AS "has_second_factor!"
           FROM users u JOIN tenants t ON t.tenant_id = u.tenant_id
           WHERE u.user_id = $1"#,
        user,
    )
    .fetch_optional(tx)
    .await?)
}

/// Whether the invitation is still there.
pub(in crate::authenticate) async fn is_invited(
    tx: &mut Connection,
    invited: &Invited,
    now: DateTime<Utc>,
) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM invitations
               WHERE user_id = $1 AND invitation_id = $2 AND expires_at > $3) AS "is_invited!""#,
        invited.user_id,
        invited.invitation_id,
        now,
    )
    .fetch_one(tx)
    .await?)
}

/// Takes the lease on a person, and gives the link that may still work; none while another call has the lease. A person
/// is given a first credential by one call at a time.
pub(in crate::authenticate) async fn lease(tx: &mut Connection, person: Uuid, lease: Lease) -> Result<Option<Leased>> {
    let row = sqlx::query!(
        "INSERT INTO kanidm_enrolments AS e (person_id, lease_id, lease_until)
         VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
         ON CONFLICT (person_id) DO UPDATE SET lease_id = excluded.lease_id, lease_until = excluded.lease_until
             WHERE e.lease_until IS NULL OR e.lease_until <= clock_timestamp()
         RETURNING link_id, link, extract(epoch FROM link_until - clock_timestamp())::double precision AS wait",
        person,
        lease.id,
        lease.time.as_secs_f64(),
    )
    .fetch_optional(tx)
    .await?;
    Ok(row.map(|row| {
        let wait = row.wait.filter(|wait| *wait > 0.0).and_then(|wait| Duration::try_from_secs_f64(wait).ok());
        let live = row.link_id.zip(wait).map(|(link_id, wait)| LiveLink { link_id, sealed: row.link, wait });
        Leased { live }
    }))
}

/// Takes the lease on a person whose user's password, of this time, may be carried over; false when not now.
pub(in crate::authenticate) async fn lease_to_carry_over(
    tx: &mut Connection,
    person: Uuid,
    password_changed_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    again_after: Duration,
    lease: Lease,
) -> Result<bool> {
    // Not beside a reset link: its holder could undo what is carried over.
    let leased = sqlx::query!(
        "INSERT INTO kanidm_enrolments AS e (person_id, lease_id, lease_until)
         VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
         ON CONFLICT (person_id) DO UPDATE SET lease_id = excluded.lease_id, lease_until = excluded.lease_until
             WHERE (e.lease_until IS NULL OR e.lease_until <= clock_timestamp())
                 AND (e.link_until IS NULL OR e.link_until <= clock_timestamp())
                 AND (e.carry_over_at IS NULL OR e.carry_over_outcome IN ('unavailable', 'dropped')
                     OR e.carry_over_at + make_interval(secs => $4) <= $5::timestamptz
                     OR e.carry_over_at <= $6::timestamptz)",
        person,
        lease.id,
        lease.time.as_secs_f64(),
        again_after.as_secs_f64(),
        now,
        password_changed_at,
    )
    .execute(tx)
    .await?;
    Ok(leased.rows_affected() == 1)
}

/// Whether the lease on a person still is this one.
pub(in crate::authenticate) async fn is_leased(tx: &mut Connection, person: Uuid, lease: Lease) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM kanidm_enrolments
               WHERE person_id = $1 AND lease_id = $2 AND lease_until > clock_timestamp()) AS "is_leased!""#,
        person,
        lease.id,
    )
    .fetch_one(tx)
    .await?)
}

/// Writes down that a reset link is about to be made, which is so only while none may work. False when that may not be.
pub(in crate::authenticate) async fn intend(
    tx: &mut Connection,
    person: Uuid,
    lease: Lease,
    link_id: Uuid,
    lifetime: Duration,
) -> Result<bool> {
    let intended = sqlx::query!(
        "UPDATE kanidm_enrolments SET link_id = $3, link = NULL,
             link_until = clock_timestamp() + make_interval(secs => $4)
         WHERE person_id = $1 AND lease_id = $2 AND lease_until > clock_timestamp()
             AND credential_seen_at IS NULL AND (link_until IS NULL OR link_until <= clock_timestamp())",
        person,
        lease.id,
        link_id,
        lifetime.as_secs_f64(),
    )
    .execute(tx)
    .await?;
    Ok(intended.rows_affected() == 1)
}

/// Kanidm decides how long the link works; should it be longer than it was asked for, that counts.
pub(in crate::authenticate) async fn extend_link(tx: &mut Connection, person: Uuid, minted: &Minted) -> Result<()> {
    sqlx::query!(
        "UPDATE kanidm_enrolments
         SET link_until = greatest(link_until, clock_timestamp() + make_interval(secs => $3))
         WHERE person_id = $1 AND link_id = $2",
        person,
        minted.link_id,
        minted.lifetime.as_secs_f64(),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Keeps a link that was made, to be handed out, and gives the lease back. False when the lease or the link is another's
/// by now.
pub(in crate::authenticate) async fn keep_link(
    tx: &mut Connection,
    person: Uuid,
    lease: Lease,
    minted: &Minted,
) -> Result<bool> {
    let kept = sqlx::query!(
        "UPDATE kanidm_enrolments SET link = $4, lease_id = NULL, lease_until = NULL
         WHERE person_id = $1 AND lease_id = $2 AND link_id = $3",
        person,
        lease.id,
        minted.link_id,
        minted.sealed,
    )
    .execute(tx)
    .await?;
    Ok(kept.rows_affected() == 1)
}

/// Gives the lease back on a person whose link can be handed out once more. False when it must not be.
pub(in crate::authenticate) async fn release_with_link(
    tx: &mut Connection,
    person: Uuid,
    lease: Lease,
    link_id: Uuid,
) -> Result<bool> {
    let released = sqlx::query!(
        "UPDATE kanidm_enrolments SET lease_id = NULL, lease_until = NULL
         WHERE person_id = $1 AND lease_id = $2 AND link_id = $3 AND link IS NOT NULL",
        person,
        lease.id,
        link_id,
    )
    .execute(tx)
    .await?;
    Ok(released.rows_affected() == 1)
}

/// Gives a lease back.
pub(in crate::authenticate) async fn release(tx: &mut Connection, person: Uuid, lease: Lease) -> Result<()> {
    sqlx::query!(
        "UPDATE kanidm_enrolments SET lease_id = NULL, lease_until = NULL WHERE person_id = $1 AND lease_id = $2",
        person,
        lease.id,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets a reset link that Kanidm said it did not make.
pub(in crate::authenticate) async fn forget_link(tx: &mut Connection, person: Uuid, link_id: Uuid) -> Result<()> {
    sqlx::query!(
        "UPDATE kanidm_enrolments SET link_id = NULL, link = NULL, link_until = NULL
         WHERE person_id = $1 AND link_id = $2",
        person,
        link_id,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes down that a person has a credential.
pub(in crate::authenticate) async fn credential_seen(
    tx: &mut Connection,
    person: Uuid,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "UPDATE kanidm_enrolments SET credential_seen_at = coalesce(credential_seen_at, $2) WHERE person_id = $1",
        person,
        now,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes down how carrying a password over ended, and gives the lease back.
pub(in crate::authenticate) async fn carried_over(
    tx: &mut Connection,
    person: Uuid,
    lease: Lease,
    outcome: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "UPDATE kanidm_enrolments SET lease_id = NULL, lease_until = NULL, carry_over_at = $4, carry_over_outcome = $3
         WHERE person_id = $1 AND lease_id = $2",
        person,
        lease.id,
        outcome,
        now,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Purges invitations that have lapsed.
pub(in crate::authenticate) async fn purge_invitations(tx: &mut Connection, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!(
        "DELETE FROM invitations WHERE user_id IN (
             SELECT user_id FROM invitations WHERE expires_at <= $1 LIMIT 10000 FOR UPDATE SKIP LOCKED)",
        now,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets sealed links that work no more; until when each does stays known.
pub(in crate::authenticate) async fn purge_links(tx: &mut Connection) -> Result<()> {
    sqlx::query!(
        "UPDATE kanidm_enrolments SET link = NULL WHERE person_id IN (
             SELECT person_id FROM kanidm_enrolments WHERE link IS NOT NULL AND link_until <= clock_timestamp()
             LIMIT 10000 FOR UPDATE SKIP LOCKED)",
    )
    .execute(tx)
    .await?;
    Ok(())
}
