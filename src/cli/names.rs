//! Names for the ids that answers hold, so that tables show what people call a thing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};

use super::connect::Caller;
use crate::proto::*;

/// Most ids that are looked up for one table: what is beyond them keeps its id.
const MOST: usize = 200;
/// Look-ups at a time.
const AT_A_TIME: usize = 8;

/// Names by id.
#[derive(Default)]
pub(super) struct Names(BTreeMap<String, String>);

impl Names {
    /// The name, or the id where the caller may not know the name.
    pub fn of(&self, id: &str) -> String {
        self.0.get(id).map_or(id, String::as_str).to_owned()
    }

    /// Slugs of tenants.
    pub async fn of_tenants<'a>(caller: &Caller, ids: impl Iterator<Item = &'a str>) -> Self {
        Self::look_up(ids, async |id| {
            let request = GetTenantRequest { identifier: Some(get_tenant_request::Identifier::TenantId(id)) };
            let answer = caller.directory().await.ok()?.get_tenant(request).await.ok()?.into_inner();
            Some(answer.tenant?.slug)
        })
        .await
    }

    /// Addresses of users.
    pub async fn of_users<'a>(caller: &Caller, ids: impl Iterator<Item = &'a str>) -> Self {
        Self::look_up(ids, async |id| {
            let identifier = Some(get_user_request::Identifier::UserId(id));
            let request = GetUserRequest { identifier, include_deleted: true };
            let answer = caller.directory().await.ok()?.get_user(request).await.ok()?.into_inner();
            Some(answer.user?.email)
        })
        .await
    }

    /// Names of service accounts.
    pub async fn of_service_accounts<'a>(caller: &Caller, ids: impl Iterator<Item = &'a str>) -> Self {
        Self::look_up(ids, async |id| {
            let identifier = Some(get_service_account_request::Identifier::ServiceAccountId(id));
            let request = GetServiceAccountRequest { identifier };
            let answer = caller.directory().await.ok()?.get_service_account(request).await.ok()?.into_inner();
            Some(answer.service_account?.name)
        })
        .await
    }

    /// Looks each id up once. What is refused is no failure: the table shows the id then.
    async fn look_up<'a>(ids: impl Iterator<Item = &'a str>, name: impl AsyncFn(String) -> Option<String>) -> Self {
        let mut ids =
            ids.filter(|id| !id.is_empty()).collect::<BTreeSet<_>>().into_iter().take(MOST).map(str::to_owned);
        // One alone: a caller who may not know it may know none, and each refusal is an event.
        let Some(first) = ids.next() else { return Self::default() };
        let Some(known) = name(first.clone()).await else { return Self::default() };
        let name = &name;
        let mut found: BTreeMap<String, String> = stream::iter(ids)
            .map(|id| async move { Some((id.clone(), name(id).await.filter(|name| !name.is_empty())?)) })
            .buffer_unordered(AT_A_TIME)
            .filter_map(std::future::ready)
            .collect()
            .await;
        found.insert(first, known);
        found.retain(|_, name| !name.is_empty());
        Self(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_may_not_be_known_leaves_the_id() {
        let ids = ["a", "b", "a", ""];
        let names = Names::look_up(ids.into_iter(), async |id| (id == "a").then(|| "harbour".to_owned())).await;
        assert_eq!((names.of("a").as_str(), names.of("b").as_str(), names.of("c").as_str()), ("harbour", "b", "c"));
        let asked = std::cell::Cell::new(0);
        let refused = async |_| {
            asked.set(asked.get() + 1);
            None
        };
        let names = Names::look_up(["a", "b", "c"].into_iter(), refused).await;
        assert_eq!((names.of("a").as_str(), asked.get()), ("a", 1), "a caller who may not know one asks for no more");
    }
}
