//! SQL of second factors: showing one, enrolling one, removing it, and the logins that wait for one.

use std::time::Duration;

use crate::db::{Connection, Db, Scope};
use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::login::{Finished, Reserved};
use super::types::{
    AttemptRefusal, FactorAttempt, LoginAccount, LoginOutcome, LoginResult, NewKnownDevice, factor_attempt,
};
use crate::audit::Prepared;
use crate::authenticate::enrolment::{InvitationRoute, NewInvitation, Offer};
use crate::authenticate::login::attempt::ToItsEnd;
use crate::config::PasswordConfig;
use crate::fault::Result;
use crate::mail::NewMessage;
use crate::session::{NewSession, SessionRequest, UserRights};

/// An application's secret as it lies in the database.
pub(in crate::authenticate) struct SealedTotp {
    pub totp_id: Uuid,
    pub secret: Vec<u8>,
}

/// What is spent of a second factor that was right.
pub(in crate::authenticate) enum Spend {
    Totp {
        totp_id: Uuid,
        step: i64,
    },
    /// The digests that the code may be kept by.
    RecoveryCode(Vec<Vec<u8>>),
}

impl Spend {
    fn parts(&self) -> (Option<Uuid>, Option<i64>, &[Vec<u8>]) {
        match self {
            Self::Totp { totp_id, step } => (Some(*totp_id), Some(*step), &[]),
            Self::RecoveryCode(digests) => (None, None, digests),
        }
    }
}

/// After how many failures an account is locked and for how long: each time twice as long as before, up to the longest.
#[derive(Clone, Copy)]
pub(in crate::authenticate) struct Locking<'a> {
    pub passwords: &'a PasswordConfig,
    pub longest: Duration,
}

/// Records a refused code, and the lock that it led to, of which the user is told by this message unless they were lately.
pub(in crate::authenticate) async fn refuse(
    db: &Db,
    user: Uuid,
    (event, lock): (&Prepared, Option<&Prepared>),
    mail: Option<&NewMessage>,
    now: DateTime<Utc>,
    tell_again: Duration,
) -> Result<()> {
    sqlx::query!(
        "SELECT second_factor_refuse($1, $2, $3, $4, $5, make_interval(secs => $6))",
        user,
        event as &Prepared,
        lock as Option<&Prepared>,
        mail as Option<&NewMessage>,
        now,
        tell_again.as_secs_f64(),
    )
    .fetch_one(db)
    .await?;
    Ok(())
}

/// An attempt to show a code that was reserved.
pub(in crate::authenticate) struct Waiting {
    pub reserved: Reserved,
    pub totp: Option<SealedTotp>,
    /// What the login asked for that waits for the code.
    pub request: Option<SessionRequest>,
}

impl From<FactorAttempt> for Waiting {
    fn from(row: FactorAttempt) -> Self {
        let reserved = Reserved {
            user_id: row.user_id,
            tenant_id: row.tenant_id,
            attempt: row.attempt.and_then(|attempt| u32::try_from(attempt).ok()),
            known_device: row.known_device.unwrap_or_default(),
            refusal: row.refusal,
            ..Reserved::default()
        };
        let totp = row.totp_id.zip(row.secret).map(|(totp_id, secret)| SealedTotp { totp_id, secret });
        Self { reserved, totp, request: row.request.map(|request| request.0) }
    }
}

/// Reserves an attempt of a known user to show a code: of the application they have or, `pending`, of the one that they
/// are enrolling.
pub(in crate::authenticate) async fn begin(
    db: &Db,
    _: &ToItsEnd,
    (user, pending): (Uuid, bool),
    now: DateTime<Utc>,
    locking: Locking<'_>,
    device: Option<&[u8; 32]>,
) -> Result<Waiting> {
    let row = factor_attempt!(
        "factor_begin($1, $2, $3, $4, make_interval(secs => $5), make_interval(secs => $6), $7)",
        user,
        pending,
        now,
        i32::try_from(locking.passwords.max_attempts).unwrap_or(i32::MAX),
        locking.passwords.lock_duration.as_secs_f64(),
        locking.longest.as_secs_f64(),
        device.map(|device| &device[..]) as Option<&[u8]>,
    )
    .fetch_one(db)
    .await?;
    Ok(row.into())
}

