//! What the values of a file stand for: tenants and roles by the header's mapping.

use std::collections::{BTreeMap, HashMap};

use crate::db::Connection;
use uuid::Uuid;

use super::store;
use crate::access::Permissions;
use crate::fault::{Fault, Result};

/// The shared role that the group of a tenant's administrators in Kanidm gives.
const OF_ADMINS: &str = "admin";
/// The shared role of a plain member.
const PLAIN: &str = "user";

/// How the rows of an import are to be read.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// System that the rows come from.
    pub source: String,
    /// Makes the import repeat-safe.
    pub request_id: Uuid,
    /// Whether to import nothing.
    pub validate_only: bool,
    /// Tenant values of the file to slug or id.
    pub tenants: BTreeMap<String, String>,
    /// Slug or id of the tenant of rows that name none.
    pub default_tenant: String,
    /// Whether inactive users were only never verified.
    pub inactive_is_unverified: bool,
    /// Role values of the file to names of roles.
    pub roles: BTreeMap<String, String>,
    /// Role of rows that name none.
    pub default_role: String,
}

/// The header, resolved against the tenants and roles there are.
#[derive(Debug)]
pub(super) struct Mapping {
    tenants: HashMap<String, Uuid>,
    default_tenant: Option<Uuid>,
    /// Domains of tenants that are confined to some.
    domains: HashMap<Uuid, Vec<String>>,
    /// By tenant and name; without an id where the importer lacks what the role gives.
    roles: HashMap<(Option<Uuid>, String), Option<Uuid>>,
    role_names: BTreeMap<String, String>,
    default_role: String,
}

/// Tenants and roles as they are found for a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Id(Uuid),
    Missing,
    Unknown,
}

impl Mapping {
    /// Reads tenants and roles, and refuses a header that names one that is not there: every row would be refused. Roles
    /// with more than the importer holds over every tenant, also by the group that they lead into in Kanidm, are as good as
    /// not there: callers grant only what they hold.
    pub(super) async fn load(tx: &mut Connection, header: &Header, held: &Permissions) -> Result<Self> {
        let tenants = store::tenants(tx).await?;
        let roles = grantable(store::roles(tx).await?, held);
        let domains = tenants.iter().filter_map(|tenant| Some((tenant.tenant_id, tenant.domains()?))).collect();
        let known = by_name(tenants);
        let mapped = header.tenants.iter().map(|(value, name)| {
            let tenant = find(&known, "header.tenants", name)?;
            Ok((value.clone(), tenant))
        });
        let mapped: HashMap<_, _> = mapped.collect::<Result<_>>()?;
        let default_tenant = match header.default_tenant.as_str() {
            "" => None,
            name => Some(find(&known, "header.default_tenant", name)?),
        };
        let mapping = Self {
            tenants: known.into_iter().chain(mapped).collect(),
            default_tenant,
            domains,
            roles,
            role_names: header.roles.clone(),
            default_role: if header.default_role.is_empty() { PLAIN.to_owned() } else { header.default_role.clone() },
        };
        mapping.check_roles()?;
        Ok(mapping)
    }

    /// Refuses a header that names a role which no tenant's rows could get.
    fn check_roles(&self) -> Result<()> {
        let names = self.role_names.values().map(|name| ("header.roles", name));
        for (field, name) in names.chain([("header.default_role", &self.default_role)]) {
            if !self.roles.iter().any(|((_, known), id)| known == name && id.is_some()) {
                let text =
                    "must be the name of a role that does not reach over every tenant, nor beyond the caller's rights";
                return Err(Fault::field(field, text));
            }
        }
        Ok(())
    }

    /// The mapping of a header where there is a tenant `harbour` and two roles.
    #[cfg(any(test, fuzzing))]
    pub(super) fn of(header: &Header) -> Self {
        let (tenant, roles) = (Uuid::from_u128(1), ["user", "admin"].into_iter().zip(10..));
        let mut tenants = HashMap::from([("harbour".to_owned(), tenant)]);
        tenants.extend(header.tenants.keys().map(|value| (value.clone(), tenant)));
        Self {
            tenants,
            default_tenant: None,
            domains: HashMap::new(),
            roles: roles.map(|(name, id)| ((None, name.to_owned()), Some(Uuid::from_u128(id)))).collect(),
            role_names: header.roles.clone(),
            default_role: header.default_role.clone(),
        }
    }

    pub(super) fn tenant(&self, value: &str) -> Found {
        if value.is_empty() {
            return self.default_tenant.map_or(Found::Missing, Found::Id);
        }
        self.tenants.get(value).map_or(Found::Unknown, |id| Found::Id(*id))
    }

