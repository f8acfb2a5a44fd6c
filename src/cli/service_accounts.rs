//! `sidle service-accounts`.

use clap::Subcommand;

use super::Global;
use super::connect::{Caller, random_id};
use super::failure::Result;
use super::lookup::{self, pages};
use super::names::Names;
use super::output::{Out, dash, time, word};
use crate::proto::*;

/// Commands on service accounts.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List service accounts
    List {
        /// Slug or id of the tenant they are confined to
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Create a service account
    Create {
        /// Name: a-z, 0-9, dot, underscore and -, beginning with a letter
        name: String,
        /// Permissions, separated by commas, such as tokens.verify
        #[arg(long, value_delimiter = ',')]
        permissions: Vec<String>,
        /// What it is for and who answers for it
        #[arg(long, default_value = "")]
        description: String,
        /// Slug or id of the tenant to confine it to; none for the platform
        #[arg(long)]
        tenant: Option<String>,
        /// Client certificates whose holders act as the account, each as AUTHORITY=URI
        #[arg(long = "certificate", value_parser = certificate)]
        certificates: Vec<ClientCertificate>,
    },
}

fn certificate(text: &str) -> std::result::Result<ClientCertificate, String> {
    let (authority, uri) =
        text.split_once('=').ok_or("must be AUTHORITY=URI, such as corp=spiffe://example.org/app")?;
    Ok(ClientCertificate { authority: authority.to_owned(), uri: uri.to_owned() })
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        match self {
            Self::List { tenant } => {
                let tenant_id = lookup::optional_tenant_id(&caller, tenant.as_deref()).await?;
                list(&caller, &tenant_id, out).await
            }
            Self::Create { name, permissions, description, tenant, certificates } => {
                let request = CreateServiceAccountRequest {
                    request_id: random_id(&caller.context),
                    validate_only: false,
                    tenant_id: lookup::optional_tenant_id(&caller, tenant.as_deref()).await?,
                    name,
                    description,
                    permissions,
                    certificates,
                };
                let call = async |request| Ok(caller.directory().await?.create_service_account(request).await?);
                let answer = caller.proving(request, call).await?;
                let account = answer.service_account.unwrap_or_default();
                if out.is_json() { out.message(&account) } else { out.line(&account.service_account_id) }
            }
        }
    }
}

async fn list(caller: &Caller, tenant_id: &str, out: &Out) -> Result<()> {
    let (accounts, _) = pages(usize::MAX, |page_size, page_token| {
        let request = ListServiceAccountsRequest { page_size, page_token, tenant_id: tenant_id.to_owned() };
        async move {
            let answer = caller.directory().await?.list_service_accounts(request).await?.into_inner();
            Ok((answer.service_accounts, answer.next_page_token))
        }
    })
    .await?;
    let tenants = match out.is_json() {
        true => Names::default(),
        false => Names::of_tenants(caller, accounts.iter().map(|account| account.tenant_id.as_str())).await,
    };
    out.list(&accounts, &["SERVICE ACCOUNT", "NAME", "TENANT", "STATUS", "PERMISSIONS", "CREATED"], |account| {
        let platform = account.tenant_id.is_empty();
        vec![
            account.service_account_id.clone(),
            account.name.clone(),
            if platform { "(platform)".to_owned() } else { tenants.of(&account.tenant_id) },
            word(account.status, ServiceAccountStatus::as_str_name, "SERVICE_ACCOUNT_STATUS_"),
            dash(&account.permissions.join(" ")),
            time(account.created_at.as_ref()),
        ]
    })
}
