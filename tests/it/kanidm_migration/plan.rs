use sidle::proto::*;
use sidle_dev::random_word;
use uuid::Uuid;

use super::stage;
use crate::migration::{header, import, reason, row};
use crate::support;

#[tokio::test]
async fn a_plan_tells_what_will_become_of_everybody_and_changes_nothing() {
    let stage = stage().await;
    let own = format!("{}-ann", stage.slug);
    let rows = vec![
        ImportRow { username: own.clone(), ..row(1, &stage.mail("ann")) },
        // Without a username; the address would give the same name.
        row(2, &format!("{own}@other-{}.example", stage.slug)),
        ImportRow { username: format!("Ödön{}", stage.slug), ..row(3, &stage.mail("odon")) },
        row(4, &stage.mail("clash")),
        ImportRow { is_active: Some(false), ..row(5, &stage.mail("gone")) },
        ImportRow { username: format!("{}-dan", stage.slug), ..row(6, &stage.mail("dan")) },
        row(7, &stage.mail(format!("there-{}", stage.slug))),
    ];
    let imported = import(&stage.client, header(&stage.slug), rows).await.unwrap();
    stage.kanidm.create_person(&format!("x{}", random_word(12)), "Somebody", &stage.mail("clash")).await.unwrap();
    stage
        .kanidm
        .create_person(&format!("{}-dan", stage.slug), "Dan's namesake", &stage.mail("namesake"))
        .await
        .unwrap();
    let there = &imported.verdict(7).user_id;
    person_with_uuid(&stage, there, &format!("there-{}", stage.slug)).await;

    let plan = stage.plan().await;
    assert_eq!((plan.total, plan.will_be_created, plan.needs_review, plan.will_be_refused), (6, 4, 1, 1));
    assert_eq!((plan.digest.len(), plan.migration_id.as_str()), (64, ""));
    let items = stage.items_of_plan(&plan).await;
    let of = |line: i64| items.iter().find(|item| item.user_id == imported.verdict(line).user_id).unwrap();
    let person = |line| of(line).person.as_ref().unwrap();
    assert_eq!(person(1).name, own);
    assert_eq!(person(2).name, format!("{own}-2"));
    assert_eq!(person(3).name, format!("odon{}", stage.slug));
    assert_eq!(person(6).name, format!("{}-dan-2", stage.slug), "somebody has the name");
    assert_eq!((of(4).forecast(), of(4).reason()), (Forecast::WillBeRefused, ItemReason::MailTaken));
    assert_eq!((of(7).forecast(), of(7).reason()), (Forecast::NeedsReview, ItemReason::PersonNotOurs));
    assert!(of(4).remedy.ends_with('.'));
    assert_eq!(person(1).uuid, of(1).user_id);
    assert_eq!(person(1).groups, [format!("tenant_{}_users", stage.slug)]);

    // The same users and the same Kanidm give the same plan, and nothing has been changed.
    assert_eq!(stage.plan().await.digest, plan.digest);
    assert_eq!(stage.persons().await.len(), 3);
    assert_eq!(
        stage.kanidm.get(&format!("/v1/group/tenant_{}_users", stage.slug)).await.unwrap(),
        serde_json::Value::Null
    );

    // What runs is what was planned, user by user.
    let migration = stage.start(&plan).await;
    stage.watch(&migration).await;
    let outcome = stage.items(&migration.migration_id).await;
    for item in &items {
        let became = &outcome[&item.email];
        let expected = match item.forecast() {
            Forecast::WillBeCreated => ItemState::Linked,
            Forecast::NeedsReview => ItemState::NeedsReview,
            _ => ItemState::Failed,
        };
        assert_eq!((became.state(), became.reason()), (expected, item.reason()), "{}", item.email);
        assert_eq!(became.person, item.person);
    }
}

async fn person_with_uuid(stage: &super::Stage, uuid: &str, name: &str) {
    let entry = serde_json::json!({ "attrs": {
        "class": ["object", "account", "person"], "uuid": [uuid], "name": [name], "displayname": ["Mallory"],
        "mail": [stage.mail(name)],
    }});
    stage.kanidm.post("/v1/raw/create", &serde_json::json!({ "entries": [entry] })).await.unwrap();
}

