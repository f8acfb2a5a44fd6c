//! Returning to callers who they are.

use super::Account as Accounts;
use super::store::account::{self, Account, MemberTenant};
use crate::access::{Call, PrincipalKind};
use crate::fault::{Fault, Reason, Result};

/// Who is calling.
pub(in crate::authenticate) enum Who {
    User(Account),
    ServiceAccount(String),
}

impl Accounts {
    /// The caller, with their tenants as they are now.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when the account is gone although its token still lives.
    pub(in crate::authenticate) async fn who_am_i(&self, call: &Call) -> Result<(Who, Vec<MemberTenant>)> {
        let principal = call.principal()?;
        let gone = || Fault::new(Reason::Unauthenticated, "The account does not exist any more.");
        match principal.kind {
            PrincipalKind::User => {
                let (account, tenants) = account::account(&self.db, principal.id).await?.ok_or_else(gone)?;
                Ok((Who::User(account), tenants))
            }
            PrincipalKind::ServiceAccount => {
                let (name, tenants) = account::service_account(&self.db, principal.id).await?.ok_or_else(gone)?;
                Ok((Who::ServiceAccount(name), tenants))
            }
        }
    }
}
