//! SQL of the outbox. Every time is the database's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

use crate::db::{Connection, Db, Scope, interval};
use crate::fault::Result;

/// A message that is ready for the SQL function `mail_enqueue`, and for those that call it. A shipped type is never changed,
/// since replicas of two releases share a database: another shape takes another name.
#[derive(sqlx::Type)]
#[sqlx(type_name = "new_message")]
pub struct NewMessage {
    pub(super) mail_id: Uuid,
    pub(super) kind: String,
    pub(super) user_id: Option<Uuid>,
    /// Where it goes; to the user's present address when it names none.
    pub(super) recipient: Option<String>,
    pub(super) recipient_key: Option<String>,
    /// Sealed.
    pub(super) parameters: Vec<u8>,
    /// After how long it is given up.
    pub(super) lifetime: PgInterval,
    /// How many messages an address gets.
    pub(super) per_address_and_hour: i32,
}

/// Writes a message.
pub(super) async fn enqueue(tx: &mut Connection, message: &NewMessage) -> Result<()> {
    sqlx::query!("SELECT mail_enqueue($1)", message as &NewMessage).execute(tx).await?;
    Ok(())
}

/// Whether an address has had its share of messages of a kind. For transactions of the platform.
pub(super) async fn is_rate_limited(tx: &mut Connection, key: &str, kind: &str, most: u32) -> Result<bool> {
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    let limited = sqlx::query_scalar!(r#"SELECT mail_rate_limited($1, $2, $3) AS "limited!""#, key, kind, most)
        .fetch_one(tx)
        .await?;
    Ok(limited)
}

/// A message that is due.
pub(super) struct Due {
    pub mail_id: Uuid,
    pub kind: String,
    pub recipient: String,
    pub name: String,
    pub parameters: Option<Vec<u8>>,
    pub created_at: DateTime<Utc>,
}

/// Claims messages that are due, under a lease.
pub(super) async fn claim(db: &Db, lease_id: Uuid, lease: Duration, limit: i64) -> Result<Vec<Due>> {
    let mut tx = db.begin(Scope::Platform).await?;
    let due = sqlx::query_as!(
        Due,
        r#"UPDATE mail_outbox m SET lease_id = $1, lease_until = clock_timestamp() + $2
           FROM (SELECT o.mail_id, o.user_id FROM mail_outbox o
                 WHERE o.finished_at IS NULL AND o.next_attempt_at <= clock_timestamp()
                    AND o.expires_at > clock_timestamp()
                    AND (o.lease_until IS NULL OR o.lease_until < clock_timestamp())
                 ORDER BY o.next_attempt_at LIMIT $3 FOR UPDATE SKIP LOCKED) due
                LEFT JOIN users u ON u.user_id = due.user_id
           WHERE m.mail_id = due.mail_id
           RETURNING m.mail_id, m.kind, m.recipient AS "recipient!", coalesce(u.full_name, '') AS "name!", m.parameters,
                m.created_at"#,
        lease_id,
        interval(lease),
        limit,
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(due)
}

/// Records that an attempt begins, before the mail server hears of it; false when the lease has been lost.
pub(super) async fn begin(db: &Db, lease_id: Uuid, mail_id: Uuid, lease: Duration) -> Result<bool> {
    let mut tx = db.begin(Scope::Platform).await?;
    let begun = sqlx::query!(
        "UPDATE mail_outbox SET attempts = attempts + 1, begun_at = clock_timestamp(), lease_until = clock_timestamp() + $3
         WHERE mail_id = $1 AND lease_id = $2 AND finished_at IS NULL AND lease_until > clock_timestamp()",
        mail_id,
        lease_id,
        interval(lease),
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(begun.rows_affected() == 1)
}

/// Records that nothing more is to be done, and deletes what the message said and to whom.
pub(super) async fn finish(db: &Db, lease_id: Uuid, mail_id: Uuid, state: &str, failure: Option<&str>) -> Result<()> {
    let mut tx = db.begin(Scope::Platform).await?;
    sqlx::query!(
        "UPDATE mail_outbox SET state = $3, failure = coalesce($4, failure), finished_at = clock_timestamp(),
            recipient = NULL, parameters = NULL, lease_id = NULL, lease_until = NULL
         WHERE mail_id = $1 AND lease_id = $2 AND finished_at IS NULL",
        mail_id,
        lease_id,
        state,
        failure,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// Defers a message: each time for twice as long as the time before.
pub(super) async fn put_off(
    db: &Db,
    lease_id: Uuid,
    mail_id: Uuid,
    failure: &str,
    first: Duration,
    longest: Duration,
) -> Result<()> {
    let mut tx = db.begin(Scope::Platform).await?;
    sqlx::query!(
        "UPDATE mail_outbox SET failure = $3, lease_id = NULL, lease_until = NULL,
            next_attempt_at = clock_timestamp() + least($4::interval * (2 ^ least(attempts - 1, 20)), $5::interval)
         WHERE mail_id = $1 AND lease_id = $2 AND finished_at IS NULL",
        mail_id,
        lease_id,
        failure,
        interval(first),
        interval(longest),
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// Gives back what was taken and not begun.
pub(super) async fn give_back(db: &Db, lease_id: Uuid, failure: Option<&str>) -> Result<()> {
    let mut tx = db.begin(Scope::Platform).await?;
    sqlx::query!(
        "UPDATE mail_outbox SET lease_id = NULL, lease_until = NULL, failure = coalesce($2, failure)
         WHERE lease_id = $1 AND finished_at IS NULL",
        lease_id,
        failure,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// How the outbox stands.
#[derive(Debug)]
pub(super) struct Figures {
    /// Messages that wait.
    pub waiting: i64,
    /// Seconds for which the oldest of them has.
    pub oldest_seconds: f64,
    /// Messages that were given up just now.
    pub expired: i64,
}

/// Gives up what is of no use any more, purges what was finished long ago, and counts the rest.
pub(super) async fn purge_expired(db: &Db, keep: Duration) -> Result<Figures> {
    let mut tx = db.begin(Scope::Platform).await?;
    let expired = sqlx::query!(
        "UPDATE mail_outbox SET state = 'expired', finished_at = clock_timestamp(), recipient = NULL, parameters = NULL,
            lease_id = NULL, lease_until = NULL
         WHERE mail_id IN (SELECT o.mail_id FROM mail_outbox o WHERE o.finished_at IS NULL
            AND o.expires_at <= clock_timestamp() AND (o.lease_until IS NULL OR o.lease_until < clock_timestamp())
            ORDER BY o.next_attempt_at LIMIT 1000 FOR UPDATE SKIP LOCKED)"
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "DELETE FROM mail_outbox WHERE mail_id IN (SELECT o.mail_id FROM mail_outbox o
            WHERE o.finished_at < clock_timestamp() - $1::interval LIMIT 1000 FOR UPDATE SKIP LOCKED)",
        interval(keep),
    )
    .execute(&mut *tx)
    .await?;
    let waiting = sqlx::query!(
        r#"SELECT count(*) AS "waiting!",
            coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS "oldest_seconds!"
           FROM mail_outbox WHERE finished_at IS NULL"#
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    let expired = i64::try_from(expired.rows_affected()).unwrap_or(i64::MAX);
    Ok(Figures { waiting: waiting.waiting, oldest_seconds: waiting.oldest_seconds, expired })
}
