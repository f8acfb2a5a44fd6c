//! Accepts connections: a bounded number, together and for each client, and without spinning when the system has no more
//! files to give.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::idle::IdleTimeoutStream;
use super::quota::{Full, Permit, Quota};
use crate::config::{Network, ServerConfig};
use crate::context::Clock;
use crate::metrics::Metrics;

/// First wait after the system refused a connection; doubled with each refusal in a row.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Lines in the log about connections that were not taken: at most one in this time, with the number left out.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// How many connections each port may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of the gRPC port.
    pub(super) grpc: usize,
    /// Of the gRPC port, for one client.
    pub(super) grpc_each: usize,
    /// Of each port with pages.
    pub(super) pages: usize,
    /// Of each port with pages, for one client.
    pub(super) pages_each: usize,
}

impl Bounds {
    /// What the configuration says, as far as the system's limit of open files allows.
    pub async fn of(config: &ServerConfig) -> Self {
        let files = tokio::fs::read_to_string("/proc/self/limits").await.ok().and_then(|limits| open_files(&limits));
        let bounds = Self::within(config, files);
        if bounds.grpc < config.max_connections {
            tracing::warn!(
                event = "connections_bounded_by_files",
                open_files = files,
                max_connections = bounds.grpc,
                "the limit of open files is too low for server.max_connections: raise it (ulimit -n)"
            );
        }
        bounds
    }

    /// A quarter of the files stays for the database, Kanidm, mail and the program itself.
    fn within(config: &ServerConfig, files: Option<usize>) -> Self {
        let files = files.unwrap_or(usize::MAX);
        let grpc = config.max_connections.min(files / 8 * 5).max(1);
        let grpc_each = config.max_connections_per_address.min(grpc / 2).max(1);
        let pages = 128.min(files / 16).max(1);
        // Few addresses must not be enough to hold all of them; monitoring needs some.
        Self { grpc, grpc_each, pages, pages_each: (pages / 8).max(4).min(pages) }
    }
}

/// The soft limit of open files in the system's list of limits; none where there is none.
fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A port that connections are taken from.
pub(super) struct Acceptor {
    listener: TcpListener,
    quota: Quota,
    /// Proxies, which stand for many clients: for them only the total counts.
    proxies: Vec<Network>,
    idle_timeout: Duration,
    clock: Clock,
    metrics: Metrics,
    failures: u32,
    told: Told,
}

impl Acceptor {
    /// Takes at most `total` connections from `listener`, of them `each` for one client that is no configured proxy.
    pub(super) fn new(
        listener: TcpListener,
        (total, each): (usize, usize),
        config: &ServerConfig,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        Self {
            listener,
            quota: Quota::new(total, each),
            proxies: config.trusted_proxies.clone(),
            idle_timeout: config.idle_timeout,
            clock,
            metrics,
            failures: 0,
            told: Told::default(),
        }
    }

    /// The next connection. What comes over the bounds is closed immediately.
    pub(super) async fn next(&mut self) -> (IdleTimeoutStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    self.failures = 0;
                    // What is refused is counted before it is closed, at the end of the block.
                    match self.permit(address) {
                        Ok(permit) => {
                            // Small answers are not to wait for one another; without it the connection works as well.
                            let _ = stream.set_nodelay(true);
                            return (IdleTimeoutStream::new(stream, permit, self.idle_timeout), address);
                        }
                        Err(Full::Total) => self.refused("total", None),
                        Err(Full::Client) => self.refused("address", None),
                    }
                }
                // The client was gone before it was its turn.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    self.refused("system", Some(&error));
                    let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(10)).min(LONGEST_WAIT);
                    self.failures = self.failures.saturating_add(1);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    fn permit(&self, address: SocketAddr) -> Result<Permit, Full> {
        let client: Option<IpAddr> = Some(address.ip()).filter(|ip| !self.proxies.iter().any(|p| p.contains(*ip)));
        self.quota.take(client, 1)
    }

    fn refused(&mut self, why: &'static str, cause: Option<&io::Error>) {
        self.metrics.connection_refused(why);
        if let Some(count) = self.told.tell(self.clock.instant()) {
            let cause = cause.map(ToString::to_string);
            tracing::warn!(event = "connections_refused", why, count, cause, "connections were not taken");
        }
    }
}

/// Errors of a single connection; every other one is the system's.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Keeps one cause from filling the log.
#[derive(Debug, Default)]
pub(super) struct Told {
    last: Option<Instant>,
    left_out: u64,
}

impl Told {
    /// How often it has happened since the last line, if it is time for another.
    pub(super) fn tell(&mut self, now: Instant) -> Option<u64> {
        self.left_out += 1;
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < BETWEEN_LINES) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_limit_of_open_files_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             96                   96                   processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files("Max open files            unlimited            unlimited            files"), None);
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn connections_stay_below_the_files_that_there_are() {
        let config = Config::load(None, []).unwrap().server;
        for files in [16, 64, 256, 1024, 65_536, 1 << 20] {
            let bounds = Bounds::within(&config, Some(files));
            let most = bounds.grpc + 2 * bounds.pages;
            assert!(most <= files / 4 * 3, "{files}: {bounds:?}");
            assert!(bounds.grpc_each <= bounds.grpc / 2 && bounds.grpc <= config.max_connections, "{bounds:?}");
            assert!(bounds.pages_each <= 4.max(bounds.pages / 8) && bounds.pages_each <= bounds.pages, "{bounds:?}");
        }
        let bounds = Bounds::within(&config, None);
        assert_eq!((bounds.grpc, bounds.grpc_each), (config.max_connections, config.max_connections_per_address));
    }

    #[test]
    fn a_flood_is_a_line_now_and_then() {
        let (mut told, now) = (Told::default(), Clock::system().instant());
        assert_eq!(told.tell(now), Some(1));
        assert!((0..1000).all(|_| told.tell(now).is_none()));
        assert_eq!(told.tell(now + BETWEEN_LINES), Some(1001));
    }

    #[test]
    fn a_lack_of_files_is_not_the_clients_fault() {
        // EMFILE, ENFILE, ENOMEM.
        for code in [24, 23, 12] {
            assert!(!is_the_clients(&io::Error::from_raw_os_error(code)));
        }
        // ECONNABORTED, EINTR.
        for code in [103, 4] {
            assert!(is_the_clients(&io::Error::from_raw_os_error(code)));
        }
    }
}
