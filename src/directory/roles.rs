//! Roles.

use serde_json::json;
use uuid::Uuid;

pub(super) use super::store::roles::Role;
use super::{Change, admins, change, names, store};
use crate::access::{delegation, etag};
use crate::audit::{Event, EventType};
use crate::fault::{Fault, Result};

const UPDATE: &str = "sidle.v1.DirectoryService/UpdateRole";

/// The permission to give roles that the giver does not have.
pub(super) const ASSIGN: &str = "roles.assign";

/// What is said about a new role.
pub(super) struct NewRole {
    pub tenant_id: Option<Uuid>,
    pub name: String,
    pub description: String,
    pub permissions: Vec<String>,
    pub is_platform: bool,
    pub is_admin: bool,
}

/// What is changed about a role; none leaves it as it is.
#[derive(Default)]
pub(super) struct Edit {
    pub name: Option<String>,
    pub description: Option<String>,
    pub permissions: Option<Vec<String>>,
    pub is_admin: Option<bool>,
}

/// The shared role that the group of a tenant's administrators in Kanidm gives.
const OF_ADMINS: &str = "admin";

/// What a user may come to do by a role: what it permits and, where it makes an administrator, what the tenant's group
/// of administrators gives in the end.
pub(super) async fn effective_permissions(
    change: &mut Change<'_>,
    is_admin: bool,
    permissions: &[String],
) -> Result<Vec<String>> {
    let mut all = permissions.to_vec();
    if is_admin {
        let group = store::roles::shared(&mut change.tx, OF_ADMINS).await?;
        all.extend(group.ok_or_else(|| Fault::internal("the role of administrators is not there"))?.permissions);
    }
    Ok(all)
}

/// Refuses a name that could be taken for that of a role that all tenants share or that the platform has, whatever the
/// case, the separators and the letters that look alike. The very same name is for the unique index to refuse.
async fn unmistakable(change: &mut Change<'_>, name: &str, tenant: Option<Uuid>, but: Option<Uuid>) -> Result<()> {
    let likeness = names::likeness(name);
    for known in store::roles::names_for_all(&mut change.tx).await? {
        let is_same = tenant.is_none() && known.name == name;
        if Some(known.role_id) != but && !is_same && names::likeness(&known.name) == likeness {
            return Err(Fault::field(
                "name",
                "must not be, nor look like, the name of a role that is not the tenant's own",
            ));
        }
    }
    Ok(())
}

/// Creates a role: a tenant's own or, without a tenant, for all.
pub(super) async fn create(change: &mut Change<'_>, new: NewRole) -> Result<Role> {
    match new.tenant_id {
        Some(_) if new.is_platform => {
            return Err(Fault::field("is_platform", "must not be set for a tenant's own role"));
        }
        Some(tenant) => {
            change.tenant(Some(tenant))?;
            store::tenants::hold(&mut change.tx, tenant).await?.ok_or_else(|| Fault::not_found("tenant"))?;
        }
        None => change.platform_only()?,
    }
    let given = effective_permissions(change, new.is_admin, &new.permissions).await?;
    delegation::covers(change.principal()?, new.tenant_id, &given)?;
    unmistakable(change, &new.name, new.tenant_id, None).await?;
    let role = Role {
        role_id: change.context().new_id(),
        tenant_id: new.tenant_id,
        name: new.name,
        description: new.description,
        permissions: new.permissions,
        is_platform: new.is_platform,
        is_admin: new.is_admin,
        is_built_in: false,
        version: 1,
        created_at: change.now,
        updated_at: change.now,
    };
    store::roles::insert(&mut change.tx, &role).await?;
    let event = about(change, EventType::RoleCreated, &role).detail("new", facts(&role));
    change.record(event).await?;
    Ok(role)
}

