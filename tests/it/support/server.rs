//! A server in this process, on ports of its own, with a database of its own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sidle::access::request_digest;
use sidle::app::{App, Running};
use sidle::authenticate::StepUps;
use sidle::config::Config;
use sidle::context::Context;
use sidle::proto;
use sidle_dev::kanidm::{Access, Kanidm};
use sidle_dev::postgres::Database;
use sqlx::PgPool;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::LIMIT;

/// The password of every user that [`TestServer::user`] creates.
pub const ADMIN_PASSWORD: &str = "correct horse battery staple";

/// The sealing key of every test's server.
const SEAL: &str = "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The setup of a test's server; further servers on the same database are its replicas.
#[derive(Clone)]
pub struct Setup {
    database: Arc<Database>,
    settings: HashMap<String, String>,
    /// As the superuser, where the database is not on the private cluster.
    superuser_url: Option<String>,
}

impl Setup {
    /// A fresh database and settings that make tests quick.
    pub async fn new() -> Self {
        let database = Arc::new(super::database().await);
        let mut setup = Self { database, settings: HashMap::new(), superuser_url: None };
        for (key, value) in [
            ("SERVER__PLAINTEXT", "true"),
            ("SERVER__GRPC_ADDRESS", "127.0.0.1:0"),
            ("SERVER__OPS_ADDRESS", "127.0.0.1:0"),
            ("SERVER__SHUTDOWN_GRACE", "2s"),
            ("SERVER__OPEN_REFLECTION", "true"),
            ("DATABASE__POOL_SIZE", "5"),
            ("SEAL__KEYS", SEAL),
            ("PASSWORDS__COST", "4"),
            ("PASSWORDS__FAILURE_LATENCY_QUANTUM", "10ms"),
            // The age of the revocation snapshot follows the clock, which tests move by days; and a machine that runs
            // many of them concurrently may stall for longer than a replica is normally given.
            ("TOKENS__MAX_REVOCATION_AGE", "365d"),
            ("MIGRATION__POLL", "100ms"),
            ("LOG__LEVEL", "off"),
            ("LOG__FORMAT", "text"),
        ] {
            setup = setup.with(key, value);
        }
        let (app, owner) = (setup.database.app_url.clone(), setup.database.owner_url.clone());
        setup.with("DATABASE__URL", &app).with("DATABASE__OWNER_URL", &owner)
    }

