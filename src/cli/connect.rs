//! Calls to a running service, with the caller's credentials.

use std::time::Duration;

use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use super::Global;
use super::credentials::{SignIn, Store};
use super::failure::{Failure, Result, calls_go_to, exit};
use crate::access::input;
use crate::context::Context;
use crate::proto::audit_service_client::AuditServiceClient;
use crate::proto::authenticate_service_client::AuthenticateServiceClient;
use crate::proto::directory_service_client::DirectoryServiceClient;
use crate::proto::migration_service_client::MigrationServiceClient;
use crate::proto::session_service_client::SessionServiceClient;
use crate::proto::{AuthenticateServiceAccountRequest, RefreshTokenRequest, TokenPair};

const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";
/// A token that ends sooner is replaced before it is used.
const EXPIRY_MARGIN: chrono::TimeDelta = chrono::TimeDelta::seconds(30);

/// Puts the access token into every call.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A channel that sends an access token along.
pub(super) type Authorized = InterceptedService<Channel, Bearer>;

/// Where access tokens come from.
enum Source {
    /// `SIDLE_TOKEN`.
    Given(Zeroizing<String>),
    /// `SIDLE_API_KEY`, exchanged at the first call.
    ApiKey { key: Zeroizing<String>, token: Mutex<Option<Zeroizing<String>>> },
    /// `sidle login`.
    SignedIn,
}

/// A service, with the credentials to call it.
pub(super) struct Caller {
    pub server: String,
    pub ca: Option<std::path::PathBuf>,
    pub context: Context,
    channel: Channel,
    source: Source,
}

fn variable(name: &str) -> Option<Zeroizing<String>> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(Zeroizing::new)
}

impl Caller {
    /// Whether the credentials are those of `sidle login`.
    pub fn is_signed_in(&self) -> bool {
        matches!(self.source, Source::SignedIn)
    }

    /// Prepares calls; connects with the first one.
    pub fn open(global: &Global) -> Result<Self> {
        let source = match (variable("SIDLE_TOKEN"), variable("SIDLE_API_KEY")) {
            (Some(token), _) => Source::Given(token),
            (None, Some(key)) => Source::ApiKey { key, token: Mutex::default() },
            (None, None) => Source::SignedIn,
        };
        let kept = match (&source, &global.server) {
            (Source::SignedIn, _) | (_, None) => Store::open()?.read().unwrap_or_default(),
            _ => Default::default(),
        };
        let server = global.server.clone().or(kept.current).unwrap_or_else(|| DEFAULT_SERVER.to_owned());
        let server = server.trim_end_matches('/').to_owned();
        calls_go_to(&server);
        let ca = global.ca.clone().or_else(|| kept.servers.get(&server)?.ca.clone());
        let channel = endpoint(&server, ca.as_deref(), global.allow_plaintext)?.connect_lazy();
        Ok(Self { server, ca, context: Context::system(), channel, source })
    }

    /// The same service, called with this access token.
    pub fn as_holder_of(&self, token: Zeroizing<String>) -> Self {
        let (server, ca, context) = (self.server.clone(), self.ca.clone(), self.context.clone());
        Self { server, ca, context, channel: self.channel.clone(), source: Source::Given(token) }
    }

    /// Authentication methods, without credentials.
    pub fn anonymous(&self) -> AuthenticateServiceClient<Channel> {
        AuthenticateServiceClient::new(self.channel.clone())
    }

    pub async fn authenticate(&self) -> Result<AuthenticateServiceClient<Authorized>> {
        Ok(AuthenticateServiceClient::new(self.authorized().await?))
    }

    pub async fn sessions(&self) -> Result<SessionServiceClient<Authorized>> {
        Ok(SessionServiceClient::new(self.authorized().await?))
    }

    pub async fn audit(&self) -> Result<AuditServiceClient<Authorized>> {
        Ok(AuditServiceClient::new(self.authorized().await?))
    }

    pub async fn directory(&self) -> Result<DirectoryServiceClient<Authorized>> {
        Ok(DirectoryServiceClient::new(self.authorized().await?))
    }

    pub async fn migration(&self) -> Result<MigrationServiceClient<Authorized>> {
        Ok(MigrationServiceClient::new(self.authorized().await?))
    }

    async fn authorized(&self) -> Result<Authorized> {
        let token = self.token().await?;
        let header = Zeroizing::new(format!("Bearer {}", *token));
        let mut value: MetadataValue<Ascii> =
            header.parse().map_err(|_| Failure::new("the access token holds characters that no token has"))?;
        value.set_sensitive(true);
        Ok(InterceptedService::new(self.channel.clone(), Bearer(Some(value))))
    }

