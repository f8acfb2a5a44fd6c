use sidle::migration::legacy_file::{self, Format};
use sidle::proto::import_users_request::Part;
use sidle::proto::*;
use tonic::Code;

use super::{IMPORT, header, import, messages, reason, row, send};
use crate::support::server::with_proof;
use crate::support::{TestServer, cheap_hash, eventually, within};

async fn users(server: &TestServer) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM users WHERE import_id IS NOT NULL").fetch_one(server.sql()).await.unwrap()
}

#[tokio::test]
async fn every_row_gets_a_verdict_with_its_line_and_the_good_ones_come_in() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    let harbour = server.tenant("harbour").await;
    server.user(harbour, "there@harbour.example", "user").await;
    let good = row(2, "ann@harbour.example");
    let rows = vec![
        good.clone(),
        ImportRow { legacy_id: "3".to_owned(), email: "ANN@harbour.example".to_owned(), line: 3, ..good.clone() },
        row(4, ""),
        row(5, "nobody"),
        ImportRow { password_hash: "$2b$12$short".to_owned(), ..row(6, "f@harbour.example") },
        ImportRow { password_hash: cheap_hash("x").replace("$04$", "$15$"), ..row(7, "g@harbour.example") },
        ImportRow { tenant: "atlantis".to_owned(), ..row(8, "h@harbour.example") },
        ImportRow { role: "SYSTEM_ADMIN".to_owned(), ..row(9, "i@harbour.example") },
        row(10, "there@harbour.example"),
        ImportRow { password_hash: String::new(), ..row(11, "k@harbour.example") },
        ImportRow { is_active: Some(false), ..row(12, "l@harbour.example") },
        ImportRow { username: "m@harbour.example".to_owned(), ..row(13, "m@harbour.example") },
        ImportRow {
            unreadable: "is not a time".to_owned(),
            unreadable_field: "created_at".to_owned(),
            ..row(14, "n@harbour.example")
        },
        ImportRow { full_name: "bell\u{7}".to_owned(), ..row(15, "o@harbour.example") },
        ImportRow { legacy_id: "2".to_owned(), ..row(16, "p@harbour.example") },
    ];
    let imported = import(&client, header("harbour"), rows).await.unwrap();
    for (line, expected) in [
        (2, vec!["LOW_COST"]),
        (3, vec!["EMAIL_DUPLICATE"]),
        (4, vec!["EMAIL_MISSING"]),
        (5, vec!["EMAIL_INVALID"]),
        (6, vec!["BROKEN_HASH"]),
        (7, vec!["HASH_COST_TOO_HIGH"]),
        (8, vec!["UNKNOWN_TENANT"]),
        (9, vec!["UNKNOWN_ROLE"]),
        (10, vec!["EMAIL_TAKEN"]),
        (11, vec!["NO_PASSWORD"]),
        (12, vec!["INACTIVE", "LOW_COST"]),
        (13, vec!["USERNAME_INVALID", "LOW_COST"]),
        (14, vec!["UNREADABLE"]),
        (15, vec!["INVALID_CHARACTER"]),
        (16, vec!["LEGACY_ID_DUPLICATE"]),
    ] {
        assert_eq!(imported.reasons(line), expected, "line {line}");
        assert!(imported.verdict(line).findings.iter().all(|finding| finding.remedy.ends_with('.')), "line {line}");
    }
    // What people find the row by, and what exactly was found.
    let told = |line| {
        let verdict = imported.verdict(line);
        let finding = &verdict.findings[0];
        [&verdict.legacy_id, &verdict.email, &finding.field, &finding.detail].map(String::as_str)
    };
    assert_eq!(told(14), ["14", "n@harbour.example", "created_at", "is not a time"]);
    assert_eq!(told(8)[2..], ["tenant", "atlantis"]);
    assert_eq!(told(9)[2..], ["role", "SYSTEM_ADMIN"]);
    assert_eq!(told(13)[2..], ["username", "m@harbour.example"]);
    assert_eq!(told(4)[..2], ["4", ""]);
    let summary = &imported.summary;
    assert_eq!((summary.rows, summary.accepted, summary.refused), (15, 4, 11));
    assert_eq!(users(&server).await, 4);

    let of = async |email: &str| -> (String, bool, bool) {
        let select = "SELECT status, must_change_password, verified_at IS NOT NULL FROM users WHERE email_key = $1";
        sqlx::query_as(select).bind(email).fetch_one(server.sql()).await.unwrap()
    };
    assert_eq!(of("ann@harbour.example").await, ("active".to_owned(), false, true));
    assert_eq!(of("k@harbour.example").await, ("active".to_owned(), true, true));
    assert_eq!(of("l@harbour.example").await, ("disabled".to_owned(), false, false));
}

