//! Nobody hands out, or reaches past, what they do not hold: otherwise whoever may give roles in one tenant could
//! become administrator of all.

use uuid::Uuid;

use crate::access::{Permissions, Principal};
use crate::fault::{Fault, Reason, Result};

/// What somebody may do at one place: in a tenant or, without one, on the platform.
pub(super) type Rights = (Option<Uuid>, Vec<String>);

/// Everything the caller may do at `place`.
fn held(principal: &Principal, place: Option<Uuid>) -> Permissions {
    match place {
        Some(tenant) if principal.tenant_id == Some(tenant) => {
            principal.platform_permissions.union(&principal.permissions)
        }
        _ => principal.platform_permissions.clone(),
    }
}

/// Refuses a caller who lacks one of `permissions` at `place`.
pub(super) fn covers(principal: &Principal, place: Option<Uuid>, permissions: &[String]) -> Result<()> {
    let held = held(principal, place);
    match permissions.iter().find(|permission| !held.has(permission)) {
        None => Ok(()),
        Some(missing) => {
            Err(Fault::new(Reason::PermissionDenied, "The caller does not hold every permission that this concerns.")
                .with("permission", missing))
        }
    }
}

/// Refuses a caller who lacks something that the user with these rights may do. Oneself one may change.
pub(super) fn covers_user(principal: &Principal, user: Uuid, rights: &[Rights]) -> Result<()> {
    if principal.id == user {
        return Ok(());
    }
    rights.iter().try_for_each(|(place, permissions)| covers(principal, *place, permissions))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::access::PrincipalKind;

    const OWN: Uuid = Uuid::from_u128(7);
    const OTHER: Uuid = Uuid::from_u128(8);

    fn caller(permissions: &str, platform: &str) -> Principal {
        Principal {
            kind: PrincipalKind::User,
            id: Uuid::from_u128(1),
            session_id: None,
            tenant_id: Some(OWN),
            permissions: Permissions::parse(permissions),
            platform_permissions: Permissions::parse(platform),
            key_id: None,
            issued_at: DateTime::UNIX_EPOCH,
            epoch: sidle_token::Epoch::FIRST,
            expires_at: DateTime::UNIX_EPOCH,
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_what_is_held_is_handed_out() {
        let admin = caller("memberships.write users.write", "");
        assert!(covers(&admin, Some(OWN), &names(&["users.write"])).is_ok());
        let refused = covers(&admin, Some(OWN), &names(&["users.write", "audit.read"])).unwrap_err();
        assert_eq!(refused.reason(), Reason::PermissionDenied);
        assert!(refused.metadata().contains(&("permission", "audit.read".to_owned())));
        assert!(covers(&admin, Some(OWN), &names(&["*"])).is_err(), "a star is more than any list");
        assert!(covers(&admin, Some(OTHER), &names(&["users.write"])).is_err(), "another tenant");
        assert!(covers(&admin, None, &names(&["users.write"])).is_err(), "the platform");
    }

    #[test]
    fn everything_in_a_tenant_is_nothing_on_the_platform() {
        let owner = caller("*", "");
        assert!(covers(&owner, Some(OWN), &names(&["*"])).is_ok());
        assert!(covers(&owner, None, &names(&["users.read"])).is_err());
        assert!(covers(&owner, Some(OTHER), &names(&["users.read"])).is_err());
        let operator = caller("", "*");
        assert!(
            covers(&operator, None, &names(&["*"])).is_ok() && covers(&operator, Some(OTHER), &names(&["*"])).is_ok()
        );
    }

    #[test]
    fn rights_anywhere_protect_a_user_from_those_who_lack_them() {
        let admin = caller("users.write users.read", "");
        let user = Uuid::from_u128(2);
        let member = (Some(OWN), names(&["users.read"]));
        assert!(covers_user(&admin, user, std::slice::from_ref(&member)).is_ok());
        assert!(covers_user(&admin, user, &[member.clone(), (Some(OTHER), names(&["users.read"]))]).is_err());
        assert!(covers_user(&admin, user, &[member, (None, names(&["users.read"]))]).is_err());
        assert!(covers_user(&admin, user, &[(Some(OTHER), Vec::new())]).is_ok(), "a role without permissions");
        assert!(covers_user(&admin, admin.id, &[(None, names(&["*"]))]).is_ok(), "oneself");
    }
}
