//! The service as tonic wants it.

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Service, import};
use crate::access::Call;
use crate::correlation;
use crate::fault::{Fault, Result};
use crate::proto::migration_service_server::MigrationService;
use crate::proto::*;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl MigrationService for Service {
    type ImportUsersStream = BoxStream<'static, Result<ImportUsersResponse, Status>>;

    async fn import_users(&self, request: Request<Streaming<ImportUsersRequest>>) -> Answer<Self::ImportUsersStream> {
        let call = Call::of_stream(&request)?;
        let (answers, received) = mpsc::channel(import::BACKLOG);
        let service = self.clone();
        correlation::spawn(async move {
            if let Err(fault) = import::run(service, call, request.into_inner(), &answers).await {
                // Without a receiver there is nobody left to tell.
                let _ = answers.send(Err(fault)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(received).map(|answer| Ok(answer?)).boxed()))
    }

    async fn plan_migration(&self, request: Request<PlanMigrationRequest>) -> Answer<PlanMigrationResponse> {
        let call = Call::of(&request)?;
        Ok(Response::new(self.plan(&call, request.into_inner()).await?))
    }

    async fn get_plan(&self, request: Request<GetPlanRequest>) -> Answer<GetPlanResponse> {
        let call = Call::of(&request)?;
        Ok(Response::new(Self::get_plan(self, &call, request.into_inner()).await?))
    }

    async fn start_migration(&self, request: Request<StartMigrationRequest>) -> Answer<StartMigrationResponse> {
        let call = Call::of(&request)?;
        Ok(Response::new(self.start(&call, request.into_inner()).await?))
    }

    async fn get_migration(&self, request: Request<GetMigrationRequest>) -> Answer<GetMigrationResponse> {
        let call = Call::of(&request)?;
        Ok(Response::new(self.get(&call, request.into_inner()).await?))
    }

    async fn list_migrations(&self, request: Request<ListMigrationsRequest>) -> Answer<ListMigrationsResponse> {
        let call = Call::of(&request)?;
        Ok(Response::new(self.list(&call, request.into_inner()).await?))
    }

    async fn list_migration_items(
        &self,
        request: Request<ListMigrationItemsRequest>,
    ) -> Answer<ListMigrationItemsResponse> {
        let call = Call::of(&request)?;
        Ok(Response::new(self.list_items(&call, request.into_inner()).await?))
    }

    type WatchMigrationStream = BoxStream<'static, Result<WatchMigrationResponse, Status>>;

    async fn watch_migration(&self, request: Request<WatchMigrationRequest>) -> Answer<Self::WatchMigrationStream> {
        let call = Call::of(&request)?;
        let stream = self.watch(call, request.into_inner()).await?;
        Ok(Response::new(stream.messages().map(|message| Ok(message?)).boxed()))
    }

    async fn sync_tenant_groups(&self, request: Request<SyncTenantGroupsRequest>) -> Answer<SyncTenantGroupsResponse> {
        let call = Call::of(&request)?;
        Ok(Response::new(self.sync_groups(&call, request.into_inner()).await?))
    }

    type ExportUsersStream = BoxStream<'static, Result<ExportUsersResponse, Status>>;

    async fn export_users(&self, _request: Request<ExportUsersRequest>) -> Answer<Self::ExportUsersStream> {
        Err(Fault::not_implemented("ExportUsers").into())
    }

    async fn pause_migration(&self, _request: Request<PauseMigrationRequest>) -> Answer<PauseMigrationResponse> {
        Err(Fault::not_implemented("PauseMigration").into())
    }

    async fn resume_migration(&self, _request: Request<ResumeMigrationRequest>) -> Answer<ResumeMigrationResponse> {
        Err(Fault::not_implemented("ResumeMigration").into())
    }

    async fn cancel_migration(&self, _request: Request<CancelMigrationRequest>) -> Answer<CancelMigrationResponse> {
        Err(Fault::not_implemented("CancelMigration").into())
    }

    async fn retry_migration_items(
        &self,
        _request: Request<RetryMigrationItemsRequest>,
    ) -> Answer<RetryMigrationItemsResponse> {
        Err(Fault::not_implemented("RetryMigrationItems").into())
    }

    async fn resolve_migration_item(
        &self,
        _request: Request<ResolveMigrationItemRequest>,
    ) -> Answer<ResolveMigrationItemResponse> {
        Err(Fault::not_implemented("ResolveMigrationItem").into())
    }

    async fn rollback_migration(
        &self,
        _request: Request<RollbackMigrationRequest>,
    ) -> Answer<RollbackMigrationResponse> {
        Err(Fault::not_implemented("RollbackMigration").into())
    }

    async fn get_tenant_rollout(&self, _request: Request<GetTenantRolloutRequest>) -> Answer<GetTenantRolloutResponse> {
        Err(Fault::not_implemented("GetTenantRollout").into())
    }

    async fn update_tenant_rollout(
        &self,
        _request: Request<UpdateTenantRolloutRequest>,
    ) -> Answer<UpdateTenantRolloutResponse> {
        Err(Fault::not_implemented("UpdateTenantRollout").into())
    }

    async fn send_invitations(&self, _request: Request<SendInvitationsRequest>) -> Answer<SendInvitationsResponse> {
        Err(Fault::not_implemented("SendInvitations").into())
    }

    async fn get_migration_report(
        &self,
        _request: Request<GetMigrationReportRequest>,
    ) -> Answer<GetMigrationReportResponse> {
        Err(Fault::not_implemented("GetMigrationReport").into())
    }

    async fn list_unmigrated_users(
        &self,
        _request: Request<ListUnmigratedUsersRequest>,
    ) -> Answer<ListUnmigratedUsersResponse> {
        Err(Fault::not_implemented("ListUnmigratedUsers").into())
    }

    async fn get_readiness(&self, _request: Request<GetReadinessRequest>) -> Answer<GetReadinessResponse> {
        Err(Fault::not_implemented("GetReadiness").into())
    }

    async fn finalize_migration(
        &self,
        _request: Request<FinalizeMigrationRequest>,
    ) -> Answer<FinalizeMigrationResponse> {
        Err(Fault::not_implemented("FinalizeMigration").into())
    }

    async fn get_schema_status(&self, _request: Request<GetSchemaStatusRequest>) -> Answer<GetSchemaStatusResponse> {
        Err(Fault::not_implemented("GetSchemaStatus").into())
    }
}
