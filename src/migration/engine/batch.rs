//! One batch: what may be there already is looked up, the rest is created, all are grouped, and what became of each is
//! written with one transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::create::Trouble;
use super::item::{Item, Stage, Work};
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
}

/// The groups of every active tenant that a job concerns.
pub(super) type GroupMap = HashMap<Uuid, TenantGroups>;

impl Engine {
    /// Takes the items of a batch as far as they come. Trouble with Kanidm is returned after what was done before it has
    /// been written.
    pub(super) async fn batch(&self, lease: &Lease, groups: &GroupMap, items: Vec<Item>) -> Result<Option<Trouble>> {
        let mut works: Vec<Work> = items.into_iter().map(|item| first_stage(item, groups)).collect();
        let trouble = self.advance(&mut works, groups).await.err();
        self.finish(lease, works, trouble.is_none()).await?;
        Ok(trouble)
    }

    async fn advance(&self, works: &mut [Work], groups: &GroupMap) -> Result<(), Trouble> {
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
        self.group(works, groups).await
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
        let persons = self
            .parts
            .kanidm
            .persons(&doubtful.iter().copied().collect::<Vec<_>>())
            .await
            .map_err(Trouble::of_question)?;
        for work in works.iter_mut().filter(|work| doubtful.contains(&work.item.person.uuid)) {
            let person = persons.get(&work.item.person.uuid);
            work.stage = self.found(&work.item, work.stage, person).await?;
        }
        Ok(())
    }

    async fn found(&self, item: &Item, stage: Stage, person: Option<&Person>) -> Result<Stage, Trouble> {
        match (stage, person) {
            (Stage::Intended, Some(person)) => self.adopt(item, person).await,
            // Nothing was made, so nothing has to be made for somebody who is no longer the one it was meant for.
            (Stage::Intended, None) => Ok(item.change.map_or(Stage::Intended, Stage::skipped)),
            (stage, Some(_)) => Ok(stage),
            (_, None) => Ok(Stage::failed(ItemReason::PersonDeleted)),
        }
    }

    /// Puts the persons into their groups, one call for each group.
    async fn group(&self, works: &mut [Work], groups: &GroupMap) -> Result<(), Trouble> {
        let mut members: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
        for (place, work) in works.iter().enumerate().filter(|(_, work)| work.stage == Stage::Exists) {
            if let Some(TenantGroups::Ours(users, admins)) = groups.get(&work.item.tenant_id) {
                members.entry(*users).or_default().push(place);
                if work.item.is_admin {
                    members.entry(*admins).or_default().push(place);
                }
            }
        }
        for (group, places) in members {
            self.join(group, &places, works).await?;
        }
        for work in works.iter_mut().filter(|work| work.stage == Stage::Exists) {
            work.stage = Stage::Grouped;
        }
        Ok(())
    }

    async fn join(&self, group: Uuid, places: &[usize], works: &mut [Work]) -> Result<(), Trouble> {
        let uuids = |works: &[Work]| -> Vec<Uuid> {
            let living = places.iter().map(|place| &works[*place]).filter(|work| work.stage == Stage::Exists);
            living.map(|work| work.item.person.uuid).collect()
        };
        let mut result = self.parts.kanidm.add_members(group, &uuids(works)).await;
        if result == Err(KanidmError::ReferenceMissing) {
            // Somebody deleted one of the persons since it was made.
            let present = self.parts.kanidm.persons(&uuids(works)).await.map_err(Trouble::of_question)?;
            for place in places {
                let work = &mut works[*place];
                if work.stage == Stage::Exists && !present.contains_key(&work.item.person.uuid) {
                    work.stage = Stage::failed(ItemReason::PersonDeleted);
                }
            }
            let left = uuids(works);
            result = if left.is_empty() { Ok(()) } else { self.parts.kanidm.add_members(group, &left).await };
        }
        let Err(error) = result else { return Ok(()) };
        let error = match Trouble::read(error) {
            Ok(trouble) => return Err(trouble),
            Err(error) => error,
        };
        tracing::warn!(event = "kanidm_refused_members", %group, cause = %error, "members were refused");
        for place in places {
            let work = &mut works[*place];
            if work.stage == Stage::Exists {
                work.stage = Stage::failed(ItemReason::GroupNotOurs);
            }
        }
        Ok(())
    }

    /// Writes what became of the items, with the counts, the links of users and the events that tell all of it.
    async fn finish(&self, lease: &Lease, works: Vec<Work>, is_sound: bool) -> Result<()> {
        let mut results = Vec::with_capacity(works.len());
        let mut linking = Vec::new();
        for work in works {
            match work.stage {
                Stage::Intended => {}
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
        (Some(TenantGroups::Foreign), _) => Stage::failed(ItemReason::GroupNotOurs),
        // The tenant was switched off since the plan was made.
        (None, ItemState::Created | ItemState::Grouped) => Stage::review(ItemReason::UserChangedMeanwhile),
        (None, _) => Stage::skipped(ItemReason::UserChanged),
        (_, ItemState::Created | ItemState::Grouped) => Stage::Exists,
        _ => Stage::Intended,
    };
    Work { item, stage }
}
