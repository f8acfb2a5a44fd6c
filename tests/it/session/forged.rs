//! Forged, broken and hostile tokens, against `VerifyToken` and against Sidle's own RPCs. The forger here is the
//! strongest one: where a forgery needs a valid signature, it is made with the real key, so that the check itself is
//! tested.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use hmac::{Hmac, Mac as _};
use p256::ecdsa::signature::Signer as _;
use rsa::pkcs1::EncodeRsaPublicKey as _;
use rsa::pkcs8::EncodePublicKey as _;
use serde_json::{Value, json};
use sha2::Sha256;
use sidle::proto;
use sidle::seal::SealContext;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::is_good;
use crate::authenticate::{verifier_token, verify};
use crate::look::reason;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

/// All that a forger could have.
struct Forger {
    server: TestServer,
    /// May call `VerifyToken`.
    caller: String,
    /// A valid token for `shop`.
    shop: String,
    /// A valid token for Sidle itself.
    own: String,
    /// The real key, as PKCS#8.
    key: Zeroizing<Vec<u8>>,
    algorithm: &'static str,
}

async fn sign_in(server: &TestServer, audience: &str) -> String {
    let request = proto::AuthenticatePasswordRequest {
        identifier: "ann@example.com".to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        audience: audience.to_owned(),
        ..Default::default()
    };
    crate::authenticate::ask(server, request).await.unwrap().tokens.unwrap().access_token
}

impl Forger {
    async fn of(setup: Setup, algorithm: &'static str) -> Self {
        let setup = setup.with("TOKENS__AUDIENCES", "shop").with("TOKENS__ALGORITHM", algorithm);
        let server = setup.start().await;
        let tenant = server.tenant("a").await;
        server.user(tenant, "ann@example.com", "super_admin").await;
        let (shop, own) = (sign_in(&server, "shop").await, sign_in(&server, "sidle").await);
        let caller = verifier_token(&server).await;
        let row: (Uuid, Vec<u8>) =
            sqlx::query_as("SELECT kid, private_key FROM signing_keys").fetch_one(server.sql()).await.unwrap();
        let context = SealContext { table: "signing_keys", column: "private_key", row: row.0 };
        let key = server.app().keyring.open(context, &row.1).unwrap();
        Self { server, caller, shop, own, key, algorithm }
    }

    async fn new() -> Self {
        Self::of(Setup::new().await, "EdDSA").await
    }

    fn parts(token: &str) -> (Value, Value) {
        let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap_or_default());
        let mut read = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
        (read(), read())
    }

    /// A signature with the real key.
    fn sign(&self, message: &str) -> Vec<u8> {
        match self.algorithm {
            "EdDSA" => {
                let key = ed25519_dalek::SigningKey::from_pkcs8_der(&self.key).unwrap();
                ed25519_dalek::Signer::sign(&key, message.as_bytes()).to_vec()
            }
            _ => {
                let signature: p256::ecdsa::Signature =
                    p256::ecdsa::SigningKey::from_pkcs8_der(&self.key).unwrap().sign(message.as_bytes());
                signature.to_vec()
            }
        }
    }

    /// A token of exactly these texts, signed with the real key.
    fn signed(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(&message));
        format!("{message}.{signature}")
    }

    /// A valid token with header and claims changed, signed with the real key.
    fn changed(&self, token: &str, header: impl FnOnce(&mut Value), claims: impl FnOnce(&mut Value)) -> String {
        let (mut head, mut body) = Self::parts(token);
        header(&mut head);
        claims(&mut body);
        self.signed(&head.to_string(), &body.to_string())
    }

    /// Presents a forgery of both kinds of token everywhere. The token that it is made from decides where it would be
    /// valid.
    async fn is_refused(&self, what: &str, forge: impl Fn(&str) -> String) {
        let forged = forge(&self.shop);
        let refused = match verify(&self.server, &self.caller, &forged, "shop").await {
            Ok(claims) => panic!("{what}: VerifyToken accepts it: {claims:?}"),
            Err(refused) => refused,
        };
        let told = (reason(&refused), refused.message().to_owned());
        assert_eq!(told, ("INVALID_TOKEN".to_owned(), "The token is not accepted.".to_owned()), "{what}");

        let own = forge(&self.own);
        // What no header can carry never gets as far as Sidle.
        let Ok(bearer) = format!("Bearer {own}").parse::<tonic::metadata::MetadataValue<tonic::metadata::Ascii>>()
        else {
            return;
        };
        let mut request = tonic::Request::new(proto::WhoAmIRequest {});
        request.metadata_mut().insert("authorization", bearer);
        let mut client = self.server.client("").authenticate;
        assert!(client.who_am_i(request).await.is_err(), "{what}: Sidle's own RPCs accept it");
    }

    async fn is_accepted(&self, what: &str, forge: impl Fn(&str) -> String) {
        let refused = verify(&self.server, &self.caller, &forge(&self.shop), "shop").await.err();
        assert!(refused.is_none(), "{what}: {refused:?}");
        assert!(is_good(&self.server, &forge(&self.own)).await, "{what}");
    }
}

