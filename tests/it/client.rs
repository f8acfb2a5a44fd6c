//! `sidle-client`, as another service uses it.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use sidle::proto;
use sidle_client::{Caller, Clock, Mode, Protect, Refused, Require, Settings, Stale, Verifier};
use tower::{Layer as _, ServiceExt as _};
use uuid::Uuid;

use crate::authenticate::{api_key, ask};
use crate::support::proxy::Proxy;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

const BOUND: Duration = Duration::from_secs(60);

async fn setup() -> Setup {
    Setup::new().await.with("TOKENS__AUDIENCES", "shop")
}

/// A server with Ann, and an API key for a service that verifies.
async fn server(setup: &Setup) -> (TestServer, String) {
    let server = setup.start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "admin").await;
    let key = api_key(&server, None, &["tokens.verify"], &[]).await;
    (server, key)
}

async fn shop_tokens(server: &TestServer) -> proto::TokenPair {
    let request = proto::AuthenticatePasswordRequest {
        identifier: "ann@example.com".to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        audience: "shop".to_owned(),
        ..Default::default()
    };
    ask(server, request).await.unwrap().tokens.unwrap()
}

async fn shop_token(server: &TestServer) -> String {
    shop_tokens(server).await.access_token
}

fn settings(replicas: &[String], api_key: &str) -> Settings {
    Settings {
        replicas: replicas.iter().map(|url| url.parse().unwrap()).collect(),
        issuer: "https://sidle.localhost".to_owned(),
        audience: "shop".to_owned(),
        api_key: api_key.to_owned().into(),
        ..Settings::default()
    }
}

async fn verifier(settings: Settings) -> Verifier {
    let verifier = Verifier::start(settings).unwrap();
    verifier.ready().await;
    verifier
}

/// Ends the session of a token for `shop`.
async fn revoke(server: &TestServer, tokens: &proto::TokenPair) {
    let request = proto::RefreshTokenRequest { refresh_token: tokens.refresh_token.clone(), ..Default::default() };
    let session_id = server.client("").authenticate.refresh_token(request).await.unwrap().into_inner().session_id;
    let mut client = server.client(&server.sign_in("ann@example.com").await.access_token).session;
    client.revoke_session(proto::RevokeSessionRequest { session_id }).await.unwrap();
}

