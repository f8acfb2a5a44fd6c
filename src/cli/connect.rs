//! Calls to a running service, with the caller's credentials.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use zeroize::Zeroizing;

use super::Global;
pub(super) use super::calls::Authorized;
use super::credentials::Store;
use super::failure::{Failure, Result, calls_go_to};
pub(super) use super::tokens::random_id;
use super::tokens::{Need, Source, Tokens};
use crate::context::Context;
use crate::proto::audit_service_client::AuditServiceClient;
use crate::proto::authenticate_service_client::AuthenticateServiceClient;
use crate::proto::directory_service_client::DirectoryServiceClient;
use crate::proto::migration_service_client::MigrationServiceClient;
use crate::proto::session_service_client::SessionServiceClient;

const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// A service, with the credentials to call it.
pub(super) struct Caller {
    pub server: String,
    pub ca: Option<std::path::PathBuf>,
    pub context: Context,
    channel: Channel,
    tokens: Arc<Tokens>,
}

fn variable(name: &str) -> Option<Zeroizing<String>> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(Zeroizing::new)
}

impl Caller {
    /// Whether the credentials are those of `sidle login`.
    pub fn is_signed_in(&self) -> bool {
        self.tokens.are_kept()
    }

    /// Prepares calls; connects with the first one.
    pub fn open(global: &Global) -> Result<Self> {
        let source = match (variable("SIDLE_TOKEN"), variable("SIDLE_API_KEY")) {
            (Some(token), _) => Source::Given(token),
            (None, Some(key)) => Source::ApiKey { key, token: Mutex::new(None) },
            (None, None) => Source::SignedIn,
        };
        let kept = match (&source, &global.server) {
            (Source::SignedIn, _) | (_, None) => Store::open()?.read().unwrap_or_default(),
            _ => Default::default(),
        };
        let server = global.server.clone().or(kept.current).unwrap_or_else(|| DEFAULT_SERVER.to_owned());
        let server = server.trim_end_matches('/').to_owned();
        calls_go_to(&server);
        let ca = global.ca.clone().or_else(|| kept.authorities.get(&server).cloned());
        let (channel, context) =
            (endpoint(&server, ca.as_deref(), global.allow_plaintext)?.connect_lazy(), Context::system());
        let tokens = Arc::new(Tokens::new(server.clone(), context.clone(), channel.clone(), source));
        Ok(Self { server, ca, context, channel, tokens })
    }

    /// The same service, called with this access token.
    pub fn as_holder_of(&self, token: Zeroizing<String>) -> Self {
        let (server, ca, context) = (self.server.clone(), self.ca.clone(), self.context.clone());
        let channel = self.channel.clone();
        let tokens = Arc::new(Tokens::new(server.clone(), context.clone(), channel.clone(), Source::Given(token)));
        Self { server, ca, context, channel, tokens }
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

    /// The channel with an access token. The first one is looked for here, so that who has none is told before anything
    /// else is asked of them.
    async fn authorized(&self) -> Result<Authorized> {
        self.token().await?;
        Ok(Authorized::new(self.channel.clone(), Arc::clone(&self.tokens)))
    }

    /// An access token that does not expire soon.
    pub async fn token(&self) -> Result<Zeroizing<String>> {
        self.tokens.get(Need::Call).await
    }
}

fn endpoint(server: &str, ca: Option<&std::path::Path>, allow_plaintext: bool) -> Result<Endpoint> {
    let unusable = |why: &str| {
        Failure::new(format!("{server} is not an address of a service: {why}"))
            .remedy("Give one such as https://sidle.example.com:50051.")
    };
    // A user's name and password before the host would be in every message and in the file of credentials.
    if server.contains('@') {
        return Err(Failure::new("the address of the service holds a name or a password before an `@`").remedy(
            "Give the address alone, such as https://sidle.example.com:50051; `sidle login` asks for the rest.",
        ));
    }
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
        let told = endpoint("https://ann:secret@sidle.example:1", None, true).unwrap_err();
        assert!(!told.lines().concat().contains("secret"), "{told:?}");
    }
}
