//! The accept loop. `axum::serve` always answers; a lost reply needs a connection that closes without one.

use std::convert::Infallible;
use std::fmt;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tower::ServiceExt;

/// In a response's extensions: close the connection instead of sending the response.
#[derive(Clone, Debug)]
pub struct Hangup;

impl fmt::Display for Hangup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hung up on purpose")
    }
}

impl std::error::Error for Hangup {}

/// A response that is never sent.
pub fn hangup() -> Response {
    let mut response = ().into_response();
    response.extensions_mut().insert(Hangup);
    response
}

pub async fn accept(listener: TcpListener, router: Router) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors or a connection that was closed before it was accepted: continue with the others.
            tokio::task::yield_now().await;
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
                let reply = router.clone().oneshot(request.map(Body::new));
                async move {
                    let response: Result<Response, Infallible> = reply.await;
                    match response {
                        Ok(response) if response.extensions().get::<Hangup>().is_some() => Err(Hangup),
                        Ok(response) => Ok(response),
                        Err(never) => match never {},
                    }
                }
            });
            // A client that closes the connection early is no error of the server.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
