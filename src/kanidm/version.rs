//! What is known about a release of Kanidm before anything is asked of it.

/// A release, as the header of an answer gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// Reads `1.11.1` or `1.12.0-dev`; none for anything else.
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.split(['-', '+']).next()?.parse::<u32>().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next().map_or(Some(0), |patch| patch)?))
    }

    /// Whether its tokens say when the person authenticated. Kanidm does not announce the claim.
    pub fn has_auth_time(self) -> bool {
        self >= Self(1, 11, 0)
    }
}

/// What an operator has to know about a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Any signed-in account can change attributes of entries that it can read, group memberships included:
    /// GHSA-xxwr-vvr3-2g9f, fixed in 1.9.4 and 1.10.2.
    ForgeableGroups,
    /// A filter can exhaust the stack: fixed in 1.10.5.
    ExhaustibleStack,
    /// Its tokens do not say when the person authenticated: since 1.11.
    NoAuthTime,
}

/// What is known about the release with this name, the gravest first; none where the name cannot be read.
pub fn known(version: &str) -> Option<Vec<Known>> {
    let version = Version::read(version)?;
    let at = Version;
    let forgeable = version < at(1, 9, 4) || (at(1, 10, 0)..at(1, 10, 2)).contains(&version);
    let all = [
        (forgeable, Known::ForgeableGroups),
        (version < at(1, 10, 5), Known::ExhaustibleStack),
        (!version.has_auth_time(), Known::NoAuthTime),
    ];
    Some(all.into_iter().filter_map(|(holds, known)| holds.then_some(known)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_that_tell_when_a_person_authenticated() {
        let told = |text: &str| Version::read(text).is_some_and(Version::has_auth_time);
        for version in ["1.11.1", "1.11.0", "1.11", "1.12.0-dev", "2.0.0"] {
            assert!(told(version), "{version}");
        }
        for version in ["1.10.5", "1.7.4", "1", "", "x.y", "0.99.0", "1.11.x"] {
            assert!(!told(version), "{version}");
        }
    }

    #[test]
    fn releases_whose_groups_anybody_can_change_are_known() {
        let forgeable = |text: &str| known(text).unwrap().contains(&Known::ForgeableGroups);
        for version in ["1.7.4", "1.9.3", "1.9.0-dev", "1.10.0", "1.10.1"] {
            assert!(forgeable(version), "{version}");
        }
        for version in ["1.9.4", "1.9.9", "1.10.2", "1.10.5", "1.11.0", "1.12.0-dev"] {
            assert!(!forgeable(version), "{version}");
        }
        assert_eq!(known("1.11.1"), Some(Vec::new()));
        assert_eq!(known("1.10.5"), Some(vec![Known::NoAuthTime]));
        assert_eq!(known("one"), None);
    }
}
