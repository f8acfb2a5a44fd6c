//! Beginning a session: what is decided before the database does it, and the tokens that come of it after.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use sidle_token::Epoch;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::settings::Settings;
use super::store::types::{NewSession, UserRights};
use crate::access::{Call, Permissions, PrincipalKind};
use crate::audit::{Event, EventType, Recorder};
use crate::context::Context;
use crate::fault::Result;
use crate::seal::{Keyring, SealContext};
use crate::token::issuer::{AccessToken, Grant, Issuer};
use crate::token::opaque;
use crate::token::role_names::RoleNames;

/// Prefix of refresh tokens.
pub const REFRESH_PREFIX: &str = "sidle_rt_";

/// What a login asks for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Tenant to act in; home when none.
    pub tenant_id: Option<Uuid>,
    /// The tenant by its slug, in place of `tenant_id`; see [`Sessions::asked_tenant`](super::Sessions::asked_tenant).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_slug: Option<String>,
    /// Audience of the tokens.
    pub audience: String,
    /// Whether to be remembered.
    pub persistent: bool,
    pub device: Device,
}

/// A device, as the application reports it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Device {
    /// The application's id of it.
    pub id: Option<String>,
    /// Kind, as the database spells it.
    pub kind: Option<String>,
    /// Operating system or platform.
    pub platform: Option<String>,
    /// User agent of the user's client.
    pub user_agent: Option<String>,
    /// Where it is.
    pub location: Option<String>,
    /// What the application recognises it by. Only a keyed digest is kept.
    #[serde(default)]
    pub fingerprint: Option<String>,
}

/// What the user is and may do in the tenant of the session.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    pub tenant_id: Option<Uuid>,
    /// Roles there.
    pub roles: Vec<String>,
    /// Permissions there.
    pub permissions: Vec<String>,
    /// Permissions in every tenant.
    pub platform_permissions: Vec<String>,
    /// The latest revocation of the user's tokens.
    pub epoch: Epoch,
    /// Whether a new password must be set before anything else.
    pub must_change_password: bool,
}

/// A session that is about to begin.
pub struct PendingSession {
    pub session_id: Uuid,
    refresh_token: Zeroizing<String>,
    /// What the database function `session_open` takes.
    pub record: NewSession,
}

/// The tokens of a session.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The access token.
    pub access: AccessToken,
    pub refresh_token: Zeroizing<String>,
    /// When the refresh token ends.
    pub refresh_expires_at: DateTime<Utc>,
}

/// Begins sessions.
#[derive(Clone, Debug)]
pub struct SessionFactory {
    pub(super) context: Context,
    pub(super) keyring: Keyring,
    pub(super) issuer: Issuer,
    pub(super) recorder: Recorder,
    pub(super) config: Arc<Settings>,
}

impl SessionFactory {
    /// Decides everything about a session that the database need not be asked for.
    pub fn open(&self, call: &Call, session_request: &SessionRequest) -> PendingSession {
        let now = self.context.now();
        let session_id = self.context.new_id();
        let refresh_token = opaque::mint(REFRESH_PREFIX, &self.context.entropy);
        let sessions = &self.config.sessions;
        let lifetime =
            if session_request.persistent { sessions.remembered_absolute_lifetime } else { sessions.absolute_lifetime };
        let expires_at = now + TimeDelta::from_std(lifetime).unwrap_or_default();
        let refresh_expires_at = expires_at.min(now + self.idle(session_request.persistent));
        let device = &session_request.device;
        let user_agent = device.user_agent.as_ref().or(call.user_agent.as_ref());
        let over_the_limit = Event::by_system(EventType::SessionLimitReached, call.correlation_id);
        let record = NewSession {
            session_id,
            audience: session_request.audience.clone(),
            persistent: session_request.persistent,
            access_token_jti: self.context.new_id(),
            access_until: self.issuer.access_until(),
            refresh_token_id: self.context.new_id(),
            refresh_token_hash: opaque::digest(refresh_token.as_bytes()).to_vec(),
            device_id: device.id.clone(),
            device_type: device.kind.clone(),
            device_platform: device.platform.clone(),
            device_location: device.location.clone(),
            device_fingerprint: self.fingerprint(device, user_agent),
            ip_address: call.address.map(|address| address.to_string()),
            user_agent: user_agent.cloned(),
            kanidm_session_id: None,
            kanidm_refresh_token: None,
            idle_expires_at: refresh_expires_at,
            expires_at,
            session_limit: i32::try_from(sessions.per_user).unwrap_or(i32::MAX),
            limit_event: self.recorder.prepare(over_the_limit),
        };
        PendingSession { session_id, refresh_token, record }
    }

