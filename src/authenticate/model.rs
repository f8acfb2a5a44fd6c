//! What logins lead to, and the refusals that reveal nothing.

use chrono::{DateTime, Utc};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::enrolment::Hint;
use crate::fault::{Fault, Reason};
use crate::session::Tokens;

/// A completed login.
#[derive(Debug)]
pub struct SignedIn {
    pub tokens: Tokens,
    pub session_id: Uuid,
    /// The tenant it acts in.
    pub tenant_id: Option<Uuid>,
    /// Who signed in.
    pub user: UserView,
    /// Whether a new password must be set before anything else.
    pub must_change_password: bool,
    /// The secret of a device that was not known yet.
    pub known_device_token: Option<Zeroizing<String>>,
    /// An invitation to enrol in Kanidm.
    pub enrolment: Option<Hint>,
}

/// What the right password led to.
#[derive(Debug)]
pub enum Outcome {
    /// The login is complete.
    SignedIn(Box<SignedIn>),
    /// A second factor is needed.
    MfaRequired(Challenge),
}

/// A second factor that a login asks for.
#[derive(Debug)]
pub struct Challenge {
    /// The secret that the login is completed with.
    pub token: Zeroizing<String>,
    /// When it stops being accepted.
    pub expires_at: DateTime<Utc>,
    /// What the user can answer with.
    pub factors: Vec<Factor>,
}

/// A second factor that Sidle itself checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factor {
    /// A code of an authenticator application.
    Totp,
    /// One of the recovery codes.
    RecoveryCode,
}

/// A user as a login shows them.
#[derive(Clone, Debug)]
pub struct UserView {
    pub user_id: Uuid,
    /// E-mail address.
    pub email: String,
    /// Name to sign in with.
    pub username: Option<String>,
    /// Name shown to people.
    pub full_name: String,
    /// How they may sign in, as the database spells it.
    pub auth_method: String,
}

impl Factor {
    /// Its name in the database and in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Totp => "totp",
            Self::RecoveryCode => "recovery_code",
        }
    }
}

/// The one refusal for every reason that would help an attacker who guesses.
pub(super) fn invalid_credentials() -> Fault {
    Fault::new(Reason::InvalidCredentials, "The credentials are not accepted.")
}

/// The refusal of a user who must say for which tenant.
pub(super) fn tenant_required(choices: &[Uuid]) -> Fault {
    let tenants = choices.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",");
    Fault::new(Reason::TenantRequired, "The user is a member of several tenants: ask for one.").with("tenants", tenants)
}
