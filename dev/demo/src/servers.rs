//! The programs of the demonstration: a dev Kanidm and a `sidle serve`, both started by it and stopped at its end.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use sidle_dev::kanidm::{Access, Kanidm};
use sidle_dev::variable;
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

use crate::Result;

/// The database that `./run demo` makes.
const DATABASE: &str = "sidle_demo";
/// How long the service may take to get ready, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// The programs that have been started so far.
#[derive(Default)]
pub struct Servers {
    kanidm: Option<Kanidm>,
    service: Option<Service>,
}

struct Service {
    process: Child,
    log: PathBuf,
}

/// How to reach a service that is ready.
pub struct Ready {
    pub grpc: SocketAddr,
    pub ops: SocketAddr,
    pub log: PathBuf,
    pub channel: Channel,
}

/// The `sidle` program with its settings, which it gets by the environment.
pub struct Sidle {
    program: String,
    settings: Vec<(String, String)>,
}

impl Sidle {
    /// With what every command needs.
    pub fn new() -> Result<Self> {
        let database = |url: String| url.rsplit_once('/').map(|(server, _)| format!("{server}/{DATABASE}"));
        let app = database(variable("SIDLE_DEV_PG_APP_URL")?).ok_or("SIDLE_DEV_PG_APP_URL names no database")?;
        let owner = database(variable("SIDLE_DEV_PG_OWNER_URL")?).ok_or("SIDLE_DEV_PG_OWNER_URL names no database")?;
        let mut sidle = Self { program: variable("SIDLE_BIN")?, settings: Vec::new() };
        // Plaintext and open reflection, so that calls can be pasted.
        sidle.set("SERVER__PLAINTEXT", "true");
        sidle.set("SERVER__OPEN_REFLECTION", "true");
        sidle.set("SERVER__SHUTDOWN_GRACE", "3s");
        sidle.set("DATABASE__URL", &app);
        sidle.set("DATABASE__OWNER_URL", &owner);
        // The printed tokens are to be used while the reader is still reading.
        sidle.set("TOKENS__ACCESS_LIFETIME", "12h");
        // Smaller batches than is fastest, so that there is progress to watch.
        sidle.set("MIGRATION__BATCH_SIZE", "25");
        sidle.set("MIGRATION__POLL", "200ms");
        sidle.set("LOG__FORMAT", "text");
        Ok(sidle)
    }

    /// Sets `SIDLE_{key}`.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.push((format!("SIDLE_{key}"), value.to_owned()));
    }

    /// Sets what it needs to know of Kanidm.
    pub fn with_kanidm(&mut self, url: &str, access: &Access) {
        self.set("KANIDM__URL", url);
        self.set("KANIDM__TOKEN", &access.token);
        self.set("KANIDM__CLIENT_ID", &access.client_id);
        self.set("KANIDM__CLIENT_SECRET", &access.client_secret);
        self.set("KANIDM__REDIRECT_URIS", &access.redirect_uri);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // What the shell has set for another Sidle must not reach this one.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIDLE_")) {
            command.env_remove(name);
        }
        command.args(arguments).envs(self.settings.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a command to its end and returns what it printed.
    pub async fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String> {
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied());
        let name = format!("sidle {}", arguments.join(" "));
        let Output { status, stdout, stderr } =
            command.output().await.map_err(|e| format!("cannot start {}: {e}", self.program))?;
        if !status.success() {
            return Err(format!("{name} ended with {status}: {}", String::from_utf8_lossy(&stderr).trim()).into());
        }
        Ok(String::from_utf8(stdout)?.trim_end().to_owned())
    }
}

impl Servers {
    /// Starts a dev Kanidm.
    pub async fn start_kanidm(&mut self) -> Result<()> {
        self.kanidm = Some(Kanidm::dev().await?);
        Ok(())
    }

    /// The Kanidm that was started.
    pub fn kanidm(&self) -> Result<&Kanidm> {
        Ok(self.kanidm.as_ref().ok_or("Kanidm has not been started")?)
    }

    /// Starts `sidle serve` and waits until it takes calls.
    pub async fn start_service(&mut self, sidle: &mut Sidle) -> Result<Ready> {
        let (grpc, ops) = (free_address(50051)?, free_address(9464)?);
        sidle.set("SERVER__GRPC_ADDRESS", &grpc.to_string());
        sidle.set("SERVER__OPS_ADDRESS", &ops.to_string());
        let log = log_file()?;
        let output = File::create(&log).map_err(|e| format!("cannot write {}: {e}", log.display()))?;
        let mut command = sidle.command(&["serve"]);
        // A group of its own: Ctrl-C is for the demonstration, which then stops the service in order.
        command.stdout(output.try_clone()?).stderr(output).process_group(0);
        let process = command.spawn().map_err(|e| format!("cannot start {}: {e}", sidle.program))?;
        let service = self.service.insert(Service { process, log: log.clone() });
        service.wait_until_ready(ops).await?;
        let channel = Endpoint::from_shared(format!("http://{grpc}"))?.connect().await?;
        Ok(Ready { grpc, ops, log, channel })
    }

    /// Returns when the service ends by itself, with what that means.
    pub async fn service_ended(&mut self) -> String {
        match &mut self.service {
            Some(service) => service.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Which log to read after a failure.
    pub fn where_to_look(&self) -> String {
        match &self.service {
            Some(service) => format!("The service's log is {}.", service.log.display()),
            None => "The service had not been started yet.".to_owned(),
        }
    }

    /// Stops everything: the service in order, so that its last events are stored, then Kanidm.
    pub async fn stop(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.stop().await;
        }
        self.kanidm = None;
    }
}

impl Service {
    async fn wait_until_ready(&mut self, ops: SocketAddr) -> Result<()> {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            let answer = http.get(format!("http://{ops}/readyz")).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if self.process.try_wait()?.is_some() {
                return Err(self.ended().await.into());
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        Err(format!("sidle serve was not ready after {} s", PATIENCE.as_secs()).into())
    }

    async fn ended(&mut self) -> String {
        let how = self.process.wait().await.map_or_else(|e| e.to_string(), |status: ExitStatus| status.to_string());
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(10)..].join("\n");
        format!("sidle serve ended by itself ({how}). The last lines of its log:\n{last}")
    }

    async fn stop(&mut self) {
        let Some(process) = self.process.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) else {
            return;
        };
        // Refused only when it has ended already. What does not stop is killed when the value is dropped.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        let _ = tokio::time::timeout(PATIENCE, self.process.wait()).await;
    }
}

/// The usual port when it is free, else another one.
fn free_address(port: u16) -> Result<SocketAddr> {
    let usual = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    Ok(usual.or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?.local_addr()?)
}

/// `.dev/log/demo-serve.log`, beside the other logs of `./run`.
fn log_file() -> Result<PathBuf> {
    let folder = std::env::current_dir()?.join(".dev/log");
    std::fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    Ok(folder.join("demo-serve.log"))
}
