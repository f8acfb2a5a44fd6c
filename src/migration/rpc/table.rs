//! The RPCs of `sidle.v1.MigrationService`, and what serves each.

use super::{Service, import};
use crate::access::rpcs::rpcs;
use crate::proto::migration_service_server::MigrationService;
use crate::proto::*;

rpcs! { MigrationService for Service {
    unary {
        plan_migration(PlanMigrationRequest) -> PlanMigrationResponse = Service::plan;
        get_plan(GetPlanRequest) -> GetPlanResponse = Service::plan_of;
        start_migration(StartMigrationRequest) -> StartMigrationResponse = Service::start;
        get_migration(GetMigrationRequest) -> GetMigrationResponse = Service::get;
        list_migrations(ListMigrationsRequest) -> ListMigrationsResponse = Service::list;
        list_migration_items(ListMigrationItemsRequest) -> ListMigrationItemsResponse = Service::list_items;
        sync_tenant_groups(SyncTenantGroupsRequest) -> SyncTenantGroupsResponse = Service::sync_groups;
    }
    streams {
        watch_migration(WatchMigrationRequest) -> WatchMigrationStream of WatchMigrationResponse = Service::watch;
    }
    uploads {
        import_users(ImportUsersRequest) -> ImportUsersStream of ImportUsersResponse = import::open;
    }
    unimplemented {
        pause_migration(PauseMigrationRequest) -> PauseMigrationResponse = "PauseMigration";
        resume_migration(ResumeMigrationRequest) -> ResumeMigrationResponse = "ResumeMigration";
        cancel_migration(CancelMigrationRequest) -> CancelMigrationResponse = "CancelMigration";
        retry_migration_items(RetryMigrationItemsRequest) -> RetryMigrationItemsResponse = "RetryMigrationItems";
        resolve_migration_item(ResolveMigrationItemRequest) -> ResolveMigrationItemResponse = "ResolveMigrationItem";
        rollback_migration(RollbackMigrationRequest) -> RollbackMigrationResponse = "RollbackMigration";
        get_tenant_rollout(GetTenantRolloutRequest) -> GetTenantRolloutResponse = "GetTenantRollout";
        update_tenant_rollout(UpdateTenantRolloutRequest) -> UpdateTenantRolloutResponse = "UpdateTenantRollout";
        send_invitations(SendInvitationsRequest) -> SendInvitationsResponse = "SendInvitations";
        get_migration_report(GetMigrationReportRequest) -> GetMigrationReportResponse = "GetMigrationReport";
        list_unmigrated_users(ListUnmigratedUsersRequest) -> ListUnmigratedUsersResponse = "ListUnmigratedUsers";
        get_readiness(GetReadinessRequest) -> GetReadinessResponse = "GetReadiness";
        finalize_migration(FinalizeMigrationRequest) -> FinalizeMigrationResponse = "FinalizeMigration";
        get_schema_status(GetSchemaStatusRequest) -> GetSchemaStatusResponse = "GetSchemaStatus";
    }
    unimplemented_streams {
        export_users(ExportUsersRequest) -> ExportUsersStream of ExportUsersResponse = "ExportUsers";
    }
}}
