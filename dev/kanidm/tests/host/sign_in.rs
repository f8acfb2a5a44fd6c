use std::str::FromStr;

use compact_jwt::{JwkKeySet, JwsCompact, JwsEs256Verifier, JwsVerifier};
use serde_json::{Value, json};

use crate::support::{Body, Host, PASSWORD, authorisation};

#[test]
fn a_password_alone_is_refused_until_the_policy_allows_it() {
    let host = Host::start();
    let admin = host.idm_admin();
    host.create_person(&admin, "alice");

    let (session, status) = host.prepare_password(&admin, "alice");
    assert_eq!(status["can_commit"], json!(false));
    assert_eq!(status["warnings"], json!(["MfaRequired"]));
    let refused = host.send("POST", "/v1/credential/_commit", "", session);
    assert_eq!(refused.status, 500);
    let none = host.get("/v1/person/alice/_credential/_status", &admin).ok();
    assert_eq!(none, json!({"creds": []}));

    host.allow_passwords(&admin);
    let (session, status) = host.prepare_password(&admin, "alice");
    assert_eq!(status["can_commit"], json!(true));
    host.send("POST", "/v1/credential/_commit", "", session).ok();
    host.sign_in("alice", PASSWORD).expect("alice signs in");
    let wrong = host.sign_in("alice", "another password").expect_err("a refusal");
    assert!(wrong["denied"].is_string(), "{wrong}");
}

#[test]
fn a_sign_in_goes_on_only_with_the_header_of_the_step_before() {
    let host = Host::start();
    let init = json!({"init2": {"username": "idm_admin", "issue": "token", "privileged": true}});
    let first = host.auth_step("", init);
    let in_body = first.json()["sessionid"].as_str().expect("an id").to_string();
    let begin = || json!({"begin": "password"});
    assert_eq!(host.auth_step(&in_body, begin()).status, 500);
    assert_eq!(host.auth_step("", begin()).status, 500);
    assert_eq!(host.auth_step(&first.session, begin()).status, 200);
}

/// The claims of a token, if the client's published key signed it.
fn verified(host: &Host, token: &str) -> Option<Value> {
    let keys = host.get("/oauth2/openid/app/public_key.jwk", "").ok();
    let keys: JwkKeySet = serde_json::from_value(keys).expect("a key set");
    let token = JwsCompact::from_str(token).expect("a token");
    let verifier = JwsEs256Verifier::try_from(&keys.keys[0]).expect("an ES256 key");
    let payload = verifier.verify(&token).ok()?;
    payload.from_json().ok()
}

fn in_crew(claims: &Value) -> bool {
    let groups = claims["groups"].as_array().expect("groups");
    groups.contains(&json!("crew@localhost"))
}

#[test]
fn a_reset_link_leads_to_a_signed_identity_whose_groups_follow_membership() {
    let host = Host::start();
    let admin = host.idm_admin();
    let (uuid, client) = host.with_client(&admin, "alice");
    let alice = host.sign_in("alice", PASSWORD).expect("alice signs in");

    let asked = host.get(&format!("/oauth2/authorise?{}", authorisation()), &alice);
    let consent = asked.ok()["ConsentRequested"]["consent_token"].as_str().expect("a token").to_string();
    let permitted = host.get(&format!("/oauth2/authorise/permit?token={consent}"), &alice);
    assert_eq!(permitted.status, 302);
    assert_eq!(permitted.sent("state"), "a-state");
    let tokens = host.tokens(&client, &permitted.sent("code"));

    let id_token = tokens["id_token"].as_str().expect("an id token");
    let claims = verified(&host, id_token).expect("the published key verifies it");
    assert_eq!(claims["sub"], json!(uuid));
    assert_eq!(claims["aud"], json!("app"));
    assert_eq!(claims["nonce"], json!("a-nonce"));
    assert!(in_crew(&claims));
    let (signed, signature) = id_token.rsplit_once('.').expect("three parts");
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{signed}.{first}{}", &signature[1..]);
    assert_eq!(verified(&host, &forged), None);

    host.send("DELETE", "/v1/group/crew/_attr/member", &admin, json!([uuid])).ok();
    let refresh = tokens["refresh_token"].as_str().expect("a refresh token");
    let form = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
    let renewed = host.form("/oauth2/token", &client, &form).ok();
    let renewed = renewed["id_token"].as_str().expect("an id token");
    let claims = verified(&host, renewed).expect("the published key verifies it");
    assert!(!in_crew(&claims));
    let again = host.get(&format!("/oauth2/authorise?{}", authorisation()), &alice);
    assert_eq!(again.status, 403);
}