#[tokio::test]
async fn a_plan_is_read_page_by_page_and_only_by_its_own_tokens() {
    let stage = stage().await;
    stage.users(25).await;
    let plan = stage.plan().await;
    let mut client = stage.client.migration.clone();
    let mut request = GetPlanRequest { plan_id: plan.plan_id.clone(), page_size: 10, ..Default::default() };
    let mut sizes = Vec::new();
    let mut users = std::collections::BTreeSet::new();
    // One page more than there are, so that pages without an end fail.
    for _ in 0..4 {
        let page = client.get_plan(request.clone()).await.unwrap().into_inner();
        sizes.push(page.items.len());
        users.extend(page.items.into_iter().map(|item| item.user_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        let other = GetPlanRequest { forecast: Forecast::WillBeRefused as i32, ..request.clone() };
        assert_eq!(reason(&client.get_plan(other).await.unwrap_err()), "INVALID_PAGE_TOKEN");
    }
    assert_eq!((sizes, users.len()), (vec![10, 10, 5], 25));
}

#[tokio::test]
async fn only_the_plan_that_was_seen_can_be_started_and_only_once() {
    let stage = stage().await;
    stage.users(3).await;
    let plan = stage.plan().await;
    let mut client = stage.client.migration.clone();
    let start = StartMigrationRequest {
        plan_id: plan.plan_id.clone(),
        plan_digest: plan.digest.clone(),
        request_id: Uuid::new_v4().to_string(),
        validate_only: false,
    };
    let other = StartMigrationRequest { plan_digest: "0".repeat(64), ..start.clone() };
    assert_eq!(reason(&client.start_migration(other).await.unwrap_err()), "PLAN_STALE");
    let unsafe_start = StartMigrationRequest { request_id: String::new(), ..start.clone() };
    assert_eq!(reason(&client.start_migration(unsafe_start).await.unwrap_err()), "INVALID_FIELD");

    let tried = StartMigrationRequest { validate_only: true, ..start.clone() };
    let tried = client.start_migration(tried).await.unwrap().into_inner().migration.unwrap();
    assert_eq!((tried.migration_id.as_str(), tried.counts.unwrap().pending), ("", 3));
    let list = client.list_migrations(ListMigrationsRequest::default()).await.unwrap().into_inner();
    assert!(list.migrations.is_empty(), "validation starts nothing");

    let first = client.start_migration(start.clone()).await.unwrap().into_inner();
    let again = client.start_migration(start.clone()).await.unwrap().into_inner();
    assert_eq!(again, first, "a repeat gets the first answer");
    let second = StartMigrationRequest { request_id: Uuid::new_v4().to_string(), ..start };
    assert_eq!(reason(&client.start_migration(second).await.unwrap_err()), "PLAN_STALE");
    stage.watch(&first.migration.unwrap()).await;
    let got = client.get_plan(GetPlanRequest { plan_id: plan.plan_id, ..Default::default() }).await.unwrap();
    assert_ne!(got.into_inner().plan.unwrap().migration_id, "");
    assert_eq!(reason(&stage.try_plan().await.unwrap_err()), "INVALID_FIELD", "nobody is left to plan for");
}

#[tokio::test]
async fn two_migrations_never_hold_one_user() {
    let stage = stage().await;
    stage.users(3).await;
    let (one, two) = (stage.plan().await, stage.plan().await);
    // A migration that no replica works on: it stays open.
    let held = stage.start(&one).await;
    let migration_id = Uuid::parse_str(&held.migration_id).unwrap();
    stage.watch(&held).await;
    sqlx::query("UPDATE migration_items SET state = 'pending' WHERE migration_id = $1")
        .bind(migration_id)
        .execute(stage.server.sql())
        .await
        .unwrap();
    assert_eq!(reason(&stage.try_start(&two).await.unwrap_err()), "MIGRATION_OVERLAP");
    sqlx::query("UPDATE users SET auth_method = 'password', kanidm_user_id = NULL WHERE tenant_id = $1")
        .bind(stage.tenant)
        .execute(stage.server.sql())
        .await
        .unwrap();
    let plan = stage.plan().await;
    assert_eq!((plan.will_be_refused, plan.reasons[0].reason()), (3, ItemReason::InOtherMigration));
}

#[tokio::test]
async fn a_tenants_administrator_plans_for_their_own_tenant_only() {
    let stage = stage().await;
    stage.users(2).await;
    let other = stage.server.tenant(&format!("o{}", random_word(10))).await;
    let chief = stage.server.user(other, &format!("chief@{}.other.example", stage.slug), "super_admin").await;
    may_move(&stage, other, chief).await;
    let token = stage.server.sign_in(&format!("chief@{}.other.example", stage.slug)).await.access_token;
    let mut chief = stage.server.client(&token).migration;
    let cohort = Some(Cohort { tenant_ids: vec![stage.tenant.to_string()], ..Default::default() });
    let refused = chief.plan_migration(PlanMigrationRequest { cohort, ..Default::default() }).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED");
    let own = chief.plan_migration(PlanMigrationRequest::default()).await.unwrap().into_inner().plan.unwrap();
    assert_eq!(own.total, 1, "only the administrator of the other tenant");
    let foreign = stage.plan().await;
    let get = GetPlanRequest { plan_id: foreign.plan_id.clone(), ..Default::default() };
    assert_eq!(reason(&chief.get_plan(get).await.unwrap_err()), "NOT_FOUND");
    let start = StartMigrationRequest {
        plan_id: foreign.plan_id,
        plan_digest: foreign.digest,
        request_id: Uuid::new_v4().to_string(),
        validate_only: false,
    };
    assert_eq!(reason(&chief.start_migration(start).await.unwrap_err()), "NOT_FOUND");
}

/// Gives a user a tenant's own role that may migrate users, as the platform does.
async fn may_move(stage: &super::Stage, tenant: Uuid, user: Uuid) {
    sqlx::query(
        "WITH role AS (INSERT INTO roles (role_id, tenant_id, name, permissions)
             VALUES (gen_random_uuid(), $1, 'mover', '{migration.run,migration.read}') RETURNING role_id)
         INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
         SELECT gen_random_uuid(), $1, $2, role_id, 'local' FROM role",
    )
    .bind(tenant)
    .bind(user)
    .execute(stage.server.sql())
    .await
    .unwrap();
}

/// A person with an arbitrary address would be trusted by every service that trusts Kanidm's addresses.
#[tokio::test]
async fn only_proven_addresses_of_the_tenants_domains_go_over() {
    let stage = stage().await;
    let own = |name: &str| format!("{name}@{}.own.example", stage.slug);
    let rows = vec![
        row(1, &own("ann")),
        row(2, &own("unproven")),
        row(3, &stage.mail("foreign")),
        row(4, &own("guest")),
        row(5, &own("mover")),
    ];
    let imported = import(&stage.client, header(&stage.slug), rows).await.unwrap();
    let of = |line: i64| Uuid::parse_str(&imported.verdict(line).user_id).unwrap();
    let unproven = "UPDATE users SET verified_at = NULL WHERE user_id = $1";
    sqlx::query(unproven).bind(of(2)).execute(stage.server.sql()).await.unwrap();
    let confine = "UPDATE tenants SET settings = jsonb_build_object('sidle', jsonb_build_object('domains',
        jsonb_build_array($2::text))) WHERE tenant_id = $1";
    let domain = format!("{}.own.example", stage.slug);
    sqlx::query(confine).bind(stage.tenant).bind(domain).execute(stage.server.sql()).await.unwrap();
    let elsewhere = stage.server.tenant(&format!("o{}", random_word(10))).await;
    let guest = "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
        SELECT gen_random_uuid(), $1, $2, role_id, 'local' FROM roles WHERE name = 'user' AND tenant_id IS NULL";
    sqlx::query(guest).bind(elsewhere).bind(of(4)).execute(stage.server.sql()).await.unwrap();
    may_move(&stage, stage.tenant, of(5)).await;
    crate::authenticate::set_hash(&stage.server, of(5), &support::cheap_hash(support::ADMIN_PASSWORD), 4).await;
    let mover = stage.server.client(&stage.server.sign_in(&own("mover")).await.access_token);

    let reasons = async |client: &support::Client| {
        let cohort = Some(Cohort { tenant_ids: vec![stage.tenant.to_string()], ..Default::default() });
        let plan = PlanMigrationRequest { cohort, ..Default::default() };
        let plan = client.migration.clone().plan_migration(plan).await.unwrap().into_inner().plan.unwrap();
        let request = GetPlanRequest { plan_id: plan.plan_id, page_size: 100, ..Default::default() };
        let items = client.migration.clone().get_plan(request).await.unwrap().into_inner().items;
        let reason_of = |line: i64| {
            let item = items.iter().find(|item| item.user_id == of(line).to_string()).unwrap();
            (item.forecast(), item.reason())
        };
        [1, 2, 3, 4].map(reason_of)
    };
    let created = (Forecast::WillBeCreated, ItemReason::Unspecified);
    let refused = |reason| (Forecast::WillBeRefused, reason);
    let (unverified, foreign) = (refused(ItemReason::MailUnverified), refused(ItemReason::MailForeignDomain));
    assert_eq!(reasons(&stage.client).await, [created, unverified, foreign, created]);
    // A caller in one tenant cannot migrate a user who has a role elsewhere as well.
    let above = refused(ItemReason::UserAboveCaller);
    assert_eq!(reasons(&mover).await, [created, unverified, foreign, above]);
}

