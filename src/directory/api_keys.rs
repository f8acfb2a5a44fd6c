//! API keys of service accounts.

use chrono::{DateTime, Utc};
use uuid::Uuid;
use zeroize::Zeroizing;

pub(super) use super::store::KeyKind;
pub(super) use super::store::api_keys::ApiKey;
use super::{Change, service_accounts, store};
use crate::access::Permissions;
use crate::audit::{Event, EventType};
use crate::fault::{Fault, Reason, Result};
use crate::token::opaque;

const CREATE: &str = "sidle.v1.DirectoryService/CreateApiKey";
/// Client secrets that an account may have at the same time: one in use and one to replace it.
const MOST_SECRETS: i64 = 2;

/// Characters of the secret part that are kept to recognise a key by: too few to help a guess at 256 bits.
const SHOWN: usize = 6;

/// What is said about a new key.
pub(super) struct NewKey {
    pub service_account_id: Uuid,
    pub kind: KeyKind,
    pub description: String,
    pub scopes: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Makes a key and its secret, which is stored nowhere.
pub(super) async fn create(change: &mut Change<'_>, new: NewKey) -> Result<(ApiKey, Zeroizing<String>)> {
    change.hold_caller(Some(new.service_account_id)).await?;
    let account = service_accounts::for_change(change, new.service_account_id, None).await?;
    let allowed = Permissions::new(account.permissions);
    if let Some(scope) = new.scopes.iter().find(|scope| !allowed.has(scope)) {
        let fault = Fault::new(Reason::PermissionDenied, "The service account does not hold every scope of the key.");
        return Err(fault.with("permission", scope));
    }
    let expires_at = expiry(change, new.expires_at)?;
    change.step_up_of_people(CREATE, Some(account.service_account_id)).await?;
    if new.kind == KeyKind::ClientSecret {
        bound_secrets(change, account.service_account_id).await?;
    }
    let prefix = new.kind.prefix();
    let secret = opaque::mint(prefix, &change.context().entropy);
    let key = ApiKey {
        api_key_id: change.context().new_id(),
        service_account_id: account.service_account_id,
        tenant_id: account.tenant_id,
        kind: new.kind,
        display_prefix: secret.chars().take(prefix.len() + SHOWN).collect(),
        description: new.description,
        scopes: new.scopes,
        expires_at: Some(expires_at),
        last_used_at: None,
        revoked_at: None,
        created_at: change.now,
        created_by: Some(change.principal()?.id),
    };
    store::api_keys::insert(&mut change.tx, &key, &opaque::digest(secret.as_bytes())).await?;
    let event =
        about(change, EventType::ApiKeyCreated, &key).detail("scopes", &key.scopes).detail("kind", key.kind.as_str());
    change.record(event).await?;
    Ok((key, secret))
}

/// When a key expires: at the time asked for, or as late as it may.
fn expiry(change: &Change<'_>, asked: Option<DateTime<Utc>>) -> Result<DateTime<Utc>> {
    let latest = change.now + change.longest_key_life();
    match asked {
        Some(at) if at <= change.now => Err(Fault::field("expires_at", "must be in the future")),
        Some(at) if at > latest => Err(Fault::field("expires_at", "must be within api_keys.max_lifetime from now")),
        asked => Ok(asked.unwrap_or(latest)),
    }
}

/// Refuses another client secret beyond the most that may work. The account's row is locked, so the count is right under
/// concurrent calls.
async fn bound_secrets(change: &mut Change<'_>, account: Uuid) -> Result<()> {
    let now = change.now;
    if store::api_keys::live_secrets(&mut change.tx, account, now).await? >= MOST_SECRETS {
        let fault = Fault::new(Reason::TooManySecrets, "The service account has two client secrets that work.");
        return Err(fault.with("most", MOST_SECRETS.to_string()));
    }
    Ok(())
}

/// Revokes a key, and the tokens of its service account: they do not say which key they were exchanged for.
pub(super) async fn revoke(change: &mut Change<'_>, id: Uuid) -> Result<()> {
    let key = store::api_keys::by_id(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("API key"))?;
    let account = key.service_account_id;
    if key.revoked_at.is_some() {
        return Ok(());
    }
    service_accounts::for_change(change, account, None).await?;
    let now = change.context().now();
    if !store::api_keys::revoke(&mut change.tx, id, now).await? {
        return Ok(());
    }
    let event = about(change, EventType::ApiKeyRevoked, &key);
    let event = change.end_account_tokens(&[account], event).await?;
    change.record(event).await
}

fn about(change: &Change<'_>, event: EventType, key: &ApiKey) -> Event {
    Event::new(event, change.call)
        .tenant(key.tenant_id)
        .target("api_key", key.api_key_id)
        .detail("service_account_id", key.service_account_id)
}
