//! What Kanidm publishes about itself: read from its own address, cached, read again, and never trusted about others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use sidle_dev::kanidm::Fault;
use tonic::Code;

use super::{REDIRECT, World, start};
use crate::authenticate::{verifier_token, verify};
use crate::look::reason;
use crate::support::{Setup, eventually, until};

const DISCOVERY: &str = "GET /oauth2/openid/{client}/.well-known/openid-configuration";
const KEYS: &str = "GET /oauth2/openid/{client}/public_key.jwk";
/// A server that reads everything again all the time.
fn often(setup: Setup) -> Setup {
    setup.with("KANIDM__METADATA_REFRESH", "100ms").with("KANIDM__BREAKER_FAILURES", "0")
}

/// Waits until Kanidm has been asked for this so many times more. Only one reading is in progress at a time: with the
/// last of several, what the ones before it found is in use.
async fn asked_again(world: &World, kind: &str, times: u64) {
    let asked = async || world.kanidm.requests(kind).await.unwrap();
    let enough = asked().await + times;
    until("it is read again in the background", async || asked().await >= enough).await;
}

/// The answer about a token of Kanidm's own while the keys count as confirmed, which they may not where the machine
/// stalls.
async fn verdict(world: &World, caller: &str, token: &str) -> Result<(), String> {
    let client = world.client();
    eventually("the keys are confirmed", async || {
        let verdict = verify(&world.server, caller, token, &client).await.map_err(|status| reason(&status));
        (!verdict.as_ref().is_err_and(|why| why == "KANIDM_UNAVAILABLE")).then(|| verdict.map(drop))
    })
    .await
}

#[tokio::test]
async fn discovery_is_not_read_for_every_login() {
    let world = World::new().await;
    for _ in 0..3 {
        world.login().await.unwrap();
    }
    assert_eq!(world.kanidm.requests(DISCOVERY).await.unwrap(), 1);
}

#[tokio::test]
async fn discovery_and_keys_are_read_again_without_a_login() {
    let world = World::with(often).await;
    asked_again(&world, DISCOVERY, 3).await;
    asked_again(&world, KEYS, 3).await;
}

/// A key was stolen: Kanidm's administrator revokes it, and no login brings that here.
#[tokio::test]
async fn a_key_that_kanidm_revoked_is_trusted_no_longer() {
    let world = World::with(often).await;
    let (caller, client) = (verifier_token(&world.server).await, world.client());
    // Two of the same key: what is known of a token that was presented before is cached for a while.
    let one = world.own(&world.bearer).await.access_token;
    let other = world.own(&world.bearer).await.access_token;
    let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    assert_eq!(kid(&one), kid(&other));
    assert_eq!(verdict(&world, &caller, &one).await, Ok(()));
    let revoke = json!({
        "filter": { "eq": ["name", client] },
        "modlist": { "mods": [{ "present": ["key_action_revoke", kid(&other)] }] },
    });
    world.kanidm.post("/v1/raw/modify", &revoke).await.expect("Kanidm revokes the key");
    let jwks = world.kanidm.get(&format!("/oauth2/openid/{client}/public_key.jwk")).await.unwrap().to_string();
    assert!(!jwks.contains(&kid(&other)), "it is published no longer");
    asked_again(&world, KEYS, 2).await;
    assert_eq!(verdict(&world, &caller, &other).await, Err("INVALID_TOKEN".to_owned()));
    let new = world.own(&world.bearer).await.access_token;
    assert_eq!(verdict(&world, &caller, &new).await, Ok(()), "of the key that took its place");
    world.login().await.expect("by that key as well");
}

/// An attacker who cuts Sidle off from Kanidm must not keep a stolen key valid.
#[tokio::test]
async fn keys_that_could_not_be_confirmed_for_long_verify_no_token() {
    let world = World::with(often).await;
    let (caller, client) = (verifier_token(&world.server).await, world.client());
    world.login().await.expect("the keys are known");
    let token = world.own(&world.bearer).await.access_token;
    let remembered = world.own(&world.bearer).await.access_token;
    verify(&world.server, &caller, &remembered, &client).await.expect("good, and remembered");
    world.kanidm.fault(Fault::Fail, "/oauth2/openid", 0, None).await.unwrap();
    // Each is tried at the earliest half a refresh after the one before: more than six refreshes without an answer.
    asked_again(&world, DISCOVERY, 16).await;
    for token in [&token, &remembered] {
        let refused = verify(&world.server, &caller, token, &client).await.expect_err("not confirmed");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "KANIDM_UNAVAILABLE"));
    }
    // A service that asks through the client answers that it cannot verify, not that the token is invalid.
    let asking = sidle_client::Verifier::start(sidle_client::Settings {
        mode: sidle_client::Mode::Remote,
        replicas: vec![world.server.grpc_url().parse().unwrap()],
        issuer: "https://sidle.localhost".to_owned(),
        audience: client.clone(),
        api_key: crate::authenticate::api_key(&world.server, None, &["tokens.verify"], &[]).await.into(),
        ..Default::default()
    });
    let answer = asking.unwrap().verify(&token).await.map(|_| ());
    assert_eq!(answer, Err(sidle_client::Refused::Unavailable));
    world.kanidm.heal().await.unwrap();
    assert_eq!(verdict(&world, &caller, &token).await, Ok(()), "once they are");
}