    /// With another setting, such as `("PASSWORDS__COST", "5")`.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(format!("SIDLE_{key}"), value.to_owned());
        self
    }

    /// With a database of a cluster of its own, whose schema the server applies.
    #[must_use]
    pub fn on_cluster(self, cluster: &super::cluster::Cluster) -> Self {
        let superuser_url = Some(cluster.url("postgres"));
        let setup = self.with("DATABASE__URL", &cluster.url("sidle_app")).with("DATABASE__MIGRATE_ON_START", "true");
        Self { superuser_url, ..setup.with("DATABASE__OWNER_URL", &cluster.url("sidle_owner")) }
    }

    /// With this Kanidm.
    #[must_use]
    pub fn with_kanidm(self, kanidm: &Kanidm, access: &Access) -> Self {
        let ca = kanidm.ca_file.as_deref().map(Path::to_string_lossy).unwrap_or_default();
        self.with("KANIDM__URL", &kanidm.url)
            .with("KANIDM__CA_FILE", &ca)
            .with("KANIDM__TOKEN", &access.token)
            .with("KANIDM__CLIENT_ID", &access.client_id)
            .with("KANIDM__CLIENT_SECRET", &access.client_secret)
            .with("KANIDM__REDIRECT_URIS", &access.redirect_uri)
    }

    /// The settings as the environment of a `sidle` process.
    pub fn environment(&self) -> &HashMap<String, String> {
        &self.settings
    }

    /// The database's name and addresses.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Starts a server.
    pub async fn start(&self) -> TestServer {
        self.start_with(Context::system()).await
    }

    /// Starts a server with a clock that the test moves.
    pub async fn start_with(&self, context: Context) -> TestServer {
        let config = Config::load(None, self.settings.clone()).expect("the test's settings are right");
        let _ = sidle::telemetry::start(&config.log, &config.telemetry).expect("the log starts");
        let app = App::new(config, context.clone()).await.expect("the parts are made");
        let running = app.start().await.expect("the server starts");
        let endpoint = Endpoint::from_shared(format!("http://{}", running.grpc_address)).unwrap();
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            .timeout(LIMIT)
            .connect()
            .await
            .expect("the server listens");
        let superuser = sqlx::postgres::PgPoolOptions::new().max_connections(2);
        let options: sqlx::postgres::PgConnectOptions = self.superuser_url().parse().unwrap();
        // A test that waits for a lock that is never released fails as one that waits for anything else does.
        let superuser =
            superuser.connect_lazy_with(options.options([("lock_timeout", format!("{}s", LIMIT.as_secs()))]));
        TestServer { setup: self.clone(), context, running: Some(running), channel, superuser }
    }

    /// The database as its superuser.
    pub fn superuser_url(&self) -> String {
        if let Some(url) = &self.superuser_url {
            return url.clone();
        }
        let url = std::env::var("SIDLE_DEV_PG_SUPER_URL").expect("started through ./run");
        let (server, _) = url.rsplit_once('/').unwrap();
        format!("{server}/{}", self.database.name)
    }
}

/// A running server. Stopped when this value is dropped.
pub struct TestServer {
    /// Its setup.
    pub setup: Setup,
    /// Its clock and randomness.
    pub context: Context,
    /// A channel to it.
    pub channel: Channel,
    running: Option<Running>,
    superuser: PgPool,
}

/// A channel that sends an access token with every call.
pub type Authorized = InterceptedService<Channel, Bearer>;

/// Puts the access token into every call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// Sends `token`; nothing for the empty one.
    pub fn new(token: &str) -> Self {
        Self((!token.is_empty()).then(|| format!("Bearer {token}").parse().unwrap()))
    }
}

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Clients for every service, as one caller.
#[derive(Clone)]
pub struct Client {
    token: String,
    pub authenticate: proto::authenticate_service_client::AuthenticateServiceClient<Authorized>,
    pub session: proto::session_service_client::SessionServiceClient<Authorized>,
    pub audit: proto::audit_service_client::AuditServiceClient<Authorized>,
    pub migration: proto::migration_service_client::MigrationServiceClient<Authorized>,
    /// The directory, for a caller who gives step-up tokens where they are required.
    pub directory: Proving,
    /// The directory, for a caller who sends only what the request carries.
    pub plain: Directory,
}

/// A client of the directory.
pub type Directory = proto::directory_service_client::DirectoryServiceClient<Authorized>;

/// A client of the directory that repeats a call with a fresh step-up token by [`ADMIN_PASSWORD`] when it is refused
/// for lack of one. A request that carries one is made once.
#[derive(Clone)]
pub struct Proving {
    plain: Directory,
    authenticate: proto::authenticate_service_client::AuthenticateServiceClient<Authorized>,
}

impl std::ops::Deref for Proving {
    type Target = Directory;

    fn deref(&self) -> &Directory {
        &self.plain
    }
}

impl std::ops::DerefMut for Proving {
    fn deref_mut(&mut self) -> &mut Directory {
        &mut self.plain
    }
}