/// Names and addresses share one namespace with those of groups, service accounts and OAuth2 clients, not all of which
/// the service account may see; uuids of deleted persons stay taken.
#[tokio::test]
async fn what_a_plan_may_not_see_fails_alone_and_says_why() {
    let stage = stage().await;
    let name = |n: i64| format!("{}-{n}", stage.slug);
    let rows = (1..=9).map(|n| {
        let mail = if n == 9 { format!("/{}", stage.mail("x")) } else { stage.mail(n) };
        ImportRow { username: name(n), ..row(n, &mail) }
    });
    let imported = import(&stage.client, header(&stage.slug), rows.collect()).await.unwrap();
    let kanidm = &stage.kanidm;
    let entry = |attrs: serde_json::Value| serde_json::json!({ "attrs": attrs });
    let managed = ["idm_admins"];
    let program = serde_json::json!({ "name": [name(1)], "displayname": ["x"], "entry_managed_by": managed });
    kanidm.post("/v1/service_account", &entry(program)).await.unwrap();
    kanidm.post("/v1/group", &entry(serde_json::json!({ "name": [name(2)] }))).await.unwrap();
    let client = serde_json::json!({
        "name": [name(3)], "displayname": ["x"], "oauth2_rs_origin": ["https://x.example/back"],
        "oauth2_rs_origin_landing": ["https://x.example"],
    });
    kanidm.post("/v1/oauth2/_basic", &entry(client)).await.unwrap();
    let group = serde_json::json!({ "name": [format!("g{}", random_word(12))], "mail": [stage.mail(4)] });
    kanidm.post("/v1/group", &entry(group)).await.unwrap();
    let other = format!("s{}", random_word(12));
    let program = serde_json::json!({ "name": [other], "displayname": ["x"], "entry_managed_by": managed });
    kanidm.post("/v1/service_account", &entry(program)).await.unwrap();
    // Not every administrator may give a service account an address.
    let address = format!("/v1/service_account/{other}/_attr/mail");
    let has_address = kanidm.put(&address, &serde_json::json!([stage.mail(5)])).await.is_ok();
    let deleted = &imported.verdict(6).user_id;
    person_with_uuid(&stage, deleted, &format!("p{}", random_word(12))).await;
    kanidm.delete_person(deleted).await.unwrap();

    let plan = stage.plan().await;
    let foreseen = stage.items_of_plan(&plan).await;
    let migration = stage.start(&plan).await;
    let last = stage.watch(&migration).await.pop().unwrap();
    assert_eq!(last.state(), MigrationState::Completed);
    let items = stage.items(&migration.migration_id).await;
    for item in &foreseen {
        let became = &items[&item.email];
        let n = (1..=9).find(|n| imported.verdict(*n).user_id == item.user_id).unwrap();
        let outcome = (became.state(), became.reason());
        // The result is what was forecast.
        if item.forecast() == Forecast::WillBeRefused {
            assert_eq!(outcome, (ItemState::Failed, item.reason()), "{n}");
        }
        let expected: &[ItemReason] = match n {
            1 | 2 => &[ItemReason::Unspecified, ItemReason::NameTaken],
            // Releases before 1.8 do not say which value is taken.
            3 => &[ItemReason::Unspecified, ItemReason::NameTaken, ItemReason::MailTaken],
            5 if !has_address => &[ItemReason::Unspecified],
            4 | 5 => &[ItemReason::MailTaken],
            6 => &[ItemReason::PersonDeleted],
            // 1.11 takes a slash in an address.
            9 => &[ItemReason::Unspecified, ItemReason::MailRefused],
            _ => &[ItemReason::Unspecified],
        };
        assert!(expected.contains(&became.reason()), "{n}: {outcome:?}");
        assert_eq!(became.state() == ItemState::Linked, became.reason() == ItemReason::Unspecified, "{n}");
    }
}

