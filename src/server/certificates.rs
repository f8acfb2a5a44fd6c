//! Client certificates as callers: which service account the holder of one acts as, and what is left of a token's rights
//! when both come with a call. What a certificate says is read at the edge; here it has been checked already.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use quick_cache::sync::Cache;

use crate::access::{Permissions, Principal, PrincipalKind, certificate_account};
use crate::context::Context;
use crate::db::Db;
use crate::fault::{Fault, Reason, Result};
use crate::token::Verifier;

/// How long an account's rights are taken from memory. A change of them is noticed immediately all the same, as a token's
/// revocation is.
const FRESH: TimeDelta = TimeDelta::seconds(30);
/// Accounts that are remembered.
const REMEMBERED: usize = 10_000;

/// What a client certificate says: the authority that verifies it, and the one URI in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateIdentity {
    /// The authority's name in the configuration.
    pub authority: Arc<str>,
    /// The URI, as it stands in the certificate.
    pub uri: Arc<str>,
    /// When the certificate ends, where that can be read.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Finds the accounts of certificates. Clones share what they remember.
#[derive(Clone)]
pub struct Certificates {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    context: Context,
    lifetime: TimeDelta,
    known: Cache<CertificateIdentity, Arc<Principal>>,
}

impl Certificates {
    /// The accounts in this database; what begins with a certificate, such as a stream, is good as long as a token would
    /// be, and asked for at intervals after that.
    pub fn new(db: Db, context: Context, token_lifetime: Duration) -> Self {
        let lifetime = TimeDelta::from_std(token_lifetime).unwrap_or_default();
        Self { inner: Arc::new(Inner { db, context, lifetime, known: Cache::new(REMEMBERED) }) }
    }

    /// The account that the holder of a certificate acts as.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when there is none that can be used, `REVOCATIONS_STALE` when nothing can be verified.
    pub async fn principal(&self, verifier: &Verifier, holder: &CertificateIdentity) -> Result<Arc<Principal>> {
        let inner = &*self.inner;
        let now = inner.context.now();
        if let Some(known) = inner.known.get(holder)
            && now - known.issued_at < FRESH
            && verifier.recheck(&known).is_ok()
        {
            return Ok(known);
        }
        let Some(account) = certificate_account(&inner.db, &holder.authority, &holder.uri).await? else {
            inner.known.remove(holder);
            return Err(refused());
        };
        let permissions = Permissions::new(account.permissions);
        let (here, everywhere) = match account.tenant_id {
            Some(_) => (permissions, Permissions::default()),
            None => (Permissions::default(), permissions.on_platform()),
        };
        let principal = Arc::new(Principal {
            kind: PrincipalKind::ServiceAccount,
            id: account.service_account_id,
            session_id: None,
            tenant_id: account.tenant_id,
            permissions: here,
            platform_permissions: everywhere,
            key_id: None,
            issued_at: now,
            // Read with the rights: whatever revokes them after that voids what is remembered of them.
            epoch: account.epoch,
            // Never longer than the certificate itself.
            expires_at: holder.expires_at.map_or(now + inner.lifetime, |end| end.min(now + inner.lifetime)),
            credential_expires_at: holder.expires_at,
        });
        verifier.recheck(&principal)?;
        inner.known.insert(holder.clone(), Arc::clone(&principal));
        Ok(principal)
    }
}

/// The refusal of a certificate: one text for every cause.
pub(crate) fn refused() -> Fault {
    Fault::new(Reason::Unauthenticated, "The client certificate is not accepted.")
}

/// The principal of a token, with no more rights than the account of the certificate that came along.
pub(super) fn narrowed(token: &Principal, certificate: &Principal) -> Principal {
    let within = |principal: &Principal| {
        let mut all = principal.platform_permissions.clone();
        if principal.tenant_id == token.tenant_id {
            all = all.union(&principal.permissions);
        }
        all
    };
    let permissions = match token.tenant_id {
        Some(_) => within(token).intersect(&within(certificate)),
        None => Permissions::default(),
    };
    Principal {
        permissions,
        platform_permissions: token.platform_permissions.intersect(&certificate.platform_permissions),
        expires_at: token.expires_at.min(certificate.expires_at),
        ..token.clone()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

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

    /// (token in tenant 7, certificate's tenant, its rights there, its rights everywhere; what is left here, everywhere)
    #[test]
    fn of_two_sets_of_rights_what_is_in_both_is_left() {
        for (token, certificate, here, everywhere) in [
            (("a.x b.x", ""), (Some(7), "b.x c.x", ""), "b.x", ""),
            (("*", ""), (Some(7), "b.x", ""), "b.x", ""),
            (("b.x", ""), (Some(7), "*", ""), "b.x", ""),
            (("a.x", ""), (Some(8), "a.x", ""), "", ""),
            (("a.x", ""), (None, "", "a.x c.x"), "a.x", ""),
            (("", "*"), (Some(7), "b.x", ""), "b.x", ""),
            (("a.x", "b.x c.x"), (None, "", "c.x a.x"), "a.x c.x", "c.x"),
            (("*", "*"), (None, "", ""), "", ""),
        ] {
            let left = narrowed(
                &principal(Some(7), token.0, token.1),
                &principal(certificate.0, certificate.1, certificate.2),
            );
            let expected = (here.to_owned(), everywhere.to_owned());
            let found = (left.permissions.to_string(), left.platform_permissions.to_string());
            assert_eq!(found, expected, "{token:?} with {certificate:?}");
        }
        let without_tenant = narrowed(&principal(None, "*", "*"), &principal(None, "", "b.x"));
        assert!(without_tenant.permissions.is_empty());
        assert_eq!(without_tenant.platform_permissions.to_string(), "b.x");
    }
}
