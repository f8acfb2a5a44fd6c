//! Callers grant only what they hold, and change only users who hold no more: otherwise a caller who may give roles in one
//! tenant could become administrator of all. Every change that is aimed at a user passes [`aim`], whatever service makes
//! it: what changes users takes the [`Aimed`] that only this returns.

use uuid::Uuid;

use super::{Permissions, Principal, store};
use crate::db::{Connection, Scope};
use crate::fault::{Fault, Reason, Result};

/// What a user may do by one role: in a tenant or, without one, on the platform. Also by a role that holds no permission of
/// Sidle's: what it means to other services is theirs to say.
pub type Rights = (Option<Uuid>, Vec<String>);

/// What a change does to the user whom it is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The caller could then sign in as the user: address, name to sign in with, password, factors, links. Within a
    /// tenant it is for users who are members of that tenant only: any role elsewhere, whatever it holds, is above its
    /// administrators.
    Control,
    /// It ends or begins what the user has everywhere: lock, status, deletion, and the tokens that a new role voids.
    Everywhere,
    /// It ends what the user has in the caller's tenant, a session or a role there; of callers on the platform, anywhere.
    Here,
}

/// A user at whom the caller may aim a change. Made by [`aim`] only.
#[derive(Debug)]
pub struct Aimed {
    user: Uuid,
    effect: Effect,
    own: bool,
}

impl Aimed {
    pub fn user(&self) -> Uuid {
        self.user
    }

    /// Whether the caller aims at themselves.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// Refuses what goes further than what was asked for.
    ///
    /// # Errors
    /// `INTERNAL`: a mistake of the code that calls.
    pub fn for_control(&self) -> Result<Uuid> {
        match self.effect {
            Effect::Control => Ok(self.user),
            _ => Err(Fault::internal("a change of who controls an account was aimed as less than that")),
        }
    }

    /// As [`Aimed::for_control`], for what reaches beyond one tenant.
    ///
    /// # Errors
    /// `INTERNAL`: a mistake of the code that calls.
    pub fn everywhere(&self) -> Result<Uuid> {
        match self.effect {
            Effect::Control | Effect::Everywhere => Ok(self.user),
            Effect::Here => Err(Fault::internal("a change beyond a tenant was aimed at what is within it")),
        }
    }
}

/// Aims a change at a user: refused to a caller who lacks something that the user may do where the change reaches. The
/// scope is the one that the caller acts in, by the permission that the change takes.
/// Oneself one may change.
///
/// # Errors
/// `PERMISSION_DENIED`, naming the permission that is missing.
pub async fn aim(
    tx: &mut Connection,
    principal: &Principal,
    scope: Scope,
    user: Uuid,
    effect: Effect,
) -> Result<Aimed> {
    let own = principal.id == user;
    if !own {
        covers_user(principal, scope, effect, &store::rights(tx, user).await?)?;
    }
    Ok(Aimed { user, effect, own })
}

/// What a user may do, role by role.
///
/// # Errors
/// When the database fails.
pub async fn rights(tx: &mut Connection, user: Uuid) -> Result<Vec<Rights>> {
    store::rights(tx, user).await
}

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
///
/// # Errors
/// `PERMISSION_DENIED`, naming the permission that is missing.
pub fn covers(principal: &Principal, place: Option<Uuid>, permissions: &[String]) -> Result<()> {
    let held = held(principal, place);
    // On the platform `*` is more than in a tenant.
    let all_there = place.is_some() || held.covers(&Permissions::new(permissions.iter().cloned()).on_platform());
    match permissions.iter().find(|permission| !held.has(permission)) {
        None if all_there => Ok(()),
        missing => Err(above(missing.map_or("*", String::as_str))),
    }
}

