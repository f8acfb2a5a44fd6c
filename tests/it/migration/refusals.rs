use sidle::proto::*;
use uuid::Uuid;

use super::{header, import, reason, row};
use crate::support::TestServer;

#[tokio::test]
async fn without_a_kanidm_nothing_is_planned_started_or_synced() {
    let server = TestServer::start().await;
    let mut client = server.admin().await.migration;
    let planned = client.plan_migration(PlanMigrationRequest::default()).await.unwrap_err();
    assert_eq!(reason(&planned), "KANIDM_NOT_CONFIGURED");
    let start = StartMigrationRequest { plan_id: Uuid::new_v4().to_string(), ..Default::default() };
    assert_eq!(reason(&client.start_migration(start).await.unwrap_err()), "KANIDM_NOT_CONFIGURED");
    let synced = client.sync_tenant_groups(SyncTenantGroupsRequest::default()).await.unwrap_err();
    assert_eq!(reason(&synced), "KANIDM_NOT_CONFIGURED");
}

#[tokio::test]
async fn what_is_not_there_is_not_found_and_what_is_no_id_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.admin().await.migration;
    for (id, expected) in [(Uuid::new_v4().to_string(), "NOT_FOUND"), ("7".to_owned(), "INVALID_FIELD")] {
        let plan = GetPlanRequest { plan_id: id.clone(), ..Default::default() };
        assert_eq!(reason(&client.get_plan(plan).await.unwrap_err()), expected);
        let get = GetMigrationRequest { migration_id: id.clone() };
        assert_eq!(reason(&client.get_migration(get).await.unwrap_err()), expected);
        let items = ListMigrationItemsRequest { migration_id: id.clone(), ..Default::default() };
        assert_eq!(reason(&client.list_migration_items(items).await.unwrap_err()), expected);
        let watch = WatchMigrationRequest { migration_id: id, ..Default::default() };
        assert_eq!(reason(&client.watch_migration(watch).await.unwrap_err()), expected);
    }
    let list = ListMigrationsRequest { page_token: "AAAA".to_owned(), ..Default::default() };
    assert_eq!(reason(&client.list_migrations(list).await.unwrap_err()), "INVALID_PAGE_TOKEN");
}

/// An import reveals which addresses are taken in every tenant, so a tenant's own administrator cannot run one.
#[tokio::test]
async fn importing_needs_the_platform() {
    let server = TestServer::start().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, "chief@harbour.example", "super_admin").await;
    let chief = server.client(&server.sign_in("chief@harbour.example").await.access_token);
    let refused = import(&chief, header("harbour"), vec![row(1, "a@harbour.example")]).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED");
}
