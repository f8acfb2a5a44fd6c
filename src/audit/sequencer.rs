//! Gives committed events their positions. Every replica runs one; the replica that holds the lock on the head row
//! moves what waits, the others retry later. A position is given after the commit of its event, so a reader at N has
//! seen everything that will ever be at or before N.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::leaf::{self, Commitment, Leaf};
use super::mark::Mark;
use super::personal::{Part, SubjectKey, commitment, opening};
use super::recording::waiting_context;
use super::store::{self, Drained, Head, Numbered, Waiting};
use super::{Event, EventType, Feed, Recorder};
use crate::context::Context;
use crate::db::{Connection, Db, Scope};
use crate::fault::{Fault, Result};
use crate::metrics::Metrics;
use crate::seal::Keyring;

/// Events moved in one transaction at most.
const BATCH: i64 = 1000;
/// Pause after a batch, so that under load batches grow instead of commits.
const PAUSE: Duration = Duration::from_millis(5);
/// First and longest pause when nothing waits.
const SHORT: Duration = Duration::from_millis(2);
const LONG: Duration = Duration::from_millis(100);
/// First pause after a batch when nothing more waits: no writer is known to be about to commit.
const CALM: Duration = Duration::from_millis(8);
/// Pause while another replica holds the lock.
const AWAY: Duration = Duration::from_millis(50);
/// Pause after a failure.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Moves events from the inbox to the log.
#[derive(Clone)]
pub struct Sequencer {
    db: Db,
    context: Context,
    keyring: Keyring,
    recorder: Recorder,
    feed: Feed,
    metrics: Metrics,
    /// The newest event that was given its position here: whatever the log becomes, it must hold it.
    last: Arc<Mutex<Option<Mark>>>,
}

/// What one look at the inbox came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing waits.
    Nothing,
    /// Another replica holds the lock.
    Elsewhere,
    /// So many events got their positions.
    Moved(usize),
}

impl Sequencer {
    /// A sequencer that is woken by what `recorder` writes, and records what `feed` finds to be gone from the log.
    pub fn new(db: Db, context: Context, keyring: Keyring, recorder: Recorder, feed: Feed, metrics: Metrics) -> Self {
        Self { db, context, keyring, recorder, feed, metrics, last: Arc::default() }
    }

    /// Works until `shutdown`. Dropping it in the middle loses nothing: a batch is one transaction.
    pub async fn run(self, shutdown: CancellationToken) {
        let wakes = self.recorder.wakes();
        let mut pause = SHORT;
        while !shutdown.is_cancelled() {
            let step = tokio::select! {
                () = shutdown.cancelled() => return,
                step = self.step() => step,
            };
            let (wait, nudged) = match step {
                Ok(Step::Moved(moved)) if moved >= BATCH as usize => (Duration::ZERO, false),
                Ok(Step::Moved(_)) => (PAUSE, false),
                Ok(Step::Elsewhere) => (AWAY, true),
                Ok(Step::Nothing) => {
                    pause = (pause * 2).min(LONG);
                    (pause, true)
                }
                Err(fault) => {
                    tracing::error!(event = "audit_sequencing_failed", %fault, cause = fault.cause().map(tracing::field::display));
                    (self.context.entropy.jitter(AFTER_FAILURE), false)
                }
            };
            if !nudged {
                pause = CALM;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
                // A wake comes before the writer's commit, so the pauses start short again.
                () = wakes.notified(), if nudged => pause = SHORT,
            }
        }
    }

    /// Moves what waits, up to one batch.
    ///
    /// # Errors
    /// When the database fails; nothing has been moved then, or all of the batch when only the answer was lost.
    pub async fn step(&self) -> Result<Step> {
        let lost = self.feed.lost().all();
        // Asked first without a lock, which would make every idle look a write.
        if lost.is_empty() && store::oldest_waiting(&self.db).await?.is_none() {
            self.metrics.audit_unsequenced.set(0);
            return Ok(Step::Nothing);
        }
        let mut tx = self.db.begin(Scope::Platform).await?;
        let Some(head) = store::lock_head(&mut tx).await? else { return Ok(Step::Elsewhere) };
        let is_forked = self.compare(&mut tx, head.position, &lost).await?;
        // Only now, under the lock: an earlier look could still show rows that the last holder has moved.
        let waiting = store::waiting(&mut tx, BATCH).await?;
        if waiting.is_empty() {
            // Another replica recorded it.
            if is_forked {
                *self.last() = None;
            }
            self.feed.lost().settle(&lost);
            return Ok(Step::Nothing);
        }
        let drained = drained(&head, &waiting);
        let keys = self.subject_keys(&mut tx, &waiting).await?;
        let moved = waiting.len();
        self.metrics.audit_unsequenced.set(i64::try_from(moved).unwrap_or(i64::MAX));
        let (context, keyring, metrics) = (self.context.clone(), self.keyring.clone(), self.metrics.clone());
        let batch = Batch { context, keyring, metrics, keys, head: head.position, now: head.now };
        // Tens of microseconds an event: too long for a thread that answers calls.
        let numbered = tokio::task::spawn_blocking(move || batch.number(waiting)).await.map_err(Fault::internal)?;
        store::append(&mut tx, &numbered, &head, drained.as_ref()).await?;
        tx.commit().await?;
        if let (Some(position), Some(hash)) = (numbered.position.last(), numbered.leaf_hash.last()) {
            *self.last() = Some(Mark::new(*position, Some(hash)));
        }
        self.feed.lost().settle(&lost);
        Ok(Step::Moved(moved))
    }

