//! Who may link a person to their account: asked when the attempt begins, and again when it comes back.

use uuid::Uuid;

use super::store::{self as store, AuthMethod, PersonRefusal, User, UserStatus};
use crate::db::Connection;
use crate::fault::{Fault, Reason, Result};

/// Why the user of a session may not link a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkRefusal {
    /// The user or the session is not what it was.
    NotAccepted,
    AlreadyLinked,
    PasswordChangeRequired,
    /// A migration is at work on the user.
    Migrating,
    /// The person is another user's.
    PersonTaken,
}

impl LinkRefusal {
    /// Its name in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAccepted => "refused",
            Self::AlreadyLinked => "already_linked",
            Self::PasswordChangeRequired => "password_change_required",
            Self::Migrating => "migrating",
            Self::PersonTaken => "person_taken",
        }
    }
}

impl From<PersonRefusal> for LinkRefusal {
    fn from(refusal: PersonRefusal) -> Self {
        match refusal {
            PersonRefusal::Migrating => Self::Migrating,
            PersonRefusal::PersonTaken => Self::PersonTaken,
        }
    }
}

impl From<LinkRefusal> for Fault {
    fn from(refusal: LinkRefusal) -> Self {
        match refusal {
            // One text for both: whose person it is must not be disclosed.
            LinkRefusal::AlreadyLinked | LinkRefusal::PersonTaken => {
                Fault::new(Reason::AlreadyExists, "The user or the person is linked already.")
                    .with("field", "kanidm_user_id")
            }
            // The administrator who set that password may still know it, and would keep access by the link when it has gone.
            LinkRefusal::PasswordChangeRequired => crate::authenticate::login::second_factor::factor_state(
                "password_change_required",
                "The password must be changed first.",
            ),
            LinkRefusal::Migrating => Fault::new(Reason::MigrationOverlap, "A migration is at work on the user."),
            LinkRefusal::NotAccepted => Fault::new(Reason::Unauthenticated, "The session is not accepted any more."),
        }
    }
}

/// Locks the user and the session until the transaction ends, and says why the user may not link a person now.
pub(super) async fn hold(
    tx: &mut Connection,
    user: Uuid,
    session: Uuid,
) -> Result<(Option<User>, Option<LinkRefusal>)> {
    let found = store::lock_user(tx, user).await?;
    let is_active = store::hold_session(tx, user, session).await?;
    let refusal = match &found {
        Some(found) if is_active => why_not(found),
        _ => Some(LinkRefusal::NotAccepted),
    };
    Ok((found, refusal))
}

/// Why a user may not link a person.
fn why_not(user: &User) -> Option<LinkRefusal> {
    if user.deleted_at.is_some() || user.status != UserStatus::Active {
        Some(LinkRefusal::NotAccepted)
    } else if user.kanidm_user_id.is_some() || user.auth_method != AuthMethod::Password {
        // A user who was rolled back keeps the link for the next attempt, and an administrator's decision on it.
        Some(LinkRefusal::AlreadyLinked)
    } else if user.must_change_password {
        // The administrator who set a first password may still know it: a person whom they link would outlast the password.
        Some(LinkRefusal::PasswordChangeRequired)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn user(change: impl FnOnce(&mut User)) -> User {
        let mut user = User {
            user_id: Uuid::nil(),
            tenant_id: Uuid::nil(),
            email: String::new(),
            username: None,
            full_name: String::new(),
            status: UserStatus::Active,
            auth_method: AuthMethod::Password,
            kanidm_user_id: None,
            must_change_password: false,
            locked_until: None,
            lock_reason: None,
            migration_completed_at: None,
            deleted_at: None,
        };
        change(&mut user);
        user
    }

    #[test]
    fn only_an_active_user_with_a_password_of_their_own_links_a_person() {
        assert_eq!(why_not(&user(|_| {})), None);
        let refused = |change: fn(&mut User)| why_not(&user(change)).map(LinkRefusal::as_str);
        assert_eq!(refused(|user| user.deleted_at = Some(DateTime::UNIX_EPOCH)), Some("refused"));
        assert_eq!(refused(|user| user.status = UserStatus::Disabled), Some("refused"));
        assert_eq!(refused(|user| user.status = UserStatus::PendingVerification), Some("refused"));
        assert_eq!(refused(|user| user.kanidm_user_id = Some(Uuid::nil())), Some("already_linked"));
        assert_eq!(refused(|user| user.auth_method = AuthMethod::Dual), Some("already_linked"));
        assert_eq!(refused(|user| user.must_change_password = true), Some("password_change_required"));
    }
}