#[tokio::test]
async fn the_same_file_again_changes_nothing() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    server.tenant("harbour").await;
    let rows: Vec<ImportRow> = (1..=700)
        .map(|n| ImportRow { username: format!("user{n}"), ..row(n, &format!("user{n}@harbour.example")) })
        .chain(
            (701..=720).map(|n| ImportRow { legacy_id: String::new(), ..row(n, &format!("user{n}@harbour.example")) }),
        )
        .collect();
    let first = import(&client, header("harbour"), rows.clone()).await.unwrap();
    assert_eq!((first.summary.accepted, first.summary.already_imported), (720, 0));
    let second = import(&client, header("harbour"), rows.clone()).await.unwrap();
    assert_eq!((second.summary.accepted, second.summary.already_imported, second.summary.refused), (0, 720, 0));
    assert_eq!(second.summary.digest, first.summary.digest);
    for line in [1, 700, 710] {
        assert_eq!(second.verdict(line).user_id, first.verdict(line).user_id);
        assert_eq!(second.verdict(line).outcome(), ImportOutcome::AlreadyImported);
    }

    // A row with other content is not written over the user.
    let mut changed = rows.clone();
    changed[0].full_name = "Somebody Else".to_owned();
    let third = import(&client, header("harbour"), changed).await.unwrap();
    assert_eq!(third.reasons(1), ["ROW_CHANGED"]);
    assert_eq!((third.summary.already_imported, third.summary.refused), (719, 1));
    // Another source's row of the same id is another user.
    let other = ImportHeader { source: "other".to_owned(), ..header("harbour") };
    let fourth = import(&client, other, vec![row(1, "new@harbour.example")]).await.unwrap();
    assert_eq!(fourth.summary.accepted, 1);
    assert_eq!(users(&server).await, 721);
}

#[tokio::test]
async fn a_repeated_request_id_gets_the_first_summary_or_is_refused() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    server.tenant("harbour").await;
    let header = header("harbour");
    let rows = vec![row(1, "a@harbour.example"), row(2, "b@harbour.example"), row(3, "nobody")];
    let first = import(&client, header.clone(), rows.clone()).await.unwrap().summary;
    let second = import(&client, header.clone(), rows).await.unwrap().summary;
    assert_eq!(second, ImportSummary { repeated: true, ..first });
    let refused = import(&client, header, vec![row(9, "c@harbour.example")]).await.unwrap_err();
    assert_eq!(reason(&refused), "REQUEST_ID_REUSED");
    assert_eq!(users(&server).await, 2);
}

#[tokio::test]
async fn a_stream_that_breaks_anywhere_leaves_nothing_behind() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    server.tenant("harbour").await;
    let rows: Vec<ImportRow> = (1..=700).map(|n| row(n, &format!("user{n}@harbour.example"))).collect();
    let whole = messages(header("harbour"), rows);
    for length in 0..whole.len() {
        let refused = send(&client, whole[..length].to_vec()).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused)),
            (Code::InvalidArgument, "IMPORT_UNREADABLE".to_owned()),
            "{length}"
        );
        assert_eq!(users(&server).await, 0, "after {length} messages");
    }
    // Out of order, doubled, empty, or with another number of rows than announced.
    let header_message = whole[0].clone();
    let end = |row_count| ImportUsersRequest { part: Some(Part::End(ImportEnd { row_count })) };
    for broken in [
        vec![whole[1].clone(), end(300)],
        vec![header_message.clone(), header_message.clone(), end(0)],
        vec![header_message.clone(), whole[1].clone(), ImportUsersRequest { part: None }],
        vec![header_message.clone(), whole[1].clone(), end(299)],
    ] {
        assert_eq!(reason(&send(&client, broken).await.unwrap_err()), "IMPORT_UNREADABLE");
        assert_eq!(users(&server).await, 0);
    }
    // A client that cancels before the end; then the whole is imported as if nothing had been.
    let mut migration = client.migration.clone();
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    for message in &whole[..2] {
        sender.send(message.clone()).await.unwrap();
    }
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers =
        migration.import_users(with_proof(stream, &client.prove(IMPORT, "").await)).await.unwrap().into_inner();
    assert!(matches!(
        within("verdicts", answers.message()).await.unwrap().unwrap().part,
        Some(import_users_response::Part::Verdicts(_))
    ));
    drop((answers, sender));
    // The lock of the cancelled import ends with its transaction.
    let imported =
        eventually("the lock of the import that was left is free", async || match send(&client, whole.clone()).await {
            Err(status) if reason(&status) == "OVERLOADED" => None,
            other => Some(other.unwrap()),
        })
        .await;
    assert_eq!(imported.summary.accepted, 700);
}

