//! SQL of the audit log.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::db::{Connection, Db};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::filter::Filter;
use super::mark::Mark;
use super::stored::SealedPart;
use super::{ActorKind, Outcome, StoredEvent};
use crate::fault::{Fault, Result};

/// An event that is ready for the SQL functions `audit_record` and `audit_record_with`.
#[derive(Clone, Debug, sqlx::Type)]
#[sqlx(type_name = "prepared_event")]
pub struct Prepared {
    /// Keyed by the column names of `audit_inbox`.
    pub event: Value,
    /// Sealed.
    pub personal: Option<Vec<u8>>,
}

impl Prepared {
    /// Id of the event.
    pub fn event_id(&self) -> Uuid {
        let id = self.event.get("event_id").and_then(Value::as_str);
        id.and_then(|id| id.parse().ok()).unwrap_or_default()
    }
}

/// Writes one event into the inbox.
pub(super) async fn record(connection: &mut Connection, event: &Value, personal: Option<&[u8]>) -> Result<()> {
    sqlx::query!("SELECT audit_record($1, $2)", event, personal).execute(connection).await?;
    Ok(())
}

/// Writes several events into the inbox, in their order.
pub(super) async fn record_all(
    connection: &mut Connection,
    events: &[Value],
    personal: &[Option<Vec<u8>>],
) -> Result<()> {
    sqlx::query!(
        "SELECT audit_record(given.event, given.personal)
         FROM unnest($1::jsonb[], $2::bytea[]) WITH ORDINALITY AS given (event, personal, place) ORDER BY given.place",
        events,
        personal as &[Option<Vec<u8>>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The oldest event without a position, if there is any.
pub(super) async fn oldest_waiting(db: &Db) -> Result<Option<i64>> {
    Ok(sqlx::query_scalar!("SELECT audit_oldest_waiting()").fetch_one(db).await?)
}

/// The end of the log, as the holder of its lock finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub position: i64,
    /// Time for what comes next.
    pub now: DateTime<Utc>,
    /// Highest `inbox_id` that got a position before.
    pub newest_id: i64,
    /// Up to where the inbox was found drained before.
    pub drained_id: i64,
}

/// Locks the end of the log; none when another replica holds the lock. Others must not wait long for a replica that is
/// gone without its server knowing: between statements it has a few milliseconds of work.
pub(super) async fn lock_head(tx: &mut Connection) -> Result<Option<Head>> {
    // For the statements that follow as well: the inbox is empty as a rule and may be full of dead rows, so that plans made
    // from its size read all of them.
    let row = sqlx::query!(
        r#"SELECT h.head_position, h.recorded_at, h.newest_id, h.drained_id,
               set_config('enable_seqscan', 'off', true) AS planner,
               set_config('idle_in_transaction_session_timeout', '3s', true) AS patience
           FROM audit_lock_head() h"#
    )
    .fetch_one(tx)
    .await?;
    let (Some(position), Some(now)) = (row.head_position, row.recorded_at) else { return Ok(None) };
    let (newest_id, drained_id) = (row.newest_id.unwrap_or_default(), row.drained_id.unwrap_or_default());
    Ok(Some(Head { position, now, newest_id, drained_id }))
}

/// Hashes of the events at these positions, as far as there are such events.
pub(super) async fn hashes(tx: &mut Connection, positions: &[i64]) -> Result<HashMap<i64, Vec<u8>>> {
    let rows = sqlx::query!("SELECT position, leaf_hash FROM audit_events WHERE position = ANY ($1)", positions)
        .fetch_all(tx)
        .await?;
    Ok(rows.into_iter().map(|row| (row.position, row.leaf_hash)).collect())
}

/// Whether the log has an event of this type with these details.
pub(super) async fn has_event(tx: &mut Connection, event_type: &str, details: &Value) -> Result<bool> {
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM audit_events WHERE event_type = $1 AND details @> $2) AS "found!""#,
        event_type,
        details,
    )
    .fetch_one(tx)
    .await?;
    Ok(found)
}

/// An event without a position.
#[derive(Debug)]
pub(super) struct Waiting {
    pub inbox_id: i64,
    pub event_id: Uuid,
    pub event_type: String,
    pub outcome: String,
    pub reason: Option<String>,
    pub occurred_at: DateTime<Utc>,
    pub tenant_id: Option<Uuid>,
    pub actor_kind: String,
    pub actor_id: Option<Uuid>,
    pub target_kind: Option<String>,
    pub target_id: Option<String>,
    pub session_id: Option<Uuid>,
    pub correlation_id: Option<Uuid>,
    pub request_id: Option<Uuid>,
    pub source: Option<String>,
    pub details: Value,
    pub origin_subject: Option<Uuid>,
    pub personal_subject: Option<Uuid>,
    pub personal_sealed: Option<Vec<u8>>,
    /// Whether the log has an event of this id already.
    pub is_known: bool,
    /// What the statement saw that found it.
    pub snapshot: String,
}

