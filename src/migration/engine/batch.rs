//! One batch: what may be there already is looked up, the rest is created, all are grouped, and what became of each is
//! written with one transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::create::measure;
use super::isolation::{Fate, Isolation};
use super::item::{Item, Stage, Work};
use super::trouble::{Halt, Trouble};
use super::{Engine, Lease};
use crate::fault::Result;
use crate::kanidm::{KanidmError, Person};
use crate::migration::vocabulary::{ItemReason, ItemState};

/// The groups of a tenant in Kanidm.
#[derive(Clone, Copy, Debug)]
pub(super) enum TenantGroups {
    /// Groups of members and of administrators.
    Ours(Uuid, Uuid),
    /// One of them is not ours.
    Foreign,
    /// One of them was deleted in Kanidm, where it can be restored.
    Deleted,
}

/// The groups of every active tenant that a job concerns.
pub(super) type GroupMap = HashMap<Uuid, TenantGroups>;

impl Engine {
    /// Takes the items of a batch as far as they come. Trouble with Kanidm is returned after what was done before it has
    /// been written.
    pub(super) async fn batch(&self, lease: &Lease, groups: &GroupMap, items: Vec<Item>) -> Result<Option<Trouble>> {
        let mut works: Vec<Work> = items.into_iter().map(|item| first_stage(item, groups)).collect();
        let trouble = match self.advance(lease, &mut works, groups).await {
            Ok(()) => None,
            Err(Halt::Trouble(trouble)) => Some(trouble),
            Err(Halt::Fault(fault)) => return Err(fault),
        };
        self.finish(lease, works, trouble.is_none()).await?;
        Ok(trouble)
    }

    async fn advance(&self, lease: &Lease, works: &mut [Work], groups: &GroupMap) -> Result<(), Halt> {
        self.reconcile(works).await?;
        let missing: Vec<Item> =
            works.iter().filter(|work| work.stage == Stage::Intended).map(|work| work.item.clone()).collect();
        let mut decided: HashMap<Uuid, Stage> = HashMap::with_capacity(missing.len());
        let created = self
            .create(&missing, |item_id, stage| {
                decided.insert(item_id, stage);
            })
            .await;
        for work in works.iter_mut() {
            if let Some(stage) = decided.get(&work.item.item_id) {
                work.stage = *stage;
            }
        }
        created?;
        self.group(lease, works, groups).await
    }

    /// Finds out which persons an earlier attempt made. Without this, a lost reply to a batch would have to be followed up
    /// person by person.
    async fn reconcile(&self, works: &mut [Work]) -> Result<(), Trouble> {
        let doubtful: HashSet<Uuid> = works
            .iter()
            .filter(|work| work.item.had_intent && !matches!(work.stage, Stage::Out(..)))
            .map(|work| work.item.person.uuid)
            .collect();
        if doubtful.is_empty() {
            return Ok(());
        }
        let persons =
            self.parts.kanidm.persons(&doubtful.iter().copied().collect::<Vec<_>>()).await.map_err(Trouble::of)?;
        for work in works.iter_mut().filter(|work| doubtful.contains(&work.item.person.uuid)) {
            let person = persons.get(&work.item.person.uuid);
            work.stage = self.found(&work.item, work.stage, person).await?;
        }
        Ok(())
    }

    async fn found(&self, item: &Item, stage: Stage, person: Option<&Person>) -> Result<Stage, Trouble> {
        match (stage, person) {
            (Stage::Intended, Some(person)) => self.adopt(item, person).await,
            // Nothing was made, so nothing has to be made for a user who is no longer the one it was meant for.
            (Stage::Intended, None) => Ok(item.change.map_or(Stage::Intended, Stage::skipped)),
            (stage, Some(_)) => Ok(stage),
            (_, None) => Ok(Stage::failed(ItemReason::PersonDeleted)),
        }
    }

    /// Puts the persons into their groups, one call for each group and batch. What is projected is compared with the
    /// rights once more and recorded first: see [`Engine::project`].
    async fn group(&self, lease: &Lease, works: &mut [Work], groups: &GroupMap) -> Result<(), Halt> {
        let mut members: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
        for (place, group) in self.project(lease, works, groups).await? {
            members.entry(group).or_default().push(place);
        }
        for (group, places) in members {
            self.join(group, places, works).await?;
        }
        for work in works.iter_mut().filter(|work| work.stage == Stage::Exists) {
            work.stage = Stage::Grouped;
        }
        Ok(())
    }