    /// Records, under the lock, what was known here to be in the log and is not any more: the last event that this
    /// sequencer gave a position, and what the feed reported. Replicas that had read equally far record it once. Says
    /// whether the former was.
    async fn compare(&self, tx: &mut Connection, head: i64, lost: &[Mark]) -> Result<bool> {
        let last = *self.last();
        let known: Vec<i64> = last.iter().map(|mark| mark.position).collect();
        let found = if known.is_empty() { HashMap::new() } else { store::hashes(tx, &known).await? };
        let gone = last.filter(|mark| !mark.agrees(found.get(&mark.position).map(Vec::as_slice)));
        if let Some(mark) = gone {
            tracing::error!(
                event = "audit_log_forked",
                position = mark.position,
                head,
                "the audit log does not hold the event that was given its position last: the database was restored, or \
                 failed over to a standby that had not received everything"
            );
            self.metrics.audit_forks.inc();
        }
        let mut recorded = HashSet::new();
        for mark in gone.iter().chain(lost) {
            let told = json!({ "old_position": mark.position, "old_hash": mark.hash_text() });
            if recorded.insert(mark.position) && !store::has_event(tx, EventType::AuditForked.as_str(), &told).await? {
                let event = Event::by_system(EventType::AuditForked, self.context.new_id());
                let event = event.detail("old_position", mark.position).detail("old_hash", mark.hash_text());
                self.recorder.record(tx, event.detail("new_position", head)).await?;
            }
        }
        Ok(gone.is_some())
    }

    fn last(&self) -> MutexGuard<'_, Option<Mark>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of every subject of the batch, made for those who appear for the first time; none for erased ones.
    async fn subject_keys(&self, tx: &mut Connection, waiting: &[Waiting]) -> Result<HashMap<Uuid, Key>> {
        let subjects: HashSet<Uuid> = waiting
            .iter()
            .filter(|row| row.personal_sealed.is_some())
            .flat_map(|row| [row.origin_subject, row.personal_subject])
            .flatten()
            .collect();
        if subjects.is_empty() {
            return Ok(HashMap::new());
        }
        let wanted: Vec<Uuid> = subjects.iter().copied().collect();
        let mut keys = HashMap::with_capacity(subjects.len());
        for (subject, wrapped) in store::subject_keys(tx, &wanted).await? {
            let key = match wrapped {
                None => Key::Erased,
                Some(wrapped) => {
                    SubjectKey::unwrap(&self.keyring, subject, &wrapped).map_or(Key::Unreadable, Key::Usable)
                }
            };
            keys.insert(subject, key);
        }
        let (mut created, mut wrapped) = (Vec::new(), Vec::new());
        for subject in subjects {
            keys.entry(subject).or_insert_with(|| {
                let (key, sealed) = SubjectKey::create(&self.keyring, &self.context.entropy, subject);
                created.push(subject);
                wrapped.push(sealed);
                Key::Usable(key)
            });
        }
        if !created.is_empty() {
            store::add_subject_keys(tx, &created, &wrapped).await?;
        }
        Ok(keys)
    }
}

/// Up to where nothing waits any more once `waiting` has been moved; none when that would be less than is known. See
/// `audit_waiting` in the schema for what follows from it.
fn drained(head: &Head, waiting: &[Waiting]) -> Option<Drained> {
    let last = waiting.last()?;
    // A full batch may have left more behind.
    let is_all = (waiting.len() as i64) < BATCH;
    // Never beyond what was known before this transaction had its id: one that drew a later number may have a later id.
    let inbox_id = if is_all { head.newest_id } else { head.newest_id.min(last.inbox_id) };
    (inbox_id >= head.drained_id).then(|| Drained { inbox_id, snapshot: last.snapshot.clone() })
}

enum Key {
    Usable(SubjectKey),
    Erased,
    Unreadable,
}

/// Everything that decides what the events of a batch become.
struct Batch {
    context: Context,
    keyring: Keyring,
    metrics: Metrics,
    keys: HashMap<Uuid, Key>,
    head: i64,
    now: DateTime<Utc>,
}

