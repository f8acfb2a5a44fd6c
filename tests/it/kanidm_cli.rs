//! The migration to Kanidm from the command line.

use crate::cli::{Operator, lasting_address};
use crate::support::{Setup, kanidm};

#[tokio::test]
async fn users_are_planned_moved_and_watched_across_a_restart() {
    let kanidm = kanidm().await;
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
    // Names of this run only: a full Kanidm keeps those of earlier ones.
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

#[tokio::test]
async fn a_user_is_linked_and_signs_in_through_a_browser() {
    let kanidm = kanidm().await;
    let redirect = "https://app.example/callback";
    let access = kanidm.prepare(redirect).await.unwrap();
    let server = Setup::new().await.with_kanidm(&kanidm, &access).start().await;
    let tenant = server.tenant("cli").await;
    server.user(tenant, "ann@example.com", "user").await;
    let (person, bearer) = crate::kanidm_login::person(&kanidm, "ann").await;
    let operator = Operator::new(&server);
    let browser = async |url: String| {
        let back = kanidm.authorise(&bearer, &url).await.unwrap();
        format!("{redirect}?code={}&state={}", back.code, back.state)
    };
    let refused = operator.run_and_answer(&["login", "--kanidm", redirect], browser).await;
    assert!(refused.code != 0 && refused.err.contains("PERSON_NOT_LINKED"), "{refused:?}");

    server.admin().await;
    operator.sign_in("root@platform.example").await;
    let link = ["users", "link", "ann@example.com", "--person", &person.to_string()];
    let trial: Vec<&str> = link.into_iter().chain(["--dry-run"]).collect();
    let proof = [("SIDLE_PASSWORD", crate::support::ADMIN_PASSWORD)];
    assert_eq!(operator.run_with(&trial, &proof, "").await.code, 0);
    assert!(operator.ok(&["users", "get", "ann@example.com"]).await.contains("password"));
    let linked = operator.run_with(&link, &proof, "").await;
    assert_eq!(linked.code, 0, "{linked:?}");
    let signed_in = operator.run_and_answer(&["login", "--kanidm", redirect], browser).await;
    assert_eq!(signed_in.code, 0, "{signed_in:?}");
    assert!(operator.ok(&["whoami"]).await.contains("ann@example.com"));
}

#[tokio::test]
async fn kanidm_is_checked_before_it_is_worked_with() {
    let kanidm = kanidm().await;
    let access = kanidm.prepare("https://app.example/callback").await.unwrap();
    let setup = Setup::new().await.with_kanidm(&kanidm, &access);
    let server = setup.start().await;
    let operator = Operator::new(&server);
    let environment = |setup: &Setup| -> Vec<(String, String)> {
        setup.environment().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let run = async |setup: &Setup| {
        let variables = environment(setup);
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        operator.run_with(&["kanidm", "check"], &variables, "").await
    };
    let fit = run(&setup).await;
    // A full one may lack the index; then it says so.
    let says = |text: &str| fit.out.contains(text);
    assert!(says("takes the token") && says("kanidmd database reindex"), "{fit:?}");
    if kanidm.is_dev() {
        assert_eq!(fit.code, 0, "{fit:?}");
        kanidm.answer_with("/v1/raw/search", None, (500, r#""backend""#), None).await.unwrap();
        let unfit = run(&setup).await;
        let missing = "MISSING  a search by address is refused";
        assert!(unfit.code == 1 && unfit.out.contains(missing), "{unfit:?}");
        // What every release before 1.9.4 has, and the engine of dev Kanidm.
        assert!(unfit.out.contains("Kanidm 1.7.4") && unfit.out.contains("GHSA-xxwr-vvr3-2g9f"), "{unfit:?}");
    }
    let unfit = run(&setup.clone().with("KANIDM__TOKEN", "wrong")).await;
    assert!(unfit.code == 1 && unfit.out.contains("kanidm.token"), "{unfit:?}");
}
