//! A job from its taking-up to its end.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::batch::{GroupMap, TenantGroups};
use super::item::{Item, Settled};
use super::trouble::Trouble;
use super::{Engine, Lease, store};
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::db::{Scope, Tx};
use crate::fault::{Fault, Result};
use crate::kanidm::KanidmError;
use crate::migration::groups::{GroupRole, Standing, TenantGroup};
use crate::migration::jobs::{Failure, Job, Step, by_index};
use crate::migration::vocabulary::{ItemReason, ItemState, MigrationState, WaitReason};

/// Concurrent batches: while Kanidm creates the persons of one, the database keeps what became of another.
const CONCURRENT_BATCHES: usize = 2;
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// How a replica's work on a job came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The job is finished, or not to be worked on for now.
    Over,
    /// Another replica has taken it over.
    Lost,
    /// It cannot go on at the moment; it was given back, and is retried later.
    PutOff,
}

/// What a pass over the items came to.
enum Pass {
    /// Every item was looked at whose tenant's groups are there; whether any was found.
    Through(bool),
    /// Kanidm cannot be worked with; whether it could before in this pass.
    Trouble(Trouble, bool),
    /// The job is no longer running, or no longer ours.
    End(End),
}

/// The batch that was taken up.
enum Claim {
    Batch(Vec<Item>),
    Nothing,
    End(End),
}

impl Engine {
    /// Takes up a job, if there is one, and works on it. When there was none, how long it is until one is due.
    pub(super) async fn work_once(&self, stop: &CancellationToken) -> Result<Option<Duration>> {
        let parts = &self.parts;
        let mut tx = parts.db.begin(Scope::Platform).await?;
        let Some(taken) = store::take(&mut tx, parts.replica, parts.config.lease).await? else {
            return Ok(Some(store::next_due(&mut tx).await?.unwrap_or(Duration::MAX)));
        };
        let lease = taken.lease;
        if let Some(previous) = taken.previous_owner.filter(|owner| *owner != parts.replica) {
            let step =
                store::lock(&mut tx, &lease).await?.ok_or_else(|| Fault::internal("a job just taken is gone"))?;
            let event = Event::by_system(EventType::MigrationTakenOver, lease.migration_id)
                .detail("from_replica", previous)
                .detail("to_replica", parts.replica);
            self.tell(&mut tx, &lease, step, event, Change::default()).await?;
        }
        tx.commit().await?;
        tracing::info!(event = "migration_taken_up", migration_id = %lease.migration_id, epoch = lease.epoch, "took a job up");
        // The heartbeat and the work are raced: when the lease is lost, the work is dropped where it is, which is what the
        // next holder expects to find.
        let result = tokio::select! {
            result = self.passes(&lease) => result,
            end = self.keep_alive(&lease) => Ok(end),
            () = stop.cancelled() => Ok(End::Over),
        };
        match &result {
            Ok(End::Lost | End::PutOff) => {}
            Ok(End::Over) => {
                let mut tx = parts.db.begin(Scope::Platform).await?;
                store::release(&mut tx, &lease).await?;
                tx.commit().await?;
            }
            Err(_) => self.defer_failed(&lease).await?,
        }
        result.map(|_| None)
    }

    /// Gives a job back that failed: one that fails every time must not come before all others every time.
    async fn defer_failed(&self, lease: &Lease) -> Result<()> {
        let mut tx = self.parts.db.begin(Scope::Platform).await?;
        let (waits, unclear, _) = store::waits(&mut tx, lease).await?;
        let waits = waits.saturating_add(1);
        let pause = self.parts.context.entropy.jitter(backoff(waits));
        store::put_off(&mut tx, lease, (waits, unclear), pause).await?;
        tx.commit().await
    }

    /// Extends the lease until it is lost.
    async fn keep_alive(&self, lease: &Lease) -> End {
        let mut missed = 0;
        loop {
            tokio::time::sleep(lease.duration / 4).await;
            match self.extend(lease).await {
                Ok(true) => missed = 0,
                Ok(false) => return End::Lost,
                // Without the database no other can take over either; after three misses it may have come back for
                // others and not for us.
                Err(_) if missed < 2 => missed += 1,
                Err(_) => return End::Lost,
            }
        }
    }

    async fn extend(&self, lease: &Lease) -> Result<bool> {
        let mut tx = self.parts.db.begin(Scope::Platform).await?;
        let held = store::extend(&mut tx, lease).await?;
        tx.commit().await?;
        Ok(held)
    }

