//! The gRPC port: listening, bounds of HTTP/2, and an orderly end.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use super::accept::{Acceptor, Bounds};
use super::connection::{Connection, Opening};
use super::tls;
use crate::config::ServerConfig;
use crate::context::Clock;
use crate::fault::{Fault, Result};
use crate::metrics::Metrics;
use crate::startup::{self, StartFailure};

/// Connections that are open and not yet served; served immediately unless the service stops.
const OPENED: usize = 16;

/// A bound port: calls queue up from here on.
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

/// Binds the port that `setting` names.
///
/// # Errors
/// When it is in use, not allowed, or not of this machine.
pub async fn bind(setting: &'static str, address: SocketAddr) -> startup::Result<Bound> {
    let refused = |error: std::io::Error| refused(setting, address, &error);
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok(Bound { listener, address })
}

fn refused(setting: &'static str, address: SocketAddr, error: &std::io::Error) -> StartFailure {
    let (cause, remedy) = match error.kind() {
        ErrorKind::AddrInUse => (
            "another process listens there".to_owned(),
            format!(
                "End that process (`ss -ltnp sport = {}` shows it), or set {setting} to a free port.",
                address.port()
            ),
        ),
        ErrorKind::PermissionDenied => (
            "this user may not listen on ports below 1024".to_owned(),
            format!("Set {setting} to a port from 1024 on, or give the process CAP_NET_BIND_SERVICE."),
        ),
        ErrorKind::AddrNotAvailable => (
            "the address is not one of this machine".to_owned(),
            format!("Set {setting} to an address that `ip addr` shows, or to 0.0.0.0 for all of them."),
        ),
        _ => (error.to_string(), format!("Set {setting} to an address and port that can be listened on.")),
    };
    StartFailure::new(format!("listen on {address}"), cause).setting(setting).remedy(remedy)
}

/// The gRPC port with its bounds, before it serves anything.
pub struct Port {
    acceptor: Acceptor,
    opening: Opening,
}

impl Port {
    /// The port as the configuration says.
    ///
    /// # Errors
    /// When a certificate cannot be read.
    pub async fn new(
        bound: Bound,
        bounds: Bounds,
        config: &ServerConfig,
        clock: Clock,
        metrics: Metrics,
    ) -> startup::Result<Self> {
        if let Some(problem) = tls::expiry(config, clock.now()).await? {
            tracing::warn!(
                event = "tls_certificate_not_valid",
                problem,
                "clients will not trust server.tls_certificate"
            );
        }
        let opening = Opening {
            tls: tls::acceptor(config).await?,
            timeout: config.handshake_timeout,
            bytes: config.max_unfinished_bytes_per_connection,
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        let limits = (bounds.grpc, bounds.grpc_each);
        Ok(Self { acceptor: Acceptor::new(bound.into_listener(), limits, config, clock, metrics), opening })
    }

    /// Serves until `stop`; then takes no new calls and waits for running ones, as long as the configuration says.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve(self, config: &ServerConfig, router: Router, stop: CancellationToken) -> Result<()> {
        let mut server = Server::builder()
            .max_concurrent_streams(config.max_streams_per_connection)
            .initial_stream_window_size(config.stream_window_bytes)
            .initial_connection_window_size(config.connection_window_bytes)
            .http2_max_pending_accept_reset_streams(Some(32))
            .http2_max_header_list_size(Some(32 * 1024))
            // A client that lives answers in time for its connection not to look idle.
            .http2_keepalive_interval(Some(config.idle_timeout / 3))
            .http2_keepalive_timeout(Some(config.idle_timeout / 3));
        let (opened, incoming) = mpsc::channel(OPENED);
        let incoming = ReceiverStream::new(incoming).map(Ok::<_, Infallible>);
        let serving = server
            .add_routes(Routes::from(router))
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let accepting = accept(self.acceptor, self.opening, opened, stop.clone());
        let grace = config.shutdown_grace;
        let over = async {
            // Ends at `stop`, and with it the port is closed; what is served goes on.
            accepting.await;
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            result = serving => result.map_err(Fault::internal),
            () = over => {
                tracing::warn!(event = "shutdown_grace_over", "calls were still in hand when the time for them was over");
                Ok(())
            }
        }
    }
}

/// Takes connections until `stop`, and hands each over when its handshake is done.
async fn accept(mut acceptor: Acceptor, opening: Opening, opened: mpsc::Sender<Connection>, stop: CancellationToken) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            (stream, address) = acceptor.next() => {
                let (opening, opened) = (opening.clone(), opened.clone());
                handshakes.spawn(async move {
                    if let Some(connection) = opening.open(stream, address).await {
                        // Fails when the service stops: then the connection is closed.
                        let _ = opened.send(connection).await;
                    }
                });
            }
            Some(_) = handshakes.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests may run as root, to whom every port is open.
    #[test]
    fn a_port_that_only_root_may_have_is_told_from_one_that_is_taken() {
        let address = "127.0.0.1:443".parse().unwrap();
        let told = |kind: ErrorKind| {
            let failure = refused("server.grpc_address", address, &kind.into());
            format!("{failure} {}", failure.what_to_do().unwrap_or_default())
        };
        let denied = told(ErrorKind::PermissionDenied);
        assert!(denied.contains("127.0.0.1:443") && denied.contains("below 1024"), "{denied}");
        assert!(told(ErrorKind::AddrInUse).contains("another process listens there"));
        assert!(told(ErrorKind::AddrNotAvailable).contains("not one of this machine"));
    }
}
