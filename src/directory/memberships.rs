//! Memberships: roles of users in tenants and on the platform.

use uuid::Uuid;

pub(super) use super::store::memberships::{Membership, Position};
use super::store::roles::Role;
use super::{Change, admins, delegation, roles, store};
use crate::audit::{Event, EventType};
use crate::db::{Scope, Tx};
use crate::fault::{Fault, Reason, Result};

const CREATE: &str = "sidle.v1.DirectoryService/CreateMembership";
/// The shared role that a new user has when nothing else is said.
const MEMBER: &str = "user";

/// The roles that a new user gets in the home tenant: those named, or the plain member's.
pub(super) async fn roles_for_new_user(change: &mut Change<'_>, tenant: Uuid, named: &[Uuid]) -> Result<Vec<Uuid>> {
    if named.is_empty() {
        let role = store::roles::shared(&mut change.tx, MEMBER).await?.ok_or_else(|| Fault::not_found("role"))?;
        return Ok(vec![role.role_id]);
    }
    change.principal()?.authorize("memberships.write", Some(tenant))?;
    let mut roles = named.to_vec();
    roles.sort_unstable();
    roles.dedup();
    for role_id in &roles {
        grantable(change, *role_id, Some(tenant)).await?;
    }
    Ok(roles)
}

/// The role, if it fits the place and holds nothing that the caller lacks there.
async fn grantable(change: &mut Change<'_>, role_id: Uuid, place: Option<Uuid>) -> Result<Role> {
    let role = store::roles::by_id(&mut change.tx, role_id).await?.ok_or_else(|| Fault::not_found("role"))?;
    match place {
        None if !role.is_platform => {
            return Err(Fault::field("role_id", "must be a platform role when no tenant is named"));
        }
        Some(_) if role.is_platform => return Err(Fault::field("role_id", "must not be a platform role in a tenant")),
        Some(tenant) if role.tenant_id.is_some_and(|owner| owner != tenant) => return Err(Fault::not_found("role")),
        _ => {}
    }
    let given = roles::all_it_gives(change, role.is_admin, &role.permissions).await?;
    delegation::covers(change.principal()?, place, &given)?;
    Ok(role)
}

/// Gives a user a role in a tenant or, without one, on the platform.
pub(super) async fn create(
    change: &mut Change<'_>,
    user_id: Uuid,
    place: Option<Uuid>,
    role_id: Uuid,
) -> Result<Membership> {
    match (place, change.scope) {
        (None, _) => change.platform_only()?,
        (Some(tenant), Scope::Tenant(own)) if tenant != own => return Err(Fault::not_found("tenant")),
        (Some(tenant), _) => {
            store::tenants::hold(&mut change.tx, tenant).await?.ok_or_else(|| Fault::not_found("tenant"))?;
        }
    }
    let user = store::users::by_id(&mut change.tx, user_id, false).await?.ok_or_else(|| Fault::not_found("user"))?;
    let role = grantable(change, role_id, place).await?;
    if place.is_none() {
        // The row before the proof: whoever changes the user's credentials voids their proofs in this order.
        store::tokens::lock_users(&mut change.tx, &[user_id]).await?;
        change.step_up(CREATE, Some(user_id)).await?;
    }
    let id = change.context().new_id();
    let now = change.now;
    match place {
        Some(tenant) => store::memberships::insert(&mut change.tx, id, tenant, user.user_id, role_id, now).await?,
        None => store::memberships::insert_on_platform(&mut change.tx, id, user.user_id, role_id, now).await?,
    }
    let kind = if place.is_some() { EventType::MembershipCreated } else { EventType::PlatformRoleGranted };
    let event = about(change, kind, place, user_id, role_id).detail("role", role.name);
    let event = change.end_tokens(&[user_id], event).await?;
    change.record(event).await?;
    store::memberships::by_id(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("membership"))
}

/// Takes a role from a user.
pub(super) async fn delete(change: &mut Change<'_>, id: Uuid) -> Result<()> {
    let guard = admins::guard(change).await?;
    let membership =
        store::memberships::by_id(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("membership"))?;
    let place = membership.tenant_id;
    delegation::covers(change.principal()?, place, &membership.permissions)?;
    if place.is_none() && membership.is_master_admin {
        return Err(admins::master());
    }
    let kind = if place.is_some() { EventType::MembershipDeleted } else { EventType::PlatformRoleRevoked };
    let event = about(change, kind, place, membership.user_id, membership.role_id)
        .detail("role", &membership.role_name)
        .detail("source", membership.source.as_str());
    // Before the row goes: it is what lets a tenant end the tokens of a member who is at home elsewhere.
    let event = change.end_tokens(&[membership.user_id], event).await?;
    if !store::memberships::delete(&mut change.tx, &membership).await? {
        return Err(Fault::not_found("membership"));
    }
    guard.still_has_one(change).await?;
    change.record(event).await
}

fn about(change: &Change<'_>, event: EventType, place: Option<Uuid>, user: Uuid, role: Uuid) -> Event {
    Event::new(event, change.call).tenant(place).target("user", user).detail("role_id", role)
}

/// What a list of memberships is to show.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Filter {
    pub user_id: Option<Uuid>,
    pub tenant_id: Option<Uuid>,
    pub platform_only: bool,
    pub role_id: Option<Uuid>,
}

/// A page of memberships, in order of user and membership.
pub(super) async fn list(
    tx: &mut Tx,
    scope: Scope,
    filter: Filter,
    after: Position,
    limit: i64,
) -> Result<Vec<Membership>> {
    let Filter { user_id, role_id, .. } = filter;
    if filter.platform_only {
        return match scope {
            Scope::Platform => store::memberships::of_platform(tx, user_id, role_id, after, limit).await,
            Scope::Tenant(_) => {
                Err(Fault::new(Reason::PermissionDenied, "Roles on the platform are seen from there only.")
                    .with("permission", "users.read"))
            }
        };
    }
    match (super::tenants::reach(scope, filter.tenant_id), user_id) {
        (Some(tenant), _) => store::memberships::of_tenant(tx, tenant, user_id, role_id, after, limit).await,
        (None, Some(user)) => {
            let mut found = store::memberships::of_user(tx, user, role_id, after, limit).await?;
            found.extend(store::memberships::of_platform(tx, user_id, role_id, after, limit).await?);
            found.sort_unstable_by_key(|membership| membership.membership_id);
            found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            Ok(found)
        }
        (None, None) => Err(Fault::field("tenant_id", "must be named, or user_id, or platform_only")),
    }
}
