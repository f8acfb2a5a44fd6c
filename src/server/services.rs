//! Every service that this server answers for, on one screen.

use axum::Router;
use tonic::service::Routes;

use crate::app::App;
use crate::proto::audit_service_server::AuditServiceServer;
use crate::proto::authenticate_service_server::AuthenticateServiceServer;
use crate::proto::directory_service_server::DirectoryServiceServer;
use crate::proto::migration_service_server::MigrationServiceServer;
use crate::proto::session_service_server::SessionServiceServer;
use crate::{audit, authenticate, directory, migration, session};

/// The descriptors of the contract, for reflection.
pub static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sidle_descriptor.bin"));

/// Full names of the services whose health is told apart.
pub const NAMES: [&str; 5] = [
    "sidle.v1.AuthenticateService",
    "sidle.v1.SessionService",
    "sidle.v1.AuditService",
    "sidle.v1.MigrationService",
    "sidle.v1.DirectoryService",
];

/// Registers everything.
pub fn register(app: &App) -> Result<Router, tonic_reflection::server::Error> {
    let largest = app.config.server.max_message_bytes;
    let mut routes = Routes::builder();
    routes
        .add_service(AuthenticateServiceServer::new(authenticate(app)).max_decoding_message_size(largest))
        .add_service(SessionServiceServer::new(session(app)).max_decoding_message_size(largest))
        .add_service(AuditServiceServer::new(audit(app)).max_decoding_message_size(largest))
        .add_service(MigrationServiceServer::new(migration(app)).max_decoding_message_size(largest))
        .add_service(DirectoryServiceServer::new(directory(app)).max_decoding_message_size(largest))
        .add_service(app.health.service.clone())
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes().into_axum_router())
}

fn authenticate(app: &App) -> authenticate::Service {
    authenticate::Service::new(app.authenticate.clone())
}

fn session(app: &App) -> session::Service {
    session::Service::new(app.sessions.clone(), app.log.clone())
}

fn audit(app: &App) -> audit::Service {
    let (log, context, keyring) = (app.log.clone(), app.context.clone(), app.keyring.clone());
    audit::Service::new(log, context, keyring, app.paging.clone(), app.verifier.clone())
}

fn migration(app: &App) -> migration::Service {
    migration::Service::new(migration::Parts {
        db: app.db.clone(),
        context: app.context.clone(),
        recorder: app.recorder.clone(),
        log: app.log.clone(),
        paging: app.paging.clone(),
        verifier: app.verifier.clone(),
        kanidm: app.kanidm.clone(),
        engine: app.engine.clone(),
        step_ups: app.step_ups.clone(),
    })
}

fn directory(app: &App) -> directory::Service {
    directory::Service::new(app.directory.clone(), app.paging.clone())
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
