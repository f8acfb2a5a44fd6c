//! Calls with an access token. When the service does not accept the token any more, although its time is not over, the
//! call is made once more with a fresh one: after a rotation of keys or a change of rights the refresh token is good, and
//! a command must not be locked out for as long as an access token lives.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use prost_reflect::DescriptorPool;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service, ServiceExt as _};
use zeroize::Zeroizing;

use super::failure::{Failure, reason};
use super::tokens::{Need, Tokens};
use crate::proto::DESCRIPTORS;

/// A channel that sends an access token along, to the one service that it leads to.
#[derive(Clone)]
pub(super) struct Authorized {
    channel: Channel,
    tokens: Arc<Tokens>,
}

impl Authorized {
    pub fn new(channel: Channel, tokens: Arc<Tokens>) -> Self {
        Self { channel, tokens }
    }

    async fn send(mut self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let rpc = Rpc::at(request.uri().path());
        if rpc.streams_in {
            // What a stream brings is not kept, so this cannot be repeated here: whoever opened it may open another.
            return Ok(self.once(request, rpc.need()).await?.0);
        }
        let (head, body) = request.into_parts();
        let message = body.collect().await?.to_bytes();
        let (response, is_refused) = self.once(rebuild(&head, &message), rpc.need()).await?;
        if !is_refused {
            return Ok(response);
        }
        Ok(self.once(rebuild(&head, &message), rpc.need()).await?.0)
    }

    /// Makes the call; says whether it was refused for its access token, which is then not used again.
    async fn once(&mut self, mut request: Request<Body>, need: Need) -> Result<(Response<Body>, bool), Status> {
        let token = self.tokens.get(need).await.map_err(Status::from)?;
        request.headers_mut().insert(header::AUTHORIZATION, bearer(&token)?);
        let channel = self.channel.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let response = channel.call(request).await.map_err(|error| Status::from_error(Box::new(error)))?;
        let is_refused = is_refused(&response);
        if is_refused {
            self.tokens.refuse(&token);
        }
        Ok((response, is_refused))
    }
}

impl Service<Request<Body>> for Authorized {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

fn rebuild(head: &http::request::Parts, message: &Bytes) -> Request<Body> {
    Request::from_parts(head.clone(), Body::new(Full::new(message.clone())))
}

fn bearer(token: &str) -> Result<HeaderValue, Status> {
    let text = Zeroizing::new(format!("Bearer {token}"));
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| Failure::new("the access token holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether the service refused the call for its access token, before it did anything. By the reason: a wrong password is
/// `UNAUTHENTICATED` as well, and would be guessed twice.
fn is_refused(response: &Response<Body>) -> bool {
    let status = Status::from_header_map(response.headers());
    status.is_some_and(|status| {
        status.code() == Code::Unauthenticated && reason(&status).as_deref() == Some("UNAUTHENTICATED")
    })
}

/// What an RPC carries.
#[derive(Clone, Copy, Default)]
struct Rpc {
    streams_in: bool,
    streams_out: bool,
}

impl Rpc {
    fn at(path: &str) -> Self {
        static RPCS: OnceLock<HashMap<String, Rpc>> = OnceLock::new();
        let all = || {
            let pool = DescriptorPool::decode(DESCRIPTORS).unwrap_or_default();
            let rpcs = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
            let path = |service: &str, method: &str| format!("/{service}/{method}");
            rpcs.map(|rpc| {
                let carries = Self { streams_in: rpc.is_client_streaming(), streams_out: rpc.is_server_streaming() };
                (path(rpc.parent_service().full_name(), rpc.name()), carries)
            })
            .collect()
        };
        RPCS.get_or_init(all).get(path).copied().unwrap_or_default()
    }

    fn need(self) -> Need {
        if self.streams_in || self.streams_out { Need::Stream } else { Need::Call }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Fault, Reason};

    #[test]
    fn the_reason_decides_whether_a_call_is_made_again() {
        let refused = |status: Status| is_refused(&status.into_http());
        assert!(refused(Status::from(Fault::new(Reason::Unauthenticated, "No."))));
        for reason in [Reason::InvalidCredentials, Reason::InvalidRefreshToken, Reason::InvalidToken, Reason::NotFound]
        {
            assert!(!refused(Status::from(Fault::new(reason, "No."))), "{reason:?}");
        }
        assert!(!refused(Status::unauthenticated("a proxy says so, which knows nothing of tokens")));
        assert!(!is_refused(&Response::new(Body::empty())));
    }

    #[test]
    fn what_an_rpc_carries_is_read_from_the_contract() {
        let import = Rpc::at("/sidle.v1.MigrationService/ImportUsers");
        assert!(import.streams_in && import.streams_out && import.need() == Need::Stream);
        let events = Rpc::at("/sidle.v1.AuditService/StreamEvents");
        assert!(!events.streams_in && events.streams_out && events.need() == Need::Stream);
        assert_eq!(Rpc::at("/sidle.v1.AuthenticateService/WhoAmI").need(), Need::Call);
    }
}