    /// Goes over the items until all are finished, or Kanidm is in trouble.
    async fn passes(&self, lease: &Lease) -> Result<End> {
        loop {
            let (pass, is_held_up) = match self.groups(lease).await {
                Ok(groups) => (self.pass(lease, &groups).await?, deleted(&groups).next().is_some()),
                Err(fault) => (Pass::Trouble(trouble(fault)?, false), false),
            };
            match pass {
                Pass::End(end) => return Ok(end),
                Pass::Through(progressed) => {
                    if let Some(end) = self.complete(lease).await? {
                        return Ok(end);
                    }
                    if is_held_up {
                        let trouble = Trouble::group_deleted(KanidmError::UuidTaken);
                        return self.put_off(lease, &trouble, progressed).await;
                    }
                }
                Pass::Trouble(trouble, progressed) => return self.put_off(lease, &trouble, progressed).await,
            }
        }
    }

    /// Gives a job back that cannot go on, until it is retried: the intervals grow while nothing moves. One that got
    /// no answer that could be understood so often in a row as is configured is stopped instead.
    async fn put_off(&self, lease: &Lease, trouble: &Trouble, progressed: bool) -> Result<End> {
        tracing::warn!(
            event = "migration_waits",
            migration_id = %lease.migration_id,
            waiting_for = %trouble.wait,
            cause = %trouble.cause,
            "Kanidm cannot be worked with; will try again"
        );
        let mut tx = self.parts.db.begin(Scope::Platform).await?;
        let Some(job) = store::lock(&mut tx, lease).await? else { return Ok(End::Lost) };
        let (waits, unclear, unclear_for) = match progressed {
            true => (0, 0, Duration::ZERO),
            false => store::waits(&mut tx, lease).await?,
        };
        let waits = waits.saturating_add(1);
        let unclear = if trouble.is_unclear { unclear.saturating_add(1) } else { 0 };
        // What stands in Kanidm's place, or before it, may answer nonsense for as long as a repair takes.
        let is_over = unclear >= self.parts.config.unclear_tries && unclear_for >= self.parts.config.unclear_time;
        if is_over && job.state == MigrationState::Running {
            return self.stop(tx, lease, job, trouble.wait).await;
        }
        if job.waiting_for != Some(trouble.wait) {
            let event = Event::by_system(EventType::MigrationBatchProcessed, lease.migration_id);
            self.tell(&mut tx, lease, job, event, Change { waits_for: Some(trouble.wait), ..Change::default() })
                .await?;
        }
        store::put_off(&mut tx, lease, (waits, unclear), self.parts.context.entropy.jitter(backoff(waits))).await?;
        tx.commit().await?;
        Ok(End::PutOff)
    }

    /// Ends a job for good whose answers cannot be understood. Its open items are left alone; what an intent was recorded
    /// for is found again by the next plan.
    async fn stop(&self, mut tx: Tx, lease: &Lease, job: Job, wait: WaitReason) -> Result<End> {
        let skipped = store::skip_open(&mut tx, lease.migration_id, ItemReason::Stopped).await?;
        let event = Event::by_system(EventType::MigrationFailed, lease.migration_id).reason(wait.as_str());
        let change = Change {
            finished: skipped,
            skipped,
            state: Some(MigrationState::Cancelled),
            waits_for: Some(wait),
            ..Change::default()
        };
        self.tell(&mut tx, lease, job, event, change).await?;
        tx.commit().await?;
        tracing::error!(event = "migration_stopped", migration_id = %lease.migration_id, reason = %wait, skipped, "a migration stopped");
        Ok(End::Over)
    }

    /// Makes sure of the groups of every tenant that the job concerns.
    async fn groups(&self, lease: &Lease) -> Result<GroupMap> {
        let mut tx = self.parts.db.begin(Scope::Platform).await?;
        let tenants = store::tenants(&mut tx, lease.migration_id).await?;
        drop(tx);
        let mut map = GroupMap::new();
        if tenants.is_empty() {
            return Ok(map);
        }
        let call = Call::internal(lease.migration_id);
        let groups = self.parts.groups.sync(&call, Scope::Platform, &tenants).await?;
        for tenant in tenants {
            let of = |role| groups.iter().find(|group| group.tenant_id == tenant && group.role == role);
            let ours = |group: &TenantGroup| group.uuid.filter(|_| group.standing.is_usable());
            let pair = of(GroupRole::Member).and_then(ours).zip(of(GroupRole::Admin).and_then(ours));
            let is_deleted =
                groups.iter().any(|group| group.tenant_id == tenant && group.standing == Standing::Deleted);
            let groups = match pair {
                Some((users, admins)) => TenantGroups::Ours(users, admins),
                None if is_deleted => TenantGroups::Deleted,
                None => TenantGroups::Foreign,
            };
            map.insert(tenant, groups);
        }
        Ok(map)
    }