/// A piece of personal data on its way into the log.
struct Moved {
    state: &'static str,
    sealed: Option<Vec<u8>>,
    commitment: Commitment,
}

impl Batch {
    fn number(&self, waiting: Vec<Waiting>) -> Numbered {
        let mut numbered = Numbered::default();
        let mut seen = HashSet::with_capacity(waiting.len());
        for (position, row) in (self.head + 1..).zip(waiting) {
            let (origin_data, personal_data) = self.unseal(&row);
            let event_id = self.id_for(&row, &mut seen);
            let origin = self.lock_away(event_id, Part::Origin, row.origin_subject, origin_data);
            let personal = self.lock_away(event_id, Part::Personal, row.personal_subject, personal_data);
            let leaf = self.leaf(&row, position, event_id, origin.commitment, personal.commitment);
            numbered.inbox_id.push(row.inbox_id);
            numbered.event_id.push(event_id);
            numbered.position.push(position);
            numbered.origin_state.push(origin.state);
            numbered.origin_sealed.push(origin.sealed);
            numbered.personal_state.push(personal.state);
            numbered.personal_sealed.push(personal.sealed);
            numbered.leaf_hash.push(leaf::hash(&leaf).to_vec());
            numbered.leaf.push(leaf);
        }
        numbered
    }

    /// An event that was recorded twice, by a writer that repeated a call with an answer lost, happened twice: it keeps
    /// its position in the log under an id of its own.
    fn id_for(&self, row: &Waiting, seen: &mut HashSet<Uuid>) -> Uuid {
        if !row.is_known && seen.insert(row.event_id) {
            return row.event_id;
        }
        tracing::warn!(event = "audit_event_repeated", event_id = %row.event_id, event_type = row.event_type);
        self.context.new_id()
    }

    /// Origin and personal data as the writer sealed them. A value that does not open must not hold up the log.
    fn unseal(&self, row: &Waiting) -> (Data, Data) {
        let Some(sealed) = &row.personal_sealed else { return (Data::None, Data::None) };
        let opened = self.keyring.open(waiting_context(row.event_id), sealed).ok();
        let parts: Option<Map<String, Value>> = opened.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(mut parts) = parts else {
            self.lost(row.event_id);
            return (Data::Lost, Data::Lost);
        };
        let mut part = |name| match parts.remove(name) {
            Some(Value::Object(data)) if !data.is_empty() => Data::Some(data),
            _ => Data::None,
        };
        (part("origin"), part("personal"))
    }

    fn lock_away(&self, event_id: Uuid, part: Part, subject: Option<Uuid>, data: Data) -> Moved {
        let without = |state, commitment| Moved { state, sealed: None, commitment };
        let data = match data {
            Data::None => return without("none", Commitment::None),
            Data::Lost => return without("lost", Commitment::Lost),
            Data::Some(data) => data,
        };
        match subject.and_then(|subject| self.keys.get(&subject)) {
            Some(Key::Usable(key)) => {
                let entropy = &self.context.entropy;
                let opening = opening(entropy, &data);
                let sealed = key.seal(entropy, event_id, part, &opening);
                Moved { state: "sealed", sealed: Some(sealed), commitment: Commitment::To(commitment(&opening)) }
            }
            Some(Key::Erased) => without("erased", Commitment::Erased),
            Some(Key::Unreadable) | None => {
                self.lost(event_id);
                without("lost", Commitment::Lost)
            }
        }
    }

    /// Loud, since it means a missing key or a writer that seals wrongly.
    fn lost(&self, event_id: Uuid) {
        tracing::error!(event = "audit_personal_lost", %event_id, "personal data of an event does not open");
        self.metrics.audit_personal_lost.inc();
    }

    fn leaf(&self, row: &Waiting, position: i64, event_id: Uuid, origin: Commitment, personal: Commitment) -> Vec<u8> {
        let empty = Map::new();
        Leaf {
            position,
            event_id,
            event_type: &row.event_type,
            outcome: &row.outcome,
            reason: row.reason.as_deref(),
            occurred_at_micros: row.occurred_at.timestamp_micros(),
            recorded_at_micros: self.now.timestamp_micros(),
            tenant_id: row.tenant_id,
            actor_kind: &row.actor_kind,
            actor_id: row.actor_id,
            target_kind: row.target_kind.as_deref(),
            target_id: row.target_id.as_deref(),
            session_id: row.session_id,
            correlation_id: row.correlation_id,
            request_id: row.request_id,
            source: row.source.as_deref(),
            details: row.details.as_object().unwrap_or(&empty),
            origin,
            personal,
        }
        .encode()
    }
}

enum Data {
    None,
    Lost,
    Some(Map<String, Value>),
}
