//! Credentials for programs end with their maker, unless they are to be kept.

use uuid::Uuid;

use super::store::api_keys::MadeBy;
use super::{Change, store};
use crate::access::Permissions;
use crate::access::delegation::{self, Aimed};
use crate::audit::{Event, EventType};
use crate::fault::Result;

/// Credentials for programs, by their maker.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Keys and client secrets that work, or worked until now.
    pub keys: Vec<Uuid>,
    /// Service accounts with client certificates that they registered.
    pub certified: Vec<Uuid>,
    /// Service accounts that they made; those stay.
    pub accounts: Vec<Uuid>,
    /// Whether keys and certificates go on working.
    pub kept: bool,
}

/// Ends the keys and certificates that a user made, unless they are to be kept: all of them or, where the user only
/// lost rights, those that permit what the user may not do any more. Otherwise a user about to lose access makes a key.
pub(super) async fn end_made_by(change: &mut Change<'_>, aimed: &Aimed, keep: bool, only_beyond: bool) -> Result<Made> {
    let user = aimed.user();
    let rights = match only_beyond {
        true => delegation::rights(&mut change.tx, user).await?,
        false => Vec::new(),
    };
    let may = |place: Option<Uuid>| {
        let at = |wanted: Option<Uuid>| {
            let there = rights.iter().filter(|(place, _)| *place == wanted);
            Permissions::new(there.flat_map(|(_, permissions)| permissions.iter().cloned()))
        };
        let on_platform = at(None).on_platform();
        if place.is_some() { on_platform.union(&at(place)) } else { on_platform }
    };
    let is_beyond = |made: &MadeBy| {
        let permits = Permissions::new(made.permissions.iter().cloned());
        let permits = if made.tenant_id.is_none() { permits.on_platform() } else { permits };
        !only_beyond || !may(made.tenant_id).covers(&permits)
    };
    let now = change.now;
    let mut credentials = store::api_keys::made_by(&mut change.tx, user, now).await?;
    credentials.retain(is_beyond);
    if !keep {
        end(change, user, &credentials).await?;
    }
    let accounts =
        if only_beyond { Vec::new() } else { store::service_accounts::made_by(&mut change.tx, user).await? };
    let keys = credentials.iter().filter_map(|made| made.api_key_id).collect();
    let certificates = credentials.iter().filter(|made| made.api_key_id.is_none());
    Ok(Made { keys, certified: certificates.map(|made| made.service_account_id).collect(), accounts, kept: keep })
}

/// Ends the keys and certificates that a service account made.
pub(super) async fn end_made_by_program(change: &mut Change<'_>, account: Uuid) -> Result<()> {
    let now = change.now;
    let credentials = store::api_keys::made_by(&mut change.tx, account, now).await?;
    end(change, account, &credentials).await
}

/// Ends credentials, in the order of their accounts, whose rows are locked one after the other.
async fn end(change: &mut Change<'_>, maker: Uuid, credentials: &[MadeBy]) -> Result<()> {
    for made in credentials {
        let account = made.service_account_id;
        if store::service_accounts::lock(&mut change.tx, account).await?.is_none() {
            continue;
        }
        let now = change.context().now();
        let event = match made.api_key_id {
            Some(key) => {
                store::api_keys::revoke(&mut change.tx, key, now).await?;
                Event::new(EventType::ApiKeyRevoked, change.call)
                    .target("api_key", key)
                    .detail("service_account_id", account)
            }
            None => {
                store::service_accounts::remove_certificates_by(&mut change.tx, account, maker).await?;
                Event::new(EventType::ServiceAccountUpdated, change.call).target("service_account", account)
            }
        };
        let event = event.tenant(made.tenant_id).detail("made_by", maker);
        let event = change.end_account_tokens(&[account], event).await?;
        change.record(event).await?;
    }
    Ok(())
}
