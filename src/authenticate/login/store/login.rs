//! SQL of password logins: before the hash, after it, and instead of a session.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::throttle::seconds;
use super::types::{
    AttemptRefusal, LoginAccount, LoginOutcome, LoginResult, NewChallenge, NewKnownDevice, PasswordAttempt,
    password_attempt,
};
use crate::audit::{Event, Prepared, Recorder};
use crate::authenticate::UserView;
use crate::authenticate::enrolment::{InvitationRoute, NewInvitation, Offer};
use crate::authenticate::login::attempt::ToItsEnd;
use crate::config::{PasswordConfig, RateLimit};
use crate::credential::hashing::StoredHash;
use crate::db::{Connection, Db, Scope};
use crate::fault::{Fault, Result};
use crate::session::{NewSession, Rights, UserRights};

/// What a login begins with.
pub(in crate::authenticate) struct Begin<'a> {
    /// Key of the e-mail address or username.
    pub key: &'a str,
    pub now: DateTime<Utc>,
    pub passwords: &'a PasswordConfig,
    /// What the known device is found by.
    pub known_device: Option<&'a [u8; 32]>,
    /// The client's address as it is counted, and what it may do; not counted when either is missing.
    pub network: Option<String>,
    pub limit: Option<RateLimit>,
}

/// A login that was begun.
pub(in crate::authenticate) enum Begun {
    Reserved(Reserved),
    /// The client's address asked too often; how long it is to wait.
    Throttled(Duration),
}

/// An attempt that was reserved: the user and, for a password, the hash to compare with; or why there is none.
#[derive(Default)]
pub(in crate::authenticate) struct Reserved {
    pub user_id: Option<Uuid>,
    pub tenant_id: Option<Uuid>,
    pub password_hash: Option<String>,
    /// Which password that is the hash of: another hash of the same one has the same version.
    pub password_version: Option<i64>,
    pub pepper_id: Option<i16>,
    /// Whether the password was set here, and thus is no longer than bcrypt reads.
    pub set_here: bool,
    /// Number of the attempt since the last success.
    pub attempt: Option<u32>,
    /// Whether it was counted for a known device instead of for the account.
    pub known_device: bool,
    pub refusal: Option<AttemptRefusal>,
    /// The highest cost of any user's hash.
    pub highest_cost: u32,
}

/// How a login ended once the credentials were found right.
pub(in crate::authenticate) enum Finished {
    SignedIn {
        rights: Rights,
        user: UserView,
        /// Whether the device was known already.
        known_device: bool,
    },
    MfaRequired {
        /// Whether the user has recovery codes left.
        recovery_codes: bool,
    },
    Refused,
    NoTenant,
    TenantRequired(Vec<Uuid>),
}

impl LoginResult {
    /// # Errors
    /// `INTERNAL` when the database left out what its outcome needs.
    pub fn finished(self) -> Result<Finished> {
        let missing = || Fault::internal("login_result lacks what its outcome needs");
        Ok(match self.outcome {
            LoginOutcome::SignedIn => Finished::SignedIn {
                rights: self.rights.ok_or_else(missing)?.into(),
                user: self.account.ok_or_else(missing)?.into(),
                known_device: self.known_device.unwrap_or_default(),
            },
            LoginOutcome::MfaRequired => {
                Finished::MfaRequired { recovery_codes: self.recovery_codes.ok_or_else(missing)? }
            }
            LoginOutcome::TenantRequired => Finished::TenantRequired(self.choices.ok_or_else(missing)?),
            LoginOutcome::NoTenant => Finished::NoTenant,
            LoginOutcome::Refused => Finished::Refused,
        })
    }
}

/// Finds the user and reserves the attempt.
pub(in crate::authenticate) async fn login_begin(db: &Db, _: &ToItsEnd, begin: Begin<'_>) -> Result<Begun> {
    let limit = begin.limit.as_ref();
    let row = password_attempt!(
        "login_begin($1, $2, $3, make_interval(secs => $4), $5, $6, make_interval(secs => $7), make_interval(secs => $8))",
        begin.key,
        begin.now,
        i32::try_from(begin.passwords.max_attempts).unwrap_or(i32::MAX),
        begin.passwords.lock_duration.as_secs_f64(),
        begin.known_device.map(|device| &device[..]) as Option<&[u8]>,
        begin.network.filter(|_| limit.is_some()),
        limit.map_or(0.0, |limit| limit.spacing.as_secs_f64()),
        limit.map_or(0.0, |limit| limit.burst.as_secs_f64()),
    )
    .fetch_one(db)
    .await?;
    Ok(match row.retry_after {
        Some(wait) => Begun::Throttled(seconds(wait)),
        None => Begun::Reserved(row.into()),
    })
}

impl From<PasswordAttempt> for Reserved {
    fn from(row: PasswordAttempt) -> Self {
        Self {
            user_id: row.user_id,
            tenant_id: row.tenant_id,
            password_hash: row.password_hash,
            password_version: row.password_version,
            pepper_id: row.password_pepper_id,
            set_here: row.set_here.unwrap_or_default(),
            attempt: row.attempt.and_then(|attempt| u32::try_from(attempt).ok()),
            known_device: row.known_device.unwrap_or_default(),
            refusal: row.refusal,
            highest_cost: row.highest_cost.and_then(|cost| u32::try_from(cost).ok()).unwrap_or_default(),
        }
    }
}

/// Records a refused login, and the lock that it led to.
pub(in crate::authenticate) async fn login_refuse(db: &Db, event: &Prepared, lock: Option<&Prepared>) -> Result<()> {
    sqlx::query!("SELECT login_refuse($1, $2)", event as &Prepared, lock as Option<&Prepared>,).fetch_one(db).await?;
    Ok(())
}

