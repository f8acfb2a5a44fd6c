//! Access tokens that the service does not accept any more, although their time is not over.

use serde_json::Value;
use sidle::proto::*;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{Operator, signed_in};
use crate::support::{ADMIN_PASSWORD, TestServer, cheap_hash, within};

const PROOF: [(&str, &str); 1] = [("SIDLE_PASSWORD", ADMIN_PASSWORD)];

fn kept(operator: &Operator) -> Value {
    serde_json::from_str(&std::fs::read_to_string(operator.credentials()).unwrap()).unwrap()
}

/// Voids every access token that there is, as a change of rights does, and leaves every session.
async fn void_tokens(server: &TestServer, operator: &Operator) {
    let retired = operator.run_with(&["keys", "retire", "--all"], &PROOF, "").await;
    assert_eq!(retired.code, 0, "{retired:?}");
    let token = kept(operator)["servers"][&operator.server]["access_token"].as_str().unwrap().to_owned();
    assert!(server.client(&token).authenticate.clone().who_am_i(WhoAmIRequest {}).await.is_err(), "it is void");
}

#[tokio::test]
async fn retired_keys_and_changed_rights_lock_no_operator_out() {
    let (server, operator) = signed_in().await;
    let session = kept(&operator)["servers"][&operator.server]["session_id"].clone();
    void_tokens(&server, &operator).await;
    assert!(operator.ok(&["users", "list"]).await.contains("root@platform.example"));

    // What asks for a fresh proof is refused for its token, then for the proof, then made.
    void_tokens(&server, &operator).await;
    let create = ["service-accounts", "create", "billing", "--permissions", "tokens.verify"];
    assert_eq!(operator.run_with(&create, &PROOF, "").await.code, 0);

    // A stream is opened again with a fresh token.
    void_tokens(&server, &operator).await;
    let tail = operator.ok(&["audit", "tail", "--type", "service_account.*", "--no-follow"]).await;
    assert_eq!(tail.lines().count(), 1, "each event once: {tail}");

    // So is an import, which cannot be repeated once a row of it was read.
    let file = operator.home.path().join("users.csv");
    let hash = cheap_hash(ADMIN_PASSWORD);
    std::fs::write(&file, format!("id,email,password_hash\n1,ann@platform.example,{hash}\n")).unwrap();
    void_tokens(&server, &operator).await;
    let import = ["users", "import", file.to_str().unwrap(), "--default-tenant", "platform"];
    let ran = operator.run_with(&import, &PROOF, "").await;
    assert_eq!(ran.code, 0, "{ran:?}");

    assert_eq!(kept(&operator)["servers"][&operator.server]["session_id"], session, "the same session all along");
}

#[tokio::test]
async fn a_wrong_password_is_guessed_once() {
    let (server, operator) = signed_in().await;
    void_tokens(&server, &operator).await;
    let create = ["service-accounts", "create", "billing", "--permissions", "tokens.verify"];
    let refused = operator.run_with(&create, &[("SIDLE_PASSWORD", "a guess")], "").await;
    assert!(refused.code == 4 && refused.err.contains("INVALID_CREDENTIALS"), "{refused:?}");
    let change = [("SIDLE_PASSWORD", "a guess"), ("SIDLE_NEW_PASSWORD", "a new one of some length")];
    assert_eq!(operator.run_with(&["change-password"], &change, "").await.code, 4);
    let refusals = "SELECT count(*) FROM (SELECT event_id, event_type, outcome FROM audit_inbox
        UNION SELECT event_id, event_type, outcome FROM audit_events) events WHERE event_type IN
        ('user.reauthentication_failed', 'user.login_refused') AND outcome = 'refused'";
    let refusals: i64 = sqlx::query_scalar(refusals).fetch_one(server.sql()).await.unwrap();
    assert_eq!(refusals, 2, "one for each command");
}

#[tokio::test]
async fn a_session_that_has_ended_is_told_as_such_and_the_service_is_remembered() {
    let (server, operator) = signed_in().await;
    let admin = server.client(&server.sign_in("root@platform.example").await.access_token);
    let all = RevokeAllSessionsRequest { keep_current: true, ..Default::default() };
    admin.session.clone().revoke_all_sessions(all).await.unwrap();
    let ran = operator.run(&["users", "list"]).await;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("has ended") && ran.err.contains("sidle login"), "{ran:?}");
    let kept = kept(&operator);
    assert_eq!((&kept["current"], &kept["servers"]), (&operator.server.clone().into(), &serde_json::json!({})));
}

