//! Sets of permissions.

use std::fmt;

/// Permissions whose use reaches beyond any one tenant: into the Kanidm that all share, over all users, or into the
/// service itself. `*` in a tenant does not include them; a tenant has one only where it is named, which only a holder
/// of it on the platform can do.
pub const PLATFORM_RESERVED: &[&str] = &[
    "keys.read",
    "keys.rotate",
    "migration.finalize",
    "migration.import",
    "migration.run",
    "rollout.write",
    "schema.read",
];

/// A set of permissions: dotted names, or `*` for all within scope. Within a tenant unless it is said to be on the
/// platform, so that forgetting to say so allows less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    all: bool,
    /// Whether `*` includes what is reserved for the platform.
    on_platform: bool,
    /// Without what `all` includes anyway.
    names: Vec<String>,
}

impl Permissions {
    /// The set of these names, as it counts within a tenant.
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::of(names.into_iter().map(Into::into).collect(), false)
    }

    /// The set that a token's `scope` spells out, names separated by spaces, as it counts within a tenant.
    pub fn parse(scope: &str) -> Self {
        Self::new(scope.split_ascii_whitespace())
    }

    /// The same names, as they count on the platform: `*` is everything.
    #[must_use]
    pub fn on_platform(self) -> Self {
        Self::of(self.names(), true)
    }

    fn of(mut names: Vec<String>, on_platform: bool) -> Self {
        let all = names.iter().any(|name| name == "*");
        names.retain(|name| !name.is_empty() && name != "*" && !(all && (on_platform || !is_reserved(name))));
        names.sort_unstable();
        names.dedup();
        Self { all, on_platform: all && on_platform, names }
    }

    /// Whether `permission` is among them.
    pub fn has(&self, permission: &str) -> bool {
        self.all && (self.on_platform || !is_reserved(permission))
            || self.names.binary_search_by(|name| name.as_str().cmp(permission)).is_ok()
    }

    /// Whether everything in `other` is also here, so that its holder may grant it.
    pub fn covers(&self, other: &Self) -> bool {
        (!other.all || self.all && (self.on_platform || !other.on_platform))
            && other.names.iter().all(|name| self.has(name))
    }

    /// The intersection.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let both = |one: &Self, two: &Self| one.names.iter().filter(|name| two.has(name)).cloned().collect::<Vec<_>>();
        let mut names = both(self, other);
        names.extend(both(other, self));
        if self.all && other.all {
            names.push("*".to_owned());
        }
        Self::of(names, self.on_platform && other.on_platform)
    }

    /// The union.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let names = self.names().into_iter().chain(other.names()).collect();
        Self::of(names, self.on_platform || other.on_platform)
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    /// The names; of those that `*` includes only `*`.
    pub fn names(&self) -> Vec<String> {
        let all = self.all.then(|| "*".to_owned());
        all.into_iter().chain(self.names.iter().cloned()).collect()
    }
}

fn is_reserved(permission: &str) -> bool {
    PLATFORM_RESERVED.binary_search(&permission).is_ok()
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_covers_everything_and_nothing_covers_a_star_but_itself() {
        let all = Permissions::parse("*").on_platform();
        let some = Permissions::parse("users.read users.write");
        assert!(all.has("keys.rotate") && all.covers(&some) && all.covers(&all));
        assert!(!some.covers(&all) && !some.has("*") && !some.has("users"));
        assert_eq!(all.intersect(&some), some);
        assert_eq!(some.intersect(&all), some);
        assert_eq!(some.union(&all), all);
    }

    #[test]
    fn a_star_in_a_tenant_holds_nothing_that_is_the_platforms() {
        assert!(PLATFORM_RESERVED.is_sorted(), "for the binary search");
        let (tenant, platform) = (Permissions::parse("*"), Permissions::parse("*").on_platform());
        assert!(tenant.has("users.write") && tenant.has("shop.refund") && tenant.has("*"));
        for reserved in PLATFORM_RESERVED {
            assert!(!tenant.has(reserved) && platform.has(reserved), "{reserved}");
            assert!(!tenant.covers(&Permissions::parse(reserved)), "{reserved} must not be handed on");
            assert!(tenant.intersect(&Permissions::parse(reserved)).is_empty(), "{reserved}");
            assert!(Permissions::parse("users.read").on_platform().union(&tenant).has("users.write"));
            assert!(!Permissions::parse("users.read").on_platform().union(&tenant).has(reserved), "{reserved}");
        }
        assert!(!tenant.covers(&platform) && platform.covers(&tenant));
        assert!(!tenant.intersect(&platform).has("migration.run") && tenant.union(&platform).has("migration.run"));
        // A named one is kept beside the star, also on its way through a token.
        let granted = Permissions::parse("users.read * migration.run");
        assert_eq!(granted.to_string(), "* migration.run");
        assert_eq!(Permissions::parse(&granted.to_string()), granted);
        assert!(granted.has("migration.run") && !granted.has("migration.import") && granted.covers(&tenant));
        assert_eq!(granted.intersect(&platform).to_string(), "* migration.run");
        assert_eq!(granted.on_platform().to_string(), "*");
    }

    #[test]
    fn sets_intersect_and_print_in_one_order() {
        let a = Permissions::parse("b.read a.read b.read");
        let b = Permissions::parse("b.read c.read");
        assert_eq!(a.to_string(), "a.read b.read");
        assert_eq!(a.intersect(&b).to_string(), "b.read");
        assert!(Permissions::parse("").is_empty() && !Permissions::parse("").has(""));
    }
}