/// A tenant's administrators can claim anything about their own users. In a Kanidm that all tenants share, an address
/// identifies its owner.
#[tokio::test]
async fn a_tenants_word_for_an_address_makes_nobody_a_person_in_kanidm() {
    let stage = stage().await;
    stage.server.user(stage.tenant, &stage.mail("boss"), "super_admin").await;
    let boss = stage.server.client(&stage.server.sign_in(&stage.mail("boss")).await.access_token);
    let create = async |client: &support::Client, email: String| {
        let request = CreateUserRequest {
            tenant_id: stage.tenant.to_string(),
            email,
            email_verified: true,
            ..Default::default()
        };
        let call = async |request| client.plain.clone().create_user(request).await;
        client.proving(request, call).await.unwrap().user.unwrap()
    };
    let ceo = create(&boss, format!("ceo@{}.other.example", stage.slug)).await;
    let own = create(&boss, stage.mail("own")).await;
    let known = create(&stage.client, format!("known@{}.other.example", stage.slug)).await;
    let forecast = async |user: &User| {
        let items = stage.items_of_plan(&stage.plan().await).await;
        let item = items.into_iter().find(|item| item.user_id == user.user_id).unwrap();
        (item.forecast(), item.reason())
    };
    let unverified = (Forecast::WillBeRefused, ItemReason::MailUnverified);
    let fine = (Forecast::WillBeCreated, ItemReason::Unspecified);
    assert_eq!([forecast(&ceo).await, forecast(&own).await, forecast(&known).await], [unverified, unverified, fine]);

    // Disabling and enabling does not verify it, unless the platform does it and says so.
    let switch = async |client: &support::Client, verified: bool| {
        let disable = DisableUserRequest { user_id: ceo.user_id.clone(), ..Default::default() };
        let call = async |request| client.plain.clone().disable_user(request).await;
        client.proving(disable, call).await.unwrap();
        let enable = EnableUserRequest { user_id: ceo.user_id.clone(), email_verified: verified, ..Default::default() };
        let call = async |request| client.plain.clone().enable_user(request).await;
        client.proving(enable, call).await.unwrap();
    };
    switch(&boss, true).await;
    assert_eq!(forecast(&ceo).await, unverified);
    switch(&stage.client, false).await;
    assert_eq!(forecast(&ceo).await, unverified);
    switch(&stage.client, true).await;
    assert_eq!(forecast(&ceo).await, fine);

    // For addresses of the domains that the platform gave it, the tenant's word suffices.
    let settings = serde_json::json!({ "sidle": { "domains": [stage.mail("").trim_start_matches('@')] } });
    let confine = "UPDATE tenants SET settings = $2 WHERE tenant_id = $1";
    sqlx::query(confine).bind(stage.tenant).bind(settings).execute(stage.server.sql()).await.unwrap();
    assert_eq!(forecast(&own).await, fine);
}
