//! The move to Kanidm from the command line.

use crate::cli::{Operator, lasting_address};
use crate::support::{Setup, kanidm};

#[tokio::test]
async fn users_are_planned_moved_and_watched_across_a_restart() {
    let kanidm = kanidm("users_are_planned_moved_and_watched_across_a_restart").await.expect("any Kanidm will do");
    let access = kanidm.prepare("https://app.example/callback").await.unwrap();
    let setup = Setup::new()
        .await
        .with_kanidm(&kanidm, &access)
        .with("MIGRATION__BATCH_SIZE", "3")
        .with("MIGRATION__LEASE", "2s");
    let setup = setup.with("SERVER__GRPC_ADDRESS", &lasting_address());
    let server = setup.start().await;
    server.admin().await;
    let operator = Operator::new(&server);
    operator.sign_in("root@platform.example").await;
    // Names of this run only: a full Kanidm remembers those of earlier ones.
    let run = server.context.new_id().simple().to_string().split_off(24);
    let slug = format!("cli-{run}");
    let tenant = server.tenant(&slug).await;
    for n in 0..12 {
        server.user(tenant, &format!("user{n}-{run}@example.com"), "user").await;
    }
    let taken = format!("user7-{run}@example.com");
    kanidm.create_person(&format!("other-{run}"), "Somebody else", &taken).await.unwrap();

    let groups = operator.ok(&["tenants", "sync-groups", &slug]).await;
    assert!(groups.contains(&format!("tenant_{slug}_users")) && groups.contains("created"), "{groups}");
    let plan = operator.run(&["migrate", "plan", "--tenant", &slug, "--output", "json"]).await.json();
    assert_eq!((&plan["total"], &plan["will_be_created"]), (&12.into(), &11.into()), "{plan}");
    let (id, digest) = (plan["plan_id"].as_str().unwrap(), plan["digest"].as_str().unwrap());
    let shown = operator.ok(&["migrate", "show-plan", id, "--forecast", "will-be-refused"]).await;
    assert!(shown.contains(&taken) && shown.contains("mail_taken"), "{shown}");
    let other = "0".repeat(64);
    let stale = operator.run(&["migrate", "start", id, "--digest", &other]).await;
    assert!(stale.code == 1 && stale.err.contains("PLAN_STALE"), "{stale:?}");

    let migration = operator.ok(&["migrate", "start", id, "--digest", digest]).await;
    let watch = ["migrate", "watch", &migration];
    let watch = operator.run(&watch);
    let restart = async {
        server.stop().await;
        setup.start().await
    };
    let (watched, server) = tokio::join!(watch, restart);
    assert_eq!(watched.code, 3, "one user could not be moved: {watched:?}");
    assert!(watched.out.contains("12 users, 11 done, 1 failed, 0 skipped"), "{watched:?}");
    assert!(watched.out.contains(&taken) && watched.out.contains("mail_taken"), "{watched:?}");

    let status = operator.ok(&["migrate", "status", &migration]).await;
    assert!(status.contains("completed"), "{status}");
    assert!(operator.ok(&["migrate", "list"]).await.contains(&migration));
    let failed = operator.run(&["migrate", "items", &migration, "--state", "failed", "--output", "json"]).await.json();
    assert_eq!(failed.as_array().unwrap().len(), 1);
    assert!(!failed[0]["remedy"].as_str().unwrap().is_empty(), "{failed}");
    let moved = operator.ok(&["users", "get", &format!("user3-{run}@example.com")]).await;
    assert!(moved.contains("dual"), "{moved}");
    drop(server);
}
