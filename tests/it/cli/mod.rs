//! The `sidle` command, as an operator runs it, against a running service.

mod browser;
mod passwords;
mod renewal;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use sidle::proto::*;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::authenticate::factors::{Authenticator, tick};
use crate::support::terminal::Terminal;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, cheap_hash, within};

/// An operator: a home of their own, and nothing of the test's environment.
pub(crate) struct Operator {
    pub(crate) home: tempfile::TempDir,
    server: String,
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Operator {
    pub fn new(server: &TestServer) -> Self {
        Self { home: tempfile::tempdir().unwrap(), server: server.grpc_url() }
    }

    /// Of commands that need no service.
    pub fn without_service() -> Self {
        Self { home: tempfile::tempdir().unwrap(), server: String::new() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidle"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .env("SIDLE_SERVER", &self.server)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)], stdin: &str) -> Ran {
        let mut child = self.command(arguments).envs(environment.iter().copied()).spawn().expect("sidle starts");
        let mut pipe = child.stdin.take().unwrap();
        // A command that does not read its input closes it.
        let _ = pipe.write_all(stdin.as_bytes()).await;
        drop(pipe);
        let output = within("the command ends", child.wait_with_output()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is text");
        Ran { code: output.status.code().expect("ends by itself"), out: text(output.stdout), err: text(output.stderr) }
    }

    /// A run that prints an address among its messages, and reads what `answer` makes of it.
    pub async fn run_and_answer(&self, arguments: &[&str], answer: impl AsyncFnOnce(String) -> String) -> Ran {
        let mut child = self.command(arguments).spawn().expect("sidle starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut err = String::new();
        let address = within("an address among the messages", async {
            loop {
                let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("no address in {err}"));
                err.push_str(&line);
                if line.trim().starts_with("http") {
                    break line.trim().to_owned();
                }
            }
        })
        .await;
        let reply = answer(address).await;
        child.stdin.take().unwrap().write_all(format!("{reply}\n").as_bytes()).await.unwrap();
        within("the end of the messages", async {
            while let Some(line) = lines.next_line().await.unwrap() {
                err.push_str(&line);
            }
        })
        .await;
        let output = within("the command ends", child.wait_with_output()).await.unwrap();
        Ran { code: output.status.code().expect("ends by itself"), out: String::from_utf8(output.stdout).unwrap(), err }
    }

    /// A run on a terminal, with this besides the operator's own environment.
    pub fn on_terminal(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Terminal {
        let own = [("HOME", self.home.path().to_str().unwrap()), ("SIDLE_SERVER", &self.server), ("TERM", "xterm")];
        let all = own.iter().chain(environment).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Terminal::run(env!("CARGO_BIN_EXE_sidle"), arguments, &all.collect::<Vec<_>>())
    }

    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[], "").await
    }

    /// A run that must succeed, and its standard output.
    pub async fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments).await;
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran.out.trim().to_owned()
    }

    /// As [`Operator::ok`], by an operator who types their password when a step-up is required.
    pub async fn ok_proven(&self, arguments: &[&str]) -> String {
        let ran = self.run_with(arguments, &[("SIDLE_PASSWORD", ADMIN_PASSWORD)], "").await;
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran.out.trim().to_owned()
    }

    pub async fn sign_in(&self, email: &str) {
        let ran = self.run_with(&["login", "--email", email], &[], &format!("{ADMIN_PASSWORD}\n")).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    fn credentials(&self) -> std::path::PathBuf {
        self.home.path().join(".config/sidle/credentials.json")
    }
}

/// An address at which a service can be started again: below the ephemeral ports, so that no other test gets it
/// meanwhile.
pub(crate) fn lasting_address() -> String {
    let entropy = sidle::context::Entropy::system();
    loop {
        let port = 15_000 + u16::from_le_bytes(entropy.array()) % 15_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return format!("127.0.0.1:{port}");
        }
    }
}

