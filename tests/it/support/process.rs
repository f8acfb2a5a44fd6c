//! A `sidle serve` of its own, which can be killed.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

use super::{Client, LIMIT, Setup, within};

/// The real program. Stopped when this value is dropped.
pub struct Process {
    process: Child,
    channel: Channel,
    /// Address of the gRPC port.
    pub address: String,
    /// Address of the HTTP port for operators.
    pub ops_address: String,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Process {
    /// Starts it and waits until it serves.
    pub async fn start(setup: &Setup) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_sidle")), setup).await
    }

    /// Starts it with a limit of open files.
    pub async fn start_with_files(setup: &Setup, files: u32) -> Self {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={files}:{files}")).arg(env!("CARGO_BIN_EXE_sidle"));
        Self::start_by(command, setup).await
    }

    async fn start_by(mut command: Command, setup: &Setup) -> Self {
        let mut process = command
            .arg("serve")
            .envs(setup.environment())
            .env("SIDLE_LOG__LEVEL", "info")
            .env("SIDLE_LOG__FORMAT", "json")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (address, ops_address) = within("the server starts", async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the server goes on");
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                if line["event"] == "service_started" {
                    let address = |name: &str| line[name].as_str().unwrap().to_owned();
                    break (address("grpc_address"), address("ops_address"));
                }
            }
        })
        .await;
        // A pipe that is not read would block the server.
        let log = Arc::<Mutex<Vec<Value>>>::default();
        let keeps = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                keeps.lock().unwrap().push(serde_json::from_str(&line).unwrap_or_default());
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect_timeout(Duration::from_secs(5)).timeout(LIMIT).connect().await.unwrap();
        Self { process, channel, address, ops_address, log }
    }

    /// Clients that send this access token; none for the empty one.
    pub fn client(&self, token: &str) -> Client {
        Client::new(self.channel.clone(), token)
    }

    /// A channel to it.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let figures = std::fs::read_to_string(format!("/proc/{}/statm", self.id())).unwrap();
        figures.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    /// The lines of its log with this event, since it was started.
    pub fn logged(&self, event: &str) -> Vec<Value> {
        self.log.lock().unwrap().iter().filter(|line| line["event"] == event).cloned().collect()
    }

    /// The lines that were logged for the call with this id.
    pub fn logged_under(&self, correlation_id: uuid::Uuid) -> Vec<Value> {
        let id = correlation_id.to_string();
        self.log.lock().unwrap().iter().filter(|line| line["span"]["correlation_id"] == *id).cloned().collect()
    }

    /// The whole log.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().iter().map(|line| format!("{line}\n")).collect()
    }

    /// SIGTERM, and waits until it has shut down in order.
    pub async fn stop(mut self) {
        let told = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().await.unwrap();
        assert!(told.success());
        let ended = tokio::time::timeout(Duration::from_secs(60), self.process.wait()).await;
        assert!(ended.expect("it ends").unwrap().success(), "in order");
    }

    /// SIGKILL: nothing is released, nothing is finished.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}