/// A valid token whose signature is replaced by an HMAC under `secret`.
fn with_hmac(token: &str, secret: &[u8]) -> String {
    let (mut head, body) = Forger::parts(token);
    head["alg"] = json!("HS256");
    let encode = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let message = format!("{}.{}", encode(head), encode(body));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// Bytes in PEM form, in lines of 64 characters.
fn pem(label: &str, bytes: &[u8]) -> String {
    let body = STANDARD.encode(bytes);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn keep(_: &mut Value) {}

fn set(name: &'static str, value: Value) -> impl Fn(&mut Value) {
    move |part| part[name] = value.clone()
}

fn without(name: &'static str) -> impl Fn(&mut Value) {
    move |part| _ = part.as_object_mut().unwrap().remove(name)
}

#[tokio::test]
async fn headers_decide_nothing() {
    let forger = Forger::new().await;
    forger.is_accepted("the forger's tools work", |token| forger.changed(token, keep, keep)).await;
    let foreign = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let by_foreign = |token: &str, header: &dyn Fn(&mut Value)| {
        let (mut head, body) = Forger::parts(token);
        header(&mut head);
        let encode = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(head), encode(body));
        let signature = ed25519_dalek::Signer::sign(&foreign, message.as_bytes()).to_vec();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    forger.is_refused("another key under our id", |token| by_foreign(token, &keep)).await;
    let foreign_jwk = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA",
        "x": URL_SAFE_NO_PAD.encode(foreign.verifying_key().as_bytes()) });
    forger.is_refused("a key of its own", |token| by_foreign(token, &set("jwk", foreign_jwk.clone()))).await;
    for kid in [json!(Uuid::new_v4()), json!(Uuid::nil()), json!("../../keys/1"), json!(1), json!(null), json!([""])] {
        forger.is_refused("a foreign kid", |token| by_foreign(token, &set("kid", kid.clone()))).await;
        forger
            .is_refused("our signature, a foreign kid", |token| forger.changed(token, set("kid", kid.clone()), keep))
            .await;
    }
    // With a valid signature over all of it, so that the member is what is refused.
    for (member, value) in [
        ("typ", json!("JWT")),
        ("typ", json!("application/at+jwt")),
        ("typ", json!("AT+JWT")),
        ("typ", json!(null)),
        ("alg", json!("none")),
        ("alg", json!("None")),
        ("alg", json!("ES256")),
        ("alg", json!("HS256")),
        ("alg", json!("eddsa")),
        ("alg", json!(null)),
        ("alg", json!(["EdDSA"])),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("jwk", foreign_jwk),
        ("jku", json!("https://evil.example/keys.json")),
        ("x5u", json!("https://evil.example/chain.pem")),
        ("x5c", json!(["AAAA"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
    ] {
        let what = format!("header {member}: {value}");
        forger.is_refused(&what, |token| forger.changed(token, set(member, value.clone()), keep)).await;
    }
    for member in ["typ", "alg", "kid"] {
        forger.is_refused(member, |token| forger.changed(token, without(member), keep)).await;
    }
    for header in [
        r#"{"alg":"EdDSA","typ":"at+jwt","kid":"KID","kid":"KID"}"#,
        r#"{"alg":"none","alg":"EdDSA","typ":"at+jwt","kid":"KID"}"#,
    ] {
        let header = header.replace("KID", &super::kid(&forger.own));
        forger.is_refused("a member twice", |token| forger.signed(&header, &Forger::parts(token).1.to_string())).await;
    }
}

#[tokio::test]
async fn no_signature_and_the_public_key_as_a_secret_are_refused() {
    let forger = Forger::new().await;
    let jwk = forger.server.app().verifier.published_keys()[0].clone();
    let x = URL_SAFE_NO_PAD.decode(&jwk.x).unwrap();
    let pem = pem("PUBLIC KEY", &x).into_bytes();
    let secrets = [x, jwk.x.clone().into_bytes(), pem, serde_json::to_vec(&jwk).unwrap(), Vec::new()];
    for secret in secrets {
        forger.is_refused("HS256 with the public key", |token| with_hmac(token, &secret)).await;
    }
    let message = |token: &str| token.rsplit_once('.').unwrap().0.to_owned();
    for signature in ["", "AA", &URL_SAFE_NO_PAD.encode([0; 64]), &URL_SAFE_NO_PAD.encode([0xff; 64])] {
        forger.is_refused("no signature of ours", |token| format!("{}.{signature}", message(token))).await;
    }
    for alg in ["none", "None", "NONE", ""] {
        let none = |token: &str| {
            let (mut head, body) = Forger::parts(token);
            head["alg"] = json!(alg);
            format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(body.to_string()))
        };
        forger.is_refused("alg none", |token| format!("{}.", none(token))).await;
        forger.is_refused("alg none, two parts", none).await;
    }
}

/// The public key is public, and can be written in any form that a careless verifier would take for a secret.
#[tokio::test]
async fn a_public_rsa_key_is_no_secret_for_hmac() {
    let forger = Forger::of(Setup::new().await.with("TOKENS__RSA_BITS", "2048"), "RS256").await;
    forger.is_accepted("as it was issued", str::to_owned).await;
    let jwk = forger.server.app().verifier.published_keys()[0].clone();
    assert_eq!((jwk.kty.as_str(), jwk.alg.as_str()), ("RSA", "RS256"));
    let (n, e) = (URL_SAFE_NO_PAD.decode(&jwk.n).unwrap(), URL_SAFE_NO_PAD.decode(&jwk.e).unwrap());
    let key = rsa::RsaPublicKey::new(rsa::BigUint::from_bytes_be(&n), rsa::BigUint::from_bytes_be(&e)).unwrap();
    let spki = key.to_public_key_der().unwrap().as_bytes().to_vec();
    let pkcs1 = key.to_pkcs1_der().unwrap().as_bytes().to_vec();
    let pems = [pem("PUBLIC KEY", &spki), pem("RSA PUBLIC KEY", &pkcs1)];
    let without_end = pems.each_ref().map(|pem| pem.trim_end().to_owned());
    let texts = [jwk.n.clone(), jwk.e.clone(), serde_json::to_string(&jwk).unwrap(), STANDARD.encode(&spki)];
    let texts = texts.into_iter().chain(pems).chain(without_end).map(String::into_bytes);
    for secret in [n.clone(), [vec![0], n].concat(), e, spki, pkcs1, Vec::new()].into_iter().chain(texts) {
        forger.is_refused("HS256 with the public key", |token| with_hmac(token, &secret)).await;
    }
}

/// CVE-2026-25537: claims of another type than expected were taken for absent, and absent ones were not checked.
#[tokio::test]
async fn claims_of_a_confused_type_are_refused_though_the_signature_is_good() {
    let forger = Forger::new().await;
    for (claim, value) in [
        ("exp", json!("9999999999")),
        ("exp", json!("soon")),
        ("exp", json!(null)),
        ("exp", json!(true)),
        ("exp", json!([9_999_999_999_i64])),
        ("exp", json!({ "$gt": 0 })),
        ("exp", json!(1e12)),
        ("exp", json!(9_999_999_999.5)),
        ("exp", json!(i64::MAX)),
        ("exp", json!(u64::MAX)),
        ("exp", json!(-1)),
        ("nbf", json!("0")),
        ("nbf", json!(null)),
        ("nbf", json!({})),
        ("nbf", json!(false)),
        ("nbf", json!(0.5)),
        ("iat", json!("0")),
        ("aud", json!(["shop", "sidle"])),
        ("aud", json!(["shop"])),
        ("aud", json!(null)),
        ("aud", json!({ "shop": true })),
        ("aud", json!("")),
        ("aud", json!("*")),
        ("aud", json!("shop ")),
        ("aud", json!("SHOP")),
        ("aud", json!("shop\u{0}")),
        ("iss", json!(["https://sidle.localhost"])),
        ("iss", json!("https://sidle.localhost/")),
        ("iss", json!("https://evil.example")),
        ("iss", json!(null)),
        ("sub", json!(["00000000-0000-0000-0000-000000000000"])),
        ("sub", json!("admin")),
        ("sub", json!(0)),
        ("jti", json!(Uuid::nil())),
        ("jti", json!(Uuid::new_v4())),
        ("jti", json!(7)),
        ("sid", json!("")),
        ("sid", json!([])),
        ("tid", json!("everywhere")),
        ("tid", json!("*")),
        ("tid", json!([Uuid::nil()])),
        ("kind", json!("admin")),
        ("kind", json!(["user"])),
        ("kind", json!(null)),
        ("roles", json!("admin")),
        ("roles", json!({ "admin": true })),
        ("scope", json!(["*"])),
        ("scope", json!(null)),
        ("platform_scope", json!({})),
    ] {
        let what = format!("{claim}: {value}");
        forger.is_refused(&what, |token| forger.changed(token, keep, set(claim, value.clone()))).await;
    }
    for claim in ["exp", "nbf", "iat", "aud", "iss", "sub", "jti", "kind"] {
        forger.is_refused(claim, |token| forger.changed(token, keep, without(claim))).await;
    }
    for claims in ["null", "[]", "1", "\"exp\"", "", "{", "{}", "{\"exp\":9999999999}"] {
        forger.is_refused(claims, |token| forger.signed(&Forger::parts(token).0.to_string(), claims)).await;
    }
    for (claim, other) in [
        ("aud", json!("sidle")),
        ("exp", json!(9_999_999_999_i64)),
        ("sub", json!(Uuid::nil())),
        ("platform_scope", json!("*")),
    ] {
        forger
            .is_refused("a claim twice", |token| {
                let (head, mut body) = Forger::parts(token);
                body["platform_scope"] = json!("");
                let text = body.to_string();
                let twice = format!("{},\"{claim}\":{other}}}", text.strip_suffix('}').unwrap());
                forger.signed(&head.to_string(), &twice)
            })
            .await;
    }
}

#[tokio::test]
async fn tokens_of_another_time_or_audience_are_refused() {
    let forger = Forger::new().await;
    let now = forger.server.context.now().timestamp();
    forger.is_refused("expired", |token| forger.changed(token, keep, set("exp", json!(now - 6)))).await;
    forger.is_refused("not yet valid", |token| forger.changed(token, keep, set("nbf", json!(now + 60)))).await;
    forger.is_accepted("within the leeway", |token| forger.changed(token, keep, set("nbf", json!(now + 2)))).await;
    // Each is valid where it belongs, and nowhere else.
    assert!(verify(&forger.server, &forger.caller, &forger.shop, "shop").await.is_ok());
    for (token, audience) in
        [(&forger.shop, "sidle"), (&forger.own, "shop"), (&forger.shop, "Shop"), (&forger.shop, "shop ")]
    {
        let refused = verify(&forger.server, &forger.caller, token, audience).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_TOKEN", "{audience}");
    }
    assert!(!is_good(&forger.server, &forger.shop).await, "a token for another service opens nothing here");
}

#[tokio::test]
async fn oversized_and_deeply_nested_tokens_cost_neither_stack_nor_memory() {
    let forger = Forger::new().await;
    let header = |token: &str| Forger::parts(token).0.to_string();
    for bytes in [8 * 1024, 64 * 1024, 240_000] {
        forger.is_refused("long", |token| format!("{token}{}", "A".repeat(bytes))).await;
        forger.is_refused("only dots", |_| ".".repeat(bytes)).await;
        forger.is_refused("long header", |token| format!("{}.{token}", "A".repeat(bytes))).await;
    }
    // A valid signature, and within the limit or not: what is too long is not even parsed.
    let padded = |token: &str, bytes: usize| forger.changed(token, keep, set("roles", json!(["x".repeat(bytes)])));
    assert!(padded(&forger.shop, 4000).len() < 8192 && padded(&forger.shop, 6500).len() > 8192);
    forger.is_accepted("below the limit", |token| padded(token, 4000)).await;
    forger.is_refused("above the limit", |token| padded(token, 6500)).await;
    for depth in [100, 128, 1000, 2500] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            if nested.len() < 5500 {
                forger.is_refused("nested header", |_| forger.signed(&nested, "{}")).await;
                let head = |token: &str| format!("{},\"x\":{nested}}}", header(token).strip_suffix('}').unwrap());
                forger.is_refused("nested in the header", |token| forger.signed(&head(token), "{}")).await;
                forger.is_refused("nested claims", |token| forger.signed(&header(token), &nested)).await;
                forger
                    .is_refused("nested in a claim", |token| {
                        let body = Forger::parts(token).1.to_string();
                        let body = format!("{},\"roles\":{nested}}}", body.strip_suffix('}').unwrap());
                        forger.signed(&header(token), &body)
                    })
                    .await;
            }
            forger.is_refused("cut off", |token| forger.signed(&header(token), &open.repeat(depth))).await;
        }
    }
    assert!(is_good(&forger.server, &forger.own).await, "the server is as it was");
}