/// A service with an administrator, and the administrator signed in at the command line.
pub(crate) async fn signed_in() -> (TestServer, Operator) {
    let server = TestServer::start().await;
    server.admin().await;
    let operator = Operator::new(&server);
    operator.sign_in("root@platform.example").await;
    (server, operator)
}

#[tokio::test]
async fn a_login_is_kept_where_only_its_owner_reads_it() {
    let (_server, operator) = signed_in().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&operator.credentials()), 0o600);
    let kept = std::fs::read_to_string(operator.credentials()).unwrap();
    assert!(kept.contains("sidle_rt_") && !kept.contains(ADMIN_PASSWORD));
    let folder: Vec<_> = std::fs::read_dir(operator.credentials().parent().unwrap()).unwrap().collect();
    assert_eq!(folder.len(), 2, "the file and its lock: {folder:?}");

    let who = operator.ok(&["whoami"]).await;
    assert!(who.contains("root@platform.example"), "{who}");
    let who = operator.run(&["whoami", "--output", "json"]).await.json();
    assert_eq!(who["user"]["email"], "root@platform.example");
    assert_eq!(who["claims"]["platform_permissions"], serde_json::json!(["*"]));
}

#[tokio::test]
async fn a_wrong_password_says_what_to_do_and_keeps_nothing() {
    let server = TestServer::start().await;
    server.admin().await;
    let operator = Operator::new(&server);
    let ran =
        operator.run_with(&["login", "--email", "root@platform.example"], &[("SIDLE_PASSWORD", "wrong")], "").await;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(
        ran.err.contains("(INVALID_CREDENTIALS)")
            && ran.err.contains("remedy: ")
            && ran.err.contains("correlation id: "),
        "{ran:?}"
    );
    assert!(!operator.credentials().exists());
    let ran = operator.run(&["users", "list"]).await;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("sidle login"), "{ran:?}");
    let ran = operator.run(&["users", "list", "--output", "json"]).await;
    let error: Value = serde_json::from_str(&ran.err).expect("an error that programs can read");
    assert!(error["error"]["message"].is_string());
}