/// Reserves an attempt to complete a login.
pub(in crate::authenticate) async fn mfa_begin(
    db: &Db,
    _: &ToItsEnd,
    challenge: &[u8; 32],
    now: DateTime<Utc>,
    locking: Locking<'_>,
) -> Result<Waiting> {
    let row = factor_attempt!(
        "mfa_begin($1, $2, $3, make_interval(secs => $4), make_interval(secs => $5))",
        challenge,
        now,
        i32::try_from(locking.passwords.max_attempts).unwrap_or(i32::MAX),
        locking.passwords.lock_duration.as_secs_f64(),
        locking.longest.as_secs_f64(),
    )
    .fetch_one(db)
    .await?;
    Ok(row.into())
}

/// What completing a login ends with.
pub(in crate::authenticate) struct MfaFinish<'a> {
    pub challenge: &'a [u8; 32],
    pub user: Uuid,
    pub spend: &'a Spend,
    pub tenant: Option<Uuid>,
    pub now: DateTime<Utc>,
    pub session: &'a NewSession,
    pub event: Prepared,
    pub refused: Prepared,
    pub new_device: NewKnownDevice,
    /// For a recovery code: that it was used, and the message that says so.
    pub code_event: Prepared,
    pub mail: Option<NewMessage>,
    /// An invitation, should the login be complete.
    pub offer: Option<&'a Offer>,
}

/// Spends code and challenge and completes the login; or why the code does not count.
pub(in crate::authenticate) async fn mfa_finish(
    db: &Db,
    finish: MfaFinish<'_>,
) -> Result<std::result::Result<(Finished, Option<InvitationRoute>), AttemptRefusal>> {
    let (totp_id, step, digests) = finish.spend.parts();
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!: LoginOutcome", account AS "account: LoginAccount", rights AS "rights: UserRights",
               choices, known_device, refusal AS "refusal: AttemptRefusal",
               invitation_offer(outcome, known_device, $13, $6, $14) AS "invited: InvitationRoute"
           FROM mfa_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"#,
        finish.challenge,
        totp_id,
        step,
        digests,
        finish.tenant,
        finish.now,
        finish.session as &NewSession,
        finish.event as Prepared,
        finish.refused as Prepared,
        finish.new_device as NewKnownDevice,
        finish.code_event as Prepared,
        finish.mail as Option<NewMessage>,
        finish.user,
        finish.offer.map(|offer| &offer.record) as Option<&NewInvitation>,
    )
    .fetch_one(db)
    .await?;
    if let Some(refusal) = row.refusal {
        return Ok(Err(refusal));
    }
    let result = LoginResult {
        outcome: row.outcome,
        account: row.account,
        rights: row.rights,
        choices: row.choices,
        known_device: row.known_device,
        recovery_codes: None,
    };
    Ok(Ok((result.finished()?, row.invited)))
}

/// A user's factors as they stand, locked until the transaction ends.
pub(in crate::authenticate) struct Standing {
    pub tenant_id: Uuid,
    pub email: String,
    pub has_password: bool,
    pub must_change_password: bool,
    pub has_totp: bool,
}

/// Locks a user for a change of factors; none when the user has gone.
pub(in crate::authenticate) async fn lock(tx: &mut Connection, user: Uuid) -> Result<Option<Standing>> {
    let row = sqlx::query_as!(
        Standing,
        r#"SELECT tenant_id, email, password_hash IS NOT NULL AND auth_method <> 'kanidm' AS "has_password!",
               must_change_password,
               EXISTS (SELECT FROM user_totp t WHERE t.user_id = u.user_id AND t.confirmed_at IS NOT NULL) AS "has_totp!"
           FROM users u WHERE user_id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE OF u"#,
        user,
    )
    .fetch_optional(tx)
    .await?;
    Ok(row)
}

/// Whether a user has an authenticator application.
pub(in crate::authenticate) async fn has_totp(tx: &mut Connection, user: Uuid) -> Result<bool> {
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM user_totp WHERE user_id = $1 AND confirmed_at IS NOT NULL) AS "found!""#,
        user,
    )
    .fetch_one(tx)
    .await?;
    Ok(found)
}

/// Spends a code, once; says whether it was there to be spent.
pub(in crate::authenticate) async fn spend(
    tx: &mut Connection,
    user: Uuid,
    spend: &Spend,
    now: DateTime<Utc>,
) -> Result<bool> {
    let (totp_id, step, digests) = spend.parts();
    let spent = sqlx::query_scalar!(
        r#"SELECT factor_consume($1, $2, $3, $4, $5) AS "spent!""#,
        user,
        totp_id,
        step,
        digests,
        now
    )
    .fetch_one(tx)
    .await?;
    Ok(spent)
}