    /// An access token that does not expire soon.
    pub async fn token(&self) -> Result<Zeroizing<String>> {
        match &self.source {
            Source::Given(token) => Ok(token.clone()),
            Source::ApiKey { key, token } => {
                let mut token = token.lock().await;
                if let Some(token) = &*token {
                    return Ok(token.clone());
                }
                let request = AuthenticateServiceAccountRequest { api_key: key.to_string(), ..Default::default() };
                let answer = self.anonymous().authenticate_service_account(request).await?.into_inner();
                Ok(token.insert(Zeroizing::new(answer.access_token)).clone())
            }
            Source::SignedIn => self.kept_token().await,
        }
    }

    /// Forgets an exchanged token, so that the next call gets a fresh one.
    pub async fn renew(&self) {
        if let Source::ApiKey { token, .. } = &self.source {
            *token.lock().await = None;
        }
    }

    async fn kept_token(&self) -> Result<Zeroizing<String>> {
        // The file stays locked while the tokens are renewed: a second run waits and finds the new ones.
        let store = Store::open()?;
        let mut credentials = store.read()?;
        let Some(sign_in) = credentials.servers.get_mut(&self.server) else { return Err(self.signed_out()) };
        if sign_in.access_token_expires_at > self.context.now() + EXPIRY_MARGIN {
            return Ok(Zeroizing::new(sign_in.access_token.clone()));
        }
        let request_id = sign_in.pending_refresh.get_or_insert_with(|| random_id(&self.context)).clone();
        let refresh_token = sign_in.refresh_token.clone();
        // Kept before it is sent: if the answer is lost, the next run repeats this call and nothing is lost.
        store.write(&credentials, &self.context)?;
        let request = RefreshTokenRequest { refresh_token, request_id, ..Default::default() };
        let answer = match self.anonymous().refresh_token(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::Unauthenticated => {
                credentials.servers.remove(&self.server);
                store.write(&credentials, &self.context)?;
                return Err(self.signed_out());
            }
            Err(status) => return Err(status.into()),
        };
        let Some(sign_in) = credentials.servers.get_mut(&self.server) else { return Err(self.signed_out()) };
        sign_in.take(answer.tokens.unwrap_or_default())?;
        let token = Zeroizing::new(sign_in.access_token.clone());
        store.write(&credentials, &self.context)?;
        Ok(token)
    }

    fn signed_out(&self) -> Failure {
        Failure::new(format!("nobody is signed in to {}", self.server))
            .remedy("Sign in with `sidle login`, or pass SIDLE_TOKEN or SIDLE_API_KEY.")
            .exit(exit::SIGNED_OUT)
    }
}

impl SignIn {
    /// Takes over a fresh pair of tokens.
    pub fn take(&mut self, tokens: TokenPair) -> Result<()> {
        let expires_at = tokens.access_token_expires_at.unwrap_or_default();
        self.access_token_expires_at = input::from_proto("access_token_expires_at", &expires_at)?;
        self.access_token = tokens.access_token;
        self.refresh_token = tokens.refresh_token;
        self.pending_refresh = None;
        Ok(())
    }
}

/// A UUID that cannot be guessed.
pub(super) fn random_id(context: &Context) -> String {
    uuid::Builder::from_random_bytes(context.entropy.array()).into_uuid().to_string()
}

fn endpoint(server: &str, ca: Option<&std::path::Path>, allow_plaintext: bool) -> Result<Endpoint> {
    let unusable = |why: &str| {
        Failure::new(format!("{server} is not an address of a service: {why}"))
            .remedy("Give one such as https://sidle.example.com:50051.")
    };
    let endpoint = Endpoint::from_shared(server.to_owned())
        .map_err(|e| unusable(&e.to_string()))?
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .user_agent(concat!("sidle-cli/", env!("CARGO_PKG_VERSION")))
        .map_err(|e| unusable(&e.to_string()))?;
    let host = endpoint.uri().host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    match endpoint.uri().scheme_str() {
        Some("https") => {
            let mut tls = ClientTlsConfig::new().with_native_roots();
            if let Some(file) = ca {
                let pem =
                    std::fs::read(file).map_err(|e| Failure::new(format!("cannot read {}: {e}", file.display())))?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint.tls_config(tls).map_err(|e| unusable(&e.to_string()))
        }
        Some("http") if allow_plaintext || is_this_machine(&host) => Ok(endpoint),
        Some("http") => Err(Failure::new(format!(
            "{server} is not encrypted, and passwords and tokens would be readable on the way"
        ))
        .remedy("Use https, or --allow-plaintext where something else protects the connection.")),
        _ => Err(unusable("it begins with neither https:// nor http://")),
    }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credentials_leave_the_machine_encrypted_or_on_demand() {
        for near in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "https://sidle.example:1"] {
            assert!(endpoint(near, None, false).is_ok(), "{near}");
        }
        for far in ["http://10.0.0.1:1", "http://localhost.example:1", "http://127.0.0.1.example:1"] {
            assert!(endpoint(far, None, false).is_err(), "{far}");
            assert!(endpoint(far, None, true).is_ok(), "{far}");
        }
        for odd in ["sidle.example:50051", "ftp://sidle.example", "", "http://"] {
            assert!(endpoint(odd, None, true).is_err(), "{odd:?}");
        }
    }
}
