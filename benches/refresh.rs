//! `RefreshToken`, compared with pgbench running the same statement against the same database with as many clients.

use std::io::Write as _;
use std::process::Command;
use std::time::Instant;

use futures_util::future::join_all;
use sidle::access::Call;
use sidle::audit::{Event, EventType, Prepared};
use sidle::proto;
use uuid::Uuid;

use crate::support::{Setup, TestServer};
use crate::{Row, row};

const CLIENTS: usize = 16;
const REFRESHES: usize = 150;
const ROUNDS: usize = 7;

pub async fn run() -> Row {
    let setup = Setup::new().await.with("DATABASE__POOL_SIZE", &CLIENTS.to_string()).with("SESSIONS__PER_USER", "0");
    // Sixteen sessions, each refreshed as fast as it goes.
    let setup =
        setup.with("THROTTLE__REFRESH_PER_MINUTE", "0").with("THROTTLE__SESSION_REFRESH_PER_MINUTE", "60000000");
    let setup = setup.with("THROTTLE__SESSION_REFRESH_BURST", "60000000");
    let server = setup.start().await;
    let tenant = server.tenant("bench").await;
    let mut tokens = Vec::new();
    for client in 0..CLIENTS {
        server.user(tenant, &format!("user{client}@bench.example"), "user").await;
        // One session for us, one for pgbench.
        tokens.push(server.sign_in(&format!("user{client}@bench.example")).await.refresh_token);
        server.sign_in(&format!("user{client}@bench.example")).await;
    }
    hand_over(&server).await;
    let script = script(&server);
    let mut begin = 0;
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let begun = Instant::now();
        tokens = join_all(tokens.into_iter().map(|token| chain(&server, token))).await;
        let ours = (CLIENTS * REFRESHES) as f64 / begun.elapsed().as_secs_f64();
        let limit = pgbench(&setup.database().app_url, script.path(), begin);
        begin += REFRESHES;
        // The first round warms plans and caches of both.
        if round > 0 {
            rounds.push((ours, limit));
        }
    }
    let limit = format!("pgbench, the same statement, {CLIENTS} clients");
    row("RefreshToken", &limit, "≥ 0.8", &rounds, format!("{CLIENTS} callers, each its own session"))
}

/// Refreshes a session again and again, each time with the token of the time before.
async fn chain(server: &TestServer, mut refresh_token: String) -> String {
    let mut client = server.client("").authenticate;
    for _ in 0..REFRESHES {
        let request_id = Uuid::new_v4().to_string();
        let request = proto::RefreshTokenRequest { refresh_token, request_id, ..Default::default() };
        let answer = client.refresh_token(request).await.expect("refreshed").into_inner();
        refresh_token = answer.tokens.expect("tokens").refresh_token;
    }
    refresh_token
}

/// Gives the newest session of each user a token that pgbench can compute: the digest of client and number.
async fn hand_over(server: &TestServer) {
    let newest = "WITH newest AS (
            SELECT DISTINCT ON (user_id) session_id FROM sessions ORDER BY user_id, session_id DESC
        ), numbered AS (SELECT session_id, row_number() OVER () - 1 AS client FROM newest)
        UPDATE refresh_tokens t SET token_hash = sha256(convert_to('bench ' || n.client || ' ' || 0, 'UTF8'))
        FROM numbered n WHERE t.session_id = n.session_id";
    let changed = sqlx::query(newest).execute(server.sql()).await.unwrap().rows_affected();
    assert_eq!(changed as usize, CLIENTS);
}

/// What the service sends for one refresh, with what differs between two of them computed by pgbench and Postgres.
fn script(server: &TestServer) -> tempfile::NamedTempFile {
    let call = Call {
        address: Some([127, 0, 0, 1].into()),
        user_agent: Some("tonic/0.14.9".to_owned()),
        ..Call::internal(Uuid::new_v4())
    };
    let recorder = &server.app().recorder;
    let event = |prepared: Prepared| {
        let personal =
            prepared.personal.map(|sealed| format!("'\\x{}'::bytea", data_encoding::HEXLOWER.encode(&sealed)));
        // Otherwise pgbench takes what follows a colon for one of its variables.
        let event = prepared.event.to_string().replace("\":", "\": ").replace('\'', "''");
        let event = format!("'{event}'::jsonb || jsonb_build_object('event_id', gen_random_uuid())");
        (event, personal.unwrap_or_else(|| "NULL::bytea".to_owned()))
    };
    let (refreshed, personal) = event(recorder.prepare(Event::new(EventType::SessionRefreshed, &call)));
    let reused = Event::new(EventType::SessionRefreshReused, &call);
    let (reused, reused_personal) = event(recorder.prepare(reused));
    let token = |number: &str| {
        format!("sha256(convert_to('bench ' || :client_id || ' ' || cast(:{number} AS integer), 'UTF8'))")
    };
    let text = format!(
        "\\set m :n + 1
SELECT 1 / (outcome = 'refreshed')::integer FROM session_refresh(
    ROW({}, sha256('request'), gen_random_uuid(), {}, gen_random_uuid(), clock_timestamp() + interval '16 minutes', NULL, NULL,
        clock_timestamp(), interval '60 seconds', interval '10 seconds', interval '7 days', interval '30 days',
        gen_random_uuid(), interval '15 seconds', interval '1 microsecond', interval '60 seconds')::refresh_exchange,
    ROW({refreshed}, {personal})::prepared_event, ROW({reused}, {reused_personal})::prepared_event);
\\set n :m
",
        token("n"),
        token("m"),
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Transactions a second; each client continues where it stopped, at `begin`.
fn pgbench(url: &str, script: &std::path::Path, begin: usize) -> f64 {
    let programs = std::env::var("SIDLE_DEV_PG_BIN").expect("started through ./run");
    let clients = CLIENTS.to_string();
    let output = Command::new(std::path::Path::new(&programs).join("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--client", &clients, "--jobs", "2"])
        .args(["--transactions", &REFRESHES.to_string(), "--define", &format!("n={begin}")])
        .arg("--file")
        .arg(script)
        .arg(url)
        .output()
        .expect("pgbench is where Postgres' other programs are");
    let (text, problem) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "pgbench: {problem}");
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("pgbench tells no rate: {text}"))
}