/// An import reads its rows under the session, which is good for longer than the token that began it.
#[tokio::test]
async fn an_import_that_takes_longer_than_its_token_comes_in_unless_its_session_ends() {
    let server = TestServer::start().await;
    server.admin().await;
    server.tenant("harbour").await;
    for ends in [true, false] {
        let client = server.client(&server.sign_in("root@platform.example").await.access_token);
        let rows = (1..=700).map(|n| row(n, &format!("user{n}@harbour.example"))).collect();
        let mut whole = messages(header("harbour"), rows).into_iter();
        let (sender, receiver) = tokio::sync::mpsc::channel(8);
        for message in whole.by_ref().take(2) {
            sender.send(message).await.unwrap();
        }
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let proof = client.prove(IMPORT, "").await;
        let mut answers = client.migration.clone().import_users(with_proof(stream, &proof)).await.unwrap().into_inner();
        within("the first verdicts", answers.message()).await.unwrap().unwrap();

        server.context.clock.advance(std::time::Duration::from_secs(3600));
        if !ends {
            for message in whole {
                sender.send(message).await.unwrap();
            }
            let summary = within("the summary", async {
                loop {
                    let answer = answers.message().await.expect("the import goes on").expect("a summary at the end");
                    if let Some(import_users_response::Part::Summary(summary)) = answer.part {
                        break summary;
                    }
                }
            });
            assert_eq!(summary.await.accepted, 700);
            assert_eq!(users(&server).await, 700);
        } else {
            let revoked = "UPDATE sessions SET status = 'revoked', revoked_at = now(), revoke_reason = 'logout'";
            sqlx::query(revoked).execute(server.sql()).await.unwrap();
            sender.send(whole.next().unwrap()).await.unwrap();
            let ended = within("the end of the import", async {
                loop {
                    if let Err(status) = answers.message().await {
                        break status;
                    }
                }
            });
            assert_eq!(reason(&ended.await), "UNAUTHENTICATED");
            assert_eq!(users(&server).await, 0);
        }
    }
}

#[tokio::test]
async fn validation_answers_as_the_import_would_and_imports_nothing() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    server.tenant("harbour").await;
    let rows = vec![row(1, "a@harbour.example"), row(2, "A@harbour.example"), row(3, "b@harbour.example")];
    let only = ImportHeader { validate_only: true, ..header("harbour") };
    let tried = import(&client, only, rows.clone()).await.unwrap();
    assert_eq!((tried.summary.accepted, tried.summary.import_id.as_str(), tried.summary.validated_only), (2, "", true));
    assert_eq!(users(&server).await, 0);
    let done = import(&client, header("harbour"), rows).await.unwrap();
    assert_eq!(done.summary.reasons, tried.summary.reasons);
    assert_eq!(done.summary.digest, tried.summary.digest);
    let outcomes = |verdicts: &[ImportVerdict]| verdicts.iter().map(ImportVerdict::outcome).collect::<Vec<_>>();
    assert_eq!(outcomes(&done.verdicts), outcomes(&tried.verdicts));
}

#[tokio::test]
async fn usernames_are_dropped_where_taken_and_the_first_row_keeps_its_own() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    server.tenant("harbour").await;
    let named =
        |line, name: &str| ImportRow { username: name.to_owned(), ..row(line, &format!("p{line}@harbour.example")) };
    let rows = vec![
        // Refused, so its username is free for the next.
        ImportRow { email: "nobody".to_owned(), ..named(1, "bob") },
        named(2, "bob"),
        named(3, "Bob"),
    ];
    let imported = import(&client, header("harbour"), rows).await.unwrap();
    assert_eq!(imported.reasons(2), ["LOW_COST"]);
    assert_eq!(imported.reasons(3), ["LOW_COST", "USERNAME_TAKEN"]);
    let next = import(&client, header("harbour"), vec![named(4, "BOB")]).await.unwrap();
    assert_eq!(next.reasons(4), ["LOW_COST", "USERNAME_TAKEN"]);
    let names: Vec<Option<String>> =
        sqlx::query_scalar("SELECT username FROM users WHERE import_id IS NOT NULL ORDER BY email_key")
            .fetch_all(server.sql())
            .await
            .unwrap();
    assert_eq!(names, [Some("bob".to_owned()), None, None]);
}

