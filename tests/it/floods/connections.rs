//! Connections: bounded for each address and in total, below the limit of open files, and an accept loop that does not
//! spin when the system has no more files.

use std::net::SocketAddr;
use std::process::Command;

use bytes::Bytes;
use h2::client::SendRequest;
use sidle::proto;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{PATIENCE, connect_from, counted, port_of};
use crate::bounds::{JWKS, request, status_of};
use crate::edge::get;
use crate::support::process::Process;
use crate::support::{Setup, until};

/// Whether the server has closed a connection, once it has done something with it.
async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(tokio::time::timeout(PATIENCE, stream.read(&mut [0; 64])).await, Ok(Ok(0) | Err(_)))
}

/// A connection from this address over which a call was answered; none when it was not.
async fn served_from(own: &str, to: SocketAddr) -> Option<Open> {
    let (mut send, connection) = h2::client::handshake(connect_from(own, to).await).await.ok()?;
    let connection = tokio::spawn(connection);
    let answered = tokio::time::timeout(PATIENCE, status_of(&mut send, request(JWKS), &[0; 5])).await.ok().flatten();
    let open = Open { _send: send, connection };
    (answered.as_deref() == Some("0")).then_some(open)
}

/// An open connection; dropping it closes it immediately.
struct Open {
    // Without it the connection would close later.
    _send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Whether calls over a fresh connection from this address are answered.
async fn is_served_from(own: &str, to: SocketAddr) -> bool {
    served_from(own, to).await.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_for_each_address_and_together() {
    let setup = Setup::new().await.with("SERVER__MAX_CONNECTIONS_PER_ADDRESS", "4");
    let server = setup.with("SERVER__MAX_CONNECTIONS", "8").start().await;
    let port = port_of(&server);
    // The channel of the test is one of four. Each has been served, so that its permit is taken.
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(served_from("127.0.0.1", port).await.expect("within the bound of one address"));
    }
    let mut over = TcpStream::connect(port).await.unwrap();
    assert!(is_closed(&mut over).await, "the fifth of one address");
    for own in ["127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.3"] {
        held.push(served_from(own, port).await.expect("another address is served"));
    }
    let mut over = connect_from("127.0.0.4", port).await;
    assert!(is_closed(&mut over).await, "the ninth of all");
    assert!(counted(&server, "sidle_connections_refused_total{why=\"address\"}") >= 1);
    assert!(counted(&server, "sidle_connections_refused_total{why=\"total\"}") >= 1);
    drop(held);
    until("what was closed is given back", async || {
        is_served_from("127.0.0.1", port).await && is_served_from("127.0.0.4", port).await
    })
    .await;
}

/// The original attack: more connections than files. One address gets no more than its quota, the program keeps files
/// for its database, and others are served.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_idle_connections_leaves_files_for_everybody_else() {
    let server = Process::start_with_files(&Setup::new().await, 256).await;
    let to = server.address.parse().unwrap();
    let mut held = Vec::new();
    for _ in 0..400 {
        held.push(TcpStream::connect(to).await.unwrap());
    }
    let mut last = held.pop().unwrap();
    assert!(is_closed(&mut last).await);
    let files = std::fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap().count();
    assert!(files < 192, "{files} of 256 files are open");
    assert!(is_served_from("127.0.0.2", to).await);
    assert!(server.logged("connections_refused").len() < 10, "a line now and then, not one for each");
}

/// Without a free file the accept loop waits, longer each time, and logs so; with files again it continues.
#[tokio::test(flavor = "multi_thread")]
async fn without_files_the_accept_loop_waits_and_does_not_spin() {
    let server = Process::start(&Setup::new().await).await;
    let to: SocketAddr = server.address.parse().unwrap();
    let limit = |files: usize| {
        let pid = server.id().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={files}:")]).status().unwrap();
        assert!(done.success());
    };
    let jwks = async || server.client("").authenticate.get_jwks(proto::GetJwksRequest {}).await;
    // Connected is who was accepted: until then the connection waits in the system's queue.
    jwks().await.unwrap();
    limit(8);
    let begun = std::time::Instant::now();
    let waiting = TcpStream::connect(to).await.unwrap();
    until("it is said in the log", async || {
        server.logged("connections_refused").iter().any(|line| line["why"] == "system")
    })
    .await;
    // A loop that spins tries thousands of times meanwhile.
    for _ in 0..200 {
        jwks().await.expect("who is connected is served");
    }
    let seconds = begun.elapsed().as_secs();
    assert!(server.logged("connections_refused").len() as u64 <= 2 + seconds / 10);
    limit(1024);
    assert!(is_served_from("127.0.0.1", to).await, "it goes on");
    drop(waiting);
    let (_, metrics) = get(&format!("http://{}/metrics", server.ops_address)).await;
    let series = "sidle_connections_refused_total{why=\"system\"} ";
    let tries = metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap();
    let tries: u64 = tries.parse().unwrap();
    // 10, 20, 40 ... 640 ms, then a second each.
    assert!(tries <= 10 + begun.elapsed().as_secs(), "{tries} tries");
}