/// Counts a refusal of an unknown identifier, and records the first of an interval with the number that the one before
/// had. What is counted is durable like what is recorded.
pub(in crate::authenticate) async fn refuse_unknown(
    db: &Db,
    network: &str,
    now: DateTime<Utc>,
    interval: Duration,
    event: &Prepared,
) -> Result<()> {
    sqlx::query!(
        "SELECT login_refuse_unknown($1, $2, make_interval(secs => $3), $4)",
        network,
        now,
        interval.as_secs_f64(),
        event as &Prepared,
    )
    .fetch_one(db)
    .await?;
    Ok(())
}

/// Refusals of unknown identifiers that were counted in an interval which is over, and are not recorded yet.
pub(in crate::authenticate) struct Uncounted {
    pub network: String,
    pub event_type: String,
    pub refusals: i64,
}

/// Takes what was counted in intervals that are over, to be recorded in this transaction.
pub(in crate::authenticate) async fn take_unknown(tx: &mut Connection, now: DateTime<Utc>) -> Result<Vec<Uncounted>> {
    let taken = sqlx::query_as!(
        Uncounted,
        "DELETE FROM unknown_refusals WHERE (network, event_type) IN (
             SELECT r.network, r.event_type FROM unknown_refusals r WHERE r.until <= $1 LIMIT 1000 FOR UPDATE SKIP LOCKED)
         RETURNING network, event_type, refusals",
        now,
    )
    .fetch_all(tx)
    .await?;
    Ok(taken)
}

/// A lock whose event was not written with the attempt that led to it.
pub(in crate::authenticate) struct Unrecorded {
    pub user_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub known_device: bool,
}

/// Takes the locks from before a time that have no event, at most 1,000 of users and of devices, to be recorded in this
/// transaction.
pub(in crate::authenticate) async fn take_unrecorded(
    tx: &mut Connection,
    before: DateTime<Utc>,
) -> Result<Vec<Unrecorded>> {
    let mut taken = sqlx::query_as!(
        Unrecorded,
        r#"WITH due AS MATERIALIZED (
               SELECT x.user_id FROM users x WHERE x.lock_unrecorded_at <= $1 LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED)
           UPDATE users u SET lock_unrecorded_at = NULL FROM due WHERE u.user_id = due.user_id
           RETURNING u.user_id, u.tenant_id AS "tenant_id?", false AS "known_device!""#,
        before,
    )
    .fetch_all(&mut *tx)
    .await?;
    let of_devices = sqlx::query_as!(
        Unrecorded,
        r#"WITH due AS MATERIALIZED (
               SELECT x.known_device_id FROM known_devices x WHERE x.lock_unrecorded_at <= $1
               LIMIT 1000 FOR UPDATE SKIP LOCKED)
           UPDATE known_devices d SET lock_unrecorded_at = NULL FROM due, users u
           WHERE d.known_device_id = due.known_device_id AND u.user_id = d.user_id
           RETURNING d.user_id, u.tenant_id AS "tenant_id?", true AS "known_device!""#,
        before,
    )
    .fetch_all(tx)
    .await?;
    taken.extend(of_devices);
    Ok(taken)
}

/// What a login ends with.
pub(in crate::authenticate) struct Finish<'a> {
    pub user: Uuid,
    /// Which password was right.
    pub password_version: i64,
    pub tenant: Option<Uuid>,
    pub now: DateTime<Utc>,
    pub session: &'a NewSession,
    pub event: Prepared,
    pub refused: Prepared,
    pub known_device: Option<&'a [u8; 32]>,
    pub new_device: NewKnownDevice,
    /// Whether more was typed than the hash was made of.
    pub overlong: bool,
    pub challenge: NewChallenge,
    pub challenged: Prepared,
    /// An invitation, should the login be complete.
    pub offer: Option<&'a Offer>,
}

/// After the right password: begins the session, or asks for the second factor. Returns besides by which way the user
/// was invited to enrol in Kanidm, if they were.
pub(in crate::authenticate) async fn login_finish(
    db: &Db,
    finish: Finish<'_>,
) -> Result<(Finished, Option<InvitationRoute>)> {
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!: LoginOutcome", account AS "account: LoginAccount", rights AS "rights: UserRights",
               choices, known_device, recovery_codes,
               invitation_offer(outcome, known_device, $1, $4, $13) AS "invited: InvitationRoute"
           FROM login_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"#,
        finish.user,
        finish.password_version,
        finish.tenant,
        finish.now,
        finish.session as &NewSession,
        finish.event as Prepared,
        finish.refused as Prepared,
        finish.known_device.map(|device| &device[..]) as Option<&[u8]>,
        finish.new_device as NewKnownDevice,
        finish.overlong,
        finish.challenge as NewChallenge,
        finish.challenged as Prepared,
        finish.offer.map(|offer| &offer.record) as Option<&NewInvitation>,
    )
    .fetch_one(db)
    .await?;
    let result = LoginResult {
        outcome: row.outcome,
        account: row.account,
        rights: row.rights,
        choices: row.choices,
        known_device: row.known_device,
        recovery_codes: row.recovery_codes,
    };
    Ok((result.finished()?, row.invited))
}

/// Replaces the old hash by a new one of the same password, if it is still there. Logins and proofs under way go on:
/// what they compare is the version of the password, which stays.
pub(in crate::authenticate) async fn replace_hash(
    db: &Db,
    recorder: &Recorder,
    user: Uuid,
    old: &str,
    new: &StoredHash,
    event: Event,
) -> Result<()> {
    let mut tx = db.begin(Scope::Platform).await?;
    let done = sqlx::query!(
        "UPDATE users SET password_hash = $3, password_cost = $4, password_pepper_id = $5,
             password_rehashes = password_rehashes + 1
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
