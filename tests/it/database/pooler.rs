//! Behind a real PgBouncer in transaction mode, of the release that Debian has.

use std::process::{Child, Command, Stdio};

use sidle::app::App;
use sidle::config::Config;
use sidle::context::Context;
use sidle::proto;

use crate::authenticate::attempt;
use crate::support::{ADMIN_PASSWORD, Setup, eventually};

/// A PgBouncer in front of a test's database. Ends with this value.
struct PgBouncer {
    process: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl PgBouncer {
    async fn start(setup: &Setup) -> Self {
        let (database, url) = (setup.database(), setup.database().app_url.clone());
        let (credentials, place) = url.trim_start_matches("postgres://").split_once('@').unwrap();
        let (user, password) = credentials.split_once(':').unwrap();
        let (host, port) = place.split_once('/').unwrap().0.split_once(':').unwrap();
        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pgbouncer.ini");
        let name = &database.name;
        let settings = format!(
            "[databases]\n{name} = host={host} port={port} dbname={name} user={user} password={password}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {listen}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 4\n"
        );
        std::fs::write(&file, settings).unwrap();
        let program = std::env::var("SIDLE_DEV_PGBOUNCER").expect("started through ./run");
        let run_as = std::env::var("SIDLE_DEV_PG_RUN_AS").unwrap_or_default();
        let mut command = if run_as.is_empty() {
            Command::new(program)
        } else {
            // It refuses to run as root.
            let mut readable = std::fs::metadata(directory.path()).unwrap().permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut readable, 0o755);
            std::fs::set_permissions(directory.path(), readable).unwrap();
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={run_as}"), "--clear-groups", "--", &program]);
            command
        };
        let process = command.arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let bouncer =
            Self { process, url: format!("postgres://{user}@127.0.0.1:{listen}/{name}"), _directory: directory };
        eventually("PgBouncer listens", async || tokio::net::TcpStream::connect(("127.0.0.1", listen)).await.ok())
            .await;
        bouncer
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_transaction_pooler_without_prepared_statements_nothing_fails() {
    let setup = Setup::new().await.with("THROTTLE__PER_MINUTE", "0").with("PASSWORDS__MAX_WAIT", "1h");
    let bouncer = PgBouncer::start(&setup).await;
    let direct = setup.database().app_url.clone();
    let setup = setup.with("DATABASE__URL", &bouncer.url).with("DATABASE__DIRECT_URL", &direct);
    let setup = setup.with("DATABASE__POOLER", "transaction").with("DATABASE__PREPARED_STATEMENTS", "false");
    let (one, two) = (setup.start().await, setup.start().await);
    let tenant = one.tenant("acme").await;
    for number in 0..8 {
        one.user(tenant, &format!("user{number}@example.com"), "admin").await;
    }
    let callers: Vec<_> = (0..8)
        .map(|number| {
            let clients = [one.client(""), two.client("")];
            let channels = [one.channel.clone(), two.channel.clone()];
            tokio::spawn(async move {
                for round in 0..10 {
                    let request = proto::AuthenticatePasswordRequest {
                        identifier: format!("user{number}@example.com"),
                        password: ADMIN_PASSWORD.into(),
                        ..Default::default()
                    };
                    let mut client = clients[round % 2].authenticate.clone();
                    let answer = client.authenticate_password(request).await.expect("a login").into_inner();
                    let Some(proto::authenticate_password_response::Outcome::SignedIn(signed_in)) = answer.outcome
                    else {
                        panic!("signed in");
                    };
                    let tokens = signed_in.tokens.unwrap();
                    let request =
                        proto::RefreshTokenRequest { refresh_token: tokens.refresh_token, ..Default::default() };
                    let mut other = clients[(round + 1) % 2].authenticate.clone();
                    let tokens = other.refresh_token(request).await.expect("a refresh").into_inner().tokens.unwrap();
                    let caller = crate::support::Client::new(channels[round % 2].clone(), &tokens.access_token);
                    let users = caller.directory.clone().list_users(proto::ListUsersRequest::default()).await;
                    assert_eq!(users.expect("a list").into_inner().users.len(), 8);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    // A lock is waited for as long as configured, although the session is shared.
    let mut holder = one.sql().begin().await.unwrap();
    sqlx::query("SELECT FROM users FOR UPDATE").execute(&mut *holder).await.unwrap();
    let refused = attempt(&one, "user0@example.com", ADMIN_PASSWORD).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_is_not_configured_is_named_at_the_start() {
    let setup = Setup::new().await;
    let bouncer = PgBouncer::start(&setup).await;
    let unaware =
        setup.clone().with("DATABASE__URL", &bouncer.url).with("DATABASE__DIRECT_URL", &setup.database().app_url);
    let config = Config::load(None, unaware.environment().clone()).unwrap();
    let failure = match App::new(config, Context::system()).await.unwrap().start().await {
        Ok(_) => panic!("it starts although statements get mixed up"),
        Err(failure) => failure.to_string(),
    };
    // By the check of the session, which always detects it, and not by statements that happen to be mixed up.
    assert!(failure.contains("database.pooler") && failure.contains("prepared_statements"), "{failure}");

    let alone = setup.clone().with("DATABASE__URL", &bouncer.url).with("DATABASE__POOLER", "transaction");
    let config = Config::load(None, alone.environment().clone()).unwrap();
    let failure = App::new(config, Context::system()).await.err().expect("it needs a direct address");
    assert_eq!(failure.key(), Some("database.direct_url"));
}