macro_rules! proving {
    ($($call:ident($request:ident) -> $answer:ident;)+) => {
        impl Proving {
            $(
                /// Makes the call, with a fresh step-up token where one is required.
                pub async fn $call(
                    &mut self,
                    request: impl tonic::IntoRequest<proto::$request>,
                ) -> Result<Response<proto::$answer>, Status> {
                    let (metadata, _, message) = request.into_request().into_parts();
                    let carries = metadata.contains_key("sidle-step-up");
                    let again = |message| Request::from_parts(metadata.clone(), Default::default(), message);
                    let refused = match self.plain.$call(again(message.clone())).await {
                        Err(refused) if !carries => refused,
                        answer => return answer,
                    };
                    let Some(token) = self.proof(&refused).await else { return Err(refused) };
                    let mut request = again(message);
                    request.metadata_mut().insert("sidle-step-up", token.parse().unwrap());
                    self.plain.$call(request).await
                }
            )+
        }
    };
}

proving! {
    create_user(CreateUserRequest) -> CreateUserResponse;
    enable_user(EnableUserRequest) -> EnableUserResponse;
    unlock_user(UnlockUserRequest) -> UnlockUserResponse;
    create_tenant(CreateTenantRequest) -> CreateTenantResponse;
    update_tenant(UpdateTenantRequest) -> UpdateTenantResponse;
    create_membership(CreateMembershipRequest) -> CreateMembershipResponse;
    update_role(UpdateRoleRequest) -> UpdateRoleResponse;
    create_service_account(CreateServiceAccountRequest) -> CreateServiceAccountResponse;
    update_service_account(UpdateServiceAccountRequest) -> UpdateServiceAccountResponse;
    create_api_key(CreateApiKeyRequest) -> CreateApiKeyResponse;
}

impl Proving {
    /// The step-up token that a refusal asks for; none when it asks for none, or the caller has another password.
    async fn proof(&mut self, refused: &Status) -> Option<String> {
        let asked = refused.get_details_error_info().filter(|info| info.reason == "STEP_UP_REQUIRED")?;
        let proof = proto::step_up_request::Proof::Password(ADMIN_PASSWORD.to_owned());
        let of = |key: &str| asked.metadata[key].clone();
        let (method, target, change) = (of("method"), of("target"), of("change"));
        let request = proto::StepUpRequest { method, target, change, proof: Some(proof) };
        Some(self.authenticate.step_up(request).await.ok()?.into_inner().step_up_token)
    }
}

impl Client {
    /// Clients over `channel` that send this access token; none for the empty one.
    pub fn new(channel: Channel, token: &str) -> Self {
        let channel = InterceptedService::new(channel, Bearer::new(token));
        Self {
            token: token.to_owned(),
            authenticate: proto::authenticate_service_client::AuthenticateServiceClient::new(channel.clone()),
            session: proto::session_service_client::SessionServiceClient::new(channel.clone()),
            audit: proto::audit_service_client::AuditServiceClient::new(channel.clone()),
            migration: proto::migration_service_client::MigrationServiceClient::new(channel.clone()),
            directory: Proving {
                plain: proto::directory_service_client::DirectoryServiceClient::new(channel.clone()),
                authenticate: proto::authenticate_service_client::AuthenticateServiceClient::new(channel.clone()),
            },
            plain: proto::directory_service_client::DirectoryServiceClient::new(channel),
        }
    }
}

impl Client {
    /// The access token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The same caller at another replica.
    pub fn on(&self, channel: Channel) -> Self {
        Self::new(channel, &self.token)
    }

    /// A fresh step-up token by [`ADMIN_PASSWORD`] for one call of `method`, such as
    /// `sidle.v1.AuthenticateService/DisableTotp`, with a request without any field.
    pub async fn prove(&self, method: &str, target: &str) -> String {
        self.prove_change(method, target, "").await
    }

