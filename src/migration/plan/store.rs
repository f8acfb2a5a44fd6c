//! SQL of plans.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use uuid::Uuid;

use super::assign::Seeker;
use super::model::{Cohort, Plan, PlanItem};
use crate::access::names::username_key;
use crate::db::{Connection, Scope};
use crate::fault::{Fault, Result};
use crate::migration::groups::GroupRole;
use crate::migration::import;
use crate::migration::names;
use crate::migration::vocabulary::{Forecast, ItemReason};

/// A user of a cohort.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub user_id: Uuid,
    pub tenant_id: Uuid,
    pub version: i64,
    pub rights_version: i64,
    pub username: Option<String>,
    pub email_key: String,
    pub full_name: String,
    pub hash_kind: Option<String>,
    pub hash_cost: Option<i16>,
    pub slug: String,
    /// Whether Sidle itself says that they are in the home tenant, or administer it: what a group gave is no reason to put
    /// them into it.
    pub is_member: bool,
    pub is_admin: bool,
    /// Name of the person that an earlier migration meant to make, and perhaps made.
    pub intended_name: Option<String>,
    /// Whether a migration that has not ended holds the user.
    pub is_held: bool,
    /// Whether the address was shown to be the user's.
    pub is_verified: bool,
    /// Whether the address is of a domain that the tenant is for.
    pub is_of_domain: bool,
    /// Whether the user has a role beyond the tenant that the plan is made in.
    pub is_above: bool,
}

impl User {
    pub(super) fn first_choice(&self) -> String {
        names::first_choice(self.user_id, self.username.as_deref(), &self.email_key, &self.full_name)
    }

    pub(super) fn seeker(&self) -> Seeker {
        let first_choice = self.first_choice();
        let is_username = self.username.as_deref().and_then(username_key).is_some_and(|key| key == first_choice);
        Seeker { first_choice, is_username }
    }

    /// Kanidm wants a display name; the name stands in where there is none.
    pub(super) fn display_name(&self, name: &str) -> String {
        if self.full_name.is_empty() { name.to_owned() } else { self.full_name.clone() }
    }

    pub(super) fn group_names(&self) -> Vec<String> {
        let member = self.is_member.then(|| GroupRole::Member.group_name(&self.slug));
        let admin = self.is_admin.then(|| GroupRole::Admin.group_name(&self.slug));
        member.into_iter().chain(admin).collect()
    }
}

