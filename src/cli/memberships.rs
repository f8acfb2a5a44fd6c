//! `sidle memberships`.

use clap::Subcommand;

use super::Global;
use super::connect::{Caller, random_id};
use super::failure::Result;
use super::lookup::{self, pages};
use super::names::Names;
use super::output::{Out, time, word};
use crate::proto::*;

/// Commands on memberships.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List who has which role: of a user, in a tenant, or on the platform
    List {
        /// Id, e-mail address or username
        #[arg(long)]
        user: Option<String>,
        /// Slug or id of the tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Roles on the platform
        #[arg(long, conflicts_with = "tenant")]
        platform: bool,
    },
    /// Give a user a role, in a tenant or on the platform
    Create {
        /// Id, e-mail address or username
        user: String,
        /// Name or id of the role
        role: String,
        /// Slug or id of the tenant
        #[arg(long, required_unless_present = "platform")]
        tenant: Option<String>,
        /// On the platform, over every tenant
        #[arg(long, conflicts_with = "tenant")]
        platform: bool,
    },
    /// Take a role from a user
    Delete {
        /// Id of the membership, as `list` shows it
        membership: String,
    },
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        match self {
            Self::List { user, tenant, platform } => {
                let user_id = match &user {
                    Some(user) => lookup::user_id(&caller, user).await?,
                    None => String::new(),
                };
                let tenant_id = lookup::optional_tenant_id(&caller, tenant.as_deref()).await?;
                let asked =
                    ListMembershipsRequest { user_id, tenant_id, platform_only: platform, ..Default::default() };
                print(&caller, asked, out).await
            }
            Self::Create { user, role, tenant, .. } => {
                let tenant_id = lookup::optional_tenant_id(&caller, tenant.as_deref()).await?;
                let request = CreateMembershipRequest {
                    request_id: random_id(&caller.context),
                    validate_only: false,
                    user_id: lookup::user_id(&caller, &user).await?,
                    role_id: lookup::role_id(&caller, &tenant_id, &role).await?,
                    tenant_id,
                };
                create(&caller, request, out).await
            }
            Self::Delete { membership } => delete(&caller, membership, out).await,
        }
    }
}

async fn create(caller: &Caller, request: CreateMembershipRequest, out: &Out) -> Result<()> {
    let call = async |request| Ok(caller.directory().await?.create_membership(request).await?);
    let answer = caller.proving(request, call).await?;
    let membership = answer.membership.unwrap_or_default();
    if out.is_json() {
        return out.message(&membership);
    }
    out.line(&format!("{} has the role {} now.", membership.user_email, membership.role_name))
}

async fn delete(caller: &Caller, membership_id: String, out: &Out) -> Result<()> {
    let request = DeleteMembershipRequest { membership_id, ..Default::default() };
    let answer = caller.directory().await?.delete_membership(request).await?.into_inner();
    out.note("The role is taken away.");
    for id in answer.made.unwrap_or_default().api_key_ids {
        out.note(&format!("The API key {id}, which the user had made, is revoked."));
    }
    Ok(())
}

/// Prints every membership that is asked for.
pub(super) async fn print(caller: &Caller, asked: ListMembershipsRequest, out: &Out) -> Result<()> {
    let (memberships, _) = pages(usize::MAX, |page_size, page_token| {
        let request = ListMembershipsRequest { page_size, page_token, ..asked.clone() };
        async move {
            let answer = caller.directory().await?.list_memberships(request).await?.into_inner();
            Ok((answer.memberships, answer.next_page_token))
        }
    })
    .await?;
    let tenants = match out.is_json() {
        true => Names::default(),
        false => Names::of_tenants(caller, memberships.iter().map(|membership| membership.tenant_id.as_str())).await,
    };
    out.list(&memberships, &["MEMBERSHIP", "USER", "TENANT", "ROLE", "FROM", "SINCE"], |membership| {
        let platform = membership.tenant_id.is_empty();
        vec![
            membership.membership_id.clone(),
            membership.user_email.clone(),
            if platform { "(platform)".to_owned() } else { tenants.of(&membership.tenant_id) },
            membership.role_name.clone(),
            word(membership.source, GrantSource::as_str_name, "GRANT_SOURCE_"),
            time(membership.created_at.as_ref()),
        ]
    })
}
