//! Every service that this server answers for, on one screen.

use axum::Router;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;

use crate::proto::DESCRIBED;
use crate::proto::audit_service_server::AuditServiceServer;
use crate::proto::authenticate_service_server::AuthenticateServiceServer;
use crate::proto::directory_service_server::DirectoryServiceServer;
use crate::proto::migration_service_server::MigrationServiceServer;
use crate::proto::session_service_server::SessionServiceServer;
use crate::{audit, authenticate, directory, migration, session};

/// Full names of the services whose health is reported separately.
pub const NAMES: [&str; 5] = [
    "sidle.v1.AuthenticateService",
    "sidle.v1.SessionService",
    "sidle.v1.AuditService",
    "sidle.v1.MigrationService",
    "sidle.v1.DirectoryService",
];

/// What is registered.
pub struct Services {
    pub authenticate: authenticate::Service,
    /// Sessions and their tokens.
    pub session: session::Service,
    pub audit: audit::Service,
    pub migration: migration::Service,
    /// Users, tenants, roles.
    pub directory: directory::Service,
    /// Health of each of them.
    pub health: HealthServer<HealthService>,
}

impl Services {
    /// Registers everything; no message may be larger.
    pub fn register(self, largest: usize) -> Result<Router, tonic_reflection::server::Error> {
        let mut routes = Routes::builder();
        routes
            .add_service(AuthenticateServiceServer::new(self.authenticate).max_decoding_message_size(largest))
            .add_service(SessionServiceServer::new(self.session).max_decoding_message_size(largest))
            .add_service(AuditServiceServer::new(self.audit).max_decoding_message_size(largest))
            .add_service(MigrationServiceServer::new(self.migration).max_decoding_message_size(largest))
            .add_service(DirectoryServiceServer::new(self.directory).max_decoding_message_size(largest))
            .add_service(self.health)
            .add_service(reflection()?.build_v1()?)
            .add_service(reflection()?.build_v1alpha()?);
        Ok(routes.routes().into_axum_router())
    }
}

/// Also the types that details of errors are of: a client that finds them shows a reason, and not bytes.
fn reflection() -> Result<tonic_reflection::server::Builder<'static>, tonic_reflection::server::Error> {
    Ok(tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIBED)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_file_descriptor_set(error_details()?))
}

/// The files of google.rpc, under the names that others import them by.
fn error_details() -> Result<FileDescriptorSet, tonic_reflection::server::Error> {
    let mut set = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)?;
    for file in set.file.iter_mut().filter(|file| file.package() == "google.rpc" && !file.name().contains('/')) {
        file.name = Some(format!("google/rpc/{}", file.name()));
    }
    for file in &mut set.file {
        file.source_code_info = None;
    }
    Ok(set)
}
