//! The audit log, followed from its beginning.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::value::Kind;
use sidle::proto::{AuditEvent, StreamEventsRequest, stream_events_request::Start};

use super::Demo;
use super::migrate::Migrated;
use crate::Result;
use crate::client::{refused, word};
use crate::output::{self, fact};

/// How many of the last events are shown.
const SHOWN: usize = 12;

/// Reads all events, shows the last ones, and compares them with what was done.
pub async fn tail(demo: &mut Demo<'_>, migrated: &Migrated) -> Result<()> {
    let step = output::step(11, "All of it stands in the audit log: StreamEvents");
    let events = from_the_beginning(demo).await?;
    fact("events", events.len());
    let mut by_type: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &events {
        *by_type.entry(&event.r#type).or_default() += 1;
    }
    let rows: Vec<Vec<String>> =
        by_type.iter().map(|(name, count)| vec![count.to_string(), (*name).to_owned()]).collect();
    output::table(&["", ""], &rows);
    output::note(format!("The last {SHOWN} of them:"));
    let last = &events[events.len().saturating_sub(SHOWN)..];
    output::table(&["position", "what", "how", "by", "on"], &last.iter().map(row).collect::<Vec<_>>());
    compare(demo, migrated, &events);
    step.done();
    Ok(())
}

async fn from_the_beginning(demo: &mut Demo<'_>) -> Result<Vec<AuditEvent>> {
    let request = StreamEventsRequest { start: Some(Start::FromBeginning(true)), ..Default::default() };
    let mut stream = demo.admin.audit.stream_events(request).await.map_err(refused("StreamEvents"))?.into_inner();
    let mut events = Vec::new();
    while let Some(message) = stream.message().await.map_err(refused("StreamEvents"))? {
        events.extend(message.event);
        if message.caught_up {
            return Ok(events);
        }
    }
    Err("StreamEvents ended before everything had been sent".into())
}

fn row(event: &AuditEvent) -> Vec<String> {
    let actor = event.actor.clone().unwrap_or_default();
    let by = match actor.id.as_str() {
        "" => word(actor.kind().as_str_name(), "AUDIT_ACTOR_KIND_").to_lowercase(),
        id => format!("user {}", output::short(id)),
    };
    let on = event.target.clone().map(|target| format!("{} {}", target.kind, output::short(&target.id)));
    let how = word(event.outcome().as_str_name(), "AUDIT_OUTCOME_").to_lowercase();
    vec![event.position.to_string(), event.r#type.clone(), how, by, on.unwrap_or_default()]
}

fn compare(demo: &mut Demo<'_>, migrated: &Migrated, events: &[AuditEvent]) {
    let of_type = |name: &'static str| events.iter().filter(move |event| event.r#type == name);
    let checks = &mut demo.checks;
    let linked = of_type("migration.item_linked").count();
    checks.number("audit: users linked", demo.expected.migration.succeeds, linked);
    let failed = of_type("migration.completed").next_back().and_then(failures);
    checks.number("audit: users failed", demo.expected.migration.fails, failed.unwrap_or(usize::MAX));
    let users: BTreeSet<String> = of_type("migration.item_linked").filter_map(user_of).collect();
    checks.same("audit: each migrated user is linked once", &migrated.linked.keys().cloned().collect(), &users);
    let positions: Vec<i64> = events.iter().map(|event| event.position).collect();
    let without_gaps: Vec<i64> = (1..).take(events.len()).collect();
    checks.holds("audit: positions are 1, 2, 3, ... without gaps", positions == without_gaps);
    for (name, least) in [
        ("platform.bootstrapped", 1),
        ("tenant.created", 3),
        ("migration.users_imported", 2),
        ("migration.planned", 2),
        ("migration.started", 1),
        ("migration.completed", 1),
        ("user.login_refused", 1),
        ("user.authenticated", 4),
        ("user.migrated", 1),
        ("session.refreshed", 1),
    ] {
        checks.holds(&format!("audit: {name} stands there {least} times or more"), of_type(name).count() >= least);
    }
}

/// Failures have no events of their own: each step of a migration states its counts.
fn failures(event: &AuditEvent) -> Option<usize> {
    let counts = event.details.as_ref()?.fields.get("counts")?;
    let Some(Kind::StructValue(counts)) = &counts.kind else { return None };
    let Some(Kind::NumberValue(failed)) = counts.fields.get("failed")?.kind else { return None };
    // A count is far from where floating point loses units.
    Some(failed as usize)
}

fn user_of(event: &AuditEvent) -> Option<String> {
    let target = event.target.as_ref()?;
    (target.kind == "user").then(|| target.id.clone())
}
