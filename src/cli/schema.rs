//! `sidle schema`.

use chrono::SecondsFormat;
use clap::{Args, Subcommand};

use super::failure::{Failure, Result};
use super::output::Out;
use super::{ConfigFile, config};
use crate::context::Clock;
use crate::schema::{Plan, Schema};

/// Commands on the schema.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Apply what is pending
    Up(Run),
    /// Take back everything above a version
    Down {
        /// The version to go back to; 0 takes everything back
        version: i64,
        #[command(flatten)]
        run: Run,
        /// Confirm that the data in the tables that go is lost
        #[arg(long)]
        lose_data: bool,
    },
    /// Say which migrations are applied
    Status {
        #[command(flatten)]
        file: ConfigFile,
    },
}

/// A run.
#[derive(Args)]
pub(super) struct Run {
    #[command(flatten)]
    file: ConfigFile,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Command {
    pub async fn run(self, out: &Out) -> Result<()> {
        match self {
            Self::Up(run) => {
                let plan = connect(&run.file).await?.up(run.dry_run).await?;
                report(&plan, run.dry_run, out)
            }
            Self::Down { run, lose_data, .. } if !run.dry_run && !lose_data => {
                let _ = run;
                Err(Failure::new("taking the schema back loses the data in the tables that go")
                    .remedy("Look with --dry-run, make a backup, then repeat with --lose-data."))
            }
            Self::Down { version, run, .. } => {
                let plan = connect(&run.file).await?.down(version, run.dry_run).await?;
                report(&plan, run.dry_run, out)
            }
            Self::Status { file } => status(&mut connect(&file).await?, out).await,
        }
    }
}

async fn connect(file: &ConfigFile) -> Result<Schema> {
    let config = config::load(file)?;
    Ok(Schema::connect(&config.database, Clock::system()).await?)
}

fn report(plan: &Plan, dry_run: bool, out: &Out) -> Result<()> {
    if out.is_json() {
        return out.json(&serde_json::json!({ "dry_run": dry_run, "files": plan.files }));
    }
    if plan.files.is_empty() {
        return out.line("There is nothing to do.");
    }
    let verb = if dry_run { "would run" } else { "ran" };
    plan.files.iter().try_for_each(|file| out.line(&format!("{verb} {file}")))
}

async fn status(schema: &mut Schema, out: &Out) -> Result<()> {
    let migrations = schema.status().await?;
    let when = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    if out.is_json() {
        let rows: Vec<_> = migrations
            .iter()
            .map(|migration| {
                serde_json::json!({
                    "version": migration.version,
                    "filename": migration.filename,
                    "applied_at": migration.applied.as_ref().map(|applied| when(applied.applied_at)),
                    "execution_time_ms": migration.applied.as_ref().map(|applied| applied.execution_time_ms),
                })
            })
            .collect();
        return out.json(&rows);
    }
    let rows = migrations.iter().map(|migration| {
        let applied = migration.applied.as_ref();
        vec![
            migration.version.to_string(),
            migration.filename.clone(),
            applied.map_or_else(|| "pending".to_owned(), |applied| when(applied.applied_at)),
            applied.map(|applied| format!("{} ms", applied.execution_time_ms)).unwrap_or_default(),
        ]
    });
    out.table(&["VERSION", "FILE", "APPLIED", "TOOK"], rows.collect())
}