#[tokio::test]
async fn other_spellings_of_a_good_token_are_refused() {
    let forger = Forger::new().await;
    let respell = |token: &str, with: &dyn Fn(&[u8]) -> String| {
        token.split('.').map(|part| with(&URL_SAFE_NO_PAD.decode(part).unwrap())).collect::<Vec<_>>().join(".")
    };
    forger.is_refused("padded", |token| respell(token, &|part| URL_SAFE.encode([part, &[0]].concat()))).await;
    forger.is_refused("with padding", |token| format!("{token}=")).await;
    forger.is_refused("with padding, twice", |token| format!("{token}==")).await;
    forger
        .is_refused("the standard alphabet", |token| {
            let (head, mut body) = Forger::parts(token);
            // A claim whose base64 differs between the alphabets.
            body["roles"] = json!(["???>>>~~~"]);
            let encode = |part: Value| STANDARD_NO_PAD.encode(part.to_string());
            let message = format!("{}.{}", encode(head), encode(body));
            assert!(message.contains(['+', '/']));
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(forger.sign(&message)))
        })
        .await;
    // The last character of a signature of 64 bytes has four bits that mean nothing.
    forger
        .is_refused("trailing bits", |token| {
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let mut bytes = token.to_owned().into_bytes();
            let last = bytes.last_mut().unwrap();
            let at = alphabet.iter().position(|known| known == last).unwrap();
            assert_eq!(at & 15, 0);
            *last = alphabet[at | 1];
            String::from_utf8(bytes).unwrap()
        })
        .await;
    for (what, change) in [
        ("nothing", (|_: &str| String::new()) as fn(&str) -> String),
        ("one part", |token| token.split('.').next().unwrap().to_owned()),
        ("an empty header", |token| format!(".{}", token.split_once('.').unwrap().1)),
        ("empty claims", |token| {
            let parts: Vec<&str> = token.split('.').collect();
            format!("{}..{}", parts[0], parts[2])
        }),
        ("empty parts", |_| "..".to_owned()),
        ("four parts", |token| format!("{token}.AAAA")),
        ("five parts, as if encrypted", |token| format!("{token}.AAAA.AAAA")),
        ("a line break", |token| token.replacen('.', ".\n", 1)),
        ("a blank within", |token| token.replacen('.', ". ", 1)),
        ("a NUL", |token| format!("{token}\0")),
        ("unicode", |token| format!("{token}\u{e9}\u{1f511}")),
        ("another dot", |token| token.replace('.', "\u{ff0e}")),
        ("a long s", |token| token.replacen('s', "\u{17f}", 1)),
        ("twice", |token| format!("{token}{token}")),
    ] {
        forger.is_refused(what, change).await;
    }
}

