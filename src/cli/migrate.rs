//! `sidle migrate`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::Global;
use super::connect::{Caller, random_id};
use super::failure::Result;
use super::lookup::{self, pages};
use super::output::{Out, dash, time, word};
use super::watch::{self, item_reason};
use crate::proto::*;

/// Commands on migrations.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Work out what a migration would do, user by user; changes nothing
    Plan(Cohorts),
    /// Show a plan and its items
    ShowPlan {
        /// Id of the plan
        plan: String,
        /// Only items with this forecast
        #[arg(long, value_enum)]
        forecast: Option<Forecasts>,
        /// Most items to print
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Start the migration that a plan describes
    Start {
        /// Id of the plan
        plan: String,
        /// Digest of the plan, as `plan` and `show-plan` print it: what runs is what was looked at
        #[arg(long)]
        digest: String,
        /// Follow it to its end
        #[arg(long)]
        watch: bool,
        /// Check everything and start nothing
        #[arg(long, conflicts_with = "watch")]
        dry_run: bool,
    },
    /// Show where a migration stands
    Status {
        /// Id of the migration
        migration: String,
    },
    /// List migrations, newest first
    List {
        /// Most migrations to print
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Follow a migration to its end; resumes where it was when the connection breaks
    Watch {
        /// Id of the migration
        migration: String,
    },
    /// List the items of a migration
    Items {
        /// Id of the migration
        migration: String,
        /// Only items in this state; may be given several times
        #[arg(long = "state", value_enum)]
        states: Vec<States>,
        /// Most items to print
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
}

/// Which users: active ones who sign in with a password only, narrowed by what is given.
#[derive(Args)]
pub(super) struct Cohorts {
    /// Slug or id of a home tenant; may be given several times
    #[arg(long = "tenant")]
    tenants: Vec<String>,
    /// Id, e-mail address or username; may be given several times
    #[arg(long = "user")]
    users: Vec<String>,
    /// Role in the home tenant, by name; may be given several times
    #[arg(long = "role")]
    roles: Vec<String>,
    /// At most so many, oldest first
    #[arg(long, default_value_t = 0)]
    limit: i32,
}

/// What will become of a plan's item.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Forecasts {
    WillBeCreated,
    NeedsReview,
    WillBeRefused,
}

/// How far an item has come.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum States {
    Pending,
    Linked,
    Failed,
    Skipped,
    NeedsReview,
}

