//! What the tables of the command line show: names where they are known, and words for what was or would be done.

use crate::cli::signed_in;
use crate::support::{ADMIN_PASSWORD, kanidm};

#[tokio::test]
async fn tables_show_names_and_json_shows_ids() {
    let (server, operator) = signed_in().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, "ann@harbour.example", "user").await;
    server.sign_in("ann@harbour.example").await;
    let account = ["service-accounts", "create", "billing", "--tenant", "harbour", "--permissions", "users.read"];
    operator.ok_proven(&account).await;
    operator.ok_proven(&["api-keys", "create", "billing"]).await;
    operator.ok_proven(&["roles", "create", "CLERK", "--tenant", "harbour", "--permissions", "users.read"]).await;

    let id = tenant.to_string();
    for (command, name) in [
        (&["memberships", "list", "--user", "ann@harbour.example"][..], "harbour"),
        (&["service-accounts", "list"], "harbour"),
        (&["roles", "list", "--tenant", "harbour"], "harbour"),
        (&["api-keys", "list"], "billing"),
        (&["sessions", "list", "--user", "ann@harbour.example"], "ann@harbour.example"),
        (&["users", "get", "ann@harbour.example"], "harbour\n"),
        (&["whoami"], "platform"),
    ] {
        let text = operator.ok(command).await;
        assert!(text.contains(name) && !text.contains(&id), "{command:?}: {text}");
    }
    let json = operator.ok(&["memberships", "list", "--user", "ann@harbour.example", "--output", "json"]).await;
    assert!(json.contains(&id), "{json}");
}

#[tokio::test]
async fn a_role_that_somebody_has_already_is_said_in_words() {
    let (server, operator) = signed_in().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, "ann@harbour.example", "user").await;
    let give = ["memberships", "create", "ann@harbour.example", "user", "--tenant", "harbour"];
    let again = operator.run_with(&give, &[("SIDLE_PASSWORD", ADMIN_PASSWORD)], "").await;
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.err.contains("error: The user has this role in the tenant already. (ALREADY_EXISTS)"), "{again:?}");
}

#[tokio::test]
async fn a_dry_run_of_groups_says_what_would_be_done() {
    let kanidm = kanidm().await;
    let access = kanidm.prepare("https://app.example/callback").await.unwrap();
    let server = crate::support::Setup::new().await.with_kanidm(&kanidm, &access).start().await;
    server.admin().await;
    let operator = crate::cli::Operator::new(&server);
    operator.sign_in("root@platform.example").await;
    let slug = format!("dry-{}", server.context.new_id().simple().to_string().split_off(24));
    server.tenant(&slug).await;
    let tried = operator.ok(&["tenants", "sync-groups", &slug, "--dry-run"]).await;
    assert_eq!(tried.matches("would be created").count(), 2, "{tried}");
    let made = operator.ok(&["tenants", "sync-groups", &slug]).await;
    assert!(!made.contains("would") && made.matches("created").count() == 2, "{made}");
    let again = operator.ok(&["tenants", "sync-groups", &slug]).await;
    assert_eq!(again.matches("there already").count(), 2, "{again}");
}
