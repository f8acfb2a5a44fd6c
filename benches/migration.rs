//! Bulk migration, compared with a bare client that posts the same batches to the same Kanidm.

use std::time::Instant;

use serde_json::{Value, json};
use sidle::proto;
use sidle_dev::kanidm::Kanidm;
use uuid::Uuid;

use crate::support::Setup;
use crate::{Row, row};

const USERS: usize = 600;
const BATCH: usize = 100;
const ROUNDS: usize = 5;

pub async fn run() -> Row {
    let kanidm = Kanidm::start().await.expect("a Kanidm");
    let access = kanidm.prepare("https://app.example/callback").await.expect("prepared");
    let server = Setup::new().await.with_kanidm(&kanidm, &access).start().await;
    let admin = server.admin().await;
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        // Kanidm slows down as persons accumulate: each side goes first every other time.
        let pair = if round % 2 == 0 {
            let ours = sidle(&server, &admin, round).await;
            (ours, bare(&kanidm, &access.token, round).await)
        } else {
            let limit = bare(&kanidm, &access.token, round).await;
            (sidle(&server, &admin, round).await, limit)
        };
        rounds.push(pair);
    }
    let kind = if kanidm.is_dev() { "dev Kanidm, debug build" } else { "a full Kanidm" };
    let note = format!("{USERS} users a round, batches of {BATCH}, {kind}");
    row("Bulk migration, users", "bare client, same batches", "≥ 0.9", &rounds, note)
}

/// Users a second, from the start of the migration to its end.
async fn sidle(server: &crate::support::TestServer, admin: &crate::support::Client, round: usize) -> f64 {
    let slug = format!("ours-{}", sidle_dev::random_word(8));
    let tenant = server.tenant(&slug).await;
    for user in 0..USERS {
        server.user(tenant, &format!("u{round}-{user}@{slug}.example"), "user").await;
    }
    let mut client = admin.migration.clone();
    let sync = proto::SyncTenantGroupsRequest { tenant_ids: vec![tenant.to_string()], ..Default::default() };
    client.sync_tenant_groups(sync).await.expect("groups");
    let cohort = proto::Cohort { tenant_ids: vec![tenant.to_string()], ..Default::default() };
    let plan = proto::PlanMigrationRequest { cohort: Some(cohort), request_id: Uuid::new_v4().to_string() };
    let plan = client.plan_migration(plan).await.expect("a plan").into_inner().plan.unwrap();
    let begun = Instant::now();
    let start = proto::StartMigrationRequest {
        plan_id: plan.plan_id,
        plan_digest: plan.digest,
        request_id: Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let migration = client.start_migration(start).await.expect("started").into_inner().migration.unwrap();
    let watch = proto::WatchMigrationRequest { migration_id: migration.migration_id, ..Default::default() };
    let mut progress = client.watch_migration(watch).await.expect("progress").into_inner();
    let mut done = 0;
    while let Some(message) = progress.message().await.expect("progress") {
        done = message.counts.expect("counts").done;
    }
    assert_eq!(done, USERS as i64, "everybody was migrated");
    USERS as f64 / begun.elapsed().as_secs_f64()
}

/// Users a second for a client that only posts the batches and the memberships.
async fn bare(kanidm: &Kanidm, token: &str, round: usize) -> f64 {
    let word = sidle_dev::random_word(8);
    let group = format!("bare_{word}");
    let call = async |path: &str, body: Value| {
        let request = kanidm.http.post(format!("{}{path}", kanidm.url)).bearer_auth(token).json(&body);
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
    };
    call("/v1/group", json!({ "attrs": { "name": [group] } })).await;
    let begun = Instant::now();
    for batch in 0..USERS / BATCH {
        let persons: Vec<(Uuid, Value)> = (0..BATCH)
            .map(|user| {
                let (id, name) = (Uuid::new_v4(), format!("b{word}-{round}-{batch}-{user}"));
                let attrs = json!({
                    "class": ["object", "account", "person"], "uuid": [id], "name": [name], "displayname": [name],
                    "mail": [format!("{name}@bare.example")],
                });
                (id, json!({ "attrs": attrs }))
            })
            .collect();
        let ids: Vec<Uuid> = persons.iter().map(|(id, _)| *id).collect();
        let entries: Vec<&Value> = persons.iter().map(|(_, entry)| entry).collect();
        call("/v1/raw/create", json!({ "entries": entries })).await;
        call(&format!("/v1/group/{group}/_attr/member"), json!(ids)).await;
    }
    USERS as f64 / begun.elapsed().as_secs_f64()
}
