//! `sidle audit`.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use prost_types::value::Kind;

use super::Global;
use super::connect::Caller;
use super::failure::{Failure, Result, is_passing};
use super::lookup::{self, pages};
use super::output::{Out, time, word};
use super::watch::{Backoff, next_message};
use crate::access::input;
use crate::proto::stream_events_request::Start;
use crate::proto::*;

/// Commands on the audit log.
#[derive(Subcommand)]
pub(super) enum Command {
    /// List events, newest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only events recorded at or after this time, such as 2026-05-31T12:00:00Z
        #[arg(long, value_name = "TIME")]
        since: Option<DateTime<Utc>>,
        /// Only events recorded before this time
        #[arg(long, value_name = "TIME")]
        before: Option<DateTime<Utc>>,
        /// Oldest first
        #[arg(long)]
        oldest_first: bool,
        /// Most events to print
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Follow the log; resumes where it was when the connection breaks
    Tail {
        #[command(flatten)]
        filter: Filter,
        /// Begin with the oldest event that is kept
        #[arg(long, conflicts_with = "since")]
        from_beginning: bool,
        /// Begin with the first event recorded at or after this time
        #[arg(long, value_name = "TIME")]
        since: Option<DateTime<Utc>>,
        /// Stop once everything recorded so far has been printed
        #[arg(long)]
        no_follow: bool,
    },
}

/// Which events.
#[derive(Args)]
pub(super) struct Filter {
    /// Slug or id of a tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Type, such as user.locked, or domain, such as session.*; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Who did it: id of a user or service account, or a user's e-mail address
    #[arg(long)]
    actor: Option<String>,
    /// On whom or what it was done: id, or a user's e-mail address
    #[arg(long)]
    target: Option<String>,
    /// Id of the session it was done in
    #[arg(long)]
    session: Option<String>,
    /// Correlation id of the call, as an error shows it
    #[arg(long)]
    correlation: Option<String>,
}

impl Filter {
    async fn read(self, caller: &Caller) -> Result<AuditFilter> {
        let someone = async |name: Option<String>| match name {
            Some(name) if name.contains('@') => lookup::user_id(caller, &name).await,
            name => Ok(name.unwrap_or_default()),
        };
        Ok(AuditFilter {
            tenant_id: lookup::optional_tenant_id(caller, self.tenant.as_deref()).await?,
            types: self.types,
            actor_id: someone(self.actor).await?,
            target_id: someone(self.target).await?,
            session_id: self.session.unwrap_or_default(),
            correlation_id: self.correlation.unwrap_or_default(),
            ..Default::default()
        })
    }
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        match self {
            Self::List { filter, since, before, oldest_first, limit } => {
                let order = if oldest_first { AuditOrder::OldestFirst } else { AuditOrder::NewestFirst };
                let asked = ListEventsRequest {
                    filter: Some(filter.read(&caller).await?),
                    recorded_from: since.map(input::to_proto),
                    recorded_before: before.map(input::to_proto),
                    order: order.into(),
                    ..Default::default()
                };
                list(&caller, asked, limit, out).await
            }
            Self::Tail { filter, from_beginning, since, no_follow } => {
                let filter = filter.read(&caller).await?;
                let start = match since {
                    Some(since) => Start::RecordedFrom(input::to_proto(since)),
                    None if from_beginning || no_follow => Start::FromBeginning(true),
                    None => Start::FromNow(true),
                };
                tail(&caller, filter, start, no_follow, out).await
            }
        }
    }
}

async fn list(caller: &Caller, asked: ListEventsRequest, limit: usize, out: &Out) -> Result<()> {
    let (events, more) = pages(limit, |page_size, page_token| {
        let request = ListEventsRequest { page_size, page_token, ..asked.clone() };
        async move {
            let answer = caller.audit().await?.list_events(request).await?.into_inner();
            Ok((answer.events, answer.next_page_token))
        }
    })
    .await?;
    out.list(&events, &["POSITION", "TIME", "TYPE", "OUTCOME", "ACTOR", "ON", "DETAILS"], columns)?;
    out.more(more);
    Ok(())
}

/// Prints events as they come. The cursor of the last one is where it resumes after the connection broke, so that none
/// is lost and none is printed twice.
async fn tail(caller: &Caller, filter: AuditFilter, start: Start, no_follow: bool, out: &Out) -> Result<()> {
    let mut start = start;
    let mut backoff = Backoff::new();
    loop {
        let request = StreamEventsRequest {
            filter: Some(filter.clone()),
            start: Some(start.clone()),
            heartbeat_interval: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        };
        let ended = match caller.audit().await?.stream_events(request).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match next_message(&mut stream).await {
                        Ok(Some(message)) => {
                            backoff.restore();
                            start = Start::Cursor(message.cursor);
                            if let Some(event) = &message.event {
                                print(event, out)?;
                            }
                            if no_follow && message.caught_up {
                                return Ok(());
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        match ended {
            // Opened again, for which a token that is refused is replaced: only who cannot open one is not authorised.
            Some(status) if status.code() == tonic::Code::Unauthenticated && backoff.may_reopen() => {}
            Some(status) if !is_passing(&status) => return Err(Failure::from(status)),
            ended => backoff.pause(ended, out).await?,
        }
    }
}

fn print(event: &AuditEvent, out: &Out) -> Result<()> {
    if out.is_json() { out.message_line(event) } else { out.line(columns(event).join("  ").trim_end()) }
}

fn columns(event: &AuditEvent) -> Vec<String> {
    let actor = event.actor.clone().unwrap_or_default();
    let kind = word(actor.kind, AuditActorKind::as_str_name, "AUDIT_ACTOR_KIND_");
    let target = event.target.as_ref().map(|target| format!("{} {}", target.kind, target.id)).unwrap_or_default();
    let outcome = word(event.outcome, AuditOutcome::as_str_name, "AUDIT_OUTCOME_");
    vec![
        event.position.to_string(),
        time(event.occurred_at.as_ref()),
        event.r#type.clone(),
        if event.reason.is_empty() { outcome } else { format!("{outcome}: {}", event.reason) },
        format!("{kind} {}", actor.id).trim_end().to_owned(),
        target,
        details(event),
    ]
}

/// What fits a line: who it was about, and facts that are one word.
fn details(event: &AuditEvent) -> String {
    let email = event.personal.as_ref().map(|personal| personal.email.clone()).filter(|email| !email.is_empty());
    let mut facts: Vec<String> = email.into_iter().collect();
    let fields = event.details.as_ref().map(|details| &details.fields);
    for (name, value) in fields.into_iter().flatten() {
        match &value.kind {
            Some(Kind::StringValue(text)) => facts.push(format!("{name}={text}")),
            Some(Kind::NumberValue(number)) => facts.push(format!("{name}={number}")),
            Some(Kind::BoolValue(value)) => facts.push(format!("{name}={value}")),
            Some(Kind::ListValue(list)) => facts.push(format!("{name}=[{}]", list.values.len())),
            _ => {}
        }
    }
    facts.join(" ")
}