/// The users of a cohort in the order in which they were created.
pub(super) async fn users(tx: &mut Connection, scope: Scope, cohort: &Cohort, limit: i64) -> Result<Vec<User>> {
    Ok(sqlx::query_as!(
        User,
        r#"SELECT u.user_id, u.tenant_id, u.version, u.rights_version, u.username, u.email_key, u.full_name,
               left(u.password_hash, 4) AS hash_kind, u.password_cost AS hash_cost, t.slug,
               EXISTS (SELECT FROM memberships m
                   WHERE m.user_id = u.user_id AND m.tenant_id = u.tenant_id AND m.source <> 'kanidm') AS "is_member!",
               EXISTS (SELECT FROM memberships m JOIN roles r USING (role_id)
                   WHERE m.user_id = u.user_id AND m.tenant_id = u.tenant_id AND m.source <> 'kanidm'
                       AND r.is_admin) AS "is_admin!",
               (SELECT i.kanidm_name FROM migration_items i
                   WHERE i.user_id = u.user_id AND i.intent_recorded_at IS NOT NULL
                   ORDER BY i.intent_recorded_at DESC LIMIT 1) AS intended_name,
               EXISTS (SELECT FROM migration_items i
                   WHERE i.user_id = u.user_id AND i.state IN ('pending', 'intent_recorded', 'created', 'grouped')) AS "is_held!",
               -- What a tenant says of its own users counts for addresses of the domains that the platform gave it.
               u.verified_at IS NOT NULL AND (NOT u.verified_by_tenant OR coalesce(jsonb_exists(
                   t.settings #> '{sidle,domains}', substring(u.email_key FROM '[^@]*$')), false)) AS "is_verified!",
               coalesce(jsonb_exists(t.settings #> '{sidle,domains}', substring(u.email_key FROM '[^@]*$')), true)
                   AS "is_of_domain!",
               -- Asked user by user, so only where the plan is made within one tenant.
               CASE WHEN $6 THEN EXISTS (SELECT FROM directory_rights(u.user_id) r
                   WHERE r.tenant_id IS DISTINCT FROM u.tenant_id) ELSE false END AS "is_above!"
           FROM users u JOIN tenants t USING (tenant_id)
           WHERE u.status = 'active' AND u.auth_method = 'password' AND u.kanidm_user_id IS NULL AND u.deleted_at IS NULL
               AND t.status = 'active' AND t.deleted_at IS NULL
               AND (cardinality($1::uuid[]) = 0 OR u.tenant_id = ANY ($1))
               AND (cardinality($2::uuid[]) = 0 OR u.user_id = ANY ($2))
               AND ($3::timestamptz IS NULL OR u.last_login_at >= $3)
               AND (cardinality($4::text[]) = 0 OR EXISTS (
                   SELECT FROM memberships m JOIN roles r USING (role_id)
                   WHERE m.user_id = u.user_id AND m.tenant_id = u.tenant_id AND r.name = ANY ($4)))
           ORDER BY u.created_at, u.user_id LIMIT $5"#,
        &cohort.tenant_ids,
        &cohort.user_ids,
        cohort.last_login_since,
        &cohort.roles,
        limit,
        scope.tenant().is_some(),
    )
    .fetch_all(tx)
    .await?)
}

/// Which of these names a plan for the users `own` must leave alone, whatever Kanidm says of them at the moment: a
/// migration means to give them to another user, or gave them. Persons may rename themselves; a name is not given twice
/// for that.
pub(super) async fn names_of_others(tx: &mut Connection, names: &[String], own: &HashSet<Uuid>) -> Result<Vec<String>> {
    let rows = sqlx::query!(
        "SELECT kanidm_name, user_id FROM migration_items
         WHERE kanidm_name = ANY ($1) AND state IN ('pending', 'intent_recorded', 'created', 'grouped', 'linked')",
        names,
    )
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().filter(|row| !own.contains(&row.user_id)).map(|row| row.kanidm_name).collect())
}

/// Keeps a plan.
pub(super) async fn keep(tx: &mut Connection, plan: &Plan, created_by: Uuid) -> Result<()> {
    sqlx::query!(
        "INSERT INTO migration_plans (plan_id, tenant_id, cohort, digest, total, will_be_created, needs_review,
             will_be_refused, reasons, hashes, names_derived, created_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        plan.plan_id,
        plan.tenant_id,
        serde_json::to_value(&plan.cohort).unwrap_or_default(),
        plan.digest,
        plan.total,
        plan.will_be_created,
        plan.needs_review,
        plan.will_be_refused,
        reasons_to_json(&plan.reasons),
        import::hashes_to_json(&plan.hashes),
        plan.names_derived,
        created_by,
        plan.created_at,
        plan.expires_at,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Keeps some items of a plan, the first of which has this ordinal.
pub(super) async fn keep_items(tx: &mut Connection, plan_id: Uuid, first: i32, items: &[PlanItem]) -> Result<()> {
    let item_ids: Vec<Uuid> = items.iter().map(|item| item.item_id).collect();
    let user_ids: Vec<Uuid> = items.iter().map(|item| item.user_id).collect();
    let tenant_ids: Vec<Uuid> = items.iter().map(|item| item.tenant_id).collect();
    let versions: Vec<i64> = items.iter().map(|item| item.user_version).collect();
    let rights: Vec<i64> = items.iter().map(|item| item.user_rights_version).collect();
    let names: Vec<&str> = items.iter().map(|item| item.kanidm_name.as_str()).collect();
    let display_names: Vec<&str> = items.iter().map(|item| item.display_name.as_str()).collect();
    let mails: Vec<&str> = items.iter().map(|item| item.mail.as_str()).collect();
    let admins: Vec<bool> = items.iter().map(|item| item.is_admin).collect();
    // Postgres has no lists of lists of different lengths. Names of groups hold neither space nor comma.
    let groups: Vec<String> = items.iter().map(|item| item.group_names.join(",")).collect();
    let forecasts: Vec<&str> = items.iter().map(|item| item.forecast.as_str()).collect();
    let reasons: Vec<Option<&str>> = items.iter().map(|item| item.reason.map(ItemReason::as_str)).collect();
    sqlx::query!(
        "INSERT INTO migration_plan_items (plan_id, ordinal, item_id, user_id, tenant_id, user_version, kanidm_name,
             display_name, mail, is_admin, group_names, forecast, reason, user_rights_version)
         SELECT $1, $2::int4 + given.place::int4 - 1, given.item_id, given.user_id, given.tenant_id, given.version, given.name,
             given.display_name, given.mail, given.is_admin, string_to_array(given.groups, ','), given.forecast, given.reason,
             given.rights_version
         FROM unnest($3::uuid[], $4::uuid[], $5::uuid[], $6::int8[], $7::text[], $8::text[], $9::text[], $10::bool[],
             $11::text[], $12::text[], $13::text[], $14::int8[]) WITH ORDINALITY
             AS given (item_id, user_id, tenant_id, version, name, display_name, mail, is_admin, groups, forecast, reason,
                 rights_version, place)",
        plan_id,
        first,
        &item_ids,
        &user_ids,
        &tenant_ids,
        &versions,
        &names as &[&str],
        &display_names as &[&str],
        &mails as &[&str],
        &admins,
        &groups,
        &forecasts as &[&str],
        &reasons as &[Option<&str>],
        &rights,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// A plan, if the scope reaches it.
pub(super) async fn plan(tx: &mut Connection, plan_id: Uuid) -> Result<Option<Plan>> {
    let row = sqlx::query!(
        r#"SELECT p.plan_id, p.tenant_id, p.cohort, p.digest, p.total, p.will_be_created, p.needs_review, p.will_be_refused,
               p.reasons, p.hashes, p.names_derived, p.created_at, p.expires_at, m.migration_id AS "migration_id?"
           FROM migration_plans p LEFT JOIN migrations m USING (plan_id) WHERE p.plan_id = $1"#,
        plan_id,
    )
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Plan {
        plan_id: row.plan_id,
        tenant_id: row.tenant_id,
        cohort: serde_json::from_value(row.cohort).map_err(Fault::internal)?,
        digest: row.digest,
        total: row.total,
        will_be_created: row.will_be_created,
        needs_review: row.needs_review,
        will_be_refused: row.will_be_refused,
        reasons: reasons_from_json(&row.reasons, plan_id)?,
        hashes: import::hashes_from_json(&row.hashes, "migration_plans.hashes", plan_id)?,
        names_derived: row.names_derived,
        created_at: row.created_at,
        expires_at: row.expires_at,
        migration_id: row.migration_id,
    }))
}

struct ItemRow {
    ordinal: i32,
    item_id: Uuid,
    user_id: Uuid,
    tenant_id: Uuid,
    user_version: i64,
    user_rights_version: i64,
    kanidm_name: String,
    display_name: String,
    mail: String,
    is_admin: bool,
    group_names: Vec<String>,
    forecast: String,
    reason: Option<String>,
}

impl ItemRow {
    fn item(self) -> Result<(i32, PlanItem)> {
        let forecast = Forecast::parse(&self.forecast)
            .ok_or_else(|| Fault::unknown_word("migration_plan_items.forecast", self.item_id))?;
        let item = PlanItem {
            item_id: self.item_id,
            user_id: self.user_id,
            tenant_id: self.tenant_id,
            user_version: self.user_version,
            user_rights_version: self.user_rights_version,
            kanidm_name: self.kanidm_name,
            display_name: self.display_name,
            mail: self.mail,
            is_admin: self.is_admin,
            group_names: self.group_names,
            forecast,
            reason: self.reason.as_deref().map(|word| item_reason(word, self.item_id)).transpose()?,
        };
        Ok((self.ordinal, item))
    }
}

/// Items of a plan after an ordinal, with theirs.
pub(super) async fn items(
    tx: &mut Connection,
    plan_id: Uuid,
    forecast: Option<Forecast>,
    after: i32,
    limit: i64,
) -> Result<Vec<(i32, PlanItem)>> {
    let rows = sqlx::query_as!(
        ItemRow,
        "SELECT ordinal, item_id, user_id, tenant_id, user_version, user_rights_version, kanidm_name, display_name, mail,
             is_admin, group_names, forecast, reason
         FROM migration_plan_items
         WHERE plan_id = $1 AND ordinal > $2 AND ($3::text IS NULL OR forecast = $3) ORDER BY ordinal LIMIT $4",
        plan_id,
        after,
        forecast.map(Forecast::as_str),
        limit,
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(ItemRow::item).collect()
}

fn reasons_to_json(reasons: &BTreeMap<ItemReason, i64>) -> Value {
    reasons.iter().map(|(reason, items)| (reason.as_str().to_owned(), Value::from(*items))).collect()
}

fn reasons_from_json(reasons: &Value, plan: Uuid) -> Result<BTreeMap<ItemReason, i64>> {
    let entries = reasons.as_object().into_iter().flatten();
    let count = |items: &Value| items.as_i64().ok_or_else(|| Fault::unknown_word("migration_plans.reasons", plan));
    entries.map(|(word, items)| Ok((item_reason(word, plan)?, count(items)?))).collect()
}

fn item_reason(word: &str, row: Uuid) -> Result<ItemReason> {
    ItemReason::parse(word).ok_or_else(|| Fault::unknown_word("migration_plan_items.reason", row))
}
