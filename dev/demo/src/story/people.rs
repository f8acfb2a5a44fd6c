//! The users as the directory has them after the import.

use std::collections::BTreeMap;

use sidle::proto::{ListMembershipsRequest, ListUsersRequest, User, UserStatus};

use super::Demo;
use crate::Result;
use crate::client::refused;
use crate::output::{self, fact};

/// Largest page.
const PAGE: i32 = 1000;

/// All users of a tenant.
pub async fn of_tenant(demo: &mut Demo<'_>, tenant_id: &str) -> Result<Vec<User>> {
    let (mut users, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            ListUsersRequest { page_size: PAGE, page_token, tenant_id: tenant_id.to_owned(), ..Default::default() };
        let page = demo.admin.directory.list_users(request).await.map_err(refused("ListUsers"))?.into_inner();
        users.extend(page.users);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(users);
        }
    }
}

async fn roles_in(demo: &mut Demo<'_>, tenant_id: &str) -> Result<Vec<String>> {
    let (mut roles, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListMembershipsRequest {
            page_size: PAGE,
            page_token,
            tenant_id: tenant_id.to_owned(),
            ..Default::default()
        };
        let answer = demo.admin.directory.list_memberships(request).await;
        let page = answer.map_err(refused("ListMemberships"))?.into_inner();
        roles.extend(page.memberships.into_iter().map(|membership| membership.role_name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(roles);
        }
    }
}

/// Looks the imported users up, compares their tenants, roles and states, and keeps them.
pub async fn imported(demo: &mut Demo<'_>) -> Result<()> {
    let step = output::step(5, "The users in their tenants: ListUsers, ListMemberships");
    let (mut by_tenant, mut by_role) = (BTreeMap::new(), BTreeMap::<String, usize>::new());
    let (mut active, mut disabled) = (0, 0);
    for (slug, tenant_id) in demo.tenants.clone() {
        let users = of_tenant(demo, &tenant_id).await?;
        let off = users.iter().filter(|user| user.status() == UserStatus::Disabled).count();
        let on = users.iter().filter(|user| user.status() == UserStatus::Active).count();
        fact(&slug, format!("{}, {on} active and {off} disabled", output::count(users.len(), "user")));
        (active, disabled) = (active + on, disabled + off);
        by_tenant.insert(slug, users.len());
        demo.imported.extend(users.into_iter().map(|user| (user.user_id.clone(), user)));
        for role in roles_in(demo, &tenant_id).await? {
            *by_role.entry(role).or_default() += 1;
        }
    }
    let roles: Vec<String> = by_role.iter().map(|(role, users)| format!("{users} {role}")).collect();
    fact("by role", roles.join(", "));
    let (expected, checks) = (&demo.expected.totals, &mut demo.checks);
    checks.number("active users", expected.active, active);
    checks.number("disabled users", expected.disabled, disabled);
    checks.same("users by tenant", &expected.accepted_by_tenant, &by_tenant);
    checks.same("users by role", &expected.accepted_by_role, &by_role);
    step.done();
    Ok(())
}