#[test]
fn a_token_dies_by_revocation_and_by_time() {
    let host = Host::start();
    let admin = host.idm_admin();
    let (_, client) = host.with_client(&admin, "alice");
    let alice = host.sign_in("alice", PASSWORD).expect("alice signs in");
    let asked = host.get(&format!("/oauth2/authorise?{}", authorisation()), &alice).ok();
    let consent = asked["ConsentRequested"]["consent_token"].as_str().expect("a token");
    host.get(&format!("/oauth2/authorise/permit?token={consent}"), &alice);
    // Consent is remembered, so from now on the answer is the code.
    let tokens = || {
        let answer = host.get(&format!("/oauth2/authorise?{}", authorisation()), &alice);
        assert_eq!(answer.status, 302);
        host.tokens(&client, &answer.sent("code"))
    };
    let active = |tokens: &Value| {
        let token = tokens["access_token"].as_str().expect("an access token");
        let answer = host.form("/oauth2/token/introspect", &client, &[("token", token)]);
        answer.ok()["active"] == json!(true)
    };

    let (revoked, kept) = (tokens(), tokens());
    let refresh = revoked["refresh_token"].as_str().expect("a refresh token");
    let done = host.form("/oauth2/token/revoke", &client, &[("token", refresh)]);
    assert_eq!(done.status, 200);
    assert!(!active(&revoked));
    assert!(active(&kept));
    host.advance(16 * 60);
    assert!(!active(&kept));
    // Alice's own session lives longer, but only if it was recorded when she signed in.
    assert_eq!(host.get("/v1/self", &alice).status, 200);
}

#[test]
fn a_browser_sets_a_password_signs_in_consents_and_comes_back() {
    let host = Host::start();
    let admin = host.idm_admin();
    let (_, client) = host.with_client(&admin, "alice");
    let link = host.reset_link(&admin, "alice");

    let new = |password, again| [("token", link.as_str()), ("password", password), ("again", again)];
    let differ = host.form("/ui/reset", "", &new("one-good-password", "another-password"));
    assert_eq!(differ.status, 400);
    let weak = host.form("/ui/reset", "", &new("short", "short"));
    assert_eq!(weak.status, 400);
    let chosen = "chosen-in-the-browser";
    assert_eq!(host.form("/ui/reset", "", &new(chosen, chosen)).status, 200);
    assert_eq!(host.form("/ui/reset", "", &new(chosen, chosen)).status, 400, "spent");

    let query = authorisation();
    let start = format!("/ui/oauth2?{query}");
    assert!(host.get(&start, "").text.contains("action=/ui/login"));
    let login = |password| [("query", query.as_str()), ("username", "alice"), ("password", password)];
    assert_eq!(host.form("/ui/login", "", &login(PASSWORD)).status, 401);
    // A wrong password locks the account for a moment.
    host.advance(60);
    let welcome = host.form("/ui/login", "", &login(chosen));
    assert_eq!((welcome.status, &welcome.location), (303, &start));
    let cookie = welcome.cookie.split(';').next().expect("a cookie");

    let browser = |method, path: &str, body| {
        let headers = [("cookie", cookie)];
        host.try_call(method, path, "", &headers, body).expect("an answer")
    };
    let page = browser("GET", &start, Body::None).text;
    let (_, rest) = page.split_once("name=token value=\"").expect("a consent form");
    let (consent, _) = rest.split_once('"').expect("its token");
    let refuse = [("token", consent), ("decision", "reject")];
    let refused = browser("POST", "/ui/consent", Body::Form(&refuse));
    assert_eq!(refused.sent("error"), "access_denied");
    let permit = [("token", consent), ("decision", "permit")];
    let back = browser("POST", "/ui/consent", Body::Form(&permit));
    assert_eq!(back.status, 303);
    assert!(host.tokens(&client, &back.sent("code"))["id_token"].is_string());
}

#[test]
fn pages_escape_what_they_show() {
    let host = Host::start();
    let page = host.get("/ui/reset?token=%22%3E%3Cscript%3E", "");
    assert_eq!(page.status, 200);
    assert!(page.text.contains("&quot;&gt;&lt;script&gt;"), "{}", page.text);
    assert!(!page.text.contains("<script>"));
}