#[tokio::test]
async fn signatures_on_p256_have_one_form() {
    let forger = Forger::of(Setup::new().await, "ES256").await;
    forger.is_accepted("the forger's tools work", |token| forger.changed(token, keep, keep)).await;
    let with = |token: &str, change: &dyn Fn(p256::ecdsa::Signature) -> Vec<u8>| {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signature = p256::ecdsa::Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(change(signature)))
    };
    let n = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    forger.is_refused("DER", |token| with(token, &|signature| signature.to_der().as_bytes().to_vec())).await;
    forger.is_refused("zeros (CVE-2022-21449)", |token| with(token, &|_| vec![0; 64])).await;
    forger.is_refused("r is the order", |token| with(token, &|s| [n.as_slice(), &s.to_bytes()[32..]].concat())).await;
    forger.is_refused("s is zero", |token| with(token, &|s| [&s.to_bytes()[..32], &[0; 32]].concat())).await;
    forger.is_refused("swapped", |token| with(token, &|s| [&s.to_bytes()[32..], &s.to_bytes()[..32]].concat())).await;
    forger.is_refused("short", |token| with(token, &|s| s.to_bytes()[..63].to_vec())).await;
    forger.is_refused("long", |token| with(token, &|s| [&s.to_bytes()[..], &[0]].concat())).await;

    // (r, n - s) is a valid signature as well on this curve: another encoding of the same token. It is cached
    // separately and says nothing else; whatever revokes the one revokes the other.
    let negated = |token: &str| {
        with(token, &|signature| {
            let (r, s) = signature.split_scalars();
            p256::ecdsa::Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).unwrap().to_vec()
        })
    };
    let twin = negated(&forger.own);
    assert_ne!(twin, forger.own);
    if is_good(&forger.server, &twin).await {
        let mut client = forger.server.client(&forger.own).session;
        client.revoke_session(proto::RevokeSessionRequest::default()).await.unwrap();
        assert!(!is_good(&forger.server, &twin).await, "it outlives its session");
    }
}
