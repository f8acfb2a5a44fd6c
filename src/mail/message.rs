//! A message as its caller describes it: its kind, its recipient, its parameters.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

macro_rules! kinds {
    ($($(#[doc = $meaning:literal])+ $variant:ident => $name:literal,)+) => {
        /// What a message is about; its template has this name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl Kind {
            /// Every kind there is.
            pub fn all() -> &'static [Self] {
                &[$(Self::$variant,)+]
            }

            /// Its name in the outbox and of its templates.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

kinds! {
    /// The password was changed or set anew.
    PasswordChanged => "password_changed",
    /// An authenticator application was added.
    TotpEnabled => "totp_enabled",
    /// The authenticator application was removed.
    TotpDisabled => "totp_disabled",
    /// Password and authenticator application were removed, since the address was confirmed for the first time.
    CredentialsRemoved => "credentials_removed",
    /// The recovery codes were replaced.
    RecoveryCodesRegenerated => "recovery_codes_regenerated",
    /// A recovery code was used.
    RecoveryCodeUsed => "recovery_code_used",
    /// An attacker has passed the first step of a login or a proof and guesses at the second factor.
    SecondFactorGuessed => "second_factor_guessed",
    /// The e-mail address was changed; to the old and to the new one.
    EmailChanged => "email_changed",
    /// The account was linked to a person in Kanidm.
    KanidmLinked => "kanidm_linked",
    /// The password was set in Kanidm too.
    PasswordCarriedOver => "password_carried_over",
    /// The account's link to a person in Kanidm was removed.
    KanidmUnlinked => "kanidm_unlinked",
    /// Asks to confirm that the address belongs to the user who registered it. Parameters: `token`, `expires_at`.
    VerifyEmail => "verify_email",
    /// A link to set a new password. Parameters: `token`, `expires_at`.
    PasswordReset => "password_reset",
    /// Instead of a link to set a new password, for a user who signs in through Kanidm.
    KanidmSignIn => "kanidm_sign_in",
    /// A caller tried to register an address that has an account.
    RegistrationAttempt => "registration_attempt",
    /// An invitation to set a passkey in Kanidm, after a login from an unknown device. Parameters: `token`, `expires_at`.
    EnrolmentHint => "enrolment_hint",
    /// A test of the mail set-up.
    Test => "test",
}

impl Kind {
    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().iter().copied().find(|known| known.as_str() == name)
    }
}

/// A message to send.
#[derive(Clone, Debug)]
#[must_use = "a message is written by Outbox::enqueue"]
pub struct Message {
    pub(super) kind: Kind,
    pub(super) user: Option<Uuid>,
    pub(super) address: Option<String>,
    pub(super) lifetime: Option<Duration>,
    pub(super) parameters: Map<String, Value>,
}

impl Message {
    /// A message to a user, at the address that they have when it is written.
    pub fn to_user(kind: Kind, user: Uuid) -> Self {
        Self { kind, user: Some(user), address: None, lifetime: None, parameters: Map::new() }
    }

    /// A message about a user, if there is one, to an address of its own: an old one, or one without a user yet.
    pub fn to_address(kind: Kind, user: Option<Uuid>, address: impl Into<String>) -> Self {
        Self { kind, user, address: Some(address.into()), lifetime: None, parameters: Map::new() }
    }

    /// Given up after this time rather than after the usual one: what it holds is of no use later.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// A parameter of its template. Lies sealed in the outbox, and only until the message is sent.
    pub fn with(mut self, name: &'static str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.parameters.insert(name.to_owned(), value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in Kind::all() {
            assert_eq!(Kind::parse(kind.as_str()), Some(*kind));
        }
        assert_eq!(Kind::parse("spam"), None);
    }
}