/// Changes a role. With its permissions the tokens of every holder end.
pub(super) async fn update(change: &mut Change<'_>, id: Uuid, version: i64, edit: Edit) -> Result<Role> {
    let guard = admins::guard(change).await?;
    let before = for_change(change, id, Some(version)).await?;
    let after = Role {
        name: edit.name.unwrap_or_else(|| before.name.clone()),
        description: edit.description.unwrap_or_else(|| before.description.clone()),
        permissions: edit.permissions.unwrap_or_else(|| before.permissions.clone()),
        is_admin: edit.is_admin.unwrap_or(before.is_admin),
        ..before.clone()
    };
    let given = effective_permissions(change, after.is_admin, &after.permissions).await?;
    delegation::covers(change.principal()?, after.tenant_id, &given)?;
    let renamed = before.name != after.name;
    if renamed {
        // Another name is another role to the services that read it, so that renaming one gives that role.
        delegation::covers(change.principal()?, after.tenant_id, &[ASSIGN.to_owned()])?;
        unmistakable(change, &after.name, after.tenant_id, Some(id)).await?;
    }
    // What the name means to other services is a right as well.
    let rights_changed = renamed || before.permissions != after.permissions;
    if rights_changed || after.is_admin && !before.is_admin {
        change.step_up_of_people(UPDATE, Some(id)).await?;
    }
    store::roles::update(&mut change.tx, &after).await?;
    guard.still_has_one(change).await?;
    let event =
        about(change, EventType::RoleUpdated, &after).detail("old", facts(&before)).detail("new", facts(&after));
    change.record(event).await?;
    // A user who ceases to be an administrator also loses what the group of administrators gave.
    if rights_changed || before.is_admin != after.is_admin {
        end_tokens_of_holders(change, &after).await?;
    }
    store::roles::by_id(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("role"))
}

/// Deletes a role that is assigned to no user.
pub(super) async fn delete(change: &mut Change<'_>, id: Uuid, version: Option<i64>) -> Result<()> {
    let role = for_change(change, id, version).await?;
    store::roles::delete(&mut change.tx, id).await?;
    let event = about(change, EventType::RoleDeleted, &role).detail("old", facts(&role));
    change.record(event).await
}

/// The role as the caller may change it: neither a built-in one, nor one with permissions that the caller lacks.
async fn for_change(change: &mut Change<'_>, id: Uuid, version: Option<i64>) -> Result<Role> {
    let seen = store::roles::by_id(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("role"))?;
    if seen.is_built_in {
        return Err(Fault::field("role_id", "must not be a role that Sidle came with"));
    }
    if seen.tenant_id.is_none() {
        change.platform_only()?;
    }
    let role = store::roles::lock(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("role"))?;
    delegation::covers(change.principal()?, role.tenant_id, &role.permissions)?;
    if version.is_some_and(|version| version != role.version) {
        return Err(etag::mismatch("role"));
    }
    Ok(role)
}

async fn end_tokens_of_holders(change: &mut Change<'_>, role: &Role) -> Result<()> {
    let mut after = Uuid::nil();
    loop {
        let (tx, id) = (&mut change.tx, role.role_id);
        let users = match role.is_platform {
            true => store::tokens::holders_of_platform_role(tx, id, after, change::CHUNK).await?,
            false => store::tokens::holders_of_role(tx, id, after, change::CHUNK).await?,
        };
        let Some(last) = users.last() else { return Ok(()) };
        after = *last;
        let event = about(change, EventType::RoleUpdated, role);
        let event = change.end_tokens_of(&users, event).await?;
        change.record(event).await?;
    }
}

/// What the log may keep for good: names that administrators give to roles are not about people.
fn facts(role: &Role) -> serde_json::Value {
    json!({ "name": role.name, "permissions": role.permissions, "is_admin": role.is_admin })
}

fn about(change: &Change<'_>, event: EventType, role: &Role) -> Event {
    Event::new(event, change.call).tenant(role.tenant_id).target("role", role.role_id)
}
