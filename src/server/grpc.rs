//! The gRPC port: listening, TLS, bounds of HTTP/2, and an orderly end.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use futures_util::TryStreamExt as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::idle::Lively;
use crate::config::ServerConfig;
use crate::fault::{Fault, Result};

/// A client that has not finished its TLS handshake by then is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A port that is ours already: calls queue up from here on.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    /// The address, with the port that was chosen where the configuration says 0.
    pub address: SocketAddr,
}

impl Bound {
    pub(super) fn into_listener(self) -> TcpListener {
        self.listener
    }
}

/// Takes the port.
///
/// # Errors
/// When it is in use or not allowed.
pub async fn bind(address: SocketAddr) -> Result<Bound> {
    let taken = |e: std::io::Error| Fault::internal(format!("cannot listen on {address}: {e}"));
    let listener = TcpListener::bind(address).await.map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    Ok(Bound { listener, address })
}

/// Serves until `stop`; then takes no new calls and waits for those in hand, as long as the configuration says.
///
/// # Errors
/// When a certificate cannot be read or the transport fails.
pub async fn serve(bound: Bound, config: &ServerConfig, router: Router, stop: CancellationToken) -> Result<()> {
    let mut server = Server::builder()
        .max_concurrent_streams(config.max_streams_per_connection)
        .http2_max_pending_accept_reset_streams(Some(32))
        .http2_max_header_list_size(Some(32 * 1024))
        // A client that lives answers in time for its connection not to look idle.
        .http2_keepalive_interval(Some(config.idle_timeout / 3))
        .http2_keepalive_timeout(Some(config.idle_timeout / 3));
    if let Some(tls) = tls(config).await? {
        server =
            server.tls_config(tls).map_err(|e| Fault::internal(format!("the TLS settings are not usable: {e}")))?;
    }
    let idle_timeout = config.idle_timeout;
    let incoming = TcpListenerStream::new(bound.listener).map_ok(move |stream| {
        // Small answers are not to wait for one another; without it the connection works as well.
        let _ = stream.set_nodelay(true);
        Lively::new(stream, idle_timeout)
    });
    let serving =
        server.add_routes(Routes::from(router)).serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let grace = config.shutdown_grace;
    tokio::select! {
        result = serving => result.map_err(Fault::internal),
        () = async { stop.cancelled().await; tokio::time::sleep(grace).await } => {
            tracing::warn!(event = "shutdown_grace_over", "calls were still in hand when the time for them was over");
            Ok(())
        }
    }
}

async fn tls(config: &ServerConfig) -> Result<Option<ServerTlsConfig>> {
    if config.plaintext {
        return Ok(None);
    }
    let (Some(certificate), Some(key)) = (&config.tls_certificate, &config.tls_key) else {
        return Err(Fault::internal("neither a certificate nor plaintext is configured"));
    };
    let read = |path: std::path::PathBuf| async move {
        tokio::fs::read(&path).await.map_err(|e| Fault::internal(format!("cannot read {}: {e}", path.display())))
    };
    let identity = Identity::from_pem(read(certificate.clone()).await?, read(key.clone()).await?);
    let mut tls = ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE);
    let mut authorities = Vec::new();
    let named = config.client_authorities().map_err(Fault::internal)?.into_iter().map(|(_, path)| path);
    for path in config.tls_client_ca.clone().into_iter().chain(named) {
        authorities.extend(read(path).await?);
        authorities.push(b'\n');
    }
    if !authorities.is_empty() {
        // A named authority tells who calls; that every caller must have a certificate is said by the other setting.
        let optional = config.tls_client_ca.is_none();
        tls = tls.client_ca_root(Certificate::from_pem(authorities)).client_auth_optional(optional);
    }
    Ok(Some(tls))
}