/// Committed events without a position, oldest first.
pub(super) async fn waiting(tx: &mut Connection, limit: i64) -> Result<Vec<Waiting>> {
    let rows = sqlx::query_as!(
        Waiting,
        r#"SELECT inbox_id AS "inbox_id!", event_id AS "event_id!", event_type AS "event_type!", outcome AS "outcome!",
               reason, occurred_at AS "occurred_at!", tenant_id, actor_kind AS "actor_kind!", actor_id, target_kind,
               target_id, session_id, correlation_id, request_id, source, details AS "details!", origin_subject,
               personal_subject, personal_sealed,
               EXISTS (SELECT FROM audit_events e WHERE e.event_id = i.event_id) AS "is_known!",
               pg_current_snapshot()::text AS "snapshot!"
           FROM audit_waiting($1) i ORDER BY inbox_id"#,
        limit,
    )
    .fetch_all(tx)
    .await?;
    Ok(rows)
}

/// The wrapped keys of those subjects that are known, none for the erased ones. They stay as they are until the
/// transaction ends, so that nothing is encrypted under a key that is being destroyed.
pub(super) async fn subject_keys(tx: &mut Connection, subjects: &[Uuid]) -> Result<Vec<(Uuid, Option<Vec<u8>>)>> {
    let rows = sqlx::query!(
        "SELECT subject_id, wrapped_key FROM audit_subject_keys WHERE subject_id = ANY ($1)
         ORDER BY subject_id FOR SHARE",
        subjects,
    )
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.subject_id, row.wrapped_key)).collect())
}

/// The wrapped keys with the lowest and the highest id of a subject: mostly the oldest and the newest, since ids go with
/// time.
pub(super) async fn outermost_keys(tx: &mut Connection) -> Result<Vec<(Uuid, Vec<u8>)>> {
    let rows = sqlx::query!(
        r#"(SELECT subject_id AS "subject_id!", wrapped_key AS "wrapped_key!" FROM audit_subject_keys
            WHERE wrapped_key IS NOT NULL ORDER BY subject_id LIMIT 1)
           UNION ALL
           (SELECT subject_id, wrapped_key FROM audit_subject_keys
            WHERE wrapped_key IS NOT NULL ORDER BY subject_id DESC LIMIT 1)"#,
    )
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.subject_id, row.wrapped_key)).collect())
}

