//! A call and the principal behind it.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use tonic::Request;
use uuid::Uuid;

use super::{Permissions, proven};
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};

/// What kind of account calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrincipalKind {
    /// The account of a human being.
    User,
    /// A program.
    ServiceAccount,
}

impl PrincipalKind {
    /// Its name in tokens and audit events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ServiceAccount => "service_account",
        }
    }
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub struct Principal {
    pub kind: PrincipalKind,
    pub id: Uuid,
    /// The session that the access token belongs to; service accounts have none.
    pub session_id: Option<Uuid>,
    /// The tenant it acts in; none for a service account of the platform.
    pub tenant_id: Option<Uuid>,
    /// What it may do in that tenant.
    pub permissions: Permissions,
    /// What it may do in every tenant.
    pub platform_permissions: Permissions,
    /// The key that signed the access token; none for callers authenticated without one.
    pub key_id: Option<Uuid>,
    /// When the access token was issued, by the clock of the replica that did.
    pub issued_at: DateTime<Utc>,
    /// The revocation of the principal's tokens that its rights were read after.
    pub epoch: Epoch,
    /// When the access token ends.
    pub expires_at: DateTime<Utc>,
    /// When the key or the certificate ends that a service account was authenticated by. Without it, and without a session,
    /// what the caller began ends with the access token.
    pub credential_expires_at: Option<DateTime<Utc>>,
}

impl Principal {
    /// Whether it holds `permission` at all.
    pub fn may(&self, permission: &str) -> bool {
        self.platform_permissions.has(permission) || (self.tenant_id.is_some() && self.permissions.has(permission))
    }

    /// The scope in which it may use `permission` on resources of `tenant`. Without a tenant: as far as it reaches.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn authorize(&self, permission: &'static str, tenant: Option<Uuid>) -> Result<Scope> {
        if self.platform_permissions.has(permission) {
            return Ok(tenant.map_or(Scope::Platform, Scope::Tenant));
        }
        match self.tenant_id {
            Some(own) if self.permissions.has(permission) && tenant.is_none_or(|tenant| tenant == own) => {
                Ok(Scope::Tenant(own))
            }
            _ => Err(denied(permission)),
        }
    }
}

/// The refusal for a caller without `permission`.
pub(crate) fn denied(permission: &'static str) -> Fault {
    Fault::new(Reason::PermissionDenied, format!("The caller lacks the permission {permission}."))
        .with("permission", permission)
}

/// What is known of a call: made at the edge, carried by the request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Accepted from `x-correlation-id` or made at the edge; in every log line, event and error of the call.
    pub correlation_id: Uuid,
    /// The caller's address.
    pub address: Option<IpAddr>,
    /// The caller's user agent.
    pub user_agent: Option<String>,
    /// The caller; none for a public RPC.
    pub principal: Option<Arc<Principal>>,
    /// The account of the client certificate, where one came besides the token of `principal`, whose rights it bounds.
    pub certificate: Option<Arc<Principal>>,
    /// SHA-256 of the secret in `sidle-known-device`, by which the caller's device may be known.
    pub known_device: Option<[u8; 32]>,
    /// SHA-256 of the token in `sidle-step-up`, the fresh proof that came with the call.
    pub step_up: Option<[u8; 32]>,
    /// The fields that are left out of `request`, for an RPC that may ask for a proof.
    pub aside: Option<&'static [u32]>,
    /// Digest of the request, for an RPC that may ask for a proof: what that is bound to.
    pub request: [u8; 32],
}

impl Call {
    /// The call that `request` carries.
    ///
    /// # Errors
    /// `INTERNAL` for a request that did not pass the layers.
    pub fn of<T: prost::Message>(request: &Request<T>) -> Result<Self> {
        let mut call = Self::of_stream(request)?;
        if let Some(aside) = call.aside {
            call.request = proven::of(request.get_ref(), aside);
        }
        Ok(call)
    }

    /// As [`Call::of`], for requests that are streams: a proof for one is bound to nothing that the stream brings.
    ///
    /// # Errors
    /// As [`Call::of`].
    pub fn of_stream<T>(request: &Request<T>) -> Result<Self> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Fault::internal("the request did not pass the layers"))
    }

    /// A call that the service makes by itself, such as a migration engine's work.
    pub fn internal(correlation_id: Uuid) -> Self {
        Self::arriving(correlation_id, None, None)
    }

    /// A call as it arrives, of which nothing else is known.
    pub fn arriving(correlation_id: Uuid, address: Option<IpAddr>, user_agent: Option<String>) -> Self {
        Self {
            correlation_id,
            address,
            user_agent,
            principal: None,
            certificate: None,
            known_device: None,
            step_up: None,
            aside: None,
            request: proven::of_nothing(),
        }
    }

    /// Who calls.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when the caller has not signed in.
    pub fn principal(&self) -> Result<&Principal> {
        self.principal.as_deref().ok_or_else(|| Fault::new(Reason::Unauthenticated, "The call needs an access token."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(tenant: Option<u128>, permissions: &str, platform: &str) -> Principal {
        Principal {
            kind: PrincipalKind::User,
            id: Uuid::from_u128(1),
            session_id: None,
            tenant_id: tenant.map(Uuid::from_u128),
            permissions: Permissions::parse(permissions),
            platform_permissions: Permissions::parse(platform).on_platform(),
            key_id: None,
            issued_at: DateTime::UNIX_EPOCH,
            epoch: sidle_token::Epoch::FIRST,
            expires_at: DateTime::UNIX_EPOCH,
            credential_expires_at: None,
        }
    }

    #[test]
    fn a_tenants_administrator_reaches_no_other_tenant() {
        let admin = principal(Some(7), "*", "");
        let (own, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
        assert_eq!(admin.authorize("users.read", None).unwrap(), Scope::Tenant(own));
        assert_eq!(admin.authorize("users.read", Some(own)).unwrap(), Scope::Tenant(own));
        assert_eq!(admin.authorize("users.read", Some(other)).unwrap_err().reason(), Reason::PermissionDenied);
    }

    #[test]
    fn a_platform_permission_reaches_everywhere_and_no_further_than_it_says() {
        let operator = principal(Some(7), "", "users.read");
        let other = Uuid::from_u128(8);
        assert_eq!(operator.authorize("users.read", None).unwrap(), Scope::Platform);
        assert_eq!(operator.authorize("users.read", Some(other)).unwrap(), Scope::Tenant(other));
        assert!(operator.authorize("users.write", None).is_err());
    }

    #[test]
    fn tenant_permissions_without_a_tenant_are_worth_nothing() {
        let nobody = principal(None, "*", "");
        assert!(!nobody.may("users.read"));
        assert!(nobody.authorize("users.read", Some(Uuid::from_u128(7))).is_err());
    }
}
