//! What is put into groups of Kanidm: rights are compared once more at the last moment before Kanidm hears of them, and
//! recorded in the same transaction. A change that ends a right later finds it written, and from then on the group gives
//! nothing back: see `kanidm_projections`.

use uuid::Uuid;

use super::batch::{GroupMap, TenantGroups};
use super::item::{Stage, Work};
use super::{Engine, Lease, store};
use crate::db::Scope;
use crate::fault::Fault;
use crate::migration::groups::GroupRole;
use crate::migration::jobs::by_index;
use crate::migration::vocabulary::ItemReason;

impl Engine {
    /// The indexes of works that may be put into groups, with the groups. Items whose user is not as planned any more go
    /// no further; without the lease nothing does.
    pub(super) async fn project(
        &self,
        lease: &Lease,
        works: &mut [Work],
        groups: &GroupMap,
    ) -> Result<Vec<(usize, Uuid)>, Fault> {
        let indexes: Vec<usize> = (0..works.len()).filter(|index| works[*index].stage == Stage::Exists).collect();
        if indexes.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.parts.db.begin(Scope::Platform).await?;
        if store::lock(&mut tx, lease).await?.is_none() {
            indexes.iter().for_each(|index| works[*index].stage = Stage::Lost);
            return Ok(Vec::new());
        }
        by_index(&mut tx).await?;
        let items: Vec<_> = indexes.iter().map(|index| &works[*index].item).collect();
        // From here to the commit their rights are locked.
        let standings = store::hold_rights(&mut tx, &items).await?;
        let mut projections = Vec::new();
        let mut written = Vec::new();
        for index in indexes {
            let work = &mut works[index];
            let standing = standings.get(&work.item.item_id).filter(|standing| standing.change.is_none());
            let Some(standing) = standing else {
                work.stage = Stage::review(ItemReason::UserChangedMeanwhile);
                continue;
            };
            let Some(TenantGroups::Ours(users, admins)) = groups.get(&work.item.tenant_id) else { continue };
            let held =
                [(GroupRole::Member, *users, standing.is_member), (GroupRole::Admin, *admins, standing.is_admin)];
            for (role, group, _) in held.into_iter().filter(|(_, _, holds)| *holds) {
                projections.push((index, group));
                written.push((work.item.person.uuid, work.item.tenant_id, group, role));
            }
        }
        store::write_projections(&mut tx, &written).await?;
        tx.commit().await?;
        Ok(projections)
    }
}
