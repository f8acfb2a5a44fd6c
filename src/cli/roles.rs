//! `sidle roles`.

use clap::Subcommand;

use super::Global;
use super::connect::{Caller, random_id};
use super::failure::Result;
use super::lookup::{self, pages};
use super::names::Names;
use super::output::{Out, dash};
use crate::proto::*;

/// Commands on roles.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List roles and what they permit
    List {
        /// Slug or id of the tenant whose own roles are listed with the shared ones
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Create a role: a tenant's own, or shared by all
    Create {
        /// Name, such as HOTEL_ADMIN
        name: String,
        /// Permissions, separated by commas
        #[arg(long, value_delimiter = ',')]
        permissions: Vec<String>,
        /// What the role is for
        #[arg(long, default_value = "")]
        description: String,
        /// Slug or id of the tenant whose own role it is
        #[arg(long)]
        tenant: Option<String>,
        /// Reach over every tenant
        #[arg(long, conflicts_with = "tenant")]
        platform: bool,
        /// Put members with this role into the tenant's group of administrators in Kanidm
        #[arg(long)]
        admin: bool,
    },
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        match self {
            Self::List { tenant } => {
                let tenant_id = lookup::optional_tenant_id(&caller, tenant.as_deref()).await?;
                list(&caller, &tenant_id, out).await
            }
            Self::Create { name, permissions, description, tenant, platform, admin } => {
                let request = CreateRoleRequest {
                    request_id: random_id(&caller.context),
                    validate_only: false,
                    tenant_id: lookup::optional_tenant_id(&caller, tenant.as_deref()).await?,
                    name,
                    description,
                    permissions,
                    is_platform: platform,
                    is_admin: admin,
                };
                let answer = caller.directory().await?.create_role(request).await?.into_inner();
                let role = answer.role.unwrap_or_default();
                if out.is_json() { out.message(&role) } else { out.line(&role.role_id) }
            }
        }
    }
}

async fn list(caller: &Caller, tenant_id: &str, out: &Out) -> Result<()> {
    let (roles, _) = pages(usize::MAX, |page_size, page_token| {
        let request = ListRolesRequest { page_size, page_token, tenant_id: tenant_id.to_owned() };
        async move {
            let answer = caller.directory().await?.list_roles(request).await?.into_inner();
            Ok((answer.roles, answer.next_page_token))
        }
    })
    .await?;
    let tenants = match out.is_json() {
        true => Names::default(),
        false => Names::of_tenants(caller, roles.iter().map(|role| role.tenant_id.as_str())).await,
    };
    out.list(&roles, &["ROLE", "NAME", "OF", "PERMISSIONS", "DESCRIPTION"], |role| {
        let of = match (role.is_platform, role.tenant_id.as_str()) {
            (true, _) => "(platform)".to_owned(),
            (false, "") => "(shared)".to_owned(),
            (false, tenant) => tenants.of(tenant),
        };
        vec![role.role_id.clone(), role.name.clone(), of, dash(&role.permissions.join(" ")), dash(&role.description)]
    })
}
