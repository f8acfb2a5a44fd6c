//! Kanidm's own access tokens, presented to a service that verifies them with Sidle.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use sidle::proto;
use sidle_dev::kanidm::Access;

use super::{REDIRECT, World, is_good, person};
use crate::authenticate::{set, verifier_token, verify};
use crate::look::reason;
use crate::support::TestServer;

/// What Kanidm gives an application for itself.
pub(super) struct Given {
    pub(super) access_token: String,
    id_token: String,
}

/// Signs a person in to an application of Kanidm's without Sidle.
async fn given(world: &World, bearer: &str, client: &str, secret: &str) -> Given {
    let verifier = "a-verifier-of-forty-three-characters-or-more-than-that";
    // base64url of its SHA-256.
    let challenge = {
        use sha2::{Digest as _, Sha256};
        URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
    };
    let redirect: String = url_encoded(REDIRECT);
    let url = format!(
        "{}/ui/oauth2?response_type=code&client_id={client}&redirect_uri={redirect}&scope=openid+groups&state=s&nonce=n\
         &code_challenge={challenge}&code_challenge_method=S256",
        world.kanidm.url
    );
    let back = world.kanidm.authorise(bearer, &url).await.unwrap();
    let form = [
        ("grant_type", "authorization_code"),
        ("code", back.code.as_str()),
        ("redirect_uri", REDIRECT),
        ("code_verifier", verifier),
    ];
    let call = world.kanidm.http.post(format!("{}/oauth2/token", world.kanidm.url)).basic_auth(client, Some(secret));
    let answer: Value = call.form(&form).send().await.unwrap().json().await.unwrap();
    let text = |key: &str| answer[key].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    Given { access_token: text("access_token"), id_token: text("id_token") }
}

fn url_encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

impl World {
    /// Sidle's client at Kanidm.
    pub(super) fn client(&self) -> String {
        self.server.app().config.kanidm.client_id.clone()
    }

    /// What Kanidm gives Sidle's client for this browser, without Sidle.
    pub(super) async fn own(&self, bearer: &str) -> Given {
        let secret = self.server.app().config.kanidm.client_secret.expose().to_owned();
        given(self, bearer, &self.client(), &secret).await
    }
}

async fn refused(server: &TestServer, caller: &str, token: &str, audience: &str) -> String {
    reason(&verify(server, caller, token, audience).await.expect_err("refused"))
}

#[tokio::test]
async fn a_token_of_kanidms_own_says_who_it_is_and_sidle_what_they_may() {
    let world = World::new().await;
    let (caller, client) = (verifier_token(&world.server).await, world.client());
    // A group of Kanidm's that gives a right in Sidle only once the person signs in to Sidle with it.
    let admins = super::group(&world.kanidm, &world.server, world.tenant, "admin").await;
    world.kanidm.add_member(&admins.to_string(), &world.person.to_string()).await.unwrap();
    let token = world.own(&world.bearer).await.access_token;
    let claims = verify(&world.server, &caller, &token, &client).await.expect("it is Kanidm's, for us, and of now");
    assert_eq!((claims.subject, claims.tenant_id), (world.user.to_string(), world.tenant.to_string()));
    assert_eq!(claims.kind, i32::from(proto::PrincipalKind::User));
    assert_eq!(
        (claims.roles, claims.permissions),
        (vec!["user".to_owned()], Vec::<String>::new()),
        "from Sidle's tables"
    );
    assert_eq!((claims.session_id.as_str(), claims.audience.as_str()), ("", client.as_str()));
    assert_eq!(claims.revocation_bound.unwrap().seconds, 900, "nobody is told when Kanidm revokes it");

    assert!(!is_good(&world.server, &token).await, "Sidle's own calls take Sidle's tokens only");
    // Looked up once: a change without a revocation is not noticed immediately.
    set(&world.server, world.user, "auth_method = 'password'").await;
    verify(&world.server, &caller, &token, &client).await.expect("remembered");
    let replica = world.server.setup.start().await;
    assert_eq!(
        refused(&replica, &caller, &token, &client).await,
        "INVALID_TOKEN",
        "who was rolled back is nobody here"
    );
}

#[tokio::test]
async fn who_is_switched_off_here_loses_kanidms_tokens_too_at_once() {
    let world = World::new().await;
    let admin = world.server.admin().await;
    let (caller, client) = (verifier_token(&world.server).await, world.client());
    let token = world.own(&world.bearer).await.access_token;
    verify(&world.server, &caller, &token, &client).await.unwrap();
    let request = proto::DisableUserRequest { user_id: world.user.to_string(), ..Default::default() };
    admin.directory.clone().disable_user(request).await.unwrap();
    assert_eq!(refused(&world.server, &caller, &token, &client).await, "INVALID_TOKEN", "though it was remembered");
}

