//! Composite types of the database functions that end logins. A shipped type is never changed, since replicas of two
//! releases share a database: another shape takes another name.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::authenticate::UserView;
use crate::session::UserRights;

/// A device that is to be known from now on.
#[derive(sqlx::Type)]
#[sqlx(type_name = "new_device")]
pub(in crate::authenticate) struct NewKnownDevice {
    pub known_device_id: Uuid,
    pub token_hash: Vec<u8>,
    pub expires_at: DateTime<Utc>,
    /// How many a user may have.
    pub most: i32,
}

/// A login that waits for its second factor.
#[derive(sqlx::Type)]
#[sqlx(type_name = "new_challenge")]
pub(in crate::authenticate) struct NewChallenge {
    pub challenge_id: Uuid,
    pub challenge_hash: Vec<u8>,
    /// What the login asked for.
    pub request: Value,
    pub expires_at: DateTime<Utc>,
}

/// Who has signed in.
#[derive(Debug, sqlx::Type)]
#[sqlx(type_name = "login_account")]
pub(in crate::authenticate) struct LoginAccount {
    user_id: Uuid,
    email: String,
    username: Option<String>,
    full_name: String,
    auth_method: String,
}

impl From<LoginAccount> for UserView {
    fn from(row: LoginAccount) -> Self {
        let LoginAccount { user_id, email, username, full_name, auth_method } = row;
        Self { user_id, email, username, full_name, auth_method }
    }
}

/// What became of a login once the credentials were found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "login_outcome", rename_all = "snake_case")]
pub(in crate::authenticate) enum LoginOutcome {
    SignedIn,
    MfaRequired,
    TenantRequired,
    NoTenant,
    Refused,
}

/// The columns of `login_result`.
pub(in crate::authenticate) struct LoginResult {
    pub outcome: LoginOutcome,
    pub account: Option<LoginAccount>,
    pub rights: Option<UserRights>,
    pub choices: Option<Vec<Uuid>>,
    pub known_device: Option<bool>,
    pub recovery_codes: Option<bool>,
}

/// What became of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "key_outcome", rename_all = "snake_case")]
pub(in crate::authenticate) enum KeyOutcome {
    Accepted,
    Unknown,
    Revoked,
    Expired,
    Disabled,
    TenantDisabled,
}
