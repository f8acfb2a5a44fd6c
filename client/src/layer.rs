//! Layers for tonic, axum and everything else that speaks `http` through tower.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tower_layer::Layer;
use tower_service::Service;

use crate::caller::{Caller, Denied};
use crate::verifier::{Refused, Verifier};

type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, Infallible>> + Send>>;

/// Admits requests with a valid token, with the [`Caller`] in their extensions. The others are answered here: gRPC
/// calls with `UNAUTHENTICATED` or `UNAVAILABLE`, other requests with 401 or 503.
#[derive(Clone, Debug)]
pub struct Protect {
    verifier: Verifier,
}

impl Protect {
    /// A layer over this verifier.
    pub fn new(verifier: Verifier) -> Self {
        Self { verifier }
    }
}

impl<S> Layer<S> for Protect {
    type Service = Protected<S>;

    fn layer(&self, inner: S) -> Protected<S> {
        Protected { verifier: self.verifier.clone(), inner }
    }
}

/// A service behind [`Protect`].
#[derive(Clone, Debug)]
pub struct Protected<S> {
    verifier: Verifier,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Protected<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = BoxFuture<Response<R>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The clone that was polled for readiness is the one to call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let verifier = self.verifier.clone();
        Box::pin(async move {
            // Only this layer sets the caller.
            request.extensions_mut().remove::<Caller>();
            let verified = match bearer(request.headers()) {
                Some(token) => verifier.verify(token).await,
                None => Err(Refused::Token),
            };
            match verified {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(refused) => Ok(refuse(&request, refused)),
            }
        })
    }
}

/// Admits requests whose [`Caller`] holds a permission. Goes inside [`Protect`].
#[derive(Clone, Debug)]
pub struct Require {
    permission: Arc<str>,
}

impl Require {
    /// A layer that requires this permission.
    pub fn new(permission: &str) -> Self {
        Self { permission: permission.into() }
    }
}

impl<S> Layer<S> for Require {
    type Service = Required<S>;

    fn layer(&self, inner: S) -> Required<S> {
        Required { permission: Arc::clone(&self.permission), inner }
    }
}

/// A service behind [`Require`].
#[derive(Clone, Debug)]
pub struct Required<S> {
    permission: Arc<str>,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Required<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = BoxFuture<Response<R>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = match request.extensions().get::<Caller>().map(|caller| caller.require(&self.permission)) {
            Some(Ok(())) => return Box::pin(self.inner.call(request)),
            Some(Err(denied)) => deny(&request, denied),
            None => refuse(&request, Refused::Token),
        };
        Box::pin(std::future::ready(Ok(answer)))
    }
}

/// The token in the one `authorization` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn refuse<B, R: Default>(request: &Request<B>, refused: Refused) -> Response<R> {
    if is_grpc(request) {
        return tonic::Status::from(refused).into_http();
    }
    let mut response = Response::new(R::default());
    match refused {
        Refused::Token => {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            // RFC 6750: an error is named only to a caller that presented something.
            let presented = request.headers().contains_key(header::AUTHORIZATION);
            let challenge = if presented { "Bearer error=\"invalid_token\"" } else { "Bearer" };
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        Refused::Unavailable => {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
    }
    response
}

fn deny<B, R: Default>(request: &Request<B>, denied: Denied) -> Response<R> {
    if is_grpc(request) {
        return tonic::Status::from(denied).into_http();
    }
    let mut response = Response::new(R::default());
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_token_is_taken_and_nothing_else() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            headers
        };
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer  abc"])), Some("abc"));
        for bad in [&[][..], &["abc"], &["Basic abc"], &["Bearer"], &["Bearer a", "Bearer b"]] {
            assert_eq!(bearer(&headers(bad)), None, "{bad:?}");
        }
    }
}