    /// Takes up every open item once, in their order.
    async fn pass(&self, lease: &Lease, groups: &GroupMap) -> Result<Pass> {
        let mut batches: JoinSet<Result<Option<Trouble>>> = JoinSet::new();
        let mut after = 0;
        let left_alone: Vec<Uuid> = deleted(groups).collect();
        let mut outcome = Pass::Through(false);
        let mut is_through = false;
        let mut progressed = false;
        loop {
            if !is_through && matches!(outcome, Pass::Through(_)) && batches.len() < CONCURRENT_BATCHES {
                match self.claim(lease, after, &left_alone).await? {
                    Claim::Batch(items) => {
                        after = items.iter().map(|item| item.ordinal).max().unwrap_or(after);
                        let (engine, lease, groups) = (self.clone(), *lease, groups.clone());
                        batches.spawn(async move { engine.batch(&lease, &groups, items).await });
                    }
                    Claim::Nothing => is_through = true,
                    Claim::End(end) => outcome = Pass::End(end),
                }
                continue;
            }
            // Running batches are brought to their end also when one of them met trouble.
            match batches.join_next().await {
                None if matches!(outcome, Pass::Through(_)) => return Ok(Pass::Through(progressed)),
                None => return Ok(outcome),
                Some(ended) => match ended.map_err(Fault::internal)?? {
                    None => progressed = true,
                    Some(trouble) => outcome = Pass::Trouble(trouble, progressed),
                },
            }
        }
    }

    /// Takes up the next items after an ordinal: those whose user changed are left alone, for the others the intent is
    /// recorded before Kanidm hears of them. Those of the tenants that are `left_alone` stay as they are.
    async fn claim(&self, lease: &Lease, after: i32, left_alone: &[Uuid]) -> Result<Claim> {
        let mut after = after;
        loop {
            let mut tx = self.parts.db.begin(Scope::Platform).await?;
            let Some(job) = store::lock(&mut tx, lease).await? else { return Ok(Claim::End(End::Lost)) };
            if job.state != MigrationState::Running {
                return Ok(Claim::End(End::Over));
            }
            let limit = i64::try_from(self.parts.config.batch_size).unwrap_or(i64::MAX);
            by_index(&mut tx).await?;
            let items = store::open_items(&mut tx, lease.migration_id, after, left_alone, limit).await?;
            let Some(last) = items.last() else { return Ok(Claim::Nothing) };
            after = last.ordinal;
            let (stale, fit): (Vec<Item>, Vec<Item>) =
                items.into_iter().partition(|item| item.state == ItemState::Pending && item.change.is_some());
            let ids: Vec<Uuid> = fit.iter().map(|item| item.item_id).collect();
            store::intend(&mut tx, &ids).await?;
            let results = stale.iter().map(|item| item.becomes(ItemState::Skipped, item.change));
            let change = self.settle(&mut tx, lease, results.collect()).await?;
            if change.finished > 0 {
                let event = Event::by_system(EventType::MigrationBatchProcessed, lease.migration_id);
                self.tell(&mut tx, lease, job, event, change).await?;
            }
            tx.commit().await?;
            if !fit.is_empty() {
                return Ok(Claim::Batch(fit));
            }
        }
    }

    /// Writes what became of items and links users, with its step, in one transaction.
    pub(super) async fn write(
        &self,
        lease: &Lease,
        mut results: Vec<Settled>,
        linking: Vec<Item>,
        is_sound: bool,
    ) -> Result<()> {
        if results.is_empty() && linking.is_empty() {
            return Ok(());
        }
        let mut tx = self.parts.db.begin(Scope::Platform).await?;
        // A replica that lost the lease writes nothing: the next holder finds the same items and the same persons.
        let Some(job) = store::lock(&mut tx, lease).await? else { return Ok(()) };
        by_index(&mut tx).await?;
        let linked = store::link(&mut tx, &linking).await?;
        let (linked, changed): (Vec<Item>, Vec<Item>) =
            linking.into_iter().partition(|item| linked.contains(&item.person.uuid));
        let changed_meanwhile = Some(ItemReason::UserChangedMeanwhile);
        results.extend(linked.iter().map(|item| item.becomes(ItemState::Linked, None)));
        results.extend(changed.iter().map(|item| item.becomes(ItemState::NeedsReview, changed_meanwhile)));
        let events: Vec<Event> = linked.iter().map(|item| linked_event(lease, item)).collect();
        let change = Change { clears_wait: is_sound, ..self.settle(&mut tx, lease, results).await? };
        let (moved, failed) = (change.done, change.failed);
        self.parts.recorder.record_all(&mut tx, events).await?;
        if change.finished > 0 || (is_sound && job.waiting_for.is_some()) {
            let event = Event::by_system(EventType::MigrationBatchProcessed, lease.migration_id);
            self.tell(&mut tx, lease, job, event, change).await?;
        }
        tx.commit().await?;
        self.parts.metrics.users_migrated.inc_by(u64::try_from(moved).unwrap_or_default());
        self.parts.metrics.users_not_migrated.inc_by(u64::try_from(failed).unwrap_or_default());
        Ok(())
    }

