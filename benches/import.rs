//! Importing users, compared with Postgres's own COPY of the same rows into the same tables.

use std::time::Instant;

use sidle::proto::import_users_request::Part;
use sidle::proto::*;
use uuid::Uuid;

use crate::support::Setup;
use crate::support::server::with_proof;
use crate::{Row, row};

const USERS: usize = 50_000;
const MESSAGE: usize = 1_000;
const ROUNDS: usize = 3;

pub async fn run() -> Row {
    let setup = Setup::new().await;
    let server = setup.start().await;
    let admin = server.admin().await;
    let hash = crate::support::cheap_hash("a legacy password");
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let pair = if round % 2 == 0 {
            let ours = sidle(&server, &admin, &hash, round).await;
            (ours, copy(&server, &hash, round).await)
        } else {
            let limit = copy(&server, &hash, round).await;
            (sidle(&server, &admin, &hash, round).await, limit)
        };
        rounds.push(pair);
    }
    let note = format!("{USERS} users a round, {MESSAGE} in a message");
    row("Import, users", "COPY into the same tables", "≥ 0.5", &rounds, note)
}

/// Users a second, from the first message to the summary.
async fn sidle(server: &crate::support::TestServer, admin: &crate::support::Client, hash: &str, round: usize) -> f64 {
    let slug = format!("ours-{round}");
    server.tenant(&slug).await;
    let header = ImportHeader {
        source: slug.clone(),
        request_id: Uuid::new_v4().to_string(),
        default_tenant: slug.clone(),
        ..Default::default()
    };
    let row = |n: usize| ImportRow {
        line: n as i64,
        legacy_id: n.to_string(),
        email: format!("u{n}@{slug}.example"),
        username: format!("{slug}-{n}"),
        full_name: format!("Person {n}"),
        password_hash: hash.to_owned(),
        ..Default::default()
    };
    let rows: Vec<ImportRow> = (0..USERS).map(row).collect();
    let parts = rows.chunks(MESSAGE).map(|rows| Part::Rows(ImportRows { rows: rows.to_vec() }));
    let end = Part::End(ImportEnd { row_count: USERS as i64 });
    let messages: Vec<ImportUsersRequest> = [Part::Header(header)]
        .into_iter()
        .chain(parts)
        .chain([end])
        .map(|part| ImportUsersRequest { part: Some(part) })
        .collect();
    let begun = Instant::now();
    let proof = admin.prove("sidle.v1.MigrationService/ImportUsers", "").await;
    let messages = with_proof(tokio_stream::iter(messages), &proof);
    let mut answers = admin.migration.clone().import_users(messages).await.unwrap().into_inner();
    let mut accepted = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        if let Some(import_users_response::Part::Summary(summary)) = answer.part {
            accepted = summary.accepted;
        }
    }
    assert_eq!(accepted, USERS as i64, "everybody was imported");
    USERS as f64 / begun.elapsed().as_secs_f64()
}

/// Users a second for COPY of users and memberships in one transaction, prepared beforehand.
async fn copy(server: &crate::support::TestServer, hash: &str, round: usize) -> f64 {
    let slug = format!("bare-{round}");
    let tenant = server.tenant(&slug).await;
    let (mut users, mut memberships) = (String::new(), String::new());
    for n in 0..USERS {
        let id = server.context.new_id();
        users.push_str(&format!(
            "{id}\t{tenant}\tu{n}@{slug}.example\tu{n}@{slug}.example\t{slug}-{n}\t{slug}-{n}\tPerson {n}\t{hash}\t4\t{n}\t{slug}\n"
        ));
        let role = "00000000-0000-7000-8000-000000000004";
        memberships.push_str(&format!("{}\t{tenant}\t{id}\t{role}\timport\n", server.context.new_id()));
    }
    let begun = Instant::now();
    let mut tx = server.sql().begin().await.unwrap();
    for (target, rows) in [
        (
            "users (user_id, tenant_id, email, email_key, username, username_key, full_name, password_hash, password_cost,
                legacy_id, import_source)",
            users,
        ),
        ("memberships (membership_id, tenant_id, user_id, role_id, source)", memberships),
    ] {
        let mut copy = tx.copy_in_raw(&format!("COPY {target} FROM STDIN")).await.unwrap();
        copy.send(rows.as_bytes()).await.unwrap();
        copy.finish().await.unwrap();
    }
    tx.commit().await.unwrap();
    USERS as f64 / begun.elapsed().as_secs_f64()
}
