//! The platform always has an administrator. Every change that could remove the last one happens under one lock, so
//! that two that each leave one do not together leave none.

use super::change::Change;
use super::store::tokens;
use super::store::users::User;
use crate::fault::{Fault, Reason, Result};

/// Proof that the lock is held, and whether there was an administrator to begin with.
pub(super) struct Guard {
    had_one: bool,
}

/// Takes the lock; before any row is locked, so that two changes never wait for each other.
pub(super) async fn guard(change: &mut Change<'_>) -> Result<Guard> {
    let now = change.now;
    tokens::lock_admins(&mut change.tx).await?;
    let had_one = tokens::has_platform_admin(&mut change.tx, now).await?;
    Ok(Guard { had_one })
}

impl Guard {
    /// Refuses the change if no administrator who can sign in would be left.
    pub async fn still_has_one(self, change: &mut Change<'_>) -> Result<()> {
        let now = change.now;
        if self.had_one && !tokens::has_platform_admin(&mut change.tx, now).await? {
            return Err(Fault::new(
                Reason::LastAdmin,
                "Nobody who can sign in would be left to administer the platform.",
            ));
        }
        Ok(())
    }
}

/// Refuses to take anything from the master administrator.
pub(super) fn require_not_master(user: &User) -> Result<()> {
    if user.is_master_admin { Err(master()) } else { Ok(()) }
}

/// The refusal for taking something from the master administrator.
pub(super) fn master() -> Fault {
    Fault::new(Reason::MasterAdmin, "The user is the master administrator.")
}