    async fn join(&self, group: Uuid, places: Vec<usize>, works: &mut [Work]) -> Result<(), Trouble> {
        let living: Vec<usize> = places.into_iter().filter(|place| works[*place].stage == Stage::Exists).collect();
        let size = self.pace(|paces| paces.join.size());
        let mut isolation = Isolation::new(living, size);
        while let Some(mut part) = isolation.next()? {
            let mut answer = self.add_members(group, &part, works).await;
            if answer == Err(KanidmError::ReferenceMissing) {
                // One of the persons was deleted since it was made.
                self.without_deleted(&mut part, works).await?;
                answer = if part.is_empty() { Ok(()) } else { self.add_members(group, &part, works).await };
            }
            // It was there when the pass began.
            if answer == Err(KanidmError::NotFound) {
                return Err(Trouble::group_deleted(KanidmError::NotFound));
            }
            for (place, fate) in isolation.answered(part, answer)? {
                let (Fate::Refused(error) | Fate::Unclear(error)) = fate else { continue };
                let item_id = works[place].item.item_id;
                tracing::warn!(event = "kanidm_refused_member", %group, %item_id, cause = %error, "a member was refused");
                works[place].stage = Stage::review(ItemReason::AnswerUnclear);
            }
        }
        Ok(())
    }

    async fn add_members(&self, group: Uuid, part: &[usize], works: &[Work]) -> Result<(), KanidmError> {
        let uuids: Vec<Uuid> = part.iter().map(|place| works[*place].item.person.uuid).collect();
        let limit = self.pace(|paces| paces.join.limit(uuids.len()));
        let (kanidm, since) = (self.parts.kanidm.within(limit), self.parts.context.clock.stopwatch());
        let answer = kanidm.add_members(group, &uuids).await;
        let took = since.elapsed();
        self.pace(|paces| measure(&mut paces.join, uuids.len(), limit, took, &answer));
        answer
    }

    /// Takes those out whose persons are not there any more.
    async fn without_deleted(&self, part: &mut Vec<usize>, works: &mut [Work]) -> Result<(), Trouble> {
        let uuids: Vec<Uuid> = part.iter().map(|place| works[*place].item.person.uuid).collect();
        let present = self.parts.kanidm.persons(&uuids).await.map_err(Trouble::of)?;
        part.retain(|place| {
            let work = &mut works[*place];
            let is_there = present.contains_key(&work.item.person.uuid);
            if !is_there {
                work.stage = Stage::failed(ItemReason::PersonDeleted);
            }
            is_there
        });
        Ok(())
    }

    /// Writes what became of the items, with the counts, the links of users and the events of all of it.
    async fn finish(&self, lease: &Lease, works: Vec<Work>, is_sound: bool) -> Result<()> {
        let mut results = Vec::with_capacity(works.len());
        let mut linking = Vec::new();
        for work in works {
            match work.stage {
                Stage::Intended | Stage::Lost => {}
                Stage::Exists => results.push(work.item.becomes(ItemState::Created, None)),
                Stage::Out(state, reason) => results.push(work.item.becomes(state, Some(reason))),
                Stage::Grouped => linking.push(work.item),
            }
        }
        self.write(lease, results, linking, is_sound).await
    }
}

/// Where an item stands when it is taken up.
fn first_stage(item: Item, groups: &GroupMap) -> Work {
    let stage = match (groups.get(&item.tenant_id), item.state) {
        // Such an item is not taken up; if it were, nothing would be written of it.
        (Some(TenantGroups::Deleted), _) => Stage::Lost,
        (Some(TenantGroups::Foreign), _) => Stage::failed(ItemReason::GroupNotOurs),
        // The tenant was switched off since the plan was made.
        (None, ItemState::Created | ItemState::Grouped) => Stage::review(ItemReason::UserChangedMeanwhile),
        (None, _) => Stage::skipped(ItemReason::UserChanged),
        (_, ItemState::Created | ItemState::Grouped) => Stage::Exists,
        _ => Stage::Intended,
    };
    Work { item, stage }
}
