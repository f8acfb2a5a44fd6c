//! The two Kanidm groups of each tenant. A group is ours when it has the uuid that was recorded before it was made,
//! and never because of its name: anybody who may make groups could have taken that first.

mod store;

use std::collections::HashMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

pub use self::store::{GroupRole, Standing, TenantGroup};
use crate::access::Call;
use crate::audit::{Event, EventType, Recorder};
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::{Kanidm, KanidmError};
use crate::shared::Core;

/// Groups that are looked at in Kanidm concurrently.
const AT_ONCE: usize = 4;

/// What the refusal for a group that was deleted in Kanidm says under `kanidm`.
const RECYCLED: &str = "recycled";

/// Makes and confirms groups.
#[derive(Clone, Debug)]
pub struct Groups {
    db: Db,
    context: Context,
    recorder: Recorder,
    kanidm: Option<Kanidm>,
}

impl Groups {
    /// Groups in this Kanidm.
    pub fn new(core: &Core, kanidm: Option<Kanidm>) -> Self {
        let Core { db, context, recorder, .. } = core.clone();
        Self { db, context, recorder, kanidm }
    }

    /// Makes what is missing for these tenants, or for every active one, and confirms what is there. Repeating it does no
    /// harm, whatever happened the first time. A group that is not ours, or was deleted, does not keep the others from
    /// being made: its standing says so.
    ///
    /// # Errors
    /// `NOT_FOUND` for a tenant that is not active; `KANIDM_NOT_CONFIGURED`, `KANIDM_UNAVAILABLE`, `KANIDM_REFUSED`.
    pub async fn sync(&self, call: &Call, scope: Scope, tenants: &[Uuid]) -> Result<Vec<TenantGroup>> {
        let kanidm = configured(self.kanidm.as_ref())?;
        let mut tx = self.db.begin(scope).await?;
        let tenants = store::tenants(&mut tx, tenants).await?;
        let wanted: Vec<(Uuid, GroupRole, Uuid, String)> = tenants
            .iter()
            .flat_map(|tenant| {
                [GroupRole::Member, GroupRole::Admin]
                    .map(|role| (tenant.tenant_id, role, self.context.new_id(), role.group_name(&tenant.slug)))
            })
            .collect();
        store::choose(&mut tx, &wanted).await?;
        let recorded = store::recorded(&mut tx, &tenants).await?;
        // The uuids are durable before Kanidm hears of them.
        tx.commit().await?;

        let groups: Vec<TenantGroup> =
            stream::iter(recorded).map(|group| ensure(kanidm, group)).buffered(AT_ONCE).try_collect().await?;
        self.confirm(call, scope, &groups).await?;
        Ok(groups)
    }

    /// What [`Groups::sync`] would do. Changes nothing.
    ///
    /// # Errors
    /// As [`Groups::sync`].
    pub async fn inspect(&self, scope: Scope, tenants: &[Uuid]) -> Result<Vec<TenantGroup>> {
        let kanidm = configured(self.kanidm.as_ref())?;
        let mut tx = self.db.begin(scope).await?;
        let tenants = store::tenants(&mut tx, tenants).await?;
        let mut recorded: HashMap<(Uuid, GroupRole), TenantGroup> =
            store::recorded(&mut tx, &tenants).await?.into_iter().map(|g| ((g.tenant_id, g.role), g)).collect();
        drop(tx);
        let groups = tenants.iter().flat_map(|tenant| [(tenant, GroupRole::Member), (tenant, GroupRole::Admin)]);
        let groups: Vec<TenantGroup> = groups
            .map(|(tenant, role)| {
                recorded.remove(&(tenant.tenant_id, role)).unwrap_or_else(|| TenantGroup {
                    tenant_id: tenant.tenant_id,
                    slug: tenant.slug.clone(),
                    role,
                    uuid: None,
                    name: role.group_name(&tenant.slug),
                    standing: Standing::Created,
                })
            })
            .collect();
        stream::iter(groups).map(|group| look(kanidm, group)).buffered(AT_ONCE).try_collect().await
    }

