//! Serving pages over HTTP/1. A connection asks in time and does not stay: each port has few, and a client that holds some
//! must free them for others.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::accept::Acceptor;
use super::idle::IdleTimeoutStream;

/// How long connections may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// From the beginning, or the last answer, until the head of a request is there.
    pub(super) request: Duration,
    /// Until it takes no further request.
    pub(super) life: Duration,
    /// After that, until the last answer has been read.
    pub(super) last_answer: Duration,
}

impl Times {
    /// Pages are small, and monitoring asks every few seconds.
    pub(super) const PAGES: Self =
        Self { request: Duration::from_secs(10), life: Duration::from_secs(60), last_answer: Duration::from_secs(10) };
}

/// Serves `router` on the connections of `port` until `stop`; then those that are open end with their last answer.
pub(super) async fn serve(mut port: Acceptor, router: Router, times: Times, stop: CancellationToken) {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(times.request).keep_alive(true);
    let builder = Arc::new(builder);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            (stream, _) = port.next() => {
                connections.spawn(connection(stream, Arc::clone(&builder), router.clone(), times, stop.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    // The port is closed before what is open on it ends.
    drop(port);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: IdleTimeoutStream,
    builder: Arc<Builder<TokioExecutor>>,
    router: Router,
    times: Times,
    stop: CancellationToken,
) {
    let service = TowerToHyperService::new(router.map_request(|request: http::Request<_>| request.map(Body::new)));
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    tokio::select! {
        // What a client did to its connection is no matter of the service's.
        _ = served.as_mut() => return,
        () = tokio::time::sleep(times.life) => {}
        () = stop.cancelled() => {}
    }
    served.as_mut().graceful_shutdown();
    // Who does not read it is not waited for.
    let _ = tokio::time::timeout(times.last_answer, served).await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::Config;
    use crate::context::Clock;
    use crate::metrics::Metrics;

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(3600);
    /// Longest wait for what must happen.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A port for one connection at a time, with a small page and one that fits into no buffer.
    async fn port(times: Times) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config::load(None, []).unwrap().server;
        let port = Acceptor::new(listener, (1, 1), &config, Clock::system(), Metrics::new());
        let router = Router::new().route("/", get(async || "here")).route("/large", get(async || vec![7_u8; 64 << 20]));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(port, router, times, stop.clone()));
        (address, stop, serving)
    }

    /// Whether a page is answered over a connection, which stays open.
    async fn asks(stream: &mut TcpStream) -> bool {
        if stream.write_all(b"GET / HTTP/1.1\r\nhost: sidle\r\n\r\n").await.is_err() {
            return false;
        }
        let mut answer = Vec::new();
        while !answer.ends_with(b"here") {
            match stream.read_buf(&mut answer).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
        true
    }

    /// A connection over which a page is answered, as soon as the port takes one.
    async fn served(address: SocketAddr) -> TcpStream {
        let served = async {
            loop {
                let mut stream = TcpStream::connect(address).await.unwrap();
                if asks(&mut stream).await {
                    return stream;
                }
            }
        };
        tokio::time::timeout(PATIENCE, served).await.expect("a permit for another")
    }

    #[tokio::test]
    async fn who_does_not_ask_in_time_makes_room() {
        let (address, ..) = port(Times { request: SOON, life: LONG, last_answer: LONG }).await;
        for said in [&b""[..], b"GET / HTTP/1.1\r\nhost: si"] {
            let mut held = served(address).await;
            held.write_all(said).await.unwrap();
            // The one permit is taken until that one is closed, while it is still held here.
            drop(served(address).await);
            drop(held);
        }
    }

    #[tokio::test]
    async fn who_asks_again_and_again_makes_room_in_the_end() {
        let (address, ..) = port(Times { request: LONG, life: SOON, last_answer: LONG }).await;
        let mut held = served(address).await;
        let asking = async { while asks(&mut held).await {} };
        tokio::time::timeout(PATIENCE, asking).await.expect("an end");
        drop(served(address).await);
    }

    #[tokio::test]
    async fn who_does_not_read_the_answer_makes_room() {
        let (address, ..) = port(Times { request: LONG, life: SOON, last_answer: SOON }).await;
        let mut held = served(address).await;
        let _ = held.write_all(b"GET /large HTTP/1.1\r\nhost: sidle\r\n\r\n").await;
        drop(served(address).await);
        drop(held);
    }

    #[tokio::test]
    async fn at_the_end_open_connections_end_as_well() {
        let (address, stop, serving) = port(Times { request: LONG, life: LONG, last_answer: LONG }).await;
        let held = served(address).await;
        stop.cancel();
        tokio::time::timeout(PATIENCE, serving).await.expect("an end").unwrap();
        drop(held);
    }
}