    /// `request` with a fresh step-up token by [`ADMIN_PASSWORD`], for a server with the seal of [`Setup`].
    pub async fn proven<T: prost::Message>(&self, method: &str, target: &str, request: T) -> Request<T> {
        let payload = URL_SAFE_NO_PAD.decode(self.token.split('.').nth(1).expect("a token")).unwrap();
        let claims: sidle_token::Claims = serde_json::from_slice(&payload).unwrap();
        let config = Config::load(None, [("SIDLE_SEAL__KEYS".to_owned(), SEAL.to_owned())]).unwrap();
        let step_ups = StepUps::new(Context::system(), &config.seal.keyring().unwrap(), None);
        let change = step_ups.change(claims.tid, method, &request_digest(method, &request));
        let proof = self.prove_change(method, target, &URL_SAFE_NO_PAD.encode(change)).await;
        with_proof(request, &proof)
    }

    /// A fresh step-up token by [`ADMIN_PASSWORD`] for the change that a refusal named.
    pub async fn prove_change(&self, method: &str, target: &str, change: &str) -> String {
        let proof = Some(proto::step_up_request::Proof::Password(ADMIN_PASSWORD.to_owned()));
        let (method, target, change) = (method.to_owned(), target.to_owned(), change.to_owned());
        let request = proto::StepUpRequest { method, target, change, proof };
        self.authenticate.clone().step_up(request).await.expect("a proof").into_inner().step_up_token
    }

    /// Makes a call and, when it is refused for lack of a step-up token, repeats it with one.
    pub async fn proving<T: Clone, A>(
        &self,
        request: T,
        call: impl AsyncFn(Request<T>) -> Result<Response<A>, Status>,
    ) -> Result<A, Status> {
        let refused = match call(Request::new(request.clone())).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(refused) => refused,
        };
        if !is_step_up(&refused) {
            return Err(refused);
        }
        let proof = self.prove_asked(&refused).await;
        Ok(call(with_proof(request, &proof)).await?.into_inner())
    }

    /// A fresh step-up token by [`ADMIN_PASSWORD`] for what a refusal asks for.
    pub async fn prove_asked(&self, refused: &Status) -> String {
        let asked = refused.get_details_error_info().expect("a refusal of Sidle's").metadata;
        self.prove_change(&asked["method"], &asked["target"], &asked["change"]).await
    }

    /// Creates a service account, with a fresh step-up token where one is required.
    pub async fn create_service_account(
        &self,
        request: proto::CreateServiceAccountRequest,
    ) -> Result<proto::CreateServiceAccountResponse, Status> {
        self.proving(request, async |request| self.directory.clone().create_service_account(request).await).await
    }

    /// Changes a service account, with a fresh step-up token where one is required.
    pub async fn update_service_account(
        &self,
        request: proto::UpdateServiceAccountRequest,
    ) -> Result<proto::UpdateServiceAccountResponse, Status> {
        self.proving(request, async |request| self.directory.clone().update_service_account(request).await).await
    }

    /// Creates an API key, with a fresh step-up token where one is required.
    pub async fn create_api_key(
        &self,
        request: proto::CreateApiKeyRequest,
    ) -> Result<proto::CreateApiKeyResponse, Status> {
        self.proving(request, async |request| self.directory.clone().create_api_key(request).await).await
    }

    /// Rotates signing keys, with a fresh step-up token.
    pub async fn rotate_signing_keys(
        &self,
        request: proto::RotateSigningKeysRequest,
    ) -> Result<proto::RotateSigningKeysResponse, Status> {
        self.proving(request, async |request| self.directory.clone().rotate_signing_keys(request).await).await
    }
}

/// Whether a call was refused for lack of a step-up token.
pub fn is_step_up(refused: &Status) -> bool {
    refused.get_details_error_info().is_some_and(|info| info.reason == "STEP_UP_REQUIRED")
}

/// `request` with this step-up token; none for the empty one.
pub fn with_proof<T>(request: T, token: &str) -> Request<T> {
    let mut request = Request::new(request);
    if !token.is_empty() {
        request.metadata_mut().insert("sidle-step-up", token.parse().unwrap());
    }
    request
}

impl TestServer {
    /// A server with a fresh database.
    pub async fn start() -> Self {
        Setup::new().await.start().await
    }