    async fn confirm(&self, call: &Call, scope: Scope, groups: &[TenantGroup]) -> Result<()> {
        let ours: Vec<Uuid> =
            groups.iter().filter(|group| group.standing.is_usable()).filter_map(|group| group.uuid).collect();
        let mut tx = self.db.begin(scope).await?;
        let news = store::confirm(&mut tx, &ours).await?;
        let mut by_tenant: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
        for (tenant_id, uuid) in news {
            by_tenant.entry(tenant_id).or_default().push(uuid);
        }
        let events = by_tenant.into_iter().map(|(tenant_id, uuids)| {
            let event = match call.principal {
                Some(_) => Event::new(EventType::TenantGroupsSynced, call),
                None => Event::by_system(EventType::TenantGroupsSynced, call.correlation_id),
            };
            event.tenant(tenant_id).target("tenant", tenant_id).detail("kanidm_groups", uuids)
        });
        self.recorder.record_all(&mut tx, events.collect::<Vec<_>>()).await?;
        tx.commit().await
    }
}

/// The refusal that names the groups which are not ours or were deleted, if there are any.
///
/// # Errors
/// `GROUP_NOT_OURS`; `KANIDM_REFUSED` for groups that were deleted.
pub fn all_usable(groups: &[TenantGroup]) -> Result<()> {
    let names = |standing| {
        let of = groups.iter().filter(|group| group.standing == standing).map(|group| group.name.as_str());
        Some(of.collect::<Vec<_>>().join(",")).filter(|names| !names.is_empty())
    };
    if let Some(foreign) = names(Standing::NotOurs) {
        let text = "Kanidm has groups with the names of ours that Sidle did not make; they are never adopted.";
        return Err(Fault::new(Reason::GroupNotOurs, text).with("groups", foreign));
    }
    match names(Standing::Deleted) {
        None => Ok(()),
        Some(deleted) => {
            let text = "Groups of tenants were deleted in Kanidm, where their uuids are taken and cannot be seen: restore \
                        them there.";
            Err(Fault::new(Reason::KanidmRefused, text).with("kanidm", RECYCLED).with("groups", deleted))
        }
    }
}

/// The Kanidm that is configured, or what there is only with one.
pub(super) fn configured<T>(kanidm: Option<&T>) -> Result<&T> {
    kanidm.ok_or_else(|| Fault::new(Reason::KanidmNotConfigured, "No Kanidm is configured."))
}

/// Looks whether the group is there under its uuid, or its name is another's.
async fn look(kanidm: &Kanidm, mut group: TenantGroup) -> Result<TenantGroup> {
    let by_uuid = match group.uuid {
        Some(uuid) => kanidm.group(&uuid.to_string()).await?,
        None => None,
    };
    let found = match by_uuid {
        Some(found) => Some(found),
        None => kanidm.group(&group.name).await?,
    };
    group.standing = match found {
        // Also when it is found by name only: another replica may have made it between the two questions.
        Some(found) if Some(found.uuid) == group.uuid => Standing::Confirmed,
        Some(_) => Standing::NotOurs,
        None => Standing::Created,
    };
    Ok(group)
}

/// Makes the group if it is not there.
async fn ensure(kanidm: &Kanidm, group: TenantGroup) -> Result<TenantGroup> {
    let mut group = look(kanidm, group).await?;
    let (Standing::Created, Some(uuid)) = (group.standing, group.uuid) else { return Ok(group) };
    let description = format!("Made by Sidle for tenant {}; members are managed there", group.slug);
    match kanidm.create_group(uuid, &group.name, &description).await {
        Ok(()) => Ok(group),
        // Another was faster: a replica, with the same uuid, or another client, with the same name.
        Err(KanidmError::UuidTaken | KanidmError::Duplicate(_)) => {
            group = look(kanidm, group).await?;
            if group.standing == Standing::Created {
                group.standing = Standing::Deleted;
            }
            Ok(group)
        }
        Err(error) => Err(error.into()),
    }
}
