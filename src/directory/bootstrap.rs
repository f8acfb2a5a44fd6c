//! The first administrator. Made without a running service, once for each database.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::names;
use super::store::{self, ActiveStatus, UserStatus};
use crate::access::input;
use crate::access::names::email_key;
use crate::audit::{Event, EventType, Recorder};
use crate::context::Context;
use crate::credential::StoredHash;
use crate::db::{Connection, Db, Scope};
use crate::fault::{Fault, Reason, Result};

/// Who the first administrator is.
pub struct FirstAdmin {
    /// Slug of the tenant to be at home in; made if there is none.
    pub tenant_slug: String,
    /// E-mail address to sign in with.
    pub email: String,
    /// Name shown to people.
    pub full_name: String,
    /// The password's hash.
    pub password: StoredHash,
    /// Whether the first login must set another.
    pub must_change_password: bool,
}

/// What was made.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrapped {
    /// The administrator.
    pub user_id: Uuid,
    /// The administrator's home.
    pub tenant_id: Uuid,
}

/// The role that the first administrator has on the platform.
const ON_PLATFORM: &str = "SYSTEM_ADMIN";
/// The role that the first administrator has at home.
const AT_HOME: &str = "user";

/// Makes the first administrator, who from then on is the master administrator.
///
/// # Errors
/// `ALREADY_BOOTSTRAPPED` when there is one, also when another run is just making it; `INVALID_FIELD`;
/// `ALREADY_EXISTS` when a user has the address.
pub async fn bootstrap(db: &Db, context: &Context, recorder: &Recorder, first: FirstAdmin) -> Result<Bootstrapped> {
    let email = input::email("email", &first.email)?;
    let full_name = input::text("full_name", &first.full_name, 200)?;
    let slug = names::slug("tenant_slug", &first.tenant_slug)?;
    let (user_id, correlation_id, now) = (context.new_id(), context.new_id(), context.now());

    let mut tx = db.begin(Scope::Platform).await?;
    // Of two runs the second waits here and then sees the first one's administrator.
    store::tokens::lock_admins(&mut tx).await?;
    if store::users::has_master_admin(&mut tx).await? {
        return Err(Fault::new(Reason::AlreadyBootstrapped, "There is a master administrator already."));
    }
    let tenant_id = home_tenant(&mut tx, context, slug, now).await?;
    let insert = store::users::Insert {
        user_id,
        tenant_id,
        email: &email,
        email_key: &email_key(&email),
        username: None,
        username_key: None,
        full_name: &full_name,
        status: UserStatus::Active,
        password: Some(&first.password),
        must_change_password: first.must_change_password,
        verified_at: Some(now),
        verified_by_tenant: false,
        is_master_admin: true,
        now,
    };
    store::users::insert(&mut tx, insert).await?;
    grant_roles(&mut tx, context, user_id, tenant_id, now).await?;
    let event = Event::by_system(EventType::PlatformBootstrapped, correlation_id)
        .tenant(tenant_id)
        .target("user", user_id)
        .detail("role", ON_PLATFORM)
        .old_new(Value::Null, json!({ "email": email, "full_name": full_name }));
    recorder.record(&mut tx, event).await?;
    tx.commit().await?;
    Ok(Bootstrapped { user_id, tenant_id })
}

/// The tenant of this slug, made if there is none.
async fn home_tenant(tx: &mut Connection, context: &Context, slug: String, now: DateTime<Utc>) -> Result<Uuid> {
    if let Some(tenant) = store::tenants::by_slug(tx, &slug).await? {
        return Ok(tenant.tenant_id);
    }
    let tenant = store::tenants::Tenant {
        tenant_id: context.new_id(),
        name: slug.clone(),
        slug,
        external_id: None,
        brand: None,
        settings: json!({}),
        status: ActiveStatus::Active,
        version: 1,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    };
    store::tenants::insert(tx, &tenant).await?;
    Ok(tenant.tenant_id)
}

/// Gives the first administrator the role on the platform and the one at home.
async fn grant_roles(
    tx: &mut Connection,
    context: &Context,
    user_id: Uuid,
    home: Uuid,
    now: DateTime<Utc>,
) -> Result<()> {
    let missing = || Fault::internal("a built-in role is missing");
    let role = store::roles::shared(tx, ON_PLATFORM).await?.ok_or_else(missing)?;
    store::memberships::insert_for_first_admin(tx, context.new_id(), user_id, role.role_id, now).await?;
    let role = store::roles::shared(tx, AT_HOME).await?.ok_or_else(missing)?;
    store::memberships::insert_for_new_user(tx, context.new_id(), home, user_id, role.role_id, now).await
}