/// Keeps the wrapped keys of new subjects.
pub(super) async fn add_subject_keys(tx: &mut Connection, subjects: &[Uuid], wrapped: &[Vec<u8>]) -> Result<()> {
    sqlx::query!(
        "INSERT INTO audit_subject_keys (subject_id, wrapped_key) SELECT * FROM unnest($1::uuid[], $2::bytea[])",
        subjects,
        wrapped,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// What the sequencer adds to waiting events, one entry per event and column.
#[derive(Debug, Default)]
pub(super) struct Numbered {
    pub inbox_id: Vec<i64>,
    pub event_id: Vec<Uuid>,
    pub position: Vec<i64>,
    pub origin_state: Vec<&'static str>,
    pub origin_sealed: Vec<Option<Vec<u8>>>,
    pub personal_state: Vec<&'static str>,
    pub personal_sealed: Vec<Option<Vec<u8>>>,
    pub leaf: Vec<Vec<u8>>,
    pub leaf_hash: Vec<Vec<u8>>,
}

/// Up to which `inbox_id` nothing waits any more, but for what transactions write that were under way in a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Drained {
    pub inbox_id: i64,
    pub snapshot: String,
}

/// Appends events to the log, after which the inbox does not have them any more.
pub(super) async fn append(
    tx: &mut Connection,
    numbered: &Numbered,
    head: &Head,
    drained: Option<&Drained>,
) -> Result<()> {
    let moved = move_to_log(tx, numbered, head, drained).await?;
    // Rows in the inbox are deleted by the holder of the head's lock only; committing fewer would leave a gap.
    if usize::try_from(moved) == Ok(numbered.position.len()) {
        Ok(())
    } else {
        Err(Fault::internal(format!("{moved} events were moved instead of {}", numbered.position.len())))
    }
}

/// Moves events from the inbox to the log, moves the head on and notifies every replica, all in one statement; gives how
/// many events were moved.
async fn move_to_log(tx: &mut Connection, numbered: &Numbered, head: &Head, drained: Option<&Drained>) -> Result<i64> {
    let last = numbered.position.last().copied().unwrap_or(head.position);
    let newest_id = numbered.inbox_id.iter().copied().fold(head.newest_id, i64::max);
    let moved = sqlx::query_scalar!(
        r#"WITH numbered AS (
               SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::text[], $5::bytea[], $6::text[], $7::bytea[],
                   $8::bytea[], $9::bytea[])
               AS n (inbox_id, position, event_id, origin_state, origin_sealed, personal_state, personal_sealed, leaf,
                   leaf_hash)
           ), taken AS (
               DELETE FROM audit_inbox WHERE inbox_id = ANY ($1) RETURNING *
           ), moved AS (
               INSERT INTO audit_events (position, event_id, event_type, outcome, reason, occurred_at, recorded_at,
                   tenant_id, actor_kind, actor_id, target_kind, target_id, session_id, correlation_id, request_id,
                   source, details, origin_state, origin_subject, origin_sealed, personal_state, personal_subject,
                   personal_sealed, leaf, leaf_hash)
               SELECT n.position, n.event_id, t.event_type, t.outcome, t.reason, t.occurred_at, $11, t.tenant_id,
                   t.actor_kind, t.actor_id, t.target_kind, t.target_id, t.session_id, t.correlation_id, t.request_id,
                   t.source, t.details, n.origin_state, t.origin_subject, n.origin_sealed, n.personal_state,
                   t.personal_subject, n.personal_sealed, n.leaf, n.leaf_hash
               FROM numbered n JOIN taken t USING (inbox_id) ORDER BY n.position
               RETURNING 1
           ), ended AS (
               UPDATE audit_head SET position = $10, recorded_at = $11, newest_id = $12,
                   drained_id = coalesce($13, drained_id),
                   drained_at = coalesce($14::text::pg_snapshot, drained_at),
                   drained_by = CASE WHEN $13 IS NULL THEN drained_by ELSE pg_current_xact_id() END
               WHERE position = $15 RETURNING position
           )
           SELECT count(*) AS "moved!" FROM moved, (SELECT pg_notify('sidle_audit', ended.position::text) FROM ended) told"#,
        &numbered.inbox_id,
        &numbered.position,
        &numbered.event_id,
        &numbered.origin_state as &[&str],
        &numbered.origin_sealed as &[Option<Vec<u8>>],
        &numbered.personal_state as &[&str],
        &numbered.personal_sealed as &[Option<Vec<u8>>],
        &numbered.leaf,
        &numbered.leaf_hash,
        last,
        head.now,
        newest_id,
        drained.map(|drained| drained.inbox_id),
        drained.map(|drained| drained.snapshot.as_str()),
        head.position,
    )
    .fetch_one(tx)
    .await?;
    Ok(moved)
}

/// The newest event.
pub(super) async fn newest(tx: &mut Connection) -> Result<Mark> {
    let row =
        sqlx::query!(r#"SELECT head_position AS "position!", leaf_hash FROM audit_newest()"#).fetch_one(tx).await?;
    Ok(Mark::new(row.position, row.leaf_hash.as_deref()))
}

/// Position of the oldest event that is kept, or of the first that will be.
pub(super) async fn oldest(tx: &mut Connection) -> Result<i64> {
    let oldest = sqlx::query_scalar!(
        r#"SELECT coalesce((SELECT min(position) FROM audit_events), head_position + 1) AS "oldest!" FROM audit_newest()"#
    );
    Ok(oldest.fetch_one(tx).await?)
}

/// How the log stands to a position.
#[derive(Debug)]
pub(super) struct Standing {
    pub head: i64,
    /// Position of the oldest event that is kept, or of the first that will be.
    pub oldest: i64,
    /// Hash of the event at the position, if there is one.
    pub found: Option<Vec<u8>>,
}

/// How the log stands to `position` now.
pub(super) async fn standing(tx: &mut Connection, position: i64) -> Result<Standing> {
    let standing = sqlx::query_as!(
        Standing,
        r#"SELECT head_position AS "head!",
               coalesce((SELECT min(position) FROM audit_events), head_position + 1) AS "oldest!",
               (SELECT leaf_hash FROM audit_events WHERE position = $1) AS found
           FROM audit_newest()"#,
        position,
    );
    Ok(standing.fetch_one(tx).await?)
}

/// The event before the first that was recorded at `time` or later; the newest when none was.
pub(super) async fn before(tx: &mut Connection, time: DateTime<Utc>) -> Result<Mark> {
    let row = sqlx::query!(
        r#"WITH place AS (
               SELECT coalesce((SELECT position - 1 FROM audit_events WHERE recorded_at >= $1
                   ORDER BY recorded_at, position LIMIT 1), (SELECT head_position FROM audit_newest())) AS position
           )
           SELECT place.position AS "position!",
               (SELECT e.leaf_hash FROM audit_events e WHERE e.position = place.position) AS leaf_hash
           FROM place"#,
        time,
    )
    .fetch_one(tx)
    .await?;
    Ok(Mark::new(row.position, row.leaf_hash.as_deref()))
}

