//! `sidle serve`.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Result;
use super::{ConfigFile, config};
use crate::app::App;
use crate::context::Context;
use crate::telemetry;

/// Runs the service until it is told to stop: SIGTERM, or Ctrl-C.
#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    file: ConfigFile,
}

impl Serve {
    pub async fn run(self) -> Result<()> {
        let config = config::load(&self.file)?;
        config.check_serving()?;
        let telemetry = telemetry::start(&config.log, &config.telemetry)?;
        let app = App::new(config, Context::system()).await?;
        let stop = app.stop.clone();
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            stop.cancel();
        });
        let ended = app.start().await?.wait().await;
        telemetry.finish().await;
        Ok(ended?)
    }
}