#[tokio::test]
async fn ids_tenants_and_roles_are_taken_over_by_the_mapping() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    let (harbour, juniper) = (server.tenant("harbour").await, server.tenant("juniper").await);
    let id = uuid::Uuid::new_v4();
    // Kanidm reserves this range for itself: a person could never have such an id.
    let reserved = "00000000-0000-0000-0000-ffffff000044";
    let header = ImportHeader {
        tenants: [("T1".to_owned(), "harbour".to_owned()), ("T2".to_owned(), juniper.to_string())].into(),
        roles: [("boss".to_owned(), "admin".to_owned())].into(),
        inactive_means: InactiveMeaning::PendingVerification as i32,
        ..header("")
    };
    let rows = vec![
        ImportRow {
            legacy_id: id.to_string(),
            tenant: "T1".to_owned(),
            role: "boss".to_owned(),
            ..row(1, "a@x.example")
        },
        ImportRow {
            legacy_id: reserved.to_owned(),
            tenant: "T2".to_owned(),
            is_active: Some(false),
            ..row(2, "b@x.example")
        },
        row(3, "c@x.example"),
        ImportRow { legacy_id: id.to_string(), line: 4, tenant: "T1".to_owned(), ..row(4, "d@x.example") },
    ];
    let imported = import(&client, header.clone(), rows).await.unwrap();
    assert_eq!(imported.verdict(1).user_id, id.to_string());
    assert_ne!(imported.verdict(2).user_id, reserved);
    assert_eq!(imported.reasons(3), ["TENANT_MISSING"]);
    assert_eq!(imported.reasons(4), ["LEGACY_ID_DUPLICATE"]);
    let other =
        ImportHeader { source: "other".to_owned(), request_id: uuid::Uuid::new_v4().to_string(), ..header.clone() };
    let taken = ImportRow { legacy_id: id.to_string(), tenant: "T1".to_owned(), ..row(5, "e@x.example") };
    assert_eq!(import(&client, other, vec![taken]).await.unwrap().reasons(5), ["USER_ID_TAKEN"]);

    let (tenant, role, source, status): (uuid::Uuid, String, String, String) = sqlx::query_as(
        "SELECT m.tenant_id, r.name, m.source, u.status FROM memberships m JOIN roles r USING (role_id) JOIN users u USING (user_id)
         WHERE m.user_id = $1",
    )
    .bind(id)
    .fetch_one(server.sql())
    .await
    .unwrap();
    assert_eq!((tenant, role.as_str(), source.as_str(), status.as_str()), (harbour, "admin", "import", "active"));
    let status: String =
        sqlx::query_scalar("SELECT status FROM users WHERE email_key = 'b@x.example' AND tenant_id = $1")
            .bind(juniper)
            .fetch_one(server.sql())
            .await
            .unwrap();
    assert_eq!(status, "pending_verification");

    for (field, header) in [
        (
            "header.tenants",
            ImportHeader { tenants: [("T".to_owned(), "atlantis".to_owned())].into(), ..header.clone() },
        ),
        ("header.default_tenant", ImportHeader { default_tenant: "atlantis".to_owned(), ..header.clone() }),
        (
            "header.roles",
            ImportHeader { roles: [("x".to_owned(), "SYSTEM_ADMIN".to_owned())].into(), ..header.clone() },
        ),
        ("header.default_role", ImportHeader { default_role: "king".to_owned(), ..header.clone() }),
        ("header.source", ImportHeader { source: "Legacy Users".to_owned(), ..header.clone() }),
        ("header.request_id", ImportHeader { request_id: String::new(), ..header }),
    ] {
        let refused = import(&client, header, vec![row(1, "z@x.example")]).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_FIELD", "{field}");
        assert!(refused.message().contains(field), "{field}: {}", refused.message());
    }
}

