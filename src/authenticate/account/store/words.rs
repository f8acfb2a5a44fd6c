//! The words that columns hold.

/// Whether a user may sign in at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(in crate::authenticate) enum UserStatus {
    /// May.
    Active,
    /// Has not yet shown that the address is theirs.
    PendingVerification,
    /// Switched off.
    Disabled,
}

/// How a user may sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(in crate::authenticate) enum AuthMethod {
    /// With the legacy password.
    Password,
    /// Through Kanidm.
    Kanidm,
    /// With either.
    Dual,
}

/// What has become of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(in crate::authenticate) enum RegistrationState {
    /// Nothing yet.
    Asked,
    /// The way to confirm the address is on its way.
    Sent,
    /// The address has an account, or had enough messages.
    Dropped,
    /// A newer one took its place, or another one's user has the address.
    Superseded,
    /// It has become a user.
    Verified,
}
