//! The enums of columns about users, for every store that reads them.

/// Whether a user may sign in at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum UserStatus {
    /// May.
    Active,
    /// Has not yet shown that the address is theirs.
    PendingVerification,
    /// Switched off.
    Disabled,
}

impl UserStatus {
    /// The value in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::PendingVerification => "pending_verification",
            Self::Disabled => "disabled",
        }
    }
}

/// How a user may sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum AuthMethod {
    /// With the legacy password.
    Password,
    /// Through Kanidm.
    Kanidm,
    /// With either.
    Dual,
}

impl AuthMethod {
    /// The value in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Kanidm => "kanidm",
            Self::Dual => "dual",
        }
    }
}

/// Why a user is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum LockReason {
    /// Too many attempts failed.
    TooManyFailures,
    /// An administrator did it.
    Administrator,
}