    /// The tokens of a session that has begun.
    ///
    /// # Errors
    /// When there is no key to sign with.
    pub fn tokens(&self, session: PendingSession, user_id: Uuid, rights: &Rights) -> Result<Tokens> {
        let PendingSession { session_id, refresh_token, record } = session;
        let grant = rights.grant(user_id, session_id, record.audience, record.expires_at);
        Ok(Tokens {
            access: self.issuer.issue(record.access_token_jti, &grant)?,
            refresh_token,
            refresh_expires_at: record.idle_expires_at,
        })
    }

    /// How long a session goes on without being refreshed.
    pub(super) fn idle(&self, persistent: bool) -> Duration {
        let sessions = &self.config.sessions;
        let idle = if persistent { sessions.remembered_idle_lifetime } else { sessions.idle_lifetime };
        idle.min(self.config.tokens.refresh_lifetime)
    }

    /// A digest by which a user can tell two devices apart: of what the application recognises the device by or, when
    /// it says nothing, of what the device says of itself. Keyed, so that it cannot be computed for a guess. Shown,
    /// never trusted.
    fn fingerprint(&self, device: &Device, user_agent: Option<&String>) -> String {
        let key = self.keyring.derive("device fingerprints");
        // HMAC takes keys of any length, so this cannot fail.
        #[expect(clippy::expect_used, reason = "HMAC accepts keys of every length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&*key).expect("HMAC takes any key");
        let told = [device.kind.as_ref(), device.platform.as_ref(), user_agent];
        let parts = if device.fingerprint.is_some() { [device.fingerprint.as_ref(), None, None] } else { told };
        mac.update(&[u8::from(device.fingerprint.is_some())]);
        for part in parts {
            let part = part.map(String::as_bytes).unwrap_or_default();
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        HEXLOWER.encode(&mac.finalize().into_bytes())
    }

    /// Kanidm's refresh token as it is kept with a session.
    pub fn seal_kanidm(&self, session_id: Uuid, token: &str) -> Vec<u8> {
        self.keyring.seal(&self.context.entropy, kanidm_token_context(session_id), token.as_bytes())
    }

    /// Kanidm's refresh token as Kanidm knows it.
    pub(super) fn open_kanidm(&self, session_id: Uuid, sealed: &[u8]) -> Result<Zeroizing<String>> {
        let bytes = self.keyring.open(kanidm_token_context(session_id), sealed)?;
        Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Notes on a session about to begin that it depends on Kanidm.
    pub fn with_kanidm(&self, session: &mut PendingSession, kanidm_session: Option<Uuid>, refresh_token: &str) {
        session.record.kanidm_session_id = kanidm_session;
        session.record.kanidm_refresh_token = Some(self.seal_kanidm(session.session_id, refresh_token));
    }
}

impl From<UserRights> for Rights {
    fn from(row: UserRights) -> Self {
        Self {
            tenant_id: row.tenant_id,
            roles: row.roles,
            permissions: row.permissions,
            platform_permissions: row.platform_permissions,
            epoch: Epoch::of(row.tokens_valid_from),
            must_change_password: row.must_change_password,
        }
    }
}

impl Rights {
    /// A token's contents for these rights: none at all while a new password is due.
    pub(super) fn grant(&self, user: Uuid, session: Uuid, audience: String, not_after: DateTime<Utc>) -> Grant {
        let allowed = |names: &[String]| {
            if self.must_change_password { Permissions::default() } else { Permissions::new(names.iter().cloned()) }
        };
        let roles = if self.must_change_password { RoleNames::default() } else { RoleNames::read(&self.roles) };
        Grant {
            kind: PrincipalKind::User,
            subject: user,
            session_id: Some(session),
            tenant_id: self.tenant_id,
            audience,
            roles,
            permissions: allowed(&self.permissions),
            platform_permissions: allowed(&self.platform_permissions).on_platform(),
            epoch: self.epoch,
            not_after: Some(not_after),
        }
    }
}

fn kanidm_token_context(session: Uuid) -> SealContext {
    SealContext { table: "sessions", column: "kanidm_refresh_token", row: session }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_must_change_the_password_may_do_nothing_else() {
        let mut rights = Rights {
            tenant_id: Some(Uuid::nil()),
            roles: vec!["admin".to_owned()],
            permissions: vec!["*".to_owned()],
            platform_permissions: vec!["*".to_owned()],
            ..Rights::default()
        };
        let grant = |rights: &Rights| rights.grant(Uuid::nil(), Uuid::nil(), "sidle".to_owned(), DateTime::UNIX_EPOCH);
        assert!(grant(&rights).permissions.has("users.read"));
        rights.must_change_password = true;
        let limited = grant(&rights);
        assert!(limited.permissions.is_empty() && limited.platform_permissions.is_empty());
        assert_eq!(limited.roles, RoleNames::default());
    }
}
