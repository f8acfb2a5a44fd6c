//! `sidle api-keys`.

use chrono::{TimeDelta, Utc};
use clap::Subcommand;

use super::Global;
use super::connect::{Caller, random_id};
use super::failure::Result;
use super::lookup::{self, pages};
use super::names::Names;
use super::output::{Out, dash, time};
use crate::access::input;
use crate::proto::*;

/// Commands on API keys.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a key or a client secret for a service account and print it, this once
    Create {
        /// Name or id of the service account
        service_account: String,
        /// What the key is used for
        #[arg(long, default_value = "")]
        description: String,
        /// Permissions to limit the key to, separated by commas
        #[arg(long, value_delimiter = ',')]
        scopes: Vec<String>,
        /// Make a client secret, which is presented together with the service account's id
        #[arg(long)]
        client_secret: bool,
        /// Days until the key stops working; never when not given
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..=36_500))]
        days: Option<i64>,
    },
    /// List keys, never their secrets
    List {
        /// Name or id of the service account
        #[arg(long)]
        service_account: Option<String>,
        /// Also revoked ones
        #[arg(long)]
        revoked: bool,
    },
    /// Revoke a key for good
    Revoke {
        /// Id of the key, as `list` shows it
        key: String,
    },
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        match self {
            Self::Create { service_account, description, scopes, client_secret, days } => {
                let expires_at: Option<chrono::DateTime<Utc>> =
                    days.and_then(|days| caller.context.now().checked_add_signed(TimeDelta::days(days)));
                let request = CreateApiKeyRequest {
                    request_id: random_id(&caller.context),
                    validate_only: false,
                    service_account_id: lookup::service_account_id(&caller, &service_account).await?,
                    description,
                    scopes,
                    expires_at: expires_at.map(input::to_proto),
                    kind: if client_secret { ApiKeyKind::ClientSecret } else { ApiKeyKind::ApiKey }.into(),
                };
                let call = async |request| Ok(caller.directory().await?.create_api_key(request).await?);
                let answer = caller.proving(request, call).await?;
                if out.is_json() {
                    return out.message(&answer);
                }
                out.note("The key is shown this once and cannot be read again:");
                out.line(&answer.secret)
            }
            Self::List { service_account, revoked } => {
                let service_account_id = match &service_account {
                    Some(name) => lookup::service_account_id(&caller, name).await?,
                    None => String::new(),
                };
                list(&caller, &service_account_id, revoked, out).await
            }
            Self::Revoke { key } => {
                caller.directory().await?.delete_api_key(DeleteApiKeyRequest { api_key_id: key }).await?;
                out.note("The key is revoked.");
                Ok(())
            }
        }
    }
}

async fn list(caller: &Caller, service_account_id: &str, include_revoked: bool, out: &Out) -> Result<()> {
    let (keys, _) = pages(usize::MAX, |page_size, page_token| {
        let service_account_id = service_account_id.to_owned();
        let request = ListApiKeysRequest { page_size, page_token, service_account_id, include_revoked };
        async move {
            let answer = caller.directory().await?.list_api_keys(request).await?.into_inner();
            Ok((answer.api_keys, answer.next_page_token))
        }
    })
    .await?;
    let accounts = match out.is_json() {
        true => Names::default(),
        false => Names::of_service_accounts(caller, keys.iter().map(|key| key.service_account_id.as_str())).await,
    };
    out.list(&keys, &["KEY", "BEGINS WITH", "SERVICE ACCOUNT", "SCOPES", "EXPIRES", "LAST USED", "REVOKED"], |key| {
        vec![
            key.api_key_id.clone(),
            key.display_prefix.clone(),
            accounts.of(&key.service_account_id),
            dash(&key.scopes.join(" ")),
            time(key.expires_at.as_ref()),
            time(key.last_used_at.as_ref()),
            time(key.revoked_at.as_ref()),
        ]
    })
}
