//! Links to people in Kanidm.

use crate::db::Connection;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Unique, taken};
use crate::access::delegation::Aimed;
use crate::fault::Result;

const PERSON: Unique = Unique {
    constraint: "users_kanidm_user_id_key",
    field: "kanidm_user_id",
    taken: "Another user is linked to this person already.",
};

/// What membership in these groups permits, with the tenant in which it does.
pub async fn group_rights(tx: &mut Connection, groups: &[Uuid]) -> Result<Vec<(Uuid, Vec<String>)>> {
    let rows = sqlx::query!(
        r#"SELECT tenant_id AS "tenant_id!", permissions AS "permissions!" FROM kanidm_group_rights($1)"#,
        groups,
    );
    Ok(rows.fetch_all(tx).await?.into_iter().map(|row| (row.tenant_id, row.permissions)).collect())
}

/// Links a user to a person.
pub async fn link(tx: &mut Connection, aimed: &Aimed, person: Uuid, name: &str, now: DateTime<Utc>) -> Result<()> {
    let user = aimed.for_control()?;
    sqlx::query!(
        "UPDATE users SET kanidm_user_id = $2, kanidm_name = nullif($3, ''), auth_method = 'dual', kanidm_synced_at = $4
         WHERE user_id = $1",
        user,
        person,
        name,
        now,
    )
    .execute(tx)
    .await
    .map_err(|e| taken(e, &[PERSON]))?;
    Ok(())
}