    /// Whether an address, in its comparable form, is of a domain that the tenant is for.
    pub(super) fn takes(&self, tenant: Uuid, email_key: &str) -> bool {
        let domain = email_key.rsplit('@').next().unwrap_or_default();
        self.domains.get(&tenant).is_none_or(|domains| domains.iter().any(|known| known == domain))
    }

    /// The tenant's own role comes before one that all tenants share.
    pub(super) fn role(&self, tenant: Uuid, value: &str) -> Found {
        let name = match value {
            "" => &self.default_role,
            value => self.role_names.get(value).map_or(value, String::as_str),
        };
        let own = self.roles.get(&(Some(tenant), name.to_owned()));
        own.or_else(|| self.roles.get(&(None, name.to_owned()))).copied().flatten().map_or(Found::Unknown, Found::Id)
    }
}

/// Tenants by every name that a file may have for them. A slug cannot look like a UUID's text, and both take precedence
/// over an external id.
fn by_name(tenants: Vec<store::TenantRow>) -> HashMap<String, Uuid> {
    let mut known = HashMap::new();
    for tenant in tenants {
        if let Some(external_id) = tenant.external_id {
            known.entry(external_id).or_insert(tenant.tenant_id);
        }
        known.insert(tenant.slug, tenant.tenant_id);
        known.insert(tenant.tenant_id.to_string(), tenant.tenant_id);
    }
    known
}

/// The tenant that a field of the header names.
fn find(known: &HashMap<String, Uuid>, field: &str, name: &str) -> Result<Uuid> {
    let problem = || Fault::field(field, "must be the slug or UUID of an active tenant");
    known.get(name).or_else(|| known.get(&name.to_lowercase())).copied().ok_or_else(problem)
}

/// Roles by tenant and name, with their id where an importer who holds `held` may grant them.
fn grantable(roles: Vec<store::RoleRow>, held: &Permissions) -> HashMap<(Option<Uuid>, String), Option<Uuid>> {
    // The plain member's role comes with being a member; every other takes the permission to assign it.
    let may_assign = held.has("roles.assign");
    let may_give = |role: &store::RoleRow| {
        (may_assign || role.is_built_in && role.name == PLAIN)
            && role.permissions.iter().all(|permission| held.has(permission))
    };
    let may_make_admins = roles.iter().any(|role| role.tenant_id.is_none() && role.name == OF_ADMINS && may_give(role));
    roles
        .into_iter()
        .map(|role| {
            let id = (may_give(&role) && (may_make_admins || !role.is_admin)).then_some(role.role_id);
            ((role.tenant_id, role.name), id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_own_role_comes_first() {
        let (tenant, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let roles = [
            ((None, "admin".to_owned()), Some(Uuid::from_u128(10))),
            ((Some(tenant), "admin".to_owned()), Some(Uuid::from_u128(11))),
            ((None, "clerk".to_owned()), Some(Uuid::from_u128(12))),
            // More than the importer holds: not to be taken for the shared one.
            ((Some(tenant), "clerk".to_owned()), None),
        ];
        let mapping = Mapping {
            tenants: HashMap::from([("harbour".to_owned(), tenant)]),
            default_tenant: None,
            domains: HashMap::from([(tenant, vec!["harbour.example".to_owned()])]),
            roles: HashMap::from(roles),
            role_names: BTreeMap::from([("boss".to_owned(), "admin".to_owned())]),
            default_role: "admin".to_owned(),
        };
        assert_eq!(mapping.tenant("harbour"), Found::Id(tenant));
        assert_eq!((mapping.tenant(""), mapping.tenant("Harbour")), (Found::Missing, Found::Unknown));
        assert!(mapping.takes(tenant, "ann@harbour.example") && mapping.takes(other, "ann@elsewhere.example"));
        assert!(!mapping.takes(tenant, "ann@elsewhere.example") && !mapping.takes(tenant, "ann@a.harbour.example"));
        assert_eq!(mapping.role(tenant, "boss"), Found::Id(Uuid::from_u128(11)));
        assert_eq!(mapping.role(other, ""), Found::Id(Uuid::from_u128(10)));
        assert_eq!(mapping.role(other, "chief"), Found::Unknown);
        assert_eq!(
            (mapping.role(tenant, "clerk"), mapping.role(other, "clerk")),
            (Found::Unknown, Found::Id(Uuid::from_u128(12)))
        );
    }
}
