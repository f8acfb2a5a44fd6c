//! Values of enumerated columns.

pub use crate::access::words::{AuthMethod, LockReason, UserStatus};

/// Whether a tenant or a service account is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ActiveStatus {
    Active,
    /// It is not.
    Disabled,
}

impl ActiveStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
        }
    }
}

/// What a service account's key is presented as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum KeyKind {
    /// By itself: it names its account.
    ApiKey,
    /// Together with the account's id.
    ClientSecret,
}

impl KeyKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::ClientSecret => "client_secret",
        }
    }

    /// How every such secret begins, so that one that leaked into a repository or a log is recognised.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::ApiKey => "sidle_ak_",
            Self::ClientSecret => "sidle_cs_",
        }
    }
}

/// Where a membership comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum GrantSource {
    /// Administered here.
    Local,
    /// Follows the groups in Kanidm.
    Kanidm,
    /// Brought by an import.
    Import,
}

impl GrantSource {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Kanidm => "kanidm",
            Self::Import => "import",
        }
    }
}
