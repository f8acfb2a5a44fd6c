//! A `sidle serve` of its own, which can be killed.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

use super::{Client, Setup};

/// The real program. Ends with this value.
pub struct Process {
    process: Child,
    channel: Channel,
}

impl Process {
    /// Starts it and waits until it serves.
    pub async fn start(setup: &Setup) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_sidle"))
            .arg("serve")
            .envs(setup.environment())
            .env("SIDLE_LOG__LEVEL", "info")
            .env("SIDLE_LOG__FORMAT", "json")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("the server starts");
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if line["event"] == "database_initialized" {
                break line["grpc_address"].as_str().unwrap().to_owned();
            }
        };
        // A pipe that nobody reads would stop the server before anything else does.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect_timeout(Duration::from_secs(5)).connect().await.unwrap();
        Self { process, channel }
    }

    /// Clients that send this access token; none for the empty one.
    pub fn client(&self, token: &str) -> Client {
        Client::new(self.channel.clone(), token)
    }

    /// SIGKILL: nothing is given back, nothing is finished.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}