/// Gives an attempt back: the code was right.
pub(in crate::authenticate) async fn refund(
    tx: &mut Connection,
    user: Uuid,
    device: Option<&[u8; 32]>,
    now: DateTime<Utc>,
) -> Result<()> {
    let device = device.map(|device| &device[..]) as Option<&[u8]>;
    sqlx::query!("SELECT attempt_refund($1, $2, $3, true)", user, device, now).fetch_one(tx).await?;
    Ok(())
}

/// How many recovery codes a user has left.
pub(in crate::authenticate) async fn codes_left(tx: &mut Connection, user: Uuid) -> Result<i64> {
    let left = sqlx::query_scalar!(
        r#"SELECT count(*) AS "left!" FROM recovery_codes WHERE user_id = $1 AND used_at IS NULL"#,
        user,
    )
    .fetch_one(tx)
    .await?;
    Ok(left)
}

/// Begins an enrolment, in the place of an unfinished one.
pub(in crate::authenticate) async fn enrol(
    tx: &mut Connection,
    user: Uuid,
    totp: &SealedTotp,
    now: DateTime<Utc>,
    lifetime: Duration,
) -> Result<DateTime<Utc>> {
    let expires_at = now + chrono::TimeDelta::from_std(lifetime).unwrap_or_default();
    sqlx::query!(
        "INSERT INTO user_totp (user_id, totp_id, secret, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (user_id) DO UPDATE SET totp_id = excluded.totp_id, secret = excluded.secret,
             created_at = excluded.created_at, expires_at = excluded.expires_at, last_step = 0
         WHERE user_totp.confirmed_at IS NULL",
        user,
        totp.totp_id,
        totp.secret,
        now,
        expires_at,
    )
    .execute(tx)
    .await?;
    Ok(expires_at)
}

/// Makes the unfinished enrolment count, once; its first code is spent with it.
pub(in crate::authenticate) async fn confirm(
    tx: &mut Connection,
    user: Uuid,
    totp_id: Uuid,
    step: i64,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE user_totp SET confirmed_at = $4, last_step = $3
         WHERE user_id = $1 AND totp_id = $2 AND confirmed_at IS NULL AND expires_at > $4",
        user,
        totp_id,
        step,
        now,
    )
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes the application, with everything that is worth something through it only.
pub(in crate::authenticate) async fn remove(tx: &mut Connection, user: Uuid) -> Result<()> {
    sqlx::query!("SELECT directory_remove_second_factor($1)", user).execute(tx).await?;
    Ok(())
}

/// Voids the proofs by factors that are about to change.
pub(in crate::authenticate) async fn void_proofs(tx: &mut Connection, user: Uuid) -> Result<()> {
    sqlx::query!("DELETE FROM step_up_tokens WHERE user_id = $1", user).execute(tx).await?;
    Ok(())
}

/// Gives a user these recovery codes in the place of any others.
pub(in crate::authenticate) async fn replace_codes(
    tx: &mut Connection,
    user: Uuid,
    ids: &[Uuid],
    digests: &[Vec<u8>],
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!("DELETE FROM recovery_codes WHERE user_id = $1", user).execute(&mut *tx).await?;
    sqlx::query!(
        "INSERT INTO recovery_codes (recovery_code_id, user_id, code_hash, created_at)
         SELECT id, $1, digest, $4 FROM unnest($2::uuid[], $3::bytea[]) AS code (id, digest)",
        user,
        ids,
        digests,
        now,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Purges what has lapsed of proofs, unfinished logins and unfinished enrolments, at most 10,000 of each.
pub(in crate::authenticate) async fn purge_expired(db: &Db, now: DateTime<Utc>) -> Result<()> {
    let mut tx = db.begin(Scope::Platform).await?;
    sqlx::query!(
        "DELETE FROM step_up_tokens WHERE step_up_token_id IN (
             SELECT t.step_up_token_id FROM step_up_tokens t WHERE t.expires_at <= $1 LIMIT 10000 FOR UPDATE SKIP LOCKED)",
        now,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "DELETE FROM mfa_challenges WHERE challenge_id IN (
             SELECT c.challenge_id FROM mfa_challenges c WHERE c.expires_at <= $1 LIMIT 10000 FOR UPDATE SKIP LOCKED)",
        now,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "DELETE FROM user_totp WHERE user_id IN (
             SELECT t.user_id FROM user_totp t WHERE t.confirmed_at IS NULL AND t.expires_at <= $1
             LIMIT 10000 FOR UPDATE SKIP LOCKED)",
        now,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}
