//! The words that columns hold.

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
