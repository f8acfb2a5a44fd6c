//! The caller of a request.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sidle_token::{Kind, Permissions, Token};
use uuid::Uuid;

use crate::proto;

/// The caller, as an accepted token names it. In the extensions of every request that passed [`crate::Protect`].
#[derive(Clone, Debug)]
pub struct Caller {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    subject: Uuid,
    kind: Kind,
    tenant: Option<Uuid>,
    session: Option<Uuid>,
    roles: Vec<String>,
    tenant_roles: Vec<String>,
    platform_roles: Vec<String>,
    permissions: Permissions,
    platform_permissions: Permissions,
    expires_at: DateTime<Utc>,
}

/// The caller lacks a permission. Turns into `PERMISSION_DENIED` for tonic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The permission.
    pub permission: String,
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the caller lacks the permission {}", self.permission)
    }
}

impl std::error::Error for Denied {}

impl From<Denied> for tonic::Status {
    fn from(denied: Denied) -> Self {
        Self::permission_denied(denied.to_string())
    }
}

impl Caller {
    /// The caller of a request that passed [`crate::Protect`].
    ///
    /// # Errors
    /// `UNAUTHENTICATED` for one that did not.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, tonic::Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| tonic::Status::unauthenticated("the call needs an access token"))
    }

    /// UUID of the user or service account.
    pub fn subject(&self) -> Uuid {
        self.inner.subject
    }

    /// What [`Caller::subject`] is.
    pub fn kind(&self) -> Kind {
        self.inner.kind
    }

    /// The tenant that the caller acts in; none for one that acts on the platform only.
    pub fn tenant(&self) -> Option<Uuid> {
        self.inner.tenant
    }

    /// The caller's session; service accounts have none.
    pub fn session(&self) -> Option<Uuid> {
        self.inner.session
    }

    /// Names of the caller's roles in the tenant that mean the same in every tenant.
    pub fn roles(&self) -> &[String] {
        &self.inner.roles
    }

    /// Names of the caller's roles in the tenant that the tenant defines itself: its own choice, which means nothing in
    /// another tenant or on the platform.
    pub fn tenant_roles(&self) -> &[String] {
        &self.inner.tenant_roles
    }

    /// Names of the caller's roles on the platform.
    pub fn platform_roles(&self) -> &[String] {
        &self.inner.platform_roles
    }

    /// What the caller may do in the tenant.
    pub fn permissions(&self) -> &Permissions {
        &self.inner.permissions
    }

    /// What the caller may do in every tenant.
    pub fn platform_permissions(&self) -> &Permissions {
        &self.inner.platform_permissions
    }

    /// When the token expires.
    pub fn expires_at(&self) -> DateTime<Utc> {
        self.inner.expires_at
    }

    /// Refuses a caller that does not hold `permission` in [`Caller::tenant`], nor in every tenant.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn require(&self, permission: &str) -> Result<(), Denied> {
        let inner = &*self.inner;
        let may =
            inner.platform_permissions.has(permission) || (inner.tenant.is_some() && inner.permissions.has(permission));
        may.then_some(()).ok_or_else(|| Denied { permission: permission.to_owned() })
    }

    /// Refuses a caller that does not hold `permission` for what belongs to `tenant`. Ask this, not
    /// [`Caller::require`], where the request says which tenant it is about.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn require_in(&self, tenant: Uuid, permission: &str) -> Result<(), Denied> {
        let inner = &*self.inner;
        let may = inner.platform_permissions.has(permission)
            || (inner.tenant == Some(tenant) && inner.permissions.has(permission));
        may.then_some(()).ok_or_else(|| Denied { permission: permission.to_owned() })
    }

    /// From the claims of a verified token.
    pub(crate) fn from_token(token: &Token) -> Self {
        let claims = &token.claims;
        Self {
            inner: Arc::new(Inner {
                subject: claims.sub,
                kind: claims.kind,
                tenant: claims.tid,
                session: claims.sid,
                roles: claims.roles.clone(),
                tenant_roles: claims.tenant_roles.clone(),
                platform_roles: claims.platform_roles.clone(),
                permissions: Permissions::parse(&claims.scope),
                platform_permissions: Permissions::parse(&claims.platform_scope).on_platform(),
                expires_at: token.expires_at,
            }),
        }
    }

    /// From Sidle's verdict on a token; none for an answer that makes no sense.
    pub(crate) fn from_claims(claims: proto::TokenClaims) -> Option<Self> {
        let id = |text: &str| if text.is_empty() { Some(None) } else { Uuid::try_parse(text).ok().map(Some) };
        let kind = match claims.kind() {
            proto::PrincipalKind::User => Kind::User,
            proto::PrincipalKind::ServiceAccount => Kind::ServiceAccount,
            proto::PrincipalKind::Unspecified => return None,
        };
        let expires_at = claims.expires_at?;
        let inner = Inner {
            subject: id(&claims.subject)??,
            kind,
            tenant: id(&claims.tenant_id)?,
            session: id(&claims.session_id)?,
            roles: claims.roles,
            tenant_roles: claims.tenant_roles,
            platform_roles: claims.platform_roles,
            permissions: Permissions::new(claims.permissions),
            platform_permissions: Permissions::new(claims.platform_permissions).on_platform(),
            expires_at: DateTime::from_timestamp(expires_at.seconds, 0)?,
        };
        Some(Self { inner: Arc::new(inner) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(tenant: Option<u128>, permissions: &str, platform: &str) -> Caller {
        let claims = proto::TokenClaims {
            subject: Uuid::from_u128(1).to_string(),
            kind: proto::PrincipalKind::User.into(),
            tenant_id: tenant.map(|id| Uuid::from_u128(id).to_string()).unwrap_or_default(),
            expires_at: Some(prost_types::Timestamp::default()),
            permissions: permissions.split_whitespace().map(str::to_owned).collect(),
            platform_permissions: platform.split_whitespace().map(str::to_owned).collect(),
            ..Default::default()
        };
        Caller::from_claims(claims).unwrap()
    }

    #[test]
    fn permissions_hold_in_their_tenant_and_those_of_the_platform_everywhere() {
        let (own, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let clerk = caller(Some(7), "orders.read", "");
        assert!(clerk.require("orders.read").is_ok() && clerk.require_in(own, "orders.read").is_ok());
        assert!(clerk.require("orders.write").is_err() && clerk.require_in(other, "orders.read").is_err());
        let operator = caller(None, "orders.write", "orders.read");
        assert!(operator.require_in(other, "orders.read").is_ok());
        assert!(operator.require("orders.write").is_err(), "tenant permissions without a tenant are worth nothing");
        assert_eq!(tonic::Status::from(operator.require("x").unwrap_err()).code(), tonic::Code::PermissionDenied);
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_nobody() {
        let good = proto::TokenClaims {
            subject: Uuid::from_u128(1).to_string(),
            kind: proto::PrincipalKind::User.into(),
            expires_at: Some(prost_types::Timestamp::default()),
            ..Default::default()
        };
        assert!(Caller::from_claims(good.clone()).is_some());
        for bad in [
            proto::TokenClaims { subject: String::new(), ..good.clone() },
            proto::TokenClaims { kind: 0, ..good.clone() },
            proto::TokenClaims { tenant_id: "all".to_owned(), ..good.clone() },
            proto::TokenClaims { expires_at: None, ..good },
        ] {
            assert!(Caller::from_claims(bad).is_none());
        }
    }
}
