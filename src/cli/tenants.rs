//! `sidle tenants`.

use clap::Subcommand;

use super::Global;
use super::connect::{Caller, random_id};
use super::failure::Result;
use super::lookup::{self, pages};
use super::output::{Out, dash, time, word};
use crate::proto::*;

/// Commands on tenants.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List tenants
    List {
        /// Most tenants to print
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Create a tenant
    Create {
        /// Short name for groups in Kanidm: a-z, 0-9 and -, beginning with a letter; cannot be changed
        slug: String,
        /// Name shown to people; the slug when not given
        #[arg(long)]
        name: Option<String>,
        /// The id that the organisation's own systems use
        #[arg(long, default_value = "")]
        external_id: String,
        /// Brand shown to people
        #[arg(long, default_value = "")]
        brand: String,
    },
    /// Make the groups of tenants in Kanidm; safe to repeat
    SyncGroups {
        /// Slugs or ids; every active tenant when none is given
        tenants: Vec<String>,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        match self {
            Self::List { limit } => list(&caller, limit, out).await,
            Self::Create { slug, name, external_id, brand } => {
                let request = CreateTenantRequest {
                    request_id: random_id(&caller.context),
                    name: name.unwrap_or_else(|| slug.clone()),
                    slug,
                    external_id,
                    brand,
                    ..Default::default()
                };
                let call = async |request| Ok(caller.directory().await?.create_tenant(request).await?);
                let answer = caller.proving(request, call).await?;
                let tenant = answer.tenant.unwrap_or_default();
                if out.is_json() { out.message(&tenant) } else { out.line(&tenant.tenant_id) }
            }
            Self::SyncGroups { tenants, dry_run } => {
                let tenant_ids = lookup::tenant_ids(&caller, &tenants).await?;
                let request = SyncTenantGroupsRequest { tenant_ids, validate_only: dry_run };
                let answer = caller.migration().await?.sync_tenant_groups(request).await?.into_inner();
                out.list(&answer.groups, &["TENANT", "ROLE", "GROUP", "UUID", "OUTCOME"], |group| {
                    vec![
                        group.tenant_slug.clone(),
                        word(group.role, TenantGroupRole::as_str_name, "TENANT_GROUP_ROLE_"),
                        group.group_name.clone(),
                        dash(&group.group_uuid),
                        group_outcome(group.outcome(), dry_run).to_owned(),
                    ]
                })
            }
        }
    }
}

fn group_outcome(outcome: TenantGroupOutcome, dry_run: bool) -> &'static str {
    match (outcome, dry_run) {
        (TenantGroupOutcome::Created, true) => "would be created",
        (TenantGroupOutcome::Created, false) => "created",
        (TenantGroupOutcome::Confirmed, _) => "there already",
        (TenantGroupOutcome::Unspecified, _) => "-",
    }
}

async fn list(caller: &Caller, limit: usize, out: &Out) -> Result<()> {
    let (tenants, more) = pages(limit, |page_size, page_token| {
        let request = ListTenantsRequest { page_size, page_token, ..Default::default() };
        async move {
            let answer = caller.directory().await?.list_tenants(request).await?.into_inner();
            Ok((answer.tenants, answer.next_page_token))
        }
    })
    .await?;
    out.list(&tenants, &["TENANT", "SLUG", "NAME", "EXTERNAL ID", "STATUS", "CREATED"], |tenant| {
        vec![
            tenant.tenant_id.clone(),
            tenant.slug.clone(),
            tenant.name.clone(),
            dash(&tenant.external_id),
            word(tenant.status, TenantStatus::as_str_name, "TENANT_STATUS_"),
            time(tenant.created_at.as_ref()),
        ]
    })?;
    out.more(more);
    Ok(())
}
