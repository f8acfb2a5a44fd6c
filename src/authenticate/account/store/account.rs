//! SQL of what callers learn about themselves.

use uuid::Uuid;

use crate::authenticate::UserView;
use crate::db::{Db, Scope};
use crate::fault::Result;

/// A user with what they must do next.
pub(in crate::authenticate) struct Account {
    pub user: UserView,
    pub must_change_password: bool,
    pub has_totp: bool,
    pub recovery_codes_left: i32,
}

/// A tenant that a user can act in.
pub(in crate::authenticate) struct MemberTenant {
    pub tenant_id: Uuid,
    pub slug: String,
    pub name: String,
    pub roles: Vec<String>,
    pub home: bool,
}

/// A user and the tenants they can act in, in one round trip after the transaction began.
pub(in crate::authenticate) async fn account(db: &Db, user: Uuid) -> Result<Option<(Account, Vec<MemberTenant>)>> {
    let mut tx = db.begin(Scope::Platform).await?;
    let rows = sqlx::query!(
        r#"SELECT u.email, u.username, u.full_name, u.auth_method, u.must_change_password, u.tenant_id AS home_id,
               EXISTS (SELECT FROM user_totp f WHERE f.user_id = u.user_id AND f.confirmed_at IS NOT NULL) AS "has_totp!",
               (SELECT count(*)::integer FROM recovery_codes c WHERE c.user_id = u.user_id AND c.used_at IS NULL)
                   AS "recovery_codes_left!",
               m.tenant_id AS "member_id?", m.slug AS "slug?", m.name AS "name?", m.roles AS "roles?"
           FROM users u LEFT JOIN LATERAL (
               SELECT t.tenant_id, t.slug, t.name, array_agg(DISTINCT CASE WHEN r.tenant_id IS NULL THEN r.name ELSE 'tenant/' || r.name END) AS roles
               FROM memberships x JOIN tenants t ON t.tenant_id = x.tenant_id JOIN roles r ON r.role_id = x.role_id
               WHERE x.user_id = u.user_id AND t.status = 'active' AND t.deleted_at IS NULL
               GROUP BY t.tenant_id, t.slug, t.name ORDER BY t.slug LIMIT 1000) m ON true
           WHERE u.user_id = $1 AND u.deleted_at IS NULL
           ORDER BY m.slug"#,
        user,
    )
    .fetch_all(&mut *tx)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let account = Account {
        user: UserView {
            user_id: user,
            email: first.email.clone(),
            username: first.username.clone(),
            full_name: first.full_name.clone(),
            auth_method: first.auth_method.clone(),
        },
        must_change_password: first.must_change_password,
        has_totp: first.has_totp,
        recovery_codes_left: first.recovery_codes_left,
    };
    let tenants = rows.into_iter().filter_map(|row| {
        let tenant_id = row.member_id?;
        Some(MemberTenant {
            tenant_id,
            slug: row.slug.unwrap_or_default(),
            name: row.name.unwrap_or_default(),
            roles: row.roles.unwrap_or_default(),
            home: tenant_id == row.home_id,
        })
    });
    Ok(Some((account, tenants.collect())))
}

/// The name of a service account and the tenant that it is confined to.
pub(in crate::authenticate) async fn service_account(
    db: &Db,
    account: Uuid,
) -> Result<Option<(String, Vec<MemberTenant>)>> {
    let mut tx = db.begin(Scope::Platform).await?;
    let row = sqlx::query!(
        r#"SELECT a.name AS account, t.tenant_id AS "tenant_id?", t.slug AS "slug?", t.name AS "name?"
           FROM service_accounts a LEFT JOIN tenants t ON t.tenant_id = a.tenant_id
           WHERE a.service_account_id = $1 AND a.deleted_at IS NULL"#,
        account,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let tenant = row.tenant_id.map(|tenant_id| MemberTenant {
        tenant_id,
        slug: row.slug.unwrap_or_default(),
        name: row.name.unwrap_or_default(),
        roles: Vec::new(),
        home: true,
    });
    Ok(Some((row.account, tenant.into_iter().collect())))
}
