//! SQL of Kanidm's own tokens.

use crate::db::Db;
use uuid::Uuid;

use crate::fault::Result;
use crate::session::kanidm_token::TokenUser;

/// Whom a person stands for; none where nobody may sign in as them.
pub(in crate::session) async fn user(db: &Db, person: Uuid) -> Result<Option<TokenUser>> {
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