#[tokio::test]
async fn whom_an_administrator_locked_stands_behind_no_token_of_kanidms() {
    let world = World::new().await;
    let (caller, client) = (verifier_token(&world.server).await, world.client());
    let lock = "locked_until = now() + interval '1 hour', lock_reason = 'administrator'";
    set(&world.server, world.user, lock).await;
    let token = world.own(&world.bearer).await.access_token;
    assert_eq!(refused(&world.server, &caller, &token, &client).await, "INVALID_TOKEN");
    set(&world.server, world.user, "locked_until = NULL, lock_reason = NULL").await;
    let token = world.own(&world.bearer).await.access_token;
    verify(&world.server, &caller, &token, &client).await.expect("nothing but the lock was in the way");
}

#[tokio::test]
async fn what_is_no_access_token_of_kanidms_for_us_of_a_linked_person_is_refused() {
    let world = World::new().await;
    let (caller, client) = (verifier_token(&world.server).await, world.client());
    let own = world.own(&world.bearer).await;
    let other: Access = world.kanidm.prepare(REDIRECT).await.unwrap();
    let others = given(&world, &world.bearer, &other.client_id, &other.client_secret).await;
    let (_, stranger) = person(&world.kanidm, "stranger").await;
    let strangers = world.own(&stranger).await;

    // The published key as a shared secret, and no signature at all.
    let jwks = world.kanidm.get(&format!("/oauth2/openid/{client}/public_key.jwk")).await.unwrap();
    let parts: Vec<&str> = own.access_token.split('.').collect();
    let mut header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    let mut with_algorithm = |alg: &str| {
        header["alg"] = json!(alg);
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), parts[1])
    };
    let message = with_algorithm("HS256");
    let secret = EncodingKey::from_secret(jwks["keys"][0]["x"].as_str().unwrap().as_bytes());
    let confused = jsonwebtoken::crypto::sign(message.as_bytes(), &secret, Algorithm::HS256).unwrap();
    let cases = [
        ("an ID token", own.id_token.clone()),
        ("another application's token", others.access_token),
        ("another application's ID token", others.id_token),
        ("of a person whom nobody is linked to", strangers.access_token),
        ("signed with the public key", format!("{message}.{confused}")),
        ("not signed", format!("{}.", with_algorithm("none"))),
        ("cut off", own.access_token[..own.access_token.len() - 4].to_owned()),
    ];
    for (what, token) in &cases {
        for audience in [client.as_str(), other.client_id.as_str()] {
            assert_eq!(
                refused(&world.server, &caller, token, audience).await,
                "INVALID_TOKEN",
                "{what} for {audience}"
            );
        }
    }
    for audience in ["sidle", "shop", &other.client_id] {
        assert_eq!(
            refused(&world.server, &caller, &own.access_token, audience).await,
            "INVALID_TOKEN",
            "for {audience}"
        );
    }
    // In a batch an invalid one is one verdict, and no failure.
    let request =
        proto::VerifyTokensRequest { tokens: vec![own.id_token, own.access_token.clone()], audience: client.clone() };
    let mut asker = world.server.client(&caller).authenticate;
    let verdicts = asker.verify_tokens(request).await.unwrap().into_inner().verdicts;
    assert!(matches!(verdicts[0].verdict, Some(proto::token_verdict::Verdict::Refused(_))));
    assert!(matches!(verdicts[1].verdict, Some(proto::token_verdict::Verdict::Claims(_))));

    world.server.context.clock.advance(Duration::from_secs(15 * 60 + 31));
    let caller = verifier_token(&world.server).await;
    assert_eq!(refused(&world.server, &caller, &own.access_token, &client).await, "INVALID_TOKEN", "expired");
}

#[tokio::test]
async fn other_services_take_kanidms_tokens_where_the_operator_names_them() {
    let world = World::with(|setup| setup.with("KANIDM__TOKEN_AUDIENCES", "shop")).await;
    let caller = verifier_token(&world.server).await;
    let token = world.own(&world.bearer).await.access_token;
    assert_eq!(verify(&world.server, &caller, &token, "shop").await.unwrap().audience, "shop");
    assert_eq!(refused(&world.server, &caller, &token, "sidle").await, "INVALID_TOKEN");
}

#[tokio::test]
async fn a_token_of_kanidms_own_with_forged_key_ids_does_not_make_us_hammer_kanidm() {
    let world = World::new().await;
    let (caller, client) = (verifier_token(&world.server).await, world.client());
    let token = world.own(&world.bearer).await.access_token;
    let (header, rest) = token.split_once('.').unwrap();
    let mut header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    let asked = async || world.kanidm.requests("GET /oauth2/openid/{client}/public_key.jwk").await.unwrap();
    let before = asked().await;
    for n in 0..200 {
        header["kid"] = json!(format!("forged-{n}"));
        let forged = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()));
        assert_eq!(refused(&world.server, &caller, &forged, &client).await, "INVALID_TOKEN");
    }
    let times = asked().await - before;
    assert!(times < 20, "asked {times} times");
    verify(&world.server, &caller, &token, &client).await.expect("the right one is as good as before");
}
