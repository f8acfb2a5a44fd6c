//! `sidle serve`.

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::failure::{Failure, Result};
use super::{ConfigFile, config};
use crate::app::{App, Running};
use crate::config::Config;
use crate::context::{Context, Stopwatch};
use crate::startup::StartFailure;
use crate::telemetry;

/// Runs the service until it is told to stop: SIGTERM, or Ctrl-C.
#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    file: ConfigFile,
}

/// The signals that end the service.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, StartFailure> {
        let listen = |kind| signal(kind).map_err(|error| StartFailure::new("listen for signals", error));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Cancels `stop` at the first of them, and gives its name.
    async fn stop(mut self, stop: CancellationToken) -> &'static str {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            // Another part of the service has ended it.
            () = stop.cancelled() => "failure",
        };
        stop.cancel();
        name
    }
}

impl Serve {
    pub async fn run(self) -> Result<()> {
        let config = config::load(&self.file)?;
        config.check_serving()?;
        let telemetry = telemetry::start(&config.log, &config.telemetry)?;
        warn_of_loose_files(&config);
        let context = Context::system();
        let begun = context.clock.stopwatch();
        let signals = Signals::listen()?;
        let app = App::new(config, context).await?;
        let signalled = tokio::spawn(signals.stop(app.stop.clone()));
        let running = app.start().await?;
        log_start(&running);
        let ended = running.wait().await;
        let reason = signalled.await.unwrap_or("failure");
        log_end(reason, begun, ended.as_ref().err().map(ToString::to_string));
        telemetry.finish().await;
        ended.map_err(Failure::from)
    }
}

fn warn_of_loose_files(config: &Config) {
    if !config.files.allow_loose_permissions {
        return;
    }
    for problem in config.loose_files() {
        tracing::warn!(event = "secret_file_exposed", setting = problem.key, problem = problem.text);
    }
}

fn log_start(running: &Running) {
    let Running { grpc_address, ops_address, .. } = running;
    let public_address = running.public_address.map(|address| address.to_string());
    let server = &running.app.config.server;
    tracing::info!(
        event = "service_started",
        version = env!("CARGO_PKG_VERSION"),
        %grpc_address,
        %ops_address,
        public_address,
        tls = !server.plaintext,
        "the service takes calls"
    );
}

fn log_end(reason: &str, begun: Stopwatch, cause: Option<String>) {
    let (version, seconds) = (env!("CARGO_PKG_VERSION"), begun.elapsed().as_secs());
    match cause {
        None => {
            tracing::info!(
                event = "service_stopped",
                version,
                reason,
                ran_for_seconds = seconds,
                "the service has ended in order"
            );
        }
        Some(cause) => {
            tracing::error!(
                event = "service_stopped",
                version,
                reason,
                ran_for_seconds = seconds,
                cause,
                "the service has failed"
            );
        }
    }
}