/// Position of the event with this id.
pub(super) async fn position_of(tx: &mut Connection, event_id: Uuid) -> Result<Option<i64>> {
    Ok(sqlx::query_scalar!("SELECT position FROM audit_events WHERE event_id = $1", event_id)
        .fetch_optional(tx)
        .await?)
}

/// A range of the log: after one position, up to and including another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub after: i64,
    pub until: i64,
    pub limit: i64,
    pub newest_first: bool,
}

/// Events of a range that the filter wants.
pub(super) async fn read(tx: &mut Connection, filter: &Filter, range: Range) -> Result<Vec<StoredEvent>> {
    let wanted = &filter.wanted;
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT position AS "position!", event_id AS "event_id!", event_type AS "event_type!", outcome AS "outcome!",
               reason, occurred_at AS "occurred_at!", recorded_at AS "recorded_at!", tenant_id,
               actor_kind AS "actor_kind!", actor_id, target_kind, target_id, session_id, correlation_id, request_id,
               source, details AS "details!", origin_state AS "origin_state!", origin_subject, origin_sealed, origin_key,
               personal_state AS "personal_state!", personal_subject, personal_sealed, personal_key, leaf AS "leaf!",
               leaf_hash AS "leaf_hash!"
           FROM audit_read($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"#,
        range.after,
        range.until,
        range.limit,
        range.newest_first,
        filter.scope.tenant(),
        (!wanted.types.is_empty()).then_some(&wanted.types[..]) as Option<&[String]>,
        wanted.actor_id,
        wanted.target_kind.as_deref(),
        wanted.target_id.as_deref(),
        wanted.session_id,
        wanted.correlation_id,
        wanted.outcome,
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(StoredEvent::try_from).collect()
}

struct Row {
    position: i64,
    event_id: Uuid,
    event_type: String,
    outcome: String,
    reason: Option<String>,
    occurred_at: DateTime<Utc>,
    recorded_at: DateTime<Utc>,
    tenant_id: Option<Uuid>,
    actor_kind: String,
    actor_id: Option<Uuid>,
    target_kind: Option<String>,
    target_id: Option<String>,
    session_id: Option<Uuid>,
    correlation_id: Option<Uuid>,
    request_id: Option<Uuid>,
    source: Option<String>,
    details: Value,
    origin_state: String,
    origin_subject: Option<Uuid>,
    origin_sealed: Option<Vec<u8>>,
    origin_key: Option<Vec<u8>>,
    personal_state: String,
    personal_subject: Option<Uuid>,
    personal_sealed: Option<Vec<u8>>,
    personal_key: Option<Vec<u8>>,
    leaf: Vec<u8>,
    leaf_hash: Vec<u8>,
}

impl TryFrom<Row> for StoredEvent {
    type Error = Fault;

    fn try_from(row: Row) -> Result<Self> {
        let corrupt = |column: &str| Fault::internal(format!("audit event {} has an unknown {column}", row.position));
        Ok(Self {
            outcome: Outcome::parse(&row.outcome).ok_or_else(|| corrupt("outcome"))?,
            actor_kind: ActorKind::parse(&row.actor_kind).ok_or_else(|| corrupt("actor_kind"))?,
            details: match row.details {
                Value::Object(details) => details,
                _ => Map::new(),
            },
            origin: SealedPart {
                present: row.origin_state != "none",
                subject: row.origin_subject,
                sealed: row.origin_sealed,
                wrapped_key: row.origin_key,
            },
            personal: SealedPart {
                present: row.personal_state != "none",
                subject: row.personal_subject,
                sealed: row.personal_sealed,
                wrapped_key: row.personal_key,
            },
            position: row.position,
            event_id: row.event_id,
            event_type: row.event_type,
            reason: row.reason,
            occurred_at: row.occurred_at,
            recorded_at: row.recorded_at,
            tenant_id: row.tenant_id,
            actor_id: row.actor_id,
            target_kind: row.target_kind,
            target_id: row.target_id,
            session_id: row.session_id,
            correlation_id: row.correlation_id,
            request_id: row.request_id,
            source: row.source,
            leaf: row.leaf,
            leaf_hash: row.leaf_hash,
            opened: OnceLock::new(),
        })
    }
}
