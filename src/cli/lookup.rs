//! Finding things by the names that people use, and lists that come in pages.

use uuid::Uuid;

use super::connect::Caller;
use super::failure::{Failure, Result};
use crate::proto::*;

/// Entries of a page that is asked for.
const PAGE: i32 = 500;

/// Reads pages until there are `limit` entries, or no more; and whether there are more.
pub(super) async fn pages<T, F>(limit: usize, mut fetch: impl FnMut(i32, String) -> F) -> Result<(Vec<T>, bool)>
where
    F: Future<Output = Result<(Vec<T>, String)>>,
{
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let missing = i32::try_from(limit - found.len()).unwrap_or(PAGE).min(PAGE);
        let (page, next) = fetch(missing, token).await?;
        found.extend(page);
        if next.is_empty() || found.len() >= limit {
            return Ok((found, !next.is_empty()));
        }
        token = next;
    }
}

pub(super) fn is_id(text: &str) -> bool {
    text.len() == 36 && Uuid::try_parse(text).is_ok()
}

fn missing(what: &str, name: &str) -> Failure {
    Failure::new(format!("the service answered no {what} for {name}"))
}

/// A user, by id, e-mail address or username.
pub(super) async fn user(caller: &Caller, name: &str) -> Result<User> {
    use get_user_request::Identifier;
    let identifier = match name {
        _ if is_id(name) => Identifier::UserId(name.to_owned()),
        _ if name.contains('@') => Identifier::Email(name.to_owned()),
        _ => Identifier::Username(name.to_owned()),
    };
    let request = GetUserRequest { identifier: Some(identifier), include_deleted: false };
    let answer = caller.directory().await?.get_user(request).await?.into_inner();
    answer.user.ok_or_else(|| missing("user", name))
}

/// A user's id, by id, e-mail address or username.
pub(super) async fn user_id(caller: &Caller, name: &str) -> Result<String> {
    if is_id(name) { Ok(name.to_owned()) } else { Ok(user(caller, name).await?.user_id) }
}

/// A tenant's id, by id or slug.
pub(super) async fn tenant_id(caller: &Caller, name: &str) -> Result<String> {
    if is_id(name) {
        return Ok(name.to_owned());
    }
    let request = GetTenantRequest { identifier: Some(get_tenant_request::Identifier::Slug(name.to_owned())) };
    let answer = caller.directory().await?.get_tenant(request).await?.into_inner();
    Ok(answer.tenant.ok_or_else(|| missing("tenant", name))?.tenant_id)
}

/// A tenant's id, by id or slug; empty for none.
pub(super) async fn optional_tenant_id(caller: &Caller, name: Option<&str>) -> Result<String> {
    match name {
        Some(name) => tenant_id(caller, name).await,
        None => Ok(String::new()),
    }
}

/// Ids of tenants.
pub(super) async fn tenant_ids(caller: &Caller, names: &[String]) -> Result<Vec<String>> {
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        ids.push(tenant_id(caller, name).await?);
    }
    Ok(ids)
}

/// The id of a role that can be given in a tenant, by id or name: the tenant's own before a shared one.
pub(super) async fn role_id(caller: &Caller, tenant_id: &str, name: &str) -> Result<String> {
    if is_id(name) {
        return Ok(name.to_owned());
    }
    let directory = caller.directory().await?;
    let (roles, _) = pages(usize::MAX, |page_size, page_token| {
        let mut directory = directory.clone();
        let request = ListRolesRequest { page_size, page_token, tenant_id: tenant_id.to_owned() };
        async move {
            let answer = directory.list_roles(request).await?.into_inner();
            Ok((answer.roles, answer.next_page_token))
        }
    })
    .await?;
    // Without a tenant the list holds every tenant's own; those are not what is meant.
    let fits = |role: &&Role| role.name == name && (role.tenant_id.is_empty() || role.tenant_id == tenant_id);
    let role = roles.iter().filter(fits).max_by_key(|role| !role.tenant_id.is_empty());
    role.map(|role| role.role_id.clone())
        .ok_or_else(|| Failure::new(format!("there is no role {name}")).remedy("`sidle roles list` shows the roles."))
}

/// The id of a service account, by id or name.
pub(super) async fn service_account_id(caller: &Caller, name: &str) -> Result<String> {
    if is_id(name) {
        return Ok(name.to_owned());
    }
    let identifier = Some(get_service_account_request::Identifier::Name(name.to_owned()));
    let request = GetServiceAccountRequest { identifier };
    let answer = caller.directory().await?.get_service_account(request).await?.into_inner();
    Ok(answer.service_account.ok_or_else(|| missing("service account", name))?.service_account_id)
}
