//! Names of roles by who gave them their meaning. A tenant names its own roles as it likes, so that a name says something
//! only together with whose it is.

/// How the database marks the name of a role that the tenant itself defines. No name of a role holds a slash.
const OF_TENANT: &str = "tenant/";
/// How it marks one on the platform.
const ON_PLATFORM: &str = "platform/";

/// Names of the roles that a principal has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleNames {
    /// Roles in the tenant that mean the same in every tenant.
    pub shared: Vec<String>,
    /// Roles in the tenant that it defines itself.
    pub own: Vec<String>,
    /// Roles on the platform.
    pub platform: Vec<String>,
}

impl RoleNames {
    /// The names as `session_rights` gives them.
    pub fn read(marked: &[String]) -> Self {
        let mut names = Self::default();
        for name in marked {
            if let Some(name) = name.strip_prefix(OF_TENANT) {
                names.own.push(name.to_owned());
            } else if let Some(name) = name.strip_prefix(ON_PLATFORM) {
                names.platform.push(name.to_owned());
            } else {
                names.shared.push(name.clone());
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_told_apart_by_whose_it_is() {
        let read = RoleNames::read(&["admin", "tenant/auditor", "platform/SYSTEM_ADMIN"].map(str::to_owned));
        let one = |name: &str| vec![name.to_owned()];
        assert_eq!(read, RoleNames { shared: one("admin"), own: one("auditor"), platform: one("SYSTEM_ADMIN") });
    }
}
