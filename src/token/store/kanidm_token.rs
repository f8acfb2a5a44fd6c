//! SQL of Kanidm's own tokens.

use crate::db::Db;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::fault::Result;

/// Whom a person stands for, with the rights in the home tenant.
#[derive(Clone, Debug)]
pub struct TokenUser {
    pub user_id: Uuid,
    /// Home tenant, or the only one; none for administrators of the platform without any.
    pub tenant_id: Option<Uuid>,
    /// Roles there.
    pub roles: Vec<String>,
    /// Permissions there.
    pub permissions: Vec<String>,
    /// Permissions in every tenant.
    pub platform_permissions: Vec<String>,
    /// The latest revocation of the user's tokens.
    pub(in crate::token) tokens_valid_from: Option<DateTime<Utc>>,
}

/// Whom a person stands for; none where no user may sign in as them.
pub(in crate::token) async fn user(db: &Db, person: Uuid) -> Result<Option<TokenUser>> {
    Ok(sqlx::query_as!(
        TokenUser,
        r#"SELECT user_id AS "user_id!", tenant_id, roles AS "roles!", permissions AS "permissions!",
               platform_permissions AS "platform_permissions!", tokens_valid_from
           FROM kanidm_token_user($1)"#,
        person,
    )
    .fetch_optional(db)
    .await?)
}
