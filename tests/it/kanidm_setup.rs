//! `sidle kanidm setup` and `sidle kanidm check`, from a Kanidm that knows nothing of Sidle to a user who signs in.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};
use sidle_dev::kanidm::Kanidm;
use sidle_dev::random_word;

use crate::cli::{Operator, Ran};
use crate::support::{Setup, TestServer, kanidm};

const REDIRECT: &str = "http://127.0.0.1:8422/callback";
const RIGHTS: [&str; 3] = ["idm_people_on_boarding", "idm_group_admins", "idm_account_mail_read"];

/// A Kanidm, and an operator with a folder who sets it up.
struct World {
    kanidm: Kanidm,
    operator: Operator,
    folder: tempfile::TempDir,
    account: String,
    client: String,
}

impl World {
    async fn new() -> Self {
        // A full Kanidm keeps what earlier runs made.
        let word = random_word(10);
        Self {
            kanidm: kanidm().await,
            operator: Operator::without_service(),
            folder: tempfile::tempdir().unwrap(),
            account: format!("service_{word}"),
            client: format!("login_{word}"),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn config(&self) -> String {
        self.path("sidle.toml")
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> = ["kanidm", "setup", "--url", &self.kanidm.url].map(str::to_owned).into();
        if let Some(ca) = &self.kanidm.ca_file {
            arguments.extend(["--ca-file".to_owned(), ca.display().to_string()]);
        }
        let named = ["--account", &self.account, "--client-id", &self.client, "--redirect-uri", REDIRECT];
        arguments.extend(named.into_iter().chain(more.iter().copied()).map(str::to_owned));
        arguments
    }

    async fn run(&self, more: &[&str], environment: &[(&str, &str)]) -> Ran {
        let arguments = self.arguments(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.operator.run_with(&arguments, environment, "").await
    }

    /// As the administrator, whose password is in the environment.
    async fn setup(&self, more: &[&str]) -> Ran {
        let write = self.config();
        let more: Vec<&str> = ["--write", &write].into_iter().chain(more.iter().copied()).collect();
        self.run(&more, &[("SIDLE_KANIDM_ADMIN_PASSWORD", self.kanidm.admin_password())]).await
    }

    async fn set_up(&self) {
        let ran = self.setup(&[]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    async fn check(&self, environment: &[(&str, &str)]) -> (i32, Value) {
        let config = self.config();
        let command = ["kanidm", "check", "--config", &config, "--output", "json"];
        let ran = self.operator.run_with(&command, environment, "").await;
        assert!(!ran.out.is_empty(), "{ran:?}");
        (ran.code, ran.json())
    }

    /// What the check says is missing, with the command that mends it.
    async fn missing(&self, environment: &[(&str, &str)]) -> Vec<(String, String)> {
        let (code, report) = self.check(environment).await;
        let missing: Vec<_> = findings(&report, "missing")
            .filter(|finding| finding["check"] != "mail_index")
            .map(|finding| (text(&finding["check"]), text(&finding["remedy"])))
            .collect();
        assert!(missing.is_empty() || (code == 1 && report["fit"] == false), "{report}");
        missing
    }

    async fn tokens(&self) -> usize {
        let tokens = self.kanidm.get(&format!("/v1/service_account/{}/_api_token", self.account)).await.unwrap();
        tokens.as_array().unwrap().len()
    }

    /// What is in Kanidm under the two names.
    async fn entries(&self) -> Value {
        let (account, client) = (&self.account, &self.client);
        let mut entries = Vec::new();
        for path in [format!("/v1/service_account/{account}"), format!("/v1/oauth2/{client}")] {
            entries.push(self.kanidm.get(&path).await.unwrap());
        }
        json!(entries)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn findings<'a>(report: &'a Value, state: &'a str) -> impl Iterator<Item = &'a Value> {
    report["findings"].as_array().unwrap().iter().filter(move |finding| finding["state"] == state)
}

fn checks(missing: Vec<(String, String)>) -> Vec<String> {
    missing.into_iter().map(|(check, _)| check).collect()
}

fn mode(path: &str) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

/// A service that runs with what was written, and with nothing else about Kanidm.
async fn service(config: &str) -> TestServer {
    let read = sidle::config::Config::load(Some(&PathBuf::from(config)), []).unwrap().kanidm;
    let path = |path: Option<PathBuf>| path.map(|path| path.display().to_string()).unwrap_or_default();
    let setup = Setup::new()
        .await
        .with("KANIDM__URL", &read.url)
        .with("KANIDM__CA_FILE", &path(read.ca_file))
        .with("KANIDM__TOKEN_FILE", &path(read.token_file))
        .with("KANIDM__CLIENT_ID", &read.client_id)
        .with("KANIDM__CLIENT_SECRET_FILE", &path(read.client_secret_file))
        .with("KANIDM__REDIRECT_URIS", &read.redirect_uris.join(","));
    setup.start().await
}

/// The address of a user who was migrated.
async fn migrated(server: &TestServer, operator: &Operator) -> String {
    let run = random_word(8);
    let (slug, email) = (format!("first-{run}"), format!("ann-{run}@example.com"));
    let tenant = server.tenant(&slug).await;
    server.user(tenant, &email, "user").await;
    operator.ok(&["tenants", "sync-groups", &slug]).await;
    let plan = operator.run(&["migrate", "plan", "--tenant", &slug, "--output", "json"]).await.json();
    let (id, digest) = (text(&plan["plan_id"]), text(&plan["digest"]));
    operator.ok(&["migrate", "start", &id, "--digest", &digest, "--watch"]).await;
    email
}

#[tokio::test]
async fn from_nothing_to_a_migrated_user_who_signs_in() {
    let world = World::new().await;
    let (config, kanidm) = (world.config(), &world.kanidm);
    let trial = world.setup(&["--dry-run"]).await;
    assert!(trial.code == 0 && trial.out.contains("would make: service account"), "{trial:?}");
    assert_eq!(world.entries().await, json!([null, null]), "a trial makes nothing");
    assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), 0, "and keeps nothing");

    let ran = world.setup(&[]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for file in ["sidle.toml", "kanidm-token", "kanidm-client-secret"] {
        assert_eq!(mode(&world.path(file)), 0o600, "{file}");
    }
    let secrets = ["kanidm-token", "kanidm-client-secret"].map(|file| fs::read_to_string(world.path(file)).unwrap());
    let said = format!("{}{}{}", ran.out, ran.err, fs::read_to_string(&config).unwrap());
    assert!(secrets.iter().all(|secret| !said.contains(secret.trim())), "no secret is printed");
    assert_eq!(world.missing(&[]).await, Vec::new());

    let server = service(&config).await;
    server.admin().await;
    let operator = Operator::new(&server);
    operator.sign_in("root@platform.example").await;
    let email = migrated(&server, &operator).await;

    let user = operator.run(&["users", "get", &email, "--output", "json"]).await.json();
    let person = text(&user["kanidm_user_id"]);
    assert!(!person.is_empty(), "{user}");
    let policy = "/v1/group/idm_all_persons/_attr/credential_type_minimum";
    kanidm.put(policy, &json!(["any"])).await.unwrap();
    let password = "a-password-that-Kanidm-likes-4711";
    kanidm.use_reset_link(&kanidm.reset_link(&person).await.unwrap(), password).await.unwrap();
    let name = text(&kanidm.person(&person).await.unwrap().unwrap()["name"][0]);
    let bearer = kanidm.sign_in(&name, password).await.unwrap();
    let browser = async |url: String| {
        let back = kanidm.authorise(&bearer, &url).await.unwrap();
        format!("{REDIRECT}?code={}&state={}", back.code, back.state)
    };
    let signed_in = operator.run_and_answer(&["login", "--kanidm", REDIRECT], browser).await;
    assert_eq!(signed_in.code, 0, "{signed_in:?}");
    assert!(operator.ok(&["whoami"]).await.contains(&email));
}

#[tokio::test]
async fn a_second_run_changes_nothing() {
    let world = World::new().await;
    world.set_up().await;
    let files = || {
        ["sidle.toml", "kanidm-token", "kanidm-client-secret"].map(|file| fs::read_to_string(world.path(file)).unwrap())
    };
    let (before, entries) = (files(), world.entries().await);
    let again = world.setup(&[]).await;
    assert_eq!(again.code, 0, "{again:?}");
    let told: Vec<&str> = again.err.lines().collect();
    assert!(told.iter().all(|line| line.starts_with("is there already: ") || line.contains("consent")), "{told:?}");
    assert_eq!((files(), world.entries().await, world.tokens().await), (before.clone(), entries, 1));
    let trial = world.setup(&["--dry-run"]).await;
    assert!(trial.code == 0 && !trial.out.contains("service account"), "{trial:?}");

    // Without the file the token cannot be had again, and a second one is made on demand only.
    fs::remove_file(world.path("kanidm-token")).unwrap();
    let refused = world.setup(&[]).await;
    assert!(refused.code == 1 && refused.err.contains("--new-token"), "{refused:?}");
    assert_eq!(world.tokens().await, 1);
    let renewed = world.setup(&["--new-token", "--token-lifetime", "1h"]).await;
    assert!(renewed.code == 0 && renewed.err.contains("api-token destroy"), "{renewed:?}");
    assert_eq!(world.tokens().await, 2);
    assert_ne!(files()[1], before[1]);
    let (code, report) = world.check(&[]).await;
    assert!(code == 0 || !world.kanidm.is_dev(), "{report}");
    assert!(findings(&report, "warning").any(|finding| finding["check"] == "token_end"), "an hour is soon: {report}");

    // A file that others could read is closed.
    fs::set_permissions(world.path("kanidm-token"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(world.setup(&[]).await.code, 0);
    assert_eq!((mode(&world.path("kanidm-token")), world.tokens().await), (0o600, 2));

    // Another section is not touched.
    let changed = files()[0].replace(REDIRECT, "https://other.example/cb");
    fs::write(world.config(), &changed).unwrap();
    let refused = world.setup(&[]).await;
    assert!(refused.code == 1 && refused.err.contains("another value of redirect_uris"), "{refused:?}");
    assert_eq!(files()[0], changed);
}

#[tokio::test]
async fn the_administrator_may_bring_a_session_and_have_the_secrets_printed() {
    let world = World::new().await;
    let session = world.kanidm.sign_in("idm_admin", world.kanidm.admin_password()).await.unwrap();
    let token = [("SIDLE_KANIDM_ADMIN_TOKEN", session.as_str())];
    let ran = world.run(&["--print-secrets"], &token).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    fs::write(world.config(), &ran.out).unwrap();
    assert_eq!(world.missing(&[]).await, Vec::new());
    let again = world.run(&["--print-secrets"], &token).await;
    assert!(
        again.code == 1 && again.err.contains("--new-token"),
        "the session goes on, the token is not shown: {again:?}"
    );
    assert!(!format!("{ran:?}").contains(&session));
}

#[tokio::test]
async fn who_is_not_let_in_makes_nothing() {
    let world = World::new().await;
    let write = world.config();
    let run = async |environment: &[(&str, &str)], more: &[&str]| {
        let more: Vec<&str> = ["--write", &write].into_iter().chain(more.iter().copied()).collect();
        world.run(&more, environment).await
    };
    let wrong = run(&[("SIDLE_KANIDM_ADMIN_PASSWORD", "wrong horse")], &[]).await;
    assert!(wrong.code == 1 && wrong.err.contains("recover-account") && !wrong.err.contains("horse"), "{wrong:?}");
    let wrong = run(&[("SIDLE_KANIDM_ADMIN_TOKEN", "wrong")], &[]).await;
    assert!(wrong.code == 1 && wrong.err.contains("does not accept"), "{wrong:?}");
    let wrong = run(&[("SIDLE_KANIDM_ADMIN_PASSWORD", "x")], &["--admin", "nobody_here"]).await;
    assert!(wrong.code == 1 && wrong.err.contains("no such account"), "{wrong:?}");
    // Who is let in and has no rights.
    let name = format!("plain-{}", random_word(8));
    let person = world.kanidm.create_person(&name, "Plain", &format!("{name}@example.com")).await.unwrap();
    let policy = "/v1/group/idm_all_persons/_attr/credential_type_minimum";
    world.kanidm.put(policy, &json!(["any"])).await.unwrap();
    let link = world.kanidm.reset_link(&person.to_string()).await.unwrap();
    world.kanidm.use_reset_link(&link, "a-password-that-Kanidm-likes-4711").await.unwrap();
    let password = [("SIDLE_KANIDM_ADMIN_PASSWORD", "a-password-that-Kanidm-likes-4711")];
    let plain = run(&password, &["--admin", &name]).await;
    assert!(plain.code == 1 && plain.err.contains("idm_admins"), "{plain:?}");
    assert_eq!(world.entries().await, json!([null, null]));
    assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_password_goes_nowhere_in_the_clear() {
    let operator = Operator::without_service();
    for far in ["http://idm.example.com", "http://10.0.0.1:8080", "http://localhost.example", "ftp://localhost"] {
        let command = ["kanidm", "setup", "--url", far, "--redirect-uri", REDIRECT, "--print-secrets"];
        let ran = operator.run_with(&command, &[("SIDLE_KANIDM_ADMIN_PASSWORD", "secret")], "").await;
        assert!(ran.code == 1 && ran.err.contains("must be the https URL"), "{ran:?}");
    }
    for redirect in ["http://app.example/cb", "javascript:alert(1)", "https://user@app.example/"] {
        let command = ["kanidm", "setup", "--url", "https://idm.example", "--redirect-uri", redirect];
        let ran = operator.run_with(&command, &[("SIDLE_KANIDM_ADMIN_PASSWORD", "secret")], "").await;
        assert!(ran.code == 1 && ran.err.contains("cannot be an address"), "{ran:?}");
    }
}

#[tokio::test]
async fn what_others_made_under_the_name_is_not_taken_over() {
    let world = World::new().await;
    let (kanidm, account, client) = (&world.kanidm, &world.account, &world.client);
    let squatted = json!({"attrs": {
        "name": [account], "displayname": ["Sidle"], "entry_managed_by": ["idm_admin"],
    }});
    kanidm.post("/v1/service_account", &squatted).await.unwrap();
    kanidm
        .post(
            &format!("/v1/service_account/{account}/_api_token"),
            &json!({"label": "sidle", "expiry": null, "read_write": true}),
        )
        .await
        .unwrap();
    let other = json!({"attrs": {
        "name": [client], "displayname": ["Sidle"], "oauth2_rs_origin": ["http://127.0.0.1:1/stolen"],
        "oauth2_rs_origin_landing": ["http://127.0.0.1:8422/"], "oauth2_strict_redirect_uri": ["true"],
    }});
    kanidm.post("/v1/oauth2/_basic", &other).await.unwrap();
    let before = world.entries().await;
    let refused = world.setup(&[]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    for difference in ["managed by idm_admin", "whoever holds the token", "may return to http://127.0.0.1:1/stolen"] {
        assert!(refused.err.contains(difference), "{difference}: {refused:?}");
    }
    assert_eq!(world.entries().await, before);
    for right in RIGHTS {
        assert!(!kanidm.members(right).await.unwrap().contains(account), "{right}");
    }
    let adopted = world.setup(&["--adopt", "--new-token"]).await;
    assert!(adopted.code == 0 && adopted.err.contains("accepted: "), "{adopted:?}");
    assert_eq!(world.missing(&[]).await, Vec::new());
}

#[tokio::test]
async fn a_name_that_is_something_elses_is_refused_for_good() {
    let world = World::new().await;
    let mail = format!("{}@example.com", world.account);
    world.kanidm.create_person(&world.account, "Somebody", &mail).await.unwrap();
    world.kanidm.post("/v1/group", &json!({"attrs": {"name": [world.client]}})).await.unwrap();
    for more in [&[][..], &["--adopt"]] {
        let refused = world.setup(more).await;
        assert!(refused.code == 1 && refused.err.contains("--account and --client-id"), "{refused:?}");
        assert!(
            refused.err.contains("belongs to a person") && refused.err.contains("belongs to a group"),
            "{refused:?}"
        );
    }
    assert_eq!(world.entries().await, json!([null, null]));
    let refused = world.setup(&["--group", "no_such_group"]).await;
    assert!(refused.code == 1 && refused.err.contains("sees no group no_such_group"), "{refused:?}");
}

#[tokio::test]
async fn each_right_that_is_missing_is_found_and_given_back() {
    let world = World::new().await;
    world.set_up().await;
    for right in RIGHTS {
        world.kanidm.remove_member(right, &world.account).await.unwrap();
        let command = format!("kanidm group add-members {right} {} -D idm_admin", world.account);
        assert_eq!(world.missing(&[]).await, vec![("rights".to_owned(), command)]);
        let repaired = world.setup(&[]).await;
        assert!(repaired.code == 0 && repaired.err.contains(&format!("in {right}")), "{repaired:?}");
        assert_eq!((world.missing(&[]).await, world.tokens().await), (Vec::new(), 1));
    }
    for right in RIGHTS {
        world.kanidm.remove_member(right, &world.account).await.unwrap();
    }
    assert_eq!(world.missing(&[]).await.len(), 3, "all at once");
    world.kanidm.add_member("idm_people_admins", &world.account).await.unwrap();
    let (_, report) = world.check(&[]).await;
    assert!(
        findings(&report, "warning").any(|finding| text(&finding["says"]).contains("idm_people_admins")),
        "{report}"
    );
    let differs = world.setup(&[]).await;
    assert!(differs.code == 1 && differs.err.contains("is in idm_people_admins"), "{differs:?}");
}

#[tokio::test]
async fn everything_that_is_wrong_is_said_at_once() {
    let world = World::new().await;
    world.set_up().await;
    let only = async |environment: &[(&str, &str)]| checks(world.missing(environment).await);
    assert_eq!(only(&[("SIDLE_KANIDM__CLIENT_SECRET", "wrong")]).await, ["client_secret"]);
    assert_eq!(only(&[("SIDLE_KANIDM__TOKEN", "wrong")]).await, ["token"]);
    assert_eq!(only(&[("SIDLE_KANIDM__CLIENT_ID", "no_such_client")]).await, ["client"]);
    assert_eq!(only(&[("SIDLE_KANIDM__TOKEN_FILE", "/nowhere/token")]).await[0], "token");
    let redirects = format!("{REDIRECT},http://127.0.0.1:8422/other");
    let missing = world.missing(&[("SIDLE_KANIDM__REDIRECT_URIS", &redirects)]).await;
    let command =
        format!("kanidm system oauth2 add-redirect-url {} http://127.0.0.1:8422/other -D idm_admin", world.client);
    assert_eq!(missing, vec![("redirect_uris".to_owned(), command)]);
    let all = [
        ("SIDLE_KANIDM__CLIENT_SECRET", "wrong"),
        ("SIDLE_KANIDM__TOKEN", "wrong"),
        ("SIDLE_KANIDM__REDIRECT_URIS", &redirects),
    ];
    assert_eq!(only(&all).await, ["token", "client_secret", "redirect_uris"]);

    let read_only = json!({"label": "x", "expiry": null, "read_write": false});
    let path = format!("/v1/service_account/{}/_api_token", world.account);
    let token = text(&world.kanidm.post(&path, &read_only).await.unwrap());
    assert_eq!(only(&[("SIDLE_KANIDM__TOKEN", &token)]).await, ["token_purpose"]);
}

#[tokio::test]
async fn a_client_that_was_changed_is_found_and_put_right() {
    let world = World::new().await;
    world.set_up().await;
    let client = format!("/v1/oauth2/{}", world.client);
    world
        .kanidm
        .patch(&client, &json!({"attrs": {"oauth2_allow_insecure_client_disable_pkce": ["true"]}}))
        .await
        .unwrap();
    let (_, report) = world.check(&[]).await;
    let pkce = findings(&report, "warning").find(|finding| finding["check"] == "pkce").expect("PKCE is off");
    assert!(text(&pkce["remedy"]).contains("enable-pkce"));
    world.kanidm.post(&format!("{client}/_scopemap/idm_all_persons"), &json!(["openid"])).await.unwrap();
    assert_eq!(checks(world.missing(&[]).await), ["scopes"]);
    world.set_up().await;
    let (_, report) = world.check(&[]).await;
    assert!(!findings(&report, "warning").any(|finding| finding["check"] == "pkce"), "{report}");
    assert_eq!(world.missing(&[]).await, Vec::new());
}

#[tokio::test]
async fn a_server_in_kanidms_place_moves_neither_secrets_nor_the_cursor() {
    let world = World::new().await;
    world.set_up().await;
    let hostile = "\u{1b}[2J\u{1b}]0;owned\u{7}$(reboot)";
    let me =
        json!({"youare": {"attrs": {"name": [hostile], "memberof": [format!("{hostile}@x"), "idm_group_admins@x"]}}});
    world.kanidm.answer_with("/v1/self", None, (200, &me.to_string()), None).await.unwrap();
    let discovery = json!({"issuer": hostile, "authorization_endpoint": "https://elsewhere.example/"});
    world.kanidm.answer_with("/oauth2/openid", None, (200, &discovery.to_string()), None).await.unwrap();
    let config = world.config();
    let ran = world.operator.run(&["kanidm", "check", "--config", &config]).await;
    assert!(ran.code == 1 && ran.out.contains("calls itself"), "{ran:?}");
    assert!(!format!("{}{}", ran.out, ran.err).contains(['\u{1b}', '\u{7}', '$']), "{ran:?}");
}

/// A server that answers every request with this, without end if `endless`.
fn answering(head: String, endless: bool) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            // Whatever was asked.
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = std::io::Write::write_all(&mut stream, head.as_bytes());
            while endless && std::io::Write::write_all(&mut stream, &[b' '; 65536]).is_ok() {}
        }
    });
    address
}

#[tokio::test]
async fn an_answer_without_end_ends_and_a_redirect_leads_nowhere() {
    let operator = Operator::without_service();
    let folder = tempfile::tempdir().unwrap();
    let write = folder.path().join("sidle.toml").display().to_string();
    let setup = async |url: &str| {
        let command = ["kanidm", "setup", "--url", url, "--redirect-uri", REDIRECT, "--write", &write];
        operator.run_with(&command, &[("SIDLE_KANIDM_ADMIN_PASSWORD", "very secret")], "").await
    };
    let endless = answering("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_owned(), true);
    let ran = setup(&endless).await;
    assert!(ran.code == 1 && ran.err.contains("more than 4194304 bytes"), "{ran:?}");
    let environment = [("SIDLE_KANIDM__URL", endless.as_str()), ("SIDLE_KANIDM__TOKEN", "t")];
    let ran = operator.run_with(&["kanidm", "check"], &environment, "").await;
    assert!(ran.code == 1 && ran.out.contains("more than 4194304 bytes"), "{ran:?}");

    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let there = elsewhere.local_addr().unwrap();
    let head = format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{there}/\r\ncontent-length: 0\r\n\r\n");
    let ran = setup(&answering(head, false)).await;
    assert!(ran.code == 1 && ran.err.contains("status 307"), "{ran:?}");
    elsewhere.set_nonblocking(true).unwrap();
    assert!(elsewhere.accept().is_err(), "nobody went there");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_commands_for_kanidms_own_tool_say_the_same() {
    let world = World::new().await;
    let ran = world.run(&["--print-commands"], &[]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let commands: Vec<&str> = ran.out.lines().filter(|line| line.starts_with("kanidm ")).collect();
    let (account, client) = (&world.account, &world.client);
    let expected = [
        "kanidm login -D idm_admin".to_owned(),
        format!("kanidm service-account create {account} Sidle idm_admins -D idm_admin"),
        format!("kanidm group add-members idm_people_on_boarding {account} -D idm_admin"),
        format!("kanidm group add-members idm_group_admins {account} -D idm_admin"),
        format!("kanidm group add-members idm_account_mail_read {account} -D idm_admin"),
        format!("kanidm system oauth2 create {client} Sidle http://127.0.0.1:8422/ -D idm_admin"),
        format!("kanidm system oauth2 add-redirect-url {client} {REDIRECT} -D idm_admin"),
        format!(
            "kanidm system oauth2 update-scope-map {client} idm_all_persons email groups openid profile -D idm_admin"
        ),
        format!("kanidm system oauth2 disable-consent-prompt {client} -D idm_admin"),
        format!("kanidm service-account api-token generate --readwrite {account} sidle -D idm_admin"),
        format!("kanidm system oauth2 show-basic-secret {client} -D idm_admin"),
    ];
    assert_eq!(commands, expected);
    assert!(ran.out.contains("[kanidm]\nurl = "), "{ran:?}");
    assert_eq!(world.entries().await, json!([null, null]));
}

/// Six digits of an authenticator application with Kanidm's parameters.
fn code(secret: &[u8], at: i64) -> u32 {
    use hmac::Mac as _;
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret).unwrap();
    mac.update(&(at / 30).to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let from = usize::from(digest[31] & 15);
    let number = u32::from_be_bytes(digest[from..from + 4].try_into().unwrap());
    (number & 0x7fff_ffff) % 1_000_000
}

#[tokio::test]
async fn an_administrator_with_a_second_factor_is_asked_for_a_code() {
    let world = World::new().await;
    let kanidm = &world.kanidm;
    let (name, password) = (format!("second-{}", random_word(8)), "a-password-that-Kanidm-likes-4711");
    let person = kanidm.create_person(&name, "Second", &format!("{name}@example.com")).await.unwrap();
    let call = async |path: &str, body: Value| -> Value {
        let response = kanidm.http.post(format!("{}{path}", kanidm.url)).json(&body).send().await.unwrap();
        response.json().await.unwrap()
    };
    let link = kanidm.reset_link(&person.to_string()).await.unwrap();
    let session = call("/v1/credential/_exchange_intent", json!(link)).await[0].clone();
    call("/v1/credential/_update", json!([{ "password": password }, session])).await;
    let status = call("/v1/credential/_update", json!(["totpgenerate", session])).await;
    let secret: Vec<u8> = serde_json::from_value(status["mfaregstate"]["TotpCheck"]["secret"].clone()).unwrap();
    let now = || sidle::context::Clock::system().now().timestamp();
    call("/v1/credential/_update", json!([{ "totpverify": [code(&secret, now()), "app"] }, session])).await;
    call("/v1/credential/_commit", session).await;

    let write = world.config();
    let arguments = world.arguments(&["--write", &write, "--admin", &name]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answered = async |digits: u32| {
        let stdin = format!("{digits:06}\n");
        world.operator.run_with(&arguments, &[("SIDLE_KANIDM_ADMIN_PASSWORD", password)], &stdin).await
    };
    // Let in, and without the rights. The wrong one comes second: it locks the account for a moment.
    let right = answered(code(&secret, now())).await;
    assert!(right.code == 1 && right.err.contains("idm_admins") && !right.err.contains("cannot sign in"), "{right:?}");
    let near: Vec<u32> = (-2..=2).map(|steps| code(&secret, now() + 30 * steps)).collect();
    let wrong = answered((0..).find(|digits| !near.contains(digits)).unwrap()).await;
    assert!(wrong.code == 1 && wrong.err.contains("cannot sign in"), "{wrong:?}");
}
