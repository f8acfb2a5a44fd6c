//! Memberships: roles of users in tenants and on the platform.

use uuid::Uuid;

use super::made::{self, Made};
use super::roles::{self, ASSIGN};
pub(super) use super::store::memberships::{Membership, Position};
use super::store::roles::Role;
use super::{Change, admins, store};
use crate::access::delegation::{self, Effect};
use crate::access::{Principal, PrincipalKind};
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

/// Refuses a caller who neither has the role there nor the permission to give others than their own: what a role means
/// to other services its permissions here do not say. The plain member's role comes with being a member.
async fn may_assign(change: &mut Change<'_>, principal: &Principal, role: &Role, place: Option<Uuid>) -> Result<()> {
    let is_plain = role.is_built_in && role.name == MEMBER;
    if is_plain || delegation::covers(principal, place, &[ASSIGN.to_owned()]).is_ok() {
        return Ok(());
    }
    let is_user = principal.kind == PrincipalKind::User;
    if is_user && store::memberships::has_role(&mut change.tx, principal.id, place, role.role_id).await? {
        return Ok(());
    }
    let message = "The caller has neither the role nor the permission to assign roles.";
    Err(Fault::new(Reason::PermissionDenied, message).with("permission", ASSIGN))
}

/// The role, if it fits the tenant or platform, holds nothing that the caller lacks there, and is the caller's to assign.
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
    let given = roles::effective_permissions(change, role.is_admin, &role.permissions).await?;
    let principal = change.principal()?;
    delegation::covers(principal, place, &given)?;
    may_assign(change, principal, &role, place).await?;
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
    // The rows before the proof: a change of the caller's credentials voids their proofs in this order.
    let caller = change.principal()?.id;
    store::tokens::lock_users(&mut change.tx, &[user.user_id, caller]).await?;
    // The user may have been deleted while the row was waited for; what is given then would be there when they come back.
    let user = store::users::by_id(&mut change.tx, user_id, false).await?.ok_or_else(|| Fault::not_found("user"))?;
    // A new role voids the tokens that the user has in every tenant.
    let aimed = change.aim(user.user_id, Effect::Everywhere).await?;
    match place {
        Some(_) => change.step_up_of_people(CREATE, Some(user_id)).await?,
        None => change.step_up(CREATE, Some(user_id)).await?,
    }
    let id = change.context().new_id();
    let now = change.now;
    match place {
        Some(tenant) => store::memberships::insert(&mut change.tx, id, tenant, &aimed, role_id, now).await?,
        None => store::memberships::insert_on_platform(&mut change.tx, id, &aimed, role_id, now).await?,
    }
    let kind = if place.is_some() { EventType::MembershipCreated } else { EventType::PlatformRoleGranted };
    let event = about(change, kind, place, user_id, role_id).detail("role", role.name);
    let event = change.end_tokens(&aimed, event).await?;
    change.record(event).await?;
    store::memberships::by_id(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("membership"))
}

/// Takes a role from a user, and ends the keys that the user made with what they lose by it; says what there was.
pub(super) async fn delete(change: &mut Change<'_>, id: Uuid, keep: bool) -> Result<Made> {
    let guard = admins::guard(change).await?;
    let membership =
        store::memberships::by_id(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("membership"))?;
    let place = membership.tenant_id;
    delegation::covers(change.principal()?, place, &membership.permissions)?;
    let aimed = change.aim(membership.user_id, Effect::Here).await?;
    if place.is_none() && membership.is_master_admin {
        return Err(admins::master());
    }
    let kind = if place.is_some() { EventType::MembershipDeleted } else { EventType::PlatformRoleRevoked };
    let event = about(change, kind, place, membership.user_id, membership.role_id)
        .detail("role", &membership.role_name)
        .detail("source", membership.source.as_str());
    // Before the row is deleted: it is what lets a tenant end the tokens of a member who is at home elsewhere.
    let event = change.end_tokens(&aimed, event).await?;
    if !store::memberships::delete(&mut change.tx, &aimed, &membership).await? {
        return Err(Fault::not_found("membership"));
    }
    guard.still_has_one(change).await?;
    change.record(event).await?;
    made::end_made_by(change, &aimed, keep, true).await
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
