//! Verifying tokens, and the keys that sign them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use sidle::proto;
use tonic::Code;
use uuid::Uuid;

use super::{api_key, ask, exchange, verifier_token, verify};
use crate::look::reason;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

/// An access token of a user for the audience `shop`.
async fn shop_token(server: &TestServer) -> String {
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "admin").await;
    let request = proto::AuthenticatePasswordRequest {
        identifier: "ann@example.com".to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        audience: "shop".to_owned(),
        ..Default::default()
    };
    ask(server, request).await.unwrap().tokens.unwrap().access_token
}

async fn shop() -> TestServer {
    Setup::new().await.with("TOKENS__AUDIENCES", "shop").start().await
}

#[tokio::test]
async fn a_token_is_good_for_its_audience_and_for_whoever_may_ask() {
    let server = shop().await;
    let (token, caller) = (shop_token(&server).await, verifier_token(&server).await);
    let claims = verify(&server, &caller, &token, "shop").await.unwrap();
    assert_eq!(claims.audience, "shop");
    assert_eq!(claims.kind(), proto::PrincipalKind::User);
    assert!(claims.permissions.contains(&"users.read".to_owned()));
    assert!(!claims.tenant_id.is_empty() && !claims.session_id.is_empty());

    assert_eq!(reason(&verify(&server, &caller, &token, "sidle").await.unwrap_err()), "INVALID_TOKEN");
    assert_eq!(reason(&verify(&server, &caller, &token, "").await.unwrap_err()), "INVALID_FIELD");
    let stranger = exchange(&server, &api_key(&server, None, &["users.read"], &[]).await).await.unwrap().access_token;
    assert_eq!(reason(&verify(&server, &stranger, &token, "shop").await.unwrap_err()), "PERMISSION_DENIED");
    assert_eq!(reason(&verify(&server, "", &token, "shop").await.unwrap_err()), "UNAUTHENTICATED");
    let refused = server.client(&token).authenticate.who_am_i(proto::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(reason(&refused), "UNAUTHENTICATED", "Sidle's own calls take only tokens for Sidle");
}

/// A program of one tenant learns nothing of another tenant's people, not even that a token is one.
#[tokio::test]
async fn a_tenants_program_is_told_of_its_own_tenants_tokens_only() {
    let server = shop().await;
    let (home, other) = (server.tenant("home").await, server.tenant("other").await);
    server.user(other, "eve@example.com", "admin").await;
    server.user(home, "bob@example.com", "user").await;
    let shop_token = async |email: &str| {
        let request = proto::AuthenticatePasswordRequest {
            identifier: email.to_owned(),
            password: ADMIN_PASSWORD.to_owned(),
            audience: "shop".to_owned(),
            ..Default::default()
        };
        ask(&server, request).await.unwrap().tokens.unwrap().access_token
    };
    let (theirs, own) = (shop_token("eve@example.com").await, shop_token("bob@example.com").await);
    let platform = exchange(&server, &api_key(&server, None, &["users.read"], &[]).await).await.unwrap().access_token;
    let program = exchange(&server, &api_key(&server, Some(home), &["tokens.verify"], &[]).await).await.unwrap();
    let caller = program.access_token;
    verify(&server, &caller, &own, "shop").await.expect("its own tenant's");
    verify(&server, &caller, &caller, "sidle").await.expect("its own");
    for (token, audience) in [(&theirs, "shop"), (&platform, "sidle")] {
        let refused = verify(&server, &caller, token, audience).await.unwrap_err();
        let nonsense = verify(&server, &caller, "nonsense", audience).await.unwrap_err();
        assert_eq!(
            (reason(&refused).as_str(), refused.message(), refused.code()),
            ("INVALID_TOKEN", nonsense.message(), nonsense.code())
        );
    }
    let tokens = vec![theirs.clone(), own.clone(), theirs.clone()];
    let request = proto::VerifyTokensRequest { tokens, audience: "shop".to_owned() };
    let verdicts = server.client(&caller).authenticate.verify_tokens(request).await.unwrap().into_inner().verdicts;
    let told = verdicts.iter().map(|v| match &v.verdict {
        Some(proto::token_verdict::Verdict::Claims(claims)) => claims.tenant_id.clone(),
        Some(proto::token_verdict::Verdict::Refused(reason)) => {
            proto::Reason::try_from(*reason).unwrap().as_str_name().to_owned()
        }
        None => String::new(),
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        ["REASON_INVALID_TOKEN".to_owned(), home.to_string(), "REASON_INVALID_TOKEN".to_owned()]
    );
    verify(&server, &verifier_token(&server).await, &theirs, "shop").await.expect("one of the platform is told of all");
}

#[tokio::test]
async fn many_tokens_get_a_verdict_each() {
    let server = shop().await;
    let (token, caller) = (shop_token(&server).await, verifier_token(&server).await);
    let mut client = server.client(&caller).authenticate;
    let request = |tokens: Vec<String>| proto::VerifyTokensRequest { tokens, audience: "shop".to_owned() };
    let tokens = vec![token.clone(), "nonsense".to_owned(), String::new(), caller.clone(), token.clone()];
    let verdicts = client.verify_tokens(request(tokens)).await.unwrap().into_inner().verdicts;
    let good = verdicts.iter().map(|v| matches!(v.verdict, Some(proto::token_verdict::Verdict::Claims(_))));
    assert_eq!(good.collect::<Vec<_>>(), [true, false, false, false, true]);
    for bad in [Vec::new(), vec![token; 257]] {
        assert_eq!(reason(&client.verify_tokens(request(bad)).await.unwrap_err()), "INVALID_FIELD");
    }
}

#[tokio::test]
async fn forged_tokens_are_refused_and_tell_nothing() {
    let server = shop().await;
    let (token, caller) = (shop_token(&server).await, verifier_token(&server).await);
    let jwk = server.app().verifier.published_keys()[0].clone();
    let parts: Vec<&str> = token.split('.').collect();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    let with = |name: &str, value: Value| {
        let mut changed = header.clone();
        changed[name] = value;
        URL_SAFE_NO_PAD.encode(changed.to_string())
    };
    let hs256 = |key: &[u8]| {
        let message = format!("{}.{}", with("alg", json!("HS256")), parts[1]);
        let key = jsonwebtoken::EncodingKey::from_secret(key);
        format!("{message}.{}", jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap())
    };
    let forged = [
        ("no algorithm", format!("{}.{}.", with("alg", json!("none")), parts[1])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("another type", format!("{}.{}.{}", with("typ", json!("JWT")), parts[1], parts[2])),
        ("another key", format!("{}.{}.{}", with("kid", json!(Uuid::nil())), parts[1], parts[2])),
        ("signed with the public key", hs256(jwk.x.as_bytes())),
        ("signed with the public key's bytes", hs256(&URL_SAFE_NO_PAD.decode(&jwk.x).unwrap())),
        ("too long", format!("{token}{}", "A".repeat(9000))),
        ("four parts", format!("{token}.{}", parts[2])),
        ("nothing", String::new()),
        ("other claims", {
            let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
            claims["platform_scope"] = json!("*");
            format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2])
        }),
    ];
    for (what, forged) in forged {
        let refused = verify(&server, &caller, &forged, "shop").await.unwrap_err();
        assert_eq!(
            (reason(&refused).as_str(), refused.message()),
            ("INVALID_TOKEN", "The token is not accepted."),
            "{what}"
        );
    }
    verify(&server, &caller, &token, "shop").await.unwrap();
}

#[tokio::test]
async fn verification_asks_nobody_and_stops_when_revocations_are_not_known() {
    const BOUND: Duration = Duration::from_secs(60);
    let setup = Setup::new().await.with("TOKENS__AUDIENCES", "shop").with("TOKENS__MAX_REVOCATION_AGE", "60s");
    let server = setup.start().await;
    let (token, caller) = (shop_token(&server).await, verifier_token(&server).await);
    server.app().db.close().await;
    server.app().reserved.feed.close().await;
    verify(&server, &caller, &token, "shop").await.expect("without a database");
    // Until the snapshot is older than the bound, tokens are good; from then on no token is accepted.
    let clock = &server.context.clock;
    let left = BOUND - server.app().verifier.revocation_age().unwrap();
    clock.advance(left / 2);
    verify(&server, &caller, &token, "shop").await.expect("within the bound");
    clock.advance(left / 2 + Duration::from_millis(1));
    let refused = verify(&server, &caller, &token, "shop").await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "REVOCATIONS_STALE"));
    assert!(server.app().verifier.revocation_age().unwrap() > BOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_sign_with_one_key_that_is_published() {
    let setup = Setup::new().await.with("TOKENS__AUDIENCES", "shop");
    let (one, two) = tokio::join!(setup.start(), setup.start());
    let keys: Vec<(Uuid, Vec<u8>)> =
        sqlx::query_as("SELECT kid, private_key FROM signing_keys").fetch_all(one.sql()).await.unwrap();
    assert_eq!(keys.len(), 1);
    let token = shop_token(&one).await;
    let caller = verifier_token(&two).await;
    verify(&two, &caller, &token, "shop").await.expect("the other replica knows the key");

    // Whoever has only the published keys can verify as well.
    let mut client = two.client("").authenticate;
    let published = client.get_jwks(proto::GetJwksRequest {}).await.unwrap().into_inner().keys;
    assert_eq!(published.len(), 1);
    assert_eq!((published[0].kid.as_str(), published[0].alg.as_str()), (keys[0].0.to_string().as_str(), "EdDSA"));
    let served = reqwest::get(format!("{}/.well-known/jwks.json", two.ops_url())).await.unwrap();
    let served: Value = serde_json::from_slice(&served.bytes().await.unwrap()).unwrap();
    assert_eq!(served["keys"][0]["x"], published[0].x);
    let jwk: Jwk = serde_json::from_value(served["keys"][0].clone()).unwrap();
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["shop"]);
    validation.set_issuer(&["https://sidle.localhost"]);
    let read = jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap();
    assert_eq!(read.header.typ.as_deref(), Some("at+jwt"));

    // The stored key is sealed: its bytes are not in the row.
    assert!(!served.to_string().contains(&URL_SAFE_NO_PAD.encode(&keys[0].1)));
    assert_eq!(keys[0].1[0], 1, "begins with the format of sealed values");
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let server = shop().await;
    let (token, key) = (shop_token(&server).await, api_key(&server, None, &["tokens.verify"], &[]).await);
    let caller = exchange(&server, &key).await.unwrap().access_token;
    verify(&server, &caller, &token, "shop").await.unwrap();
    server.context.clock.advance(Duration::from_secs(15 * 60 + 6));
    assert_eq!(reason(&verify(&server, &caller, &token, "shop").await.unwrap_err()), "UNAUTHENTICATED");
    let caller = exchange(&server, &key).await.unwrap().access_token;
    assert_eq!(reason(&verify(&server, &caller, &token, "shop").await.unwrap_err()), "INVALID_TOKEN");
}