#[tokio::test]
async fn the_login_is_renewed_without_asking() {
    let (server, operator) = signed_in().await;
    let text = std::fs::read_to_string(operator.credentials()).unwrap();
    let mut kept: Value = serde_json::from_str(&text).unwrap();
    let entry = |kept: &Value| kept["servers"][&operator.server].clone();
    let before = entry(&kept);
    // As if the fifteen minutes were over.
    kept["servers"][&operator.server]["access_token_expires_at"] = "2026-01-01T00:00:00Z".into();
    std::fs::write(operator.credentials(), kept.to_string()).unwrap();
    // Many concurrently: were the file not locked, two would use the same refresh token and end the session.
    let runs = (0..4).map(|_| operator.run(&["whoami"]));
    for ran in futures_util::future::join_all(runs).await {
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let after: Value = serde_json::from_str(&std::fs::read_to_string(operator.credentials()).unwrap()).unwrap();
    assert_ne!(entry(&after)["refresh_token"], before["refresh_token"]);
    assert_eq!(entry(&after)["session_id"], before["session_id"]);
    let refreshed: i64 = sqlx::query_scalar("SELECT count(*) FROM refresh_tokens WHERE session_id = $1")
        .bind(before["session_id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap())
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert_eq!(refreshed, 2, "the first and its one successor");
}

#[tokio::test]
async fn logging_out_ends_the_session() {
    let (server, operator) = signed_in().await;
    let token = operator.ok(&["token", "print"]).await;
    assert_eq!(operator.run(&["logout"]).await.code, 0);
    assert!(server.client(&token).authenticate.clone().who_am_i(WhoAmIRequest {}).await.is_err());
    assert!(!std::fs::read_to_string(operator.credentials()).unwrap().contains("sidle_rt_"));
    assert_eq!(operator.run(&["whoami"]).await.code, 4);

    // The next login needs no options: the service is the one signed in to last.
    let without_options = async |arguments: &[&str], password: &str| {
        let mut command = operator.command(arguments);
        let child = command.env_remove("SIDLE_SERVER").env("SIDLE_PASSWORD", password).output();
        within("the command ends", child).await.unwrap()
    };
    let login = without_options(&["login", "--email", "root@platform.example"], ADMIN_PASSWORD).await;
    assert!(login.status.success(), "{login:?}");
    assert!(without_options(&["whoami"], "").await.status.success());
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_by_its_own_exit_code() {
    let (server, operator) = signed_in().await;
    server.stop().await;
    let ran = operator.run(&["users", "list"]).await;
    assert_eq!(ran.code, 5, "{ran:?}");
    let ran = operator.run(&["whoami", "--server", "http://sidle.example:50051"]).await;
    assert!(ran.code == 1 && ran.err.contains("not encrypted"), "{ran:?}");
    assert_eq!(operator.run(&["users", "lsit"]).await.code, 2);
}

#[tokio::test]
async fn tenants_roles_and_users_are_made_changed_and_listed() {
    let (_server, operator) = signed_in().await;
    let tenant = operator.ok(&["tenants", "create", "hotel-north", "--name", "Hotel North"]).await;
    assert!(operator.ok(&["tenants", "list"]).await.contains("Hotel North"));
    operator.ok(&["roles", "create", "CLERK", "--tenant", "hotel-north", "--permissions", "users.read"]).await;
    let created = [
        "users",
        "create",
        "--email",
        "ann@north.example",
        "--full-name",
        "Ann\u{1b}[2J",
        "--tenant",
        "hotel-north",
        "--role",
        "CLERK",
        "--role",
        "user",
        "--email-verified",
    ];
    // A name with an escape sequence is refused at the input.
    assert_eq!(operator.run(&created).await.code, 1);
    let created: Vec<&str> =
        created.into_iter().map(|word| if word.contains('\u{1b}') { "Ann Lee" } else { word }).collect();
    operator.ok_proven(&created).await;
    let users = operator.run(&["users", "list", "--tenant", "hotel-north", "--output", "json"]).await.json();
    assert_eq!(users[0]["email"], "ann@north.example");
    assert_eq!(users[0]["tenant_id"], tenant.as_str());
    let shown = operator.ok(&["users", "get", "ann@north.example"]).await;
    assert!(shown.contains("Ann Lee") && shown.contains("CLERK"), "{shown}");
    assert!(operator.ok(&["users", "disable", "ann@north.example"]).await.contains("disabled"));
    assert!(operator.ok(&["users", "list", "--status", "disabled"]).await.contains("ann@north.example"));
    assert!(operator.ok_proven(&["users", "enable", "ann@north.example"]).await.contains("active"));
    operator.ok(&["users", "lock", "ann@north.example", "--minutes", "5"]).await;
    assert!(operator.ok(&["users", "list", "--locked"]).await.contains("ann@north.example"));
    operator.ok_proven(&["users", "unlock", "ann@north.example"]).await;
}

#[tokio::test]
async fn rights_over_every_tenant_take_a_fresh_proof() {
    let (server, operator) = signed_in().await;
    let tenant = server.tenant("north").await;
    server.user(tenant, "ann@north.example", "user").await;
    // An attacker at an unlocked terminal: what gives rights over everything asks for the password again.
    let grant = ["memberships", "create", "ann@north.example", "SYSTEM_ADMIN", "--platform"];
    let refused = operator.run_with(&grant, &[("SIDLE_PASSWORD", "a guess")], "").await;
    assert_eq!(refused.code, 4, "{}", refused.err);
    assert_eq!(operator.run_with(&grant, &[("SIDLE_PASSWORD", ADMIN_PASSWORD)], "").await.code, 0);
    assert!(operator.ok(&["memberships", "list", "--platform"]).await.contains("ann@north.example"));
    // A step-up is required where the call had none.
    let create = ["service-accounts", "create", "billing", "--permissions", "tokens.verify"];
    let proof = [("SIDLE_PASSWORD", ADMIN_PASSWORD)];
    assert!(operator.run(&create).await.err.contains("no password was given"));
    assert_eq!(operator.run_with(&create, &proof, "").await.code, 0);
    assert!(operator.ok(&["service-accounts", "list"]).await.contains("billing"));
}

#[tokio::test]
async fn a_key_signs_a_program_in_until_it_is_revoked() {
    let (_server, operator) = signed_in().await;
    let proof = [("SIDLE_PASSWORD", ADMIN_PASSWORD)];
    let create = ["service-accounts", "create", "billing", "--permissions", "tokens.verify"];
    assert_eq!(operator.run_with(&create, &proof, "").await.code, 0);
    let key = operator.run_with(&["api-keys", "create", "billing", "--days", "30"], &proof, "").await;
    let key = key.out.trim().to_owned();
    assert!(key.starts_with("sidle_ak_"));
    let keys = operator.run(&["api-keys", "list", "--service-account", "billing", "--output", "json"]).await;
    assert!(!keys.out.contains(&key));
    // The key authenticates a service account, which may do what the key permits and nothing else.
    let token = operator.ok(&["token", "print"]).await;
    let verify = operator.run_with(&["token", "verify"], &[("SIDLE_API_KEY", &key)], &token).await;
    assert!(verify.code == 0 && verify.out.contains("accepted"), "{verify:?}");
    let denied = operator.run_with(&["users", "list"], &[("SIDLE_API_KEY", &key)], "").await;
    assert!(
        denied.code == 1 && denied.err.contains("PERMISSION_DENIED") && denied.err.contains("users.read"),
        "{denied:?}"
    );
    let id = keys.json()[0]["api_key_id"].as_str().unwrap().to_owned();
    operator.ok(&["api-keys", "revoke", &id]).await;
    assert_eq!(operator.run_with(&["jwks"], &[("SIDLE_API_KEY", &key)], "").await.code, 0, "public");
    assert_eq!(operator.run_with(&["whoami"], &[("SIDLE_API_KEY", &key)], "").await.code, 4);
    let jwks = operator.run(&["jwks"]).await.json();
    assert_eq!(jwks["keys"][0]["kty"], "OKP");
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let (server, operator) = signed_in().await;
    let tenant = server.tenant("north").await;
    server.user(tenant, "ann@north.example", "user").await;
    let tokens = server.sign_in("ann@north.example").await;
    server.sign_in("ann@north.example").await;
    let sessions = operator.run(&["sessions", "list", "--user", "ann@north.example", "--output", "json"]).await.json();
    assert_eq!(sessions.as_array().unwrap().len(), 2);
    let id = sessions[0]["session_id"].as_str().unwrap();
    operator.ok(&["sessions", "revoke", id]).await;
    let all = operator.ok(&["sessions", "revoke-all", "--user", "ann@north.example"]).await;
    assert!(all.starts_with("1 "), "{all}");
    assert!(server.client(&tokens.access_token).authenticate.clone().who_am_i(WhoAmIRequest {}).await.is_err());
    assert!(operator.ok(&["sessions", "list"]).await.contains("active"));
}

#[tokio::test]
async fn an_import_tells_each_refused_row_and_takes_the_rest() {
    let (server, operator) = signed_in().await;
    server.tenant("north").await;
    let file = operator.home.path().join("users.csv");
    let hash = cheap_hash(ADMIN_PASSWORD);
    let rows = format!(
        "id,email,username,password_hash,is_active\n\
         1,ann@north.example,ann,{hash},true\n\
         2,bob@north.example,bob,not a hash,true\n\
         3,,eve,{hash},true\n\
         4,ANN@north.example,ann2,{hash},true\n\
         5,dan@north.example,dan,{hash},false\n"
    );
    std::fs::write(&file, rows).unwrap();
    let import = ["users", "import", file.to_str().unwrap(), "--default-tenant", "north"];
    let proof = [("SIDLE_PASSWORD", ADMIN_PASSWORD)];
    assert!(operator.run(&import).await.err.contains("no password was given"), "a fresh proof is asked for");
    let dry = operator.run_with(&[&import[..], &["--dry-run"]].concat(), &proof, "").await;
    assert_eq!(dry.code, 3, "{dry:?}");
    let users = "SELECT count(*) FROM users WHERE legacy_id IS NOT NULL";
    let count = async || sqlx::query_scalar::<_, i64>(users).fetch_one(server.sql()).await.unwrap();
    assert_eq!(count().await, 0);

    let ran = operator.run_with(&import, &proof, "").await;
    assert_eq!(ran.code, 3, "rows were refused: {ran:?}");
    for expected in [
        "line 3 (id 2, bob@north.example): refused, broken_hash",
        "line 4 (id 3): refused, email_missing",
        "line 5 (id 4, ANN@north.example): refused, email_duplicate",
    ] {
        assert!(ran.out.contains(expected), "{expected}: {ran:?}");
    }
    assert_eq!(count().await, 2);
    // An imported user signs in with the old password.
    server.sign_in("ann@north.example").await;

    let clean = operator.home.path().join("clean.jsonl");
    std::fs::write(
        &clean,
        format!("{{\"id\":\"9\",\"email\":\"fay@north.example\",\"password_hash\":\"{hash}\",\"tenant\":\"north\"}}\n"),
    )
    .unwrap();
    let ran = operator.run_with(&["users", "import", clean.to_str().unwrap(), "--output", "json"], &proof, "").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json()["accepted"], 1);

    std::fs::write(&clean, b"{\"email\":\"gus@north.example\"}\n{\"email\":\"hal@nor").unwrap();
    let import = ["users", "import", clean.to_str().unwrap(), "--default-tenant", "north"];
    let ran = operator.run_with(&import, &proof, "").await;
    assert!(ran.code == 1 && ran.err.contains("line 2") && ran.err.contains("cut short"), "{ran:?}");
    assert_eq!(count().await, 3, "nothing of a broken file");
}

#[tokio::test]
async fn the_audit_log_is_listed_and_followed_across_a_restart() {
    let setup = Setup::new().await.with("SERVER__GRPC_ADDRESS", &lasting_address());
    let server = setup.start().await;
    server.admin().await;
    let operator = Operator::new(&server);
    operator.sign_in("root@platform.example").await;
    let listed = operator.ok(&["audit", "list", "--type", "user.authenticated"]).await;
    assert!(listed.contains("user.authenticated") && listed.contains("POSITION"), "{listed}");

    let mut tail = operator.command(&["audit", "tail", "--type", "tenant.*", "--from-beginning"]).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    operator.ok(&["tenants", "create", "first"]).await;
    let first = within("the event", lines.next_line()).await.unwrap().unwrap();
    assert!(first.contains("tenant.created"), "{first}");

    // The service is stopped and started again at the same address.
    server.stop().await;
    let server = setup.start().await;
    operator.ok(&["tenants", "create", "second"]).await;
    let second = within("the event", lines.next_line()).await.unwrap().unwrap();
    assert!(second.contains("tenant.created") && second != first, "each event once: {first} / {second}");
    tail.kill().await.unwrap();
    drop(server);
}

#[tokio::test]
async fn what_needs_no_service_works_without_one() {
    let server = TestServer::start().await;
    let operator = Operator::new(&server);
    let settings: Vec<(&str, &str)> =
        server.setup.environment().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();

    let key = operator.ok(&["keygen", "--id", "3"]).await;
    assert!(key.starts_with("3:") && key.len() == 46, "{key}");
    assert_eq!(operator.run_with(&["config", "check"], &settings, "").await.code, 0);
    let typo = [&settings[..], &[("SIDLE_SERVER__PLAINTXT", "true")]].concat();
    let ran = operator.run_with(&["config", "check"], &typo, "").await;
    assert!(ran.code == 1 && ran.err.contains("server.plaintxt") && ran.err.contains("plaintext"), "{ran:?}");
    assert!(operator.ok(&["config", "defaults"]).await.contains("[database]"));

    let status = operator.run_with(&["schema", "status", "--output", "json"], &settings, "").await.json();
    let migrations = status["migrations"].as_array().unwrap();
    assert!(migrations.iter().all(|row| row["applied_at"].is_string()), "{status}");
    assert!(status["pending_functions"].as_array().unwrap().is_empty(), "{status}");
    assert!(operator.run_with(&["schema", "up"], &settings, "").await.out.contains("nothing to do"));
    let ran = operator.run_with(&["schema", "down", "0"], &settings, "").await;
    assert!(ran.code == 1 && ran.err.contains("--lose-data"), "{ran:?}");
    let ran = operator.run_with(&["schema", "down", "0", "--dry-run"], &settings, "").await;
    assert!(ran.code == 0 && ran.out.contains("0001_foundation.down.sql"), "{ran:?}");
    assert!(ran.out.contains("would drop function login_begin"), "{ran:?}");

    let bootstrap = ["admin", "bootstrap", "--email", "first@example.com"];
    let ran = operator.run_with(&bootstrap, &settings, &format!("{ADMIN_PASSWORD}\n")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    operator.sign_in("first@example.com").await;
    assert!(operator.ok(&["users", "get", "first@example.com"]).await.contains("master admin"));
    let again = operator
        .run_with(&["admin", "bootstrap", "--email", "x@example.com", "--generate-password"], &settings, "")
        .await;
    assert!(again.code == 1 && again.err.contains("ALREADY_BOOTSTRAPPED") && again.out.is_empty(), "{again:?}");
}

#[tokio::test]
async fn a_second_factor_is_enrolled_and_asked_for() {
    let server = TestServer::start().await;
    let tenant = server.tenant("north").await;
    server.user(tenant, "ann@north.example", "user").await;
    let operator = Operator::new(&server);
    operator.sign_in("ann@north.example").await;
    assert!(operator.ok(&["mfa", "status"]).await.contains("No second factor"));
    let password = [("SIDLE_PASSWORD", ADMIN_PASSWORD)];
    let shown = operator.run_with(&["mfa", "enrol"], &password, "").await;
    assert!(shown.code == 0 && shown.err.contains("sidle mfa confirm"), "{shown:?}");
    let secret = shown.out.lines().find_map(|line| line.strip_prefix("secret")).unwrap().replace(' ', "");
    let application = Authenticator::new(&secret);
    let code = || {
        tick(&server);
        format!("{}\n", application.code(server.context.now(), 0))
    };
    let confirmed = operator.run_with(&["mfa", "confirm"], &[], &code()).await;
    let codes: Vec<&str> = confirmed.out.lines().collect();
    assert!(confirmed.code == 0 && codes.len() == 10 && codes[0].len() == 19, "{confirmed:?}");
    assert!(operator.ok(&["mfa", "status"]).await.contains("10 recovery codes"));

    let login = ["login", "--email", "ann@north.example"];
    let refused = operator.run_with(&login, &password, "000000\n").await;
    assert_eq!(refused.code, 4, "{refused:?}");
    // Password and code from one stream, as a script would give them.
    let answer = format!("{ADMIN_PASSWORD}\n{}", code());
    assert_eq!(operator.run_with(&login, &[], &answer).await.code, 0);
    assert_eq!(operator.run_with(&login, &password, &format!("{}\n", codes[0])).await.code, 0);
    let fresh = operator.run_with(&["mfa", "recovery-codes"], &[], &code()).await;
    assert!(fresh.code == 0 && fresh.out.lines().count() == 10 && !fresh.out.contains(codes[1]), "{fresh:?}");
    assert_eq!(operator.run_with(&["mfa", "disable"], &[], &format!("{}\n", codes[1])).await.code, 4, "an old code");
    let disabled = operator.run_with(&["mfa", "disable"], &[], &code()).await;
    assert!(disabled.code == 0 && disabled.out.contains("sessions have ended"), "{disabled:?}");
}
