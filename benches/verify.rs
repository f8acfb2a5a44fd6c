//! `VerifyToken`, compared with an RPC of the same message sizes behind the same layers that does nothing.

use std::convert::Infallible;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use futures_util::future::{BoxFuture, join_all};
use sidle::access::{Permissions, PrincipalKind};
use sidle::codec::Codec;
use sidle::proto;
use sidle::proto::authenticate_service_client::AuthenticateServiceClient;
use sidle::server::authentication::Gate;
use sidle::server::certificates::Certificates;
use sidle::server::{Authorities, Bounds, Denials, Edge, Port, bind};
use sidle::token::Grant;
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::support::TestServer;
use crate::support::server::{Authorized, Bearer};
use crate::{Row, row};

const CALLERS: usize = 32;
const CALLS: usize = 250;
const ROUNDS: usize = 15;
/// Tokens in one call of `VerifyTokens`.
const BATCH: usize = 256;

type Client = AuthenticateServiceClient<Authorized>;

/// Answers `VerifyToken` with an answer made beforehand.
#[derive(Clone)]
struct Nothing {
    answer: proto::VerifyTokenResponse,
}

impl NamedService for Nothing {
    const NAME: &'static str = "sidle.v1.AuthenticateService";
}

impl UnaryService<proto::VerifyTokenRequest> for Nothing {
    type Response = proto::VerifyTokenResponse;
    type Future = BoxFuture<'static, Result<Response<Self::Response>, Status>>;
    fn call(&mut self, _: Request<proto::VerifyTokenRequest>) -> Self::Future {
        let answer = self.answer.clone();
        Box::pin(async move { Ok(Response::new(answer)) })
    }
}

impl tower::Service<http::Request<tonic::body::Body>> for Nothing {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let nothing = self.clone();
        Box::pin(async move {
            let codec = Codec::<proto::VerifyTokenResponse, proto::VerifyTokenRequest>::default();
            Ok(Grpc::new(codec).unary(nothing, request).await)
        })
    }
}

/// Calls a second with `CALLERS` concurrent ones, each taking the next of `tokens`.
async fn rate(client: &Client, audience: &str, tokens: &[String]) -> f64 {
    let begun = Instant::now();
    join_all((0..CALLERS).map(|caller| {
        let mut client = client.clone();
        async move {
            for call in 0..CALLS {
                let token = tokens[(caller * CALLS + call) % tokens.len()].clone();
                let request = proto::VerifyTokenRequest { token, audience: audience.to_owned() };
                client.verify_token(request).await.expect("verified");
            }
        }
    }))
    .await;
    (CALLERS * CALLS) as f64 / begun.elapsed().as_secs_f64()
}

