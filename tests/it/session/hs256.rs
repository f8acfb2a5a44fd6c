//! HS256 for old clients (S12): one key and one audience each, and valid for nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use sidle::app::App;
use sidle::config::Config;
use sidle::context::Context;
use sidle::proto;
use tempfile::TempDir;

use super::is_good;
use crate::authenticate::{ask, verifier_token, verify};
use crate::look::reason;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

const SECRET: [u8; 32] = [7; 32];

/// A folder with the keys of two old clients, and one that is too short.
fn keys() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, secret) in [("old-shop", &SECRET[..]), ("old-till", &[8; 48]), ("same", &SECRET), ("short", &[9; 31])] {
        std::fs::write(folder.path().join(name), STANDARD.encode(secret) + "\n").unwrap();
    }
    std::fs::write(folder.path().join("text"), "correct horse battery staple, as long as you like").unwrap();
    folder
}

fn clients(folder: &TempDir, names: &[(&str, &str)]) -> String {
    let entry = |(audience, file): &(&str, &str)| format!("{audience}={}", folder.path().join(file).display());
    names.iter().map(entry).collect::<Vec<_>>().join(",")
}

async fn server(folder: &TempDir) -> TestServer {
    let clients = clients(folder, &[("old-shop", "old-shop"), ("old-till", "old-till")]);
    let setup = Setup::new().await.with("TOKENS__AUDIENCES", "shop").with("TOKENS__HS256_CLIENTS", &clients);
    let server = setup.start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "super_admin").await;
    server
}

async fn token(server: &TestServer, audience: &str) -> String {
    let request = proto::AuthenticatePasswordRequest {
        identifier: "ann@example.com".to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        audience: audience.to_owned(),
        ..Default::default()
    };
    ask(server, request).await.unwrap().tokens.unwrap().access_token
}

fn parts(token: &str) -> Vec<Value> {
    let parts = token.split('.').take(2).map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    parts.map(|part| serde_json::from_slice(&part).unwrap()).collect()
}

/// Tokens that the holder of an old client's key can make.
fn forge(secret: &[u8], header: &Value, claims: &Value) -> String {
    let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

#[tokio::test]
async fn an_old_client_gets_tokens_of_its_own_that_open_nothing_else() {
    let folder = keys();
    let server = server(&folder).await;
    let caller = verifier_token(&server).await;
    let token = token(&server, "old-shop").await;
    assert_eq!(parts(&token)[0]["alg"], "HS256");
    // The old client's own library verifies it.
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.set_audience(&["old-shop"]);
    let key = jsonwebtoken::DecodingKey::from_secret(&SECRET);
    jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();

    verify(&server, &caller, &token, "old-shop").await.expect("for that audience");
    for other in ["old-till", "shop", "sidle"] {
        assert_eq!(reason(&verify(&server, &caller, &token, other).await.unwrap_err()), "INVALID_TOKEN", "{other}");
    }
    assert!(!is_good(&server, &token).await, "Sidle's own calls");
    let published = server.app().verifier.published_keys();
    assert!(published.iter().all(|key| key.alg == "EdDSA" && key.kty == "OKP"), "{published:?}");
    // It ends with its session like any other.
    let own = self::token(&server, "sidle").await;
    let ended = proto::RevokeAllSessionsRequest { keep_current: true, ..Default::default() };
    server.client(&own).session.revoke_all_sessions(ended).await.unwrap();
    assert_eq!(reason(&verify(&server, &caller, &token, "old-shop").await.unwrap_err()), "INVALID_TOKEN");
}

#[tokio::test]
async fn what_the_holder_of_an_old_clients_key_forges_is_good_nowhere_else() {
    let folder = keys();
    let server = server(&folder).await;
    let caller = verifier_token(&server).await;
    let (old, till, own) =
        (token(&server, "old-shop").await, token(&server, "old-till").await, token(&server, "sidle").await);
    let mut claims = parts(&old)[1].clone();
    claims["platform_scope"] = json!("*");
    let header = parts(&old)[0].clone();
    let forged = forge(&SECRET, &header, &claims);
    assert!(
        verify(&server, &caller, &forged, "old-shop").await.is_ok(),
        "the forger's tools work, for its own audience"
    );

    for audience in ["sidle", "shop", "old-till"] {
        let mut claims = claims.clone();
        claims["aud"] = json!(audience);
        let headers = [
            ("its own key id", header.clone()),
            ("another client's", parts(&till)[0].clone()),
            ("the signing key's", json!({ "alg": "HS256", "typ": "at+jwt", "kid": parts(&own)[0]["kid"] })),
            ("the signing key's, as it is", parts(&own)[0].clone()),
        ];
        for (what, header) in headers {
            let forged = forge(&SECRET, &header, &claims);
            let refused = verify(&server, &caller, &forged, audience).await.unwrap_err();
            assert_eq!(reason(&refused), "INVALID_TOKEN", "{what}, for {audience}");
            assert!(!is_good(&server, &forged).await, "{what}, for {audience}");
        }
    }
}

#[tokio::test]
async fn old_clients_cannot_be_configured_to_share_anything() {
    let folder = keys();
    let setup = Setup::new().await.with("TOKENS__AUDIENCES", "shop");
    let starts = async |names: &[(&str, &str)]| {
        let setup = setup.clone().with("TOKENS__HS256_CLIENTS", &clients(&folder, names));
        match Config::load(None, setup.environment().clone()) {
            Err(error) => Err(error.to_string()),
            Ok(config) => App::new(config, Context::system()).await.map(|_| ()).map_err(|failure| failure.to_string()),
        }
    };
    assert_eq!(starts(&[("old-shop", "old-shop"), ("old-till", "old-till")]).await, Ok(()));
    for (what, names) in [
        ("Sidle's own audience", &[("sidle", "old-shop")][..]),
        ("somebody else's audience", &[("shop", "old-shop")]),
        ("one audience twice", &[("old-shop", "old-shop"), ("old-shop", "old-till")]),
        ("one key twice", &[("old-shop", "old-shop"), ("old-till", "same")]),
        ("255 bits", &[("old-shop", "short")]),
        ("a passphrase", &[("old-shop", "text")]),
        ("no file", &[("old-shop", "nowhere")]),
        ("no audience", &[("", "old-shop")]),
    ] {
        let error = starts(names).await.expect_err(what);
        assert!(!error.is_empty() && !error.contains(&STANDARD.encode(SECRET)), "{what}: {error}");
    }
}