#[tokio::test]
async fn a_new_key_of_kanidms_is_taken_up_without_an_error() {
    let world = World::new().await;
    world.login().await.unwrap();
    let client = world.server.app().config.kanidm.client_id.clone();
    let jwks = async || world.kanidm.get(&format!("/oauth2/openid/{client}/public_key.jwk")).await.unwrap().to_string();
    let before = jwks().await;
    let rotate = json!({
        "filter": { "eq": ["name", client] },
        "modlist": { "mods": [{ "present": ["key_action_rotate", "2020-01-01T00:00:00Z"] }] },
    });
    world.kanidm.post("/v1/raw/modify", &rotate).await.expect("Kanidm rotates the key");
    assert_ne!(jwks().await, before);
    world.login().await.expect("a token signed with a key that was not there before");
    world.login().await.expect("again");
}

#[tokio::test]
async fn clocks_may_differ_by_what_is_configured() {
    let world = World::new().await;
    let tolerant = world.server.setup.clone().with("KANIDM__LEEWAY", "5m").start().await;
    let login = async |server: &crate::support::TestServer| {
        let begun = start(server, REDIRECT).await?;
        let back = world.kanidm.authorise(&world.bearer, &begun.authorization_url).await.unwrap();
        super::complete(server, &back, &begun.login_secret).await
    };
    world.kanidm.advance(Duration::from_secs(20)).await.unwrap();
    login(&world.server).await.expect("Kanidm's clock is ahead by less than the leeway");
    world.kanidm.advance(Duration::from_secs(40)).await.unwrap();
    assert_eq!(reason(&login(&world.server).await.unwrap_err()), "KANIDM_UNAVAILABLE", "ahead by a minute");
    login(&tolerant).await.expect("which another leeway allows");
    // Its tokens last 15 minutes: with our clock that far ahead and half a minute they have expired.
    tolerant.context.clock.advance(Duration::from_secs(60 + 15 * 60 + 4 * 60));
    login(&tolerant).await.expect("Kanidm's clock is behind by less than the leeway");
    tolerant.context.clock.advance(Duration::from_secs(2 * 60));
    assert_eq!(reason(&login(&tolerant).await.unwrap_err()), "KANIDM_UNAVAILABLE");
}

/// What a server that replaces Kanidm answers to discovery.
#[derive(Clone, Copy, Debug)]
enum Lie {
    Redirect,
    OtherOrigin,
    OtherIssuer,
    Endless,
    NoJson,
    Truth,
}

#[derive(Clone)]
struct Fake {
    lie: Lie,
    own: String,
    elsewhere: String,
}

async fn answer(State(fake): State<Fake>, uri: Uri) -> Response {
    let base = format!("{}/oauth2/openid/sidle", fake.own);
    if uri.path().ends_with("public_key.jwk") {
        return axum::Json(json!({ "keys": [] })).into_response();
    }
    let document = |issuer: &str, page: &str| {
        axum::Json(json!({ "issuer": issuer, "authorization_endpoint": format!("{page}/ui/oauth2") })).into_response()
    };
    match fake.lie {
        Lie::Redirect => (StatusCode::FOUND, [(header::LOCATION, format!("{}{uri}", fake.elsewhere))]).into_response(),
        Lie::OtherOrigin => document(&base, &fake.elsewhere),
        Lie::OtherIssuer => document("https://idm.example/oauth2/openid/sidle", &fake.own),
        Lie::Endless => " ".repeat(5 << 20).into_response(),
        Lie::NoJson => "<html>We will be back soon.</html>".into_response(),
        Lie::Truth => document(&base, &fake.own),
    }
}

async fn listen() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test]
async fn discovery_is_believed_about_kanidms_own_place_only() {
    let (other, elsewhere) = listen().await;
    let visits = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&visits);
    let count = move || async move { seen.fetch_add(1, Ordering::Relaxed).to_string() };
    tokio::spawn(async move { axum::serve(other, Router::new().fallback(count)).await });
    for lie in [Lie::Redirect, Lie::OtherOrigin, Lie::OtherIssuer, Lie::Endless, Lie::NoJson, Lie::Truth] {
        let (listener, own) = listen().await;
        let router =
            Router::new().fallback(answer).with_state(Fake { lie, own: own.clone(), elsewhere: elsewhere.clone() });
        tokio::spawn(async move { axum::serve(listener, router).await });
        let setup = Setup::new().await.with("KANIDM__URL", &own).with("KANIDM__TOKEN", "t");
        let setup = setup.with("KANIDM__CLIENT_SECRET", "s").with("KANIDM__REDIRECT_URIS", REDIRECT);
        let server = setup.with("KANIDM__BREAKER_FAILURES", "0").start().await;
        match (lie, start(&server, REDIRECT).await) {
            (Lie::Truth, begun) => assert!(begun.unwrap().authorization_url.starts_with(&own)),
            (Lie::Redirect, refused) => assert_eq!(reason(&refused.unwrap_err()), "KANIDM_UNAVAILABLE", "{lie:?}"),
            (_, refused) => assert_eq!(reason(&refused.unwrap_err()), "KANIDM_UNAVAILABLE", "{lie:?}"),
        }
    }
    assert_eq!(visits.load(Ordering::Relaxed), 0, "nobody was led elsewhere");
}