pub async fn run() -> Vec<Row> {
    let server = TestServer::start().await;
    let audience = server.app().config.tokens.audience.clone();
    let tenant = server.tenant("bench").await;
    server.user(tenant, "root@bench.example", "SYSTEM_ADMIN").await;
    let caller = server.sign_in("root@bench.example").await.access_token;
    let ours = server.client(&caller).authenticate;

    // The same layers in front of the service that does nothing.
    let request = proto::VerifyTokenRequest { token: caller.clone(), audience: audience.clone() };
    let answer = ours.clone().verify_token(request).await.expect("verified").into_inner();
    let app = server.app().clone();
    let certificates = Certificates::new(app.db.clone(), app.context.clone(), app.config.tokens.access_lifetime);
    let audience_here = audience.as_str().into();
    let gate = Gate { verifier: app.verifier.clone(), certificates, audience: audience_here, open_reflection: false };
    let authorities = Authorities::load(&app.config.server).await.unwrap();
    let denials = Denials::new(app.db.clone(), app.recorder.clone(), app.context.clock.clone());
    let gate = (gate, authorities);
    let edge = Edge::new(&app.config.server, app.context.clone(), app.metrics.clone(), gate, denials);
    let router = edge.wrap(Routes::new(Nothing { answer }).into_axum_router());
    let bound = bind("server.grpc_address", "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}", bound.address);
    let (config, stop) = (app.config.clone(), app.stop.clone());
    let (clock, metrics) = (app.context.clock.clone(), app.metrics.clone());
    let port = Port::new(bound, Bounds::of(&config.server).await, &config.server, clock, metrics).await.unwrap();
    tokio::spawn(async move { port.serve(&config.server, router, stop).await });
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let bearer = Bearer::new(&caller);
    let nothing = AuthenticateServiceClient::with_interceptor(channel, bearer);

    let seen = vec![caller.clone()];
    let mut known = Vec::new();
    rate(&ours, &audience, &seen).await;
    rate(&nothing, &audience, &seen).await;
    for _ in 0..ROUNDS {
        known.push((rate(&ours, &audience, &seen).await, rate(&nothing, &audience, &seen).await));
    }

    // Tokens that no replica has seen: each round uses fresh ones, once each.
    let (mut fresh, mut batches) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let tokens = minted(&server, &audience, CALLERS * CALLS);
        let chunks = tokens.chunks(CALLS).map(|tokens| {
            let (mut client, audience) = (ours.clone(), audience.clone());
            async move {
                for token in tokens {
                    let request = proto::VerifyTokenRequest { token: token.clone(), audience: audience.clone() };
                    client.verify_token(request).await.expect("verified");
                }
            }
        });
        fresh.push((timed(tokens.len(), join_all(chunks)).await, signature_rate()));

        let tokens = minted(&server, &audience, 64 * BATCH);
        let chunks = tokens.chunks(BATCH).map(|tokens| {
            let (mut client, audience) = (ours.clone(), audience.clone());
            async move {
                let answer =
                    client.verify_tokens(proto::VerifyTokensRequest { tokens: tokens.to_vec(), audience }).await;
                for verdict in answer.expect("verified").into_inner().verdicts {
                    assert!(matches!(verdict.verdict, Some(proto::token_verdict::Verdict::Claims(_))));
                }
            }
        });
        batches.push((timed(tokens.len(), join_all(chunks)).await, signature_rate()));
    }
    let calls = format!("{CALLERS} callers on one connection");
    vec![
        row("VerifyToken, token seen before", "empty RPC behind the same layers", "≥ 0.9", &known, calls),
        row(
            "VerifyToken, new tokens",
            "bare Ed25519 checks on one core",
            "beside it",
            &fresh,
            "a call each".to_owned(),
        ),
        row(
            "VerifyTokens, new tokens",
            "bare Ed25519 checks on one core",
            "beside it",
            &batches,
            format!("{BATCH} tokens a call"),
        ),
    ]
}

/// Fresh tokens, straight from the issuer.
fn minted(server: &TestServer, audience: &str, count: usize) -> Vec<String> {
    let app = server.app();
    let grant = Grant {
        kind: PrincipalKind::User,
        subject: app.context.new_id(),
        session_id: Some(app.context.new_id()),
        tenant_id: Some(app.context.new_id()),
        audience: audience.to_owned(),
        roles: sidle::token::RoleNames { shared: vec!["admin".to_owned()], ..Default::default() },
        permissions: Permissions::parse("users.read users.write sessions.read sessions.revoke"),
        platform_permissions: Permissions::default(),
        epoch: sidle_token::Epoch::FIRST,
        not_after: None,
    };
    (0..count).map(|_| app.sessions.issuer.issue(app.context.new_id(), &grant).expect("a key signs").token).collect()
}

/// How many a second.
async fn timed<T>(count: usize, work: impl Future<Output = T>) -> f64 {
    let begun = Instant::now();
    work.await;
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Bare signature checks a second on one core.
fn signature_rate() -> f64 {
    use ed25519_dalek::{Signer, SigningKey, Verifier};
    let key = SigningKey::from_bytes(&[7; 32]);
    let message = [1u8; 600];
    let signature = key.sign(&message);
    let begun = Instant::now();
    let checks = 5000;
    for _ in 0..checks {
        key.verifying_key().verify(&message, &signature).unwrap();
    }
    f64::from(checks) / begun.elapsed().as_secs_f64()
}
