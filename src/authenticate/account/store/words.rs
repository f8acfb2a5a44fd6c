//! Values of enumerated columns.

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
    /// A newer one replaced it, or another one's user has the address.
    Superseded,
    /// It has become a user.
    Verified,
}