async fn until(verifier: &Verifier, token: &str, expected: Result<(), Refused>) {
    crate::support::until("the verifier says so", async || verifier.verify(token).await.map(|_| ()) == expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_token_becomes_the_current_user_in_both_modes() {
    let (server, key) = server(&setup().await).await;
    let (token, own) = (shop_token(&server).await, server.sign_in("ann@example.com").await.access_token);
    for mode in [Mode::Local, Mode::Remote] {
        let verifier = verifier(Settings { mode, ..settings(&[server.grpc_url()], &key) }).await;
        for _ in 0..2 {
            let caller = verifier.verify(&token).await.unwrap();
            assert!(caller.require("users.read").is_ok() && caller.require("keys.rotate").is_err(), "{mode:?}");
            assert_eq!(caller.roles(), ["admin"]);
            assert!(caller.session().is_some());
            assert!(caller.require_in(caller.tenant().unwrap(), "users.read").is_ok());
            assert!(caller.require_in(Uuid::new_v4(), "users.read").is_err(), "another tenant");
        }
        let mut forged = token.clone().into_bytes();
        let at = forged.len() - 10;
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        for bad in [own.as_str(), "", "a.b.c", &"A".repeat(9000), &forged] {
            assert_eq!(verifier.verify(bad).await.unwrap_err(), Refused::Token, "{mode:?}: {bad}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_as_soon_as_it_was_told() {
    let (server, key) = server(&setup().await).await;
    let verifier = verifier(settings(&[server.grpc_url()], &key)).await;
    let (tokens, other) = (shop_tokens(&server).await, shop_token(&server).await);
    assert!(verifier.verify(&tokens.access_token).await.is_ok());
    revoke(&server, &tokens).await;
    until(&verifier, &tokens.access_token, Err(Refused::Token)).await;
    assert!(verifier.age().is_some_and(|age| age <= verifier.bound()), "and not for want of knowledge");
    assert!(verifier.verify(&other).await.is_ok());

    // One that starts later knows it as well.
    let late = self::verifier(settings(&[server.grpc_url()], &key)).await;
    assert_eq!(late.verify(&tokens.access_token).await.unwrap_err(), Refused::Token);
}

/// G6: across a partition it fails as configured, and accepts nothing past the configured bound.
#[tokio::test(flavor = "multi_thread")]
async fn across_a_partition_it_fails_the_way_it_chose_and_comes_back() {
    let (server, key) = server(&setup().await).await;
    // The clocks of both move.
    let clock = Clock::default();
    let pass = |by| {
        server.context.clock.advance(by);
        clock.advance(by);
    };
    for break_it in [Proxy::cut as fn(&Proxy), Proxy::freeze] {
        let proxy = Proxy::start(server.grpc_url().trim_start_matches("http://")).await;
        let replicas = [format!("http://{}", proxy.address)];
        let near = |stale| Settings { bound: Some(BOUND), stale, clock: clock.clone(), ..settings(&replicas, &key) };
        let closed = verifier(near(Stale::Refuse)).await;
        let open = verifier(near(Stale::AcceptFor(Duration::from_secs(3600)))).await;
        let brief = verifier(near(Stale::AcceptFor(BOUND))).await;
        let (tokens, other) = (shop_tokens(&server).await, shop_token(&server).await);
        for verifier in [&closed, &open, &brief] {
            assert!(verifier.verify(&tokens.access_token).await.is_ok());
            assert!(verifier.verify(&other).await.is_ok());
        }
        break_it(&proxy);
        revoke(&server, &tokens).await;
        assert!(closed.verify(&tokens.access_token).await.is_ok(), "it cannot know, and need not yet");
        // Its last message was sent before the revocation: from now on that is longer ago than the bound.
        pass(BOUND);
        for token in [&tokens.access_token, &other] {
            assert_eq!(
                closed.verify(token).await.unwrap_err(),
                Refused::Unavailable,
                "it fails closed for every token"
            );
        }
        assert!(open.age().unwrap() > BOUND && open.verify(&other).await.is_ok(), "it was told to stay open");
        assert!(brief.verify(&other).await.is_ok(), "it was told to stay open for a while");
        pass(BOUND);
        assert_eq!(brief.verify(&other).await.unwrap_err(), Refused::Unavailable, "and no longer");
        assert!(open.verify(&other).await.is_ok());
        proxy.mend();
        for verifier in [&closed, &open, &brief] {
            until(verifier, &tokens.access_token, Err(Refused::Token)).await;
            until(verifier, &other, Ok(())).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_never_had_a_snapshot_accepts_nothing() {
    let (server, key) = server(&setup().await).await;
    let token = shop_token(&server).await;
    let proxy = Proxy::start(server.grpc_url().trim_start_matches("http://")).await;
    proxy.cut();
    let stale = Stale::AcceptFor(Duration::from_secs(3600));
    let settings = settings(&[format!("http://{}", proxy.address)], &key);
    let verifier = Verifier::start(Settings { stale, ..settings.clone() }).unwrap();
    // Also when it is not tried again, since it failed a moment ago.
    for _ in 0..3 {
        assert_eq!(verifier.verify(&token).await.unwrap_err(), Refused::Unavailable);
    }
    let remote = Verifier::start(Settings { mode: Mode::Remote, ..settings }).unwrap();
    assert_eq!(remote.verify(&token).await.unwrap_err(), Refused::Unavailable);
    proxy.mend();
    until(&verifier, &token, Ok(())).await;
    until(&remote, &token, Ok(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_at_another_replica_without_missing_anything() {
    let setup = setup().await;
    let (one, key) = server(&setup).await;
    let two = setup.start().await;
    let verifier = verifier(settings(&[one.grpc_url(), two.grpc_url()], &key)).await;
    let tokens = shop_tokens(&one).await;
    assert!(verifier.verify(&tokens.access_token).await.is_ok());
    let (grace, other) = (shop_tokens(&two).await, shop_token(&two).await);
    one.stop().await;
    revoke(&two, &tokens).await;
    until(&verifier, &tokens.access_token, Err(Refused::Token)).await;
    assert!(verifier.verify(&grace.access_token).await.is_ok() && verifier.verify(&other).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_keys_is_picked_up_and_a_revoked_key_is_refused() {
    let (server, key) = server(&setup().await).await;
    let verifier = verifier(settings(&[server.grpc_url()], &key)).await;
    let admin = server.admin().await;
    let old = shop_token(&server).await;
    assert!(verifier.verify(&old).await.is_ok());
    let rotate = async |revoke_previous| {
        let request = proto::RotateSigningKeysRequest {
            request_id: Uuid::new_v4().to_string(),
            lead_time: Some(prost_types::Duration::default()),
            revoke_previous,
            ..Default::default()
        };
        admin.rotate_signing_keys(request).await
    };
    rotate(false).await.unwrap();
    // It was not prepared for this key: it asks for it.
    let new = shop_token(&server).await;
    until(&verifier, &new, Ok(())).await;
    assert!(verifier.verify(&old).await.is_ok(), "the old key's tokens live out their time");
    rotate(true).await.unwrap();
    for token in [&old, &new] {
        until(&verifier, token, Err(Refused::Token)).await;
    }
    // Its own access token died with the key; it gets another by itself.
    let newest = shop_token(&server).await;
    until(&verifier, &newest, Ok(())).await;
}

/// The caller as a service behind the layer sees it.
async fn whoami(request: Request<String>) -> Result<Response<String>, Infallible> {
    Ok(Response::new(request.extensions().get::<Caller>().unwrap().subject().to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layers_answer_for_themselves_in_the_words_of_http_and_of_grpc() {
    let (server, key) = server(&setup().await).await;
    let token = shop_token(&server).await;
    let verifier = verifier(settings(&[server.grpc_url()], &key)).await;
    let protect = Protect::new(verifier);
    let ask = async |kind: &str, token: Option<&str>, permission: &str| {
        let mut request = Request::builder().header("content-type", kind);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        // A client claims an identity that the layer has not verified.
        let request = request.body(String::new()).unwrap();
        let service = protect.layer(Require::new(permission).layer(tower::service_fn(whoami)));
        service.oneshot(request).await.unwrap()
    };
    let good = ask("application/json", Some(&token), "users.read").await;
    assert_eq!(good.status(), StatusCode::OK);
    assert!(Uuid::try_parse(good.body()).is_ok());
    let refused = ask("application/json", None, "users.read").await;
    assert_eq!(
        (refused.status(), &refused.headers()["www-authenticate"]),
        (StatusCode::UNAUTHORIZED, &"Bearer".parse().unwrap())
    );
    let refused = ask("application/json", Some("nonsense"), "users.read").await;
    assert_eq!(refused.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
    assert_eq!(ask("application/json", Some(&token), "keys.rotate").await.status(), StatusCode::FORBIDDEN);
    for (token, permission, code) in
        [(Some(token.as_str()), "keys.rotate", "7"), (None, "users.read", "16"), (Some("a.b.c"), "users.read", "16")]
    {
        let refused = ask("application/grpc", token, permission).await;
        assert_eq!((refused.status(), &refused.headers()["grpc-status"]), (StatusCode::OK, &code.parse().unwrap()));
    }
    assert_eq!(ask("application/grpc", Some(&token), "users.read").await.status(), StatusCode::OK);
}