impl States {
    /// `pending` selects everything that is not finished.
    fn numbers(self) -> Vec<i32> {
        let states: &[ItemState] = match self {
            Self::Pending => &[ItemState::Pending, ItemState::IntentRecorded, ItemState::Created, ItemState::Grouped],
            Self::Linked => &[ItemState::Linked],
            Self::Failed => &[ItemState::Failed],
            Self::Skipped => &[ItemState::Skipped, ItemState::RolledBack],
            Self::NeedsReview => &[ItemState::NeedsReview],
        };
        states.iter().map(|state| i32::from(*state)).collect()
    }
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<ExitCode> {
        let caller = Caller::open(global)?;
        match self {
            Self::Plan(cohort) => cohort.plan(&caller, out).await?,
            Self::ShowPlan { plan, forecast, limit } => show_plan(&caller, &plan, forecast, limit, out).await?,
            Self::Start { plan, digest, watch, dry_run } => {
                let request = StartMigrationRequest {
                    plan_id: plan,
                    plan_digest: digest,
                    request_id: random_id(&caller.context),
                    validate_only: dry_run,
                };
                return start(&caller, request, watch, out).await;
            }
            Self::Status { migration } => {
                let request = GetMigrationRequest { migration_id: migration };
                let answer = caller.migration().await?.get_migration(request).await?.into_inner();
                status(&answer.migration.unwrap_or_default(), out)?;
            }
            Self::List { limit } => list(&caller, limit, out).await?,
            Self::Watch { migration } => return watch::watch(&caller, &migration, out).await.map(ExitCode::from),
            Self::Items { migration, states, limit } => {
                let states = states.into_iter().flat_map(States::numbers).collect();
                watch::items(&caller, &migration, states, limit, out).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn start(caller: &Caller, request: StartMigrationRequest, watch: bool, out: &Out) -> Result<ExitCode> {
    let dry_run = request.validate_only;
    let answer = caller.migration().await?.start_migration(request).await?.into_inner();
    let migration = answer.migration.unwrap_or_default();
    if watch {
        out.note(&format!("migration {}", migration.migration_id));
        return watch::watch(caller, &migration.migration_id, out).await.map(ExitCode::from);
    }
    match (out.is_json(), dry_run) {
        (true, _) => out.message(&migration)?,
        (false, true) => out.line("The migration could be started.")?,
        (false, false) => {
            out.line(&migration.migration_id)?;
            out.note(&format!("Follow it with: sidle migrate watch {}", migration.migration_id));
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Cohorts {
    async fn plan(self, caller: &Caller, out: &Out) -> Result<()> {
        let mut user_ids = Vec::with_capacity(self.users.len());
        for user in &self.users {
            user_ids.push(lookup::user_id(caller, user).await?);
        }
        let cohort = Cohort {
            tenant_ids: lookup::tenant_ids(caller, &self.tenants).await?,
            user_ids,
            last_login_since: None,
            roles: self.roles,
            limit: self.limit,
        };
        let request = PlanMigrationRequest { cohort: Some(cohort), request_id: random_id(&caller.context) };
        let answer = caller.migration().await?.plan_migration(request).await?.into_inner();
        let plan = answer.plan.unwrap_or_default();
        if out.is_json() {
            return out.message(&plan);
        }
        summary(&plan, out)?;
        out.note(&format!("Look at it with: sidle migrate show-plan {}", plan.plan_id));
        out.note(&format!("Start it with: sidle migrate start {} --digest {} --watch", plan.plan_id, plan.digest));
        Ok(())
    }
}

fn summary(plan: &Plan, out: &Out) -> Result<()> {
    out.facts(&[
        ("plan", plan.plan_id.clone()),
        ("digest", plan.digest.clone()),
        ("users", plan.total.to_string()),
        ("will be created", plan.will_be_created.to_string()),
        ("need review", plan.needs_review.to_string()),
        ("will be refused", plan.will_be_refused.to_string()),
        ("names derived", plan.names_derived.to_string()),
        ("good until", time(plan.expires_at.as_ref())),
        ("migration", plan.migration_id.clone()),
    ])?;
    reasons(&plan.reasons, out)
}

fn reasons(reasons: &[ItemReasonCount], out: &Out) -> Result<()> {
    if reasons.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let rows = reasons.iter().map(|count| vec![item_reason(count.reason), count.items.to_string()]);
    out.table(&["REASON", "USERS"], rows.collect())
}

async fn show_plan(caller: &Caller, plan_id: &str, forecast: Option<Forecasts>, limit: usize, out: &Out) -> Result<()> {
    let forecast = match forecast {
        None => Forecast::Unspecified,
        Some(Forecasts::WillBeCreated) => Forecast::WillBeCreated,
        Some(Forecasts::NeedsReview) => Forecast::NeedsReview,
        Some(Forecasts::WillBeRefused) => Forecast::WillBeRefused,
    };
    let ask = |page_size, page_token| GetPlanRequest {
        plan_id: plan_id.to_owned(),
        forecast: forecast.into(),
        page_size,
        page_token,
    };
    let (items, more) = pages(limit, |page_size, page_token| {
        let request = ask(page_size, page_token);
        async move {
            let answer = caller.migration().await?.get_plan(request).await?.into_inner();
            Ok((answer.items, answer.next_page_token))
        }
    })
    .await?;
    let plan = caller.migration().await?.get_plan(ask(1, String::new())).await?.into_inner().plan.unwrap_or_default();
    if out.is_json() {
        return out.message(&GetPlanResponse { plan: Some(plan), items, next_page_token: String::new() });
    }
    summary(&plan, out)?;
    out.line("")?;
    out.list(&items, &["USER", "E-MAIL", "NAME IN KANIDM", "FORECAST", "REASON", "REMEDY"], |item| {
        vec![
            item.user_id.clone(),
            item.email.clone(),
            dash(item.person.as_ref().map_or("", |person| person.name.as_str())),
            word(item.forecast, Forecast::as_str_name, "FORECAST_"),
            if item.reason == 0 { "-".to_owned() } else { item_reason(item.reason) },
            dash(&item.remedy),
        ]
    })?;
    out.more(more);
    Ok(())
}

fn status(migration: &Migration, out: &Out) -> Result<()> {
    if out.is_json() {
        return out.message(migration);
    }
    let counts = migration.counts.unwrap_or_default();
    let waiting = match migration.waiting_for {
        0 => String::new(),
        reason => word(reason, WaitReason::as_str_name, "WAIT_REASON_"),
    };
    out.facts(&[
        ("migration", migration.migration_id.clone()),
        ("kind", kind(migration)),
        ("state", state(migration)),
        ("waiting for", waiting),
        ("users", counts.total.to_string()),
        ("pending", counts.pending.to_string()),
        ("done", counts.done.to_string()),
        ("failed", counts.failed.to_string()),
        ("of these to review", counts.needs_review.to_string()),
        ("skipped", counts.skipped.to_string()),
        ("plan", migration.plan_id.clone()),
        ("started", time(migration.created_at.as_ref())),
        ("last progress", time(migration.progressed_at.as_ref())),
        ("ended", time(migration.ended_at.as_ref())),
    ])?;
    reasons(&migration.reasons, out)
}

fn kind(migration: &Migration) -> String {
    word(migration.kind, MigrationKind::as_str_name, "MIGRATION_KIND_")
}

fn state(migration: &Migration) -> String {
    word(migration.state, MigrationState::as_str_name, "MIGRATION_STATE_")
}

async fn list(caller: &Caller, limit: usize, out: &Out) -> Result<()> {
    let (migrations, more) = pages(limit, |page_size, page_token| {
        let request = ListMigrationsRequest { page_size, page_token, ..Default::default() };
        async move {
            let answer = caller.migration().await?.list_migrations(request).await?.into_inner();
            Ok((answer.migrations, answer.next_page_token))
        }
    })
    .await?;
    let header = ["MIGRATION", "KIND", "STATE", "USERS", "DONE", "FAILED", "SKIPPED", "STARTED", "ENDED"];
    out.list(&migrations, &header, |migration| {
        let counts = migration.counts.unwrap_or_default();
        vec![
            migration.migration_id.clone(),
            kind(migration),
            state(migration),
            counts.total.to_string(),
            counts.done.to_string(),
            counts.failed.to_string(),
            counts.skipped.to_string(),
            time(migration.created_at.as_ref()),
            time(migration.ended_at.as_ref()),
        ]
    })?;
    out.more(more);
    Ok(())
}