#[tokio::test]
async fn a_token_from_the_environment_cannot_be_renewed_and_that_is_said() {
    let (server, operator) = signed_in().await;
    let token = operator.ok(&["token", "print"]).await;
    void_tokens(&server, &operator).await;
    for command in [&["users", "list"][..], &["audit", "tail", "--no-follow"]] {
        let ran = operator.run_with(command, &[("SIDLE_TOKEN", &token)], "").await;
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.err.contains("SIDLE_TOKEN") && ran.err.contains("remedy: "), "{ran:?}");
        assert!(!ran.err.contains(&token));
    }
}

#[tokio::test]
async fn a_key_is_exchanged_again_when_its_token_is_refused() {
    let (server, operator) = signed_in().await;
    let create = ["service-accounts", "create", "watcher", "--permissions", "audit.read"];
    assert_eq!(operator.run_with(&create, &PROOF, "").await.code, 0);
    let key = operator.run_with(&["api-keys", "create", "watcher"], &PROOF, "").await.out.trim().to_owned();
    let other = operator.run_with(&["api-keys", "create", "watcher", "--output", "json"], &PROOF, "").await.json();

    let mut tail = operator
        .command(&["audit", "tail", "--type", "tenant.*", "--from-beginning"])
        .env("SIDLE_API_KEY", &key)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    operator.ok(&["tenants", "create", "first"]).await;
    within("the first event", lines.next_line()).await.unwrap().unwrap();
    // Every token of the account ends with one of its keys.
    operator.ok(&["api-keys", "revoke", other["api_key"]["api_key_id"].as_str().unwrap()]).await;
    operator.ok(&["tenants", "create", "second"]).await;
    let second = within("the second event", lines.next_line()).await.unwrap().unwrap();
    assert!(second.contains("tenant.created"), "{second}");
    tail.kill().await.unwrap();
    drop(server);
}

#[tokio::test]
async fn a_tenant_is_named_by_its_slug() {
    let (server, operator) = signed_in().await;
    let north = server.tenant("north").await;
    server.tenant("south").await;
    let user = server.user(north, "ann@north.example", "user").await;
    let role = "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
        SELECT gen_random_uuid(), t.tenant_id, $1, r.role_id, 'local' FROM roles r, tenants t
        WHERE r.name = 'user' AND r.tenant_id IS NULL AND t.slug = 'platform'";
    sqlx::query(role).bind(user).execute(server.sql()).await.unwrap();
    let login = async |tenant: &str, password: &str| {
        let arguments = ["login", "--email", "ann@north.example", "--tenant", tenant];
        operator.run_with(&arguments, &[("SIDLE_PASSWORD", password)], "").await
    };
    let tenant = async || operator.run(&["whoami", "--output", "json"]).await.json()["claims"]["tenant_id"].clone();
    assert_eq!(login("platform", ADMIN_PASSWORD).await.code, 0);
    assert_ne!(tenant().await, north.to_string());
    assert_eq!(login("north", ADMIN_PASSWORD).await.code, 0);
    assert_eq!(tenant().await, north.to_string());
    assert_eq!(login(&north.to_string(), ADMIN_PASSWORD).await.code, 0, "by id as well");

    // Neither before the right password nor after it does anybody learn which tenants there are.
    let told = |ran: super::Ran| {
        ran.err.lines().filter(|line| !line.contains("correlation id")).map(str::to_owned).collect::<Vec<_>>()
    };
    for password in [ADMIN_PASSWORD, "a guess"] {
        let (there, nowhere) = (login("south", password).await, login("nowhere", password).await);
        assert_eq!(there.code, nowhere.code);
        let (there, nowhere) = (told(there), told(nowhere));
        assert_eq!(there, nowhere);
        let reason = if password == ADMIN_PASSWORD { "NO_TENANT" } else { "INVALID_CREDENTIALS" };
        assert!(there[0].contains(reason), "{there:?}");
    }
}
