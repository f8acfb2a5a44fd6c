//! The log of a service from its first line to its last.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use crate::support::{Client, Setup, within};

type Lines = tokio::io::Lines<BufReader<ChildStderr>>;

/// A service, its first lines up to the one that says that it takes calls, and the others.
async fn started(setup: &Setup) -> (Child, Vec<Value>, Lines) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidle"));
    command.arg("serve").env_clear().envs(setup.environment()).env("SIDLE_LOG__FORMAT", "json");
    let mut process =
        command.env("SIDLE_LOG__LEVEL", "debug").stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let first = within("the service starts", async {
        let mut first = Vec::new();
        loop {
            let line = lines.next_line().await.unwrap().expect("the service goes on");
            first.push(serde_json::from_str::<Value>(&line).expect("a line is JSON"));
            if first.last().unwrap()["event"] == "service_started" {
                break first;
            }
        }
    })
    .await;
    (process, first, lines)
}

/// The lines until the service has ended.
async fn rest(mut lines: Lines) -> Vec<Value> {
    within("the service ends", async {
        let mut rest = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            rest.push(serde_json::from_str::<Value>(&line).expect("a line is JSON"));
        }
        rest
    })
    .await
}

#[tokio::test]
async fn start_and_end_are_logged_with_addresses_version_and_reason() {
    for (signal, reason) in [("-TERM", "SIGTERM"), ("-INT", "SIGINT")] {
        let setup = Setup::new().await;
        let (mut process, first, lines) = started(&setup).await;
        let start = first.last().unwrap();
        assert_eq!(start["version"], env!("CARGO_PKG_VERSION"));
        for address in ["grpc_address", "ops_address"] {
            assert!(start[address].as_str().unwrap().starts_with("127.0.0.1:"), "{start}");
        }
        let order: Vec<_> = first.iter().filter_map(|line| line["event"].as_str()).collect();
        let place =
            |event| order.iter().position(|known| *known == event).unwrap_or_else(|| panic!("{event}: {order:?}"));
        assert!(place("database_connection_test_passed") < place("database_initialized"));
        let told = Command::new("kill").args([signal, &process.id().unwrap().to_string()]).status().await.unwrap();
        assert!(told.success());
        let rest = rest(lines).await;
        let end = rest.last().expect("a last line");
        assert_eq!((&end["event"], &end["reason"]), (&"service_stopped".into(), &reason.into()), "{rest:?}");
        assert!(end["ran_for_seconds"].is_u64() && end["version"].is_string() && end.get("cause").is_none(), "{end}");
        assert!(within("it ends", process.wait()).await.unwrap().success());
    }
}

/// At `debug` HTTP/2 alone writes several lines for each frame.
#[tokio::test]
async fn at_debug_the_lines_are_sidles_own() {
    let setup = Setup::new().await;
    let (process, first, lines) = started(&setup).await;
    let url = format!("http://{}", first.last().unwrap()["grpc_address"].as_str().unwrap());
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let answer = Client::new(channel, "").authenticate.clone().get_jwks(sidle::proto::GetJwksRequest::default()).await;
    answer.unwrap();
    let told = Command::new("kill").args(["-TERM", &process.id().unwrap().to_string()]).status().await.unwrap();
    assert!(told.success());
    let all = [first, rest(lines).await].concat();
    assert!(all.iter().any(|line| line["level"] == "DEBUG"), "{all:?}");
    let foreign: Vec<_> = all.iter().filter(|line| !line["target"].as_str().unwrap().starts_with("sidle")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}
