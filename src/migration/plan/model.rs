//! What a plan is.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::migration::import::HashCounts;
use crate::migration::vocabulary::{Forecast, ItemReason};

/// Which users a migration concerns: active ones who sign in with a password only, narrowed by what is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cohort {
    /// Home tenants; all when empty.
    pub tenant_ids: Vec<Uuid>,
    /// Users; all when empty.
    pub user_ids: Vec<Uuid>,
    /// Only who signed in since.
    pub last_login_since: Option<DateTime<Utc>>,
    /// Names of roles in the home tenant; any when empty.
    pub roles: Vec<String>,
    /// At most so many.
    pub limit: Option<i32>,
}

/// What a migration would do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub plan_id: Uuid,
    /// Tenant, when all users belong to one.
    pub tenant_id: Option<Uuid>,
    /// What was asked for.
    pub cohort: Cohort,
    /// Digest over the items.
    pub digest: Vec<u8>,
    pub total: i64,
    /// Items whose person will be created.
    pub will_be_created: i64,
    /// Items that will wait for a decision.
    pub needs_review: i64,
    /// Items bound to fail.
    pub will_be_refused: i64,
    /// Items by reason.
    pub reasons: BTreeMap<ItemReason, i64>,
    /// Users by kind of hash.
    pub hashes: HashCounts,
    /// Items whose name is not the username.
    pub names_derived: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it can no longer be started.
    pub expires_at: DateTime<Utc>,
    /// Migration that was started from it.
    pub migration_id: Option<Uuid>,
}

/// What is intended for one user.
#[derive(Clone, Debug)]
pub struct PlanItem {
    /// Id that the item keeps in the migration.
    pub item_id: Uuid,
    pub user_id: Uuid,
    /// Home tenant.
    pub tenant_id: Uuid,
    pub user_version: i64,
    /// Version of the user's rights.
    pub user_rights_version: i64,
    /// Name of the person.
    pub kanidm_name: String,
    /// Display name of the person.
    pub display_name: String,
    /// Address of the person.
    pub mail: String,
    /// Whether the person joins the group of administrators.
    pub is_admin: bool,
    /// Groups of the person, for people.
    pub group_names: Vec<String>,
    /// What will become of it.
    pub forecast: Forecast,
    pub reason: Option<ItemReason>,
}