    /// The parts that the server was made of.
    pub fn app(&self) -> &App {
        &self.running.as_ref().expect("the server runs").app
    }

    /// Address of the HTTP port for operators.
    pub fn ops_url(&self) -> String {
        format!("http://{}", self.running.as_ref().expect("the server runs").ops_address)
    }

    /// Address of the gRPC port.
    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.running.as_ref().expect("the server runs").grpc_address)
    }

    /// Clients that send this access token; none for the empty one.
    pub fn client(&self, token: &str) -> Client {
        Client::new(self.channel.clone(), token)
    }

    /// The database as its superuser, exempt from row-level security: for setting up and for inspecting.
    pub fn sql(&self) -> &PgPool {
        &self.superuser
    }

    /// Creates an active tenant and returns its id.
    pub async fn tenant(&self, slug: &str) -> Uuid {
        let id = self.context.new_id();
        let insert = "INSERT INTO tenants (tenant_id, slug, name) VALUES ($1, $2, $2)";
        sqlx::query(insert).bind(id).bind(slug).execute(&self.superuser).await.unwrap();
        id
    }

    /// Creates an active user with [`ADMIN_PASSWORD`] and a built-in role (`user`, `admin`, `super_admin`) in its home
    /// tenant; `SYSTEM_ADMIN` becomes a `user` with that role on the platform.
    pub async fn user(&self, tenant: Uuid, email: &str, role: &str) -> Uuid {
        let id = self.context.new_id();
        sqlx::query(
            "INSERT INTO users (user_id, tenant_id, email, email_key, full_name, password_hash, password_cost, verified_at)
             VALUES ($1, $2, $3, $5, $3, $4, 4, now())",
        )
        .bind(id)
        .bind(tenant)
        .bind(email)
        .bind(super::cheap_hash(ADMIN_PASSWORD))
        .bind(sidle::access::names::email_key(email))
        .execute(&self.superuser)
        .await
        .unwrap();
        let platform = role == "SYSTEM_ADMIN";
        sqlx::query(
            "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
             SELECT $1, $2, $3, role_id, 'local' FROM roles WHERE name = $4 AND tenant_id IS NULL",
        )
        .bind(self.context.new_id())
        .bind(tenant)
        .bind(id)
        .bind(if platform { "user" } else { role })
        .execute(&self.superuser)
        .await
        .unwrap();
        if platform {
            let grant = "INSERT INTO platform_grants (user_id, role_id) SELECT $1, role_id FROM roles WHERE name = $2";
            sqlx::query(grant).bind(id).bind(role).execute(&self.superuser).await.unwrap();
        }
        id
    }

    /// Signs in with [`ADMIN_PASSWORD`] and returns the tokens.
    pub async fn sign_in(&self, email: &str) -> proto::TokenPair {
        let request = proto::AuthenticatePasswordRequest {
            identifier: email.to_owned(),
            password: ADMIN_PASSWORD.to_owned(),
            ..Default::default()
        };
        let response =
            self.client("").authenticate.authenticate_password(request).await.expect("signs in").into_inner();
        match response.outcome {
            Some(proto::authenticate_password_response::Outcome::SignedIn(signed_in)) => {
                signed_in.tokens.expect("tokens")
            }
            other => panic!("not signed in: {other:?}"),
        }
    }

    /// An administrator of the platform, in a tenant `platform` of its own, with clients that act as it.
    pub async fn admin(&self) -> Client {
        let tenant = self.tenant("platform").await;
        self.user(tenant, "root@platform.example", "SYSTEM_ADMIN").await;
        let tokens = self.sign_in("root@platform.example").await;
        self.client(&tokens.access_token)
    }

    /// Stops the server in order.
    pub async fn stop(mut self) {
        let running = self.running.take().expect("the server runs");
        running.stop().await.expect("the server stops");
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.app.stop.cancel();
        }
    }
}