#[tokio::test]
async fn an_import_is_one_audit_event_without_anything_about_people() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    server.tenant("harbour").await;
    let imported = import(&client, header("harbour"), vec![row(1, "ann@harbour.example"), row(2, "x")]).await.unwrap();
    let events: Vec<(serde_json::Value, Option<String>)> = sqlx::query_as(
        "SELECT details, target_id FROM audit_inbox WHERE event_type = 'migration.users_imported'
         UNION ALL SELECT details, target_id FROM audit_events WHERE event_type = 'migration.users_imported'",
    )
    .fetch_all(server.sql())
    .await
    .unwrap();
    let [(details, target)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(target.as_deref(), Some(imported.summary.import_id.as_str()));
    assert_eq!((&details["accepted"], &details["refused"]), (&1.into(), &1.into()));
    assert_eq!(details["digest"], imported.summary.digest);
    assert!(!details.to_string().contains('@'), "{details}");
}

#[tokio::test]
async fn the_sample_files_give_what_they_promise() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    for slug in ["harbour", "juniper", "meridian"] {
        server.tenant(slug).await;
    }
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/sample");
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(samples.join("expected.json")).unwrap()).unwrap();
    let mut low_cost = 0;
    for name in ["legacy-users.csv", "legacy-users.jsonl"] {
        let path = samples.join(name);
        let file = std::fs::File::open(&path).unwrap();
        let rows = legacy_file::read(file, Format::of(&path).unwrap()).unwrap();
        let rows: Vec<ImportRow> = rows.map(|row| row.unwrap().into()).collect();
        let imported = import(&client, ImportHeader { source: "sample".to_owned(), ..header("") }, rows).await.unwrap();
        low_cost += imported.summary.reasons.iter().find(|c| c.reason() == ImportReason::LowCost).map_or(0, |c| c.rows);
        let totals = &expected["totals_by_file"][name];
        assert_eq!(totals["rows"], imported.summary.rows, "{name}");
        assert_eq!(totals["accepted"], imported.summary.accepted, "{name}");
        for findings in ["refused", "remarks"] {
            for (reason, found) in expected[findings].as_object().unwrap() {
                for expected in found["rows"].as_array().into_iter().flatten().filter(|row| row["file"] == name) {
                    let reasons = imported.reasons(expected["line"].as_i64().unwrap());
                    assert!(reasons.contains(&reason.as_str()), "{name}, {expected}: {reasons:?}, not {reason}");
                }
            }
        }
        let refused = totals["refused_by_reason"].as_object().unwrap();
        for (reason, rows) in refused {
            let counted = imported.summary.reasons.iter().find(|c| c.reason().as_str_name().ends_with(reason.as_str()));
            assert_eq!(counted.map(|count| count.rows), rows.as_i64(), "{name}: {reason}");
        }
    }
    assert_eq!(low_cost, expected["remarks"]["LOW_COST"]["count"].as_i64().unwrap());
    assert_eq!(users(&server).await, expected["totals"]["accepted"].as_i64().unwrap());
}

/// A caller who may import grants no more than they hold, as when roles are assigned one at a time.
#[tokio::test]
async fn an_import_gives_no_role_that_its_caller_does_not_hold() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let harbour = server.tenant("harbour").await;
    let key = crate::authenticate::api_key(&server, None, &["migration.import"], &[]).await;
    let token = crate::authenticate::exchange(&server, &key).await.unwrap().access_token;
    let importer = server.client(&token);
    let rows = vec![
        ImportRow { role: "super_admin".to_owned(), ..row(2, "ann@harbour.example") },
        ImportRow { role: "user".to_owned(), ..row(3, "bob@harbour.example") },
    ];
    let imported = import(&importer, header("harbour"), rows).await.unwrap();
    assert_eq!(imported.reasons(2), ["UNKNOWN_ROLE"]);
    assert_eq!((imported.summary.accepted, imported.summary.refused), (1, 1));
    for wide in [
        ImportHeader { default_role: "admin".to_owned(), ..header("harbour") },
        ImportHeader { roles: [("chief".to_owned(), "super_admin".to_owned())].into(), ..header("harbour") },
    ] {
        let refused = import(&importer, wide, vec![row(4, "eve@harbour.example")]).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    }
    assert_eq!(users(&server).await, 1);

    // A role with few permissions that leads into the group of administrators.
    let hollow = CreateRoleRequest {
        tenant_id: harbour.to_string(),
        name: "hollow".to_owned(),
        is_admin: true,
        ..Default::default()
    };
    admin.directory.clone().create_role(hollow).await.unwrap();
    let rows = vec![ImportRow { role: "hollow".to_owned(), ..row(5, "dan@harbour.example") }];
    let imported = import(&importer, header("harbour"), rows).await.unwrap();
    assert_eq!(imported.reasons(5), ["UNKNOWN_ROLE"]);
}
