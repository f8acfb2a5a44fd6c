//! Clients of the service.

use sidle::proto::audit_service_client::AuditServiceClient;
use sidle::proto::authenticate_service_client::AuthenticateServiceClient;
use sidle::proto::directory_service_client::DirectoryServiceClient;
use sidle::proto::migration_service_client::MigrationServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use crate::Result;

type Authorized = InterceptedService<Channel, Bearer>;

/// Puts the access token into every call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Clients for the services, as one caller.
#[derive(Clone)]
pub struct Client {
    pub authenticate: AuthenticateServiceClient<Authorized>,
    pub directory: DirectoryServiceClient<Authorized>,
    pub migration: MigrationServiceClient<Authorized>,
    pub audit: AuditServiceClient<Authorized>,
}

impl Client {
    /// As the holder of the access token; anonymous without one.
    pub fn new(channel: &Channel, token: Option<&str>) -> Result<Self> {
        let bearer = Bearer(token.map(|token| format!("Bearer {token}").parse()).transpose()?);
        let channel = InterceptedService::new(channel.clone(), bearer);
        Ok(Self {
            authenticate: AuthenticateServiceClient::new(channel.clone()),
            directory: DirectoryServiceClient::new(channel.clone()),
            migration: MigrationServiceClient::new(channel.clone()),
            audit: AuditServiceClient::new(channel),
        })
    }
}

/// The reason of a refusal, such as `INVALID_CREDENTIALS`.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
}

/// Turns a refusal into the error that ends the demonstration, with the call's name and the correlation id for the log.
pub fn refused(call: &str) -> impl Fn(Status) -> Box<dyn std::error::Error + Send + Sync> {
    move |status| {
        let details = status.get_error_details();
        let id = details.error_info().and_then(|info| info.metadata.get("correlation_id").cloned());
        let id = id.map(|id| format!(", correlation id {id}")).unwrap_or_default();
        format!("{call} answered {}: {}{id}", reason(&status), status.message()).into()
    }
}

/// The name of an enum's value without the enum's own: `BROKEN_HASH` for `IMPORT_REASON_BROKEN_HASH`.
pub fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}