    /// Writes the states of items and counts what that changes.
    async fn settle(&self, tx: &mut Tx, lease: &Lease, results: Vec<Settled>) -> Result<Change> {
        let mut change = Change::default();
        if results.is_empty() {
            return Ok(change);
        }
        let settled = store::settle(tx, lease.migration_id, &results).await?;
        for Settled { item_id, user_id, state, reason } in results {
            if !settled.contains(&item_id) || state.is_open() {
                continue;
            }
            change.finished += 1;
            match state {
                ItemState::Linked => change.done += 1,
                ItemState::Skipped => change.skipped += 1,
                _ => change.failed += 1,
            }
            if state == ItemState::NeedsReview {
                change.needs_review += 1;
            }
            if let Some(reason) = reason.filter(|_| state != ItemState::Skipped) {
                change.failures.push(Failure { item_id, user_id, reason });
            }
        }
        Ok(change)
    }

    /// Writes the job's new counts and the event of the step. The job is locked by this transaction.
    async fn tell(&self, tx: &mut Tx, lease: &Lease, mut job: Job, event: Event, change: Change) -> Result<()> {
        let counts = &mut job.counts;
        counts.pending -= change.finished;
        counts.done += change.done;
        counts.failed += change.failed;
        counts.skipped += change.skipped;
        counts.needs_review += change.needs_review;
        job.step += 1;
        if let Some(state) = change.state {
            job.state = state;
        }
        if let Some(wait) = change.waits_for {
            job.waiting_for = Some(wait);
        } else if change.clears_wait {
            job.waiting_for = None;
        }
        store::advance(tx, lease, &job, change.finished > 0).await?;
        let step = Step::of(&job).finishing(change.finished, change.failures);
        self.parts.recorder.record(tx, step.event(event, &job)).await?;
        Ok(())
    }

    /// Ends the job if no item is open. None when there is still something to do.
    async fn complete(&self, lease: &Lease) -> Result<Option<End>> {
        let mut tx = self.parts.db.begin(Scope::Platform).await?;
        let Some(job) = store::lock(&mut tx, lease).await? else { return Ok(Some(End::Lost)) };
        if job.counts.pending > 0 || job.state != MigrationState::Running {
            return Ok((job.state != MigrationState::Running).then_some(End::Over));
        }
        let counts = job.counts;
        let event = Event::by_system(EventType::MigrationCompleted, lease.migration_id);
        let change = Change { state: Some(MigrationState::Completed), clears_wait: true, ..Change::default() };
        self.tell(&mut tx, lease, job, event, change).await?;
        tx.commit().await?;
        tracing::info!(
            event = "user_migration_completed",
            migration_id = %lease.migration_id,
            total = counts.total,
            done = counts.done,
            failed = counts.failed,
            skipped = counts.skipped,
            "a migration ended"
        );
        Ok(Some(End::Over))
    }
}

/// What a step changes.
#[derive(Debug, Default)]
struct Change {
    finished: i64,
    done: i64,
    failed: i64,
    skipped: i64,
    needs_review: i64,
    failures: Vec<Failure>,
    state: Option<MigrationState>,
    waits_for: Option<WaitReason>,
    clears_wait: bool,
}

fn linked_event(lease: &Lease, item: &Item) -> Event {
    Event::by_system(EventType::MigrationItemLinked, lease.migration_id)
        .tenant(item.tenant_id)
        .target("user", item.person.uuid)
        .detail("migration_id", lease.migration_id)
        .detail("item_id", item.item_id)
        .detail("kanidm_user_id", item.person.uuid)
}

/// How long a job is deferred that was deferred so often in a row.
fn backoff(waits: i32) -> Duration {
    let doublings = u32::try_from(waits - 1).unwrap_or(0).min(16);
    FIRST_BACKOFF.saturating_mul(1 << doublings).min(LONGEST_BACKOFF)
}

/// The tenants of whose groups one was deleted in Kanidm: their items wait until it is restored.
fn deleted(groups: &GroupMap) -> impl Iterator<Item = Uuid> {
    groups.iter().filter(|(_, groups)| matches!(groups, TenantGroups::Deleted)).map(|(tenant, _)| *tenant)
}

/// The trouble that a failure to make groups means; anything but Kanidm's trouble is passed on.
fn trouble(fault: Fault) -> Result<Trouble> {
    match fault.cause().and_then(|cause| cause.downcast_ref::<KanidmError>()) {
        Some(cause) => Ok(Trouble::of(cause.clone())),
        None => Err(fault),
    }
}
