//! Types of the database functions that begin and end logins. A shipped type is never changed, since replicas of two
//! releases share a database: another shape takes another name.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use crate::authenticate::UserView;
use crate::session::{SessionRequest, UserRights};

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
    /// What the known device is found by, if the login comes from one.
    pub known_device_hash: Option<Vec<u8>>,
    /// What the login asked for.
    pub request: Json<SessionRequest>,
    pub expires_at: DateTime<Utc>,
}

/// Why an attempt at a guessable secret is not made, or does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "attempt_refusal", rename_all = "snake_case")]
pub(in crate::authenticate) enum AttemptRefusal {
    /// The client's address asked too often.
    Throttled,
    /// There is no such user.
    Unknown,
    Locked,
    Disabled,
    /// The user has not shown that the address is theirs.
    Unverified,
    /// The user signs in through Kanidm only.
    KanidmOnly,
    NoPassword,
    NoSecondFactor,
    UnknownChallenge,
    ChallengeLapsed,
    ChallengeSpent,
    /// The user has another password than the one that led to the challenge.
    ChangedMeanwhile,
    WrongCode,
    /// The code is right and was used before.
    Replayed,
}

impl AttemptRefusal {
    /// Its name in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Unknown => "unknown",
            Self::Locked => "locked",
            Self::Disabled => "disabled",
            Self::Unverified => "unverified",
            Self::KanidmOnly => "kanidm_only",
            Self::NoPassword => "no_password",
            Self::NoSecondFactor => "no_second_factor",
            Self::UnknownChallenge => "unknown_challenge",
            Self::ChallengeLapsed => "challenge_lapsed",
            Self::ChallengeSpent => "challenge_spent",
            Self::ChangedMeanwhile => "changed_meanwhile",
            Self::WrongCode => "wrong_code",
            Self::Replayed => "replayed",
        }
    }
}

/// The columns of `password_attempt`.
pub(super) struct PasswordAttempt {
    pub user_id: Option<Uuid>,
    pub tenant_id: Option<Uuid>,
    pub refusal: Option<AttemptRefusal>,
    /// Seconds.
    pub retry_after: Option<f64>,
    pub attempt: Option<i32>,
    pub known_device: Option<bool>,
    pub password_hash: Option<String>,
    pub password_version: Option<i64>,
    pub password_pepper_id: Option<i16>,
    pub set_here: Option<bool>,
    pub highest_cost: Option<i16>,
}

/// Calls a function that returns a `password_attempt`.
macro_rules! password_attempt {
    ($call:tt, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            PasswordAttempt,
            r#"SELECT user_id, tenant_id, refusal AS "refusal: AttemptRefusal",
                   extract(epoch FROM retry_after)::double precision AS retry_after, attempt, known_device, password_hash,
                   password_version, password_pepper_id, set_here, highest_cost
               FROM "#
                + $call,
            $($argument),+
        )
    };
}

/// The columns of `factor_attempt`.
pub(super) struct FactorAttempt {
    pub user_id: Option<Uuid>,
    pub tenant_id: Option<Uuid>,
    pub refusal: Option<AttemptRefusal>,
    pub attempt: Option<i32>,
    pub known_device: Option<bool>,
    pub totp_id: Option<Uuid>,
    pub secret: Option<Vec<u8>>,
    pub request: Option<Json<SessionRequest>>,
}

/// Calls a function that returns a `factor_attempt`.
macro_rules! factor_attempt {
    ($call:tt, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            FactorAttempt,
            r#"SELECT user_id, tenant_id, refusal AS "refusal: AttemptRefusal", attempt, known_device, totp_id, secret,
                   request AS "request: Json<SessionRequest>"
               FROM "#
                + $call,
            $($argument),+
        )
    };
}

pub(super) use {factor_attempt, password_attempt};

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
