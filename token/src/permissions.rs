//! Sets of permissions.

use std::fmt;

/// What somebody may do: dotted names, or `*` for everything within reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    all: bool,
    names: Vec<String>,
}

impl Permissions {
    /// The set of these names.
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        let mut names: Vec<String> = names.into_iter().map(Into::into).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        let all = names.iter().any(|name| name == "*");
        Self { all, names: if all { Vec::new() } else { names } }
    }

    /// The set that a token's `scope` spells out, names separated by spaces.
    pub fn parse(scope: &str) -> Self {
        Self::new(scope.split_ascii_whitespace())
    }

    /// Whether `permission` is among them.
    pub fn has(&self, permission: &str) -> bool {
        self.all || self.names.binary_search_by(|name| name.as_str().cmp(permission)).is_ok()
    }

    /// Whether everything in `other` is also here, so that its holder may hand it on.
    pub fn covers(&self, other: &Self) -> bool {
        self.all || (!other.all && other.names.iter().all(|name| self.has(name)))
    }

    /// What is in both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        match (self.all, other.all) {
            (true, _) => other.clone(),
            (_, true) => self.clone(),
            _ => Self::new(self.names.iter().filter(|name| other.has(name)).cloned()),
        }
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if self.all || other.all {
            return Self { all: true, names: Vec::new() };
        }
        Self::new(self.names.iter().chain(&other.names).cloned())
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    /// The names, `*` alone where that is in it.
    pub fn names(&self) -> Vec<String> {
        if self.all { vec!["*".to_owned()] } else { self.names.clone() }
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all { f.write_str("*") } else { f.write_str(&self.names.join(" ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_covers_everything_and_nothing_covers_a_star_but_itself() {
        let all = Permissions::parse("*");
        let some = Permissions::parse("users.read users.write");
        assert!(all.has("keys.rotate") && all.covers(&some) && all.covers(&all));
        assert!(!some.covers(&all) && !some.has("*") && !some.has("users"));
        assert_eq!(all.intersect(&some), some);
        assert_eq!(some.intersect(&all), some);
        assert_eq!(some.union(&all), all);
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
