//! What an anonymous caller can make the service hold or do: bytes of unfinished requests, streams, connections,
//! answers to control frames.

mod bytes;
mod connections;
mod control;
mod pages;
mod places;
mod streams;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::support::TestServer;

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// The gRPC port of a server.
pub(crate) fn port_of(server: &TestServer) -> SocketAddr {
    server.grpc_url().replace("http://", "").parse().unwrap()
}

/// A connection from another address of this machine.
pub(crate) async fn connect_from(own: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{own}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

/// The value of a counter of the server.
fn counted(server: &TestServer, series: &str) -> u64 {
    let page = server.app().metrics.render().unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0, |value| value.trim().parse().unwrap())
}
