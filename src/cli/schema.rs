//! `sidle schema`.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};

use super::failure::{Failure, Result};
use super::output::Out;
use super::{ConfigFile, config};
use crate::context::Clock;
use crate::schema::{Migration, Plan, Schema};

/// Commands on the schema.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Apply what is pending, and functions whose text has changed
    Up(Run),
    /// Take back everything above a version, and put back the functions of that time
    Down {
        /// The version to go back to; 0 takes everything back
        version: i64,
        #[command(flatten)]
        run: Run,
        /// Confirm that the data in the tables that go is lost
        #[arg(long)]
        lose_data: bool,
    },
    /// Say which migrations are applied, and which functions would be
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
        return out.json(&serde_json::json!({
            "dry_run": dry_run,
            "files": plan.files,
            "functions": plan.functions,
            "dropped_functions": plan.dropped,
        }));
    }
    if plan.is_empty() {
        return out.line("There is nothing to do.");
    }
    let (ran, dropped) = if dry_run { ("would run", "would drop function") } else { ("ran", "dropped function") };
    plan.files.iter().chain(&plan.functions).try_for_each(|file| out.line(&format!("{ran} {file}")))?;
    plan.dropped.iter().try_for_each(|name| out.line(&format!("{dropped} {name}")))
}

fn when(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn status(schema: &mut Schema, out: &Out) -> Result<()> {
    let migrations = schema.status().await?;
    let pending = schema.pending().await?;
    if out.is_json() { out.json(&status_json(&migrations, &pending)) } else { print_status(&migrations, &pending, out) }
}

fn status_json(migrations: &[Migration], pending: &Plan) -> serde_json::Value {
    let rows = migrations.iter().map(|migration| {
        let applied = migration.applied.as_ref();
        serde_json::json!({
            "version": migration.version,
            "filename": migration.filename,
            "begun_at": applied.map(|applied| when(applied.begun_at)),
            "applied_at": applied.and_then(|applied| applied.applied_at).map(when),
            "execution_time_ms": applied.and_then(|applied| applied.execution_time_ms),
        })
    });
    serde_json::json!({
        "migrations": rows.collect::<Vec<_>>(),
        "pending_functions": pending.functions,
        "functions_to_drop": pending.dropped,
    })
}

fn print_status(migrations: &[Migration], pending: &Plan, out: &Out) -> Result<()> {
    let rows = migrations.iter().map(|migration| {
        let applied = migration.applied.as_ref();
        let state = match applied {
            None => "pending".to_owned(),
            Some(applied) => applied.applied_at.map_or_else(|| "interrupted, or under way".to_owned(), when),
        };
        let took = applied.and_then(|applied| applied.execution_time_ms);
        vec![
            migration.version.to_string(),
            migration.filename.clone(),
            state,
            took.map(|took| format!("{took} ms")).unwrap_or_default(),
        ]
    });
    let functions = pending.functions.iter().map(|file| vec![String::new(), file.clone(), "pending".to_owned()]);
    let dropped =
        pending.dropped.iter().map(|name| vec![String::new(), format!("function {name}"), "to drop".to_owned()]);
    let functions = functions.chain(dropped).map(|mut row| {
        row.push(String::new());
        row
    });
    out.table(&["VERSION", "FILE", "APPLIED", "TOOK"], rows.chain(functions).collect())
}
