//! `[server]`

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::error::ConfigError;
use super::value;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address of the gRPC port.
    pub grpc_address: SocketAddr,
    /// Address of the HTTP port for metrics, health and keys.
    pub ops_address: SocketAddr,
    /// Whether to serve without TLS.
    pub plaintext: bool,
    /// PEM file with the certificate chain.
    #[serde(deserialize_with = "value::optional")]
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with the private key.
    #[serde(deserialize_with = "value::optional")]
    pub tls_key: Option<PathBuf>,
    /// PEM file with the authorities whose client certificates are asked for and checked.
    #[serde(deserialize_with = "value::optional")]
    pub tls_client_ca: Option<PathBuf>,
    /// Authorities whose client certificates act as service accounts, each as NAME=FILE with PEM certificates.
    pub client_cas: Vec<String>,
    /// Address of the public HTTP port: published keys and health.
    #[serde(deserialize_with = "value::optional_address")]
    pub public_address: Option<SocketAddr>,
    /// Largest message that is read of any RPC, in bytes.
    pub max_message_bytes: usize,
    /// Bytes of messages that are not complete yet, for one connection.
    pub max_unfinished_bytes_per_connection: usize,
    /// The same for all callers together who have not signed in.
    pub max_unfinished_bytes_unauthenticated: usize,
    /// The same for all callers together who have.
    pub max_unfinished_bytes_authenticated: usize,
    /// Bytes that a client may send on one stream before they are taken.
    pub stream_window_bytes: u32,
    /// The same for all streams of a connection.
    pub connection_window_bytes: u32,
    /// Connections of the gRPC port.
    pub max_connections: usize,
    /// Of these, those of one address that is no trusted proxy.
    pub max_connections_per_address: usize,
    /// A client that has not begun to speak HTTP/2, after TLS, by then is disconnected.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Concurrent streams of health and open reflection.
    pub max_public_streams: usize,
    /// Of these, those of one address.
    pub max_public_streams_per_address: usize,
    /// Such a stream is ended after this time.
    #[serde(with = "humantime_serde")]
    pub public_stream_lifetime: Duration,
    /// Concurrent streams of one connection.
    pub max_streams_per_connection: u32,
    /// Concurrent calls; more are shed.
    pub max_concurrent_calls: usize,
    /// Longest time a call that is not a stream may take.
    #[serde(with = "humantime_serde")]
    pub call_timeout: Duration,
    /// Idle timeout: a connection is closed when nothing came from it for so long.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long running calls are waited for on shutdown.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// Whether reflection answers callers that have not signed in.
    pub open_reflection: bool,
    /// Proxies whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<Network>,
}

/// An address, or a range of them such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network(IpNet);

impl Network {
    /// Whether an address is in it, in either spelling of an IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        let network = address.or_else(|_| text.parse::<IpNet>());
        network.map(Self).map_err(|_| format!("must be addresses or ranges such as 10.0.0.0/8, not {text:?}"))
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl ServerConfig {
    /// Whether the bounds fit together.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        if self.idle_timeout < Duration::from_millis(500) {
            found.add("server.idle_timeout", "must be at least 500ms");
        }
        if self.handshake_timeout.is_zero() {
            found.add("server.handshake_timeout", "must not be 0");
        }
        // HTTP/2 does not let the window of a connection become smaller than it is at the beginning.
        let windows = self.stream_window_bytes..=(1 << 31) - 1;
        if self.stream_window_bytes < 16_384 || self.connection_window_bytes < 65_535 {
            found.add("server.stream_window_bytes", "must be at least 16384, server.connection_window_bytes 65535");
        }
        if !windows.contains(&self.connection_window_bytes) {
            found.add("server.connection_window_bytes", "must be from server.stream_window_bytes to 2147483647");
        }
        if self.max_unfinished_bytes_per_connection < self.max_message_bytes {
            found.add("server.max_unfinished_bytes_per_connection", "must be at least server.max_message_bytes");
        }
        if self.max_unfinished_bytes_unauthenticated < 256 * 1024 {
            // A quarter of it is for one address, and one message is up to 64 KiB.
            found.add("server.max_unfinished_bytes_unauthenticated", "must be at least 262144");
        }
        if self.max_unfinished_bytes_authenticated / 4 < self.max_message_bytes {
            // A quarter of it is for one caller, who must be able to send the largest message.
            found.add(
                "server.max_unfinished_bytes_authenticated",
                "must be at least four times server.max_message_bytes",
            );
        }
        self.check_counts(&mut found);
        found.take(self.client_authorities().map(|_| ()));
        found.or_fine()
    }

    fn check_counts(&self, found: &mut ConfigError) {
        let counts = [
            ("max_connections", self.max_connections),
            ("max_connections_per_address", self.max_connections_per_address),
            ("max_public_streams", self.max_public_streams),
            ("max_public_streams_per_address", self.max_public_streams_per_address),
        ];
        for (name, _) in counts.iter().filter(|(_, count)| *count == 0) {
            found.add(format!("server.{name}"), "must be at least 1");
        }
    }

    /// Name and file of each authority in `client_cas`.
    ///
    /// # Errors
    /// Says what is wrong with the setting.
    pub fn client_authorities(&self) -> Result<Vec<(String, PathBuf)>, ConfigError> {
        let unusable = |text: String| ConfigError::new("server.client_cas", text);
        let mut authorities: Vec<(String, PathBuf)> = Vec::new();
        for entry in &self.client_cas {
            let (name, path) = entry.split_once('=').unwrap_or_default();
            let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let named =
                name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 64 && name.chars().all(fine);
            if !named || path.is_empty() {
                return Err(unusable(format!(
                    "has `{entry}`, which must be NAME=FILE, the name of a-z, 0-9 and -, beginning with a letter"
                )));
            }
            if authorities.iter().any(|(known, _)| known == name) {
                return Err(unusable(format!("has the name `{name}` twice")));
            }
            authorities.push((name.to_owned(), PathBuf::from(path)));
        }
        Ok(authorities)
    }
}