fn covers_user(principal: &Principal, scope: Scope, effect: Effect, rights: &[Rights]) -> Result<()> {
    for (place, permissions) in rights {
        let elsewhere = place.is_some() && *place != principal.tenant_id;
        if effect == Effect::Here && elsewhere && scope != Scope::Platform {
            continue;
        }
        covers(principal, *place, permissions)?;
        // A role without permissions of ours is a right all the same: on the platform in any case, elsewhere where it
        // would be taken over.
        let is_above = place.is_none() || effect == Effect::Control && elsewhere;
        if is_above && scope != Scope::Platform {
            return Err(above("on the platform"));
        }
    }
    Ok(())
}

fn above(missing: &str) -> Fault {
    Fault::new(Reason::PermissionDenied, "The caller does not hold every permission that this concerns.")
        .with("permission", missing)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::access::PrincipalKind;

    const OWN: Uuid = Uuid::from_u128(7);
    const OTHER: Uuid = Uuid::from_u128(8);
    const EFFECTS: [Effect; 3] = [Effect::Control, Effect::Everywhere, Effect::Here];

    fn caller(permissions: &str, platform: &str) -> Principal {
        Principal {
            kind: PrincipalKind::User,
            id: Uuid::from_u128(1),
            session_id: None,
            tenant_id: Some(OWN),
            permissions: Permissions::parse(permissions),
            platform_permissions: Permissions::parse(platform).on_platform(),
            key_id: None,
            issued_at: DateTime::UNIX_EPOCH,
            epoch: sidle_token::Epoch::FIRST,
            expires_at: DateTime::UNIX_EPOCH,
            credential_expires_at: None,
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
        assert!(covers(&owner, Some(OWN), &names(&["migration.run"])).is_err(), "reserved for the platform");
        assert!(covers(&caller("* migration.run", ""), Some(OWN), &names(&["migration.run"])).is_ok(), "given by name");
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
        let may = |rights: &[Rights], effect| covers_user(&admin, Scope::Tenant(OWN), effect, rights).is_ok();
        let member = (Some(OWN), names(&["users.read"]));
        for effect in EFFECTS {
            assert!(may(std::slice::from_ref(&member), effect));
            assert!(!may(&[(Some(OWN), names(&["audit.read"]))], effect), "{effect:?}: more in the same tenant");
            assert!(!may(&[member.clone(), (None, names(&["users.read"]))], effect), "{effect:?}: on the platform");
            assert!(
                !may(&[(None, Vec::new())], effect),
                "{effect:?}: a role on the platform that holds nothing of ours"
            );
        }
        // A right elsewhere is out of reach of what ends here, and above everything else.
        let elsewhere = [member.clone(), (Some(OTHER), names(&["users.read"]))];
        assert_eq!(EFFECTS.map(|effect| may(&elsewhere, effect)), [false, false, true]);
        // A role elsewhere without permissions of ours is above callers who could take the account over.
        assert_eq!(EFFECTS.map(|effect| may(&[(Some(OTHER), Vec::new())], effect)), [false, true, true]);
        // Something else on the platform does not make an administrator of a tenant one of the platform.
        let verifier = caller("users.write users.read", "tokens.verify");
        for effect in EFFECTS {
            assert!(covers_user(&verifier, Scope::Tenant(OWN), effect, &[(None, Vec::new())]).is_err());
        }
        // On the platform it is what the caller holds there that counts.
        let operator = caller("", "users.read users.write");
        for effect in EFFECTS {
            assert!(covers_user(&operator, Scope::Platform, effect, &elsewhere).is_ok());
            assert!(covers_user(&operator, Scope::Platform, effect, &[(None, names(&["*"]))]).is_err());
        }
    }

    #[test]
    fn what_was_aimed_lower_does_not_reach_further() {
        let aimed = |effect| Aimed { user: OTHER, effect, own: false };
        let control = EFFECTS.map(|effect| aimed(effect).for_control().is_ok());
        let everywhere = EFFECTS.map(|effect| aimed(effect).everywhere().is_ok());
        assert_eq!((control, everywhere), ([true, false, false], [true, true, false]));
    }
}
