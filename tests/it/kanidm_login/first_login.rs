//! Persons of Kanidm who have no user here yet.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use sidle::proto;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{REDIRECT, World, complete, group, person};
use crate::authenticate::attempt;
use crate::look::{event, reason, reasons};
use crate::support::{ADMIN_PASSWORD, until};

impl World {
    /// Lets the tenant create users for persons whom Kanidm authenticates.
    async fn open_to_new_people(&self, tenant: Uuid) {
        let settings = json!({ "sidle": { "kanidm_first_login": true } });
        let update = "UPDATE tenants SET settings = settings || $2 WHERE tenant_id = $1";
        sqlx::query(update).bind(tenant).bind(settings).execute(self.server.sql()).await.unwrap();
    }

    async fn newcomer(&self, name: &str) -> (Uuid, String) {
        let (id, bearer) = person(&self.kanidm, name).await;
        self.kanidm.add_member(&self.group.to_string(), &id.to_string()).await.unwrap();
        (id, bearer)
    }

    async fn users(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(self.server.sql()).await.unwrap()
    }
}

#[tokio::test]
async fn a_person_of_a_tenant_that_wants_it_becomes_a_user_at_the_first_login() {
    let world = World::new().await;
    let (id, bearer) = world.newcomer("newcomer").await;
    assert_eq!(reason(&world.login_as(&bearer).await.unwrap_err()), "PERSON_NOT_LINKED", "unless it wants it, nobody");
    assert!(!world.start().await.unwrap().authorization_url.contains("email"), "nor is the address asked for");

    world.open_to_new_people(world.tenant).await;
    let signed_in = world.login_as(&bearer).await.expect("a user now");
    let user = signed_in.user.unwrap();
    assert_eq!(user.user_id, id.to_string(), "the user has the id of the person");
    assert_eq!(user.auth_method(), proto::AuthMethod::Kanidm);
    let email = world.kanidm.person(&id.to_string()).await.unwrap().unwrap()["mail"][0].as_str().map(str::to_owned);
    let (mail, verified, tenant, password): (String, bool, Uuid, bool) = sqlx::query_as(
        "SELECT email, verified_at IS NOT NULL, tenant_id, password_hash IS NOT NULL FROM users WHERE user_id = $1",
    )
    .bind(id)
    .fetch_one(world.server.sql())
    .await
    .unwrap();
    assert_eq!((verified, tenant, password), (false, world.tenant, false), "nobody has shown the address to be theirs");
    assert_eq!(email.unwrap_or(mail.clone()), mail);
    assert_eq!(event(&world.server, "user.created").await.target_id, Some(id.to_string()));
    assert_eq!(
        attempt(&world.server, &mail, ADMIN_PASSWORD).await.unwrap_err().message(),
        "The credentials are not accepted."
    );

    let users = world.users().await;
    let again = world.login_as(&bearer).await.unwrap();
    assert_eq!(again.user.unwrap().user_id, id.to_string());
    assert_eq!((world.users().await, reasons(&world.server, "user.created", "success").await.len()), (users, 1));
}

#[tokio::test]
async fn nobody_becomes_a_user_over_somebody_elses_address_or_id() {
    let world = World::new().await;
    world.open_to_new_people(world.tenant).await;
    // The attacker's person carries the address of a user who is not linked; Kanidm calls every address verified.
    let (thief, bearer) = world.newcomer("thief").await;
    let mail = world.kanidm.person(&thief.to_string()).await.unwrap().unwrap()["name"][0].as_str().unwrap().to_owned();
    world.server.user(world.tenant, &format!("{mail}@EXAMPLE.com"), "admin").await;
    assert_eq!(reason(&world.login_as(&bearer).await.unwrap_err()), "PERSON_NOT_LINKED");
    // CVE-2026-119128: the account has no credential of its own, so that only an administrator can say whose it is.
    sqlx::query("UPDATE users SET password_hash = NULL, password_cost = NULL")
        .execute(world.server.sql())
        .await
        .unwrap();
    assert_eq!(reason(&world.login_as(&bearer).await.unwrap_err()), "PERSON_NOT_LINKED");
    // A person whose uuid is the id of a user who is not linked: any client with the on-boarding right can choose it.
    let (twin, bearer) = world.newcomer("twin").await;
    let insert =
        "INSERT INTO users (user_id, tenant_id, email, email_key) VALUES ($1, $2, 'twin@x.example', 'twin@x.example')";
    sqlx::query(insert).bind(twin).bind(world.tenant).execute(world.server.sql()).await.unwrap();
    assert_eq!(reason(&world.login_as(&bearer).await.unwrap_err()), "PERSON_NOT_LINKED");
    assert_eq!(reasons(&world.server, "user.login_refused", "refused").await, ["mail_taken", "mail_taken", "id_taken"]);
    let linked: i64 = sqlx::query_scalar("SELECT count(*) FROM users WHERE kanidm_user_id = ANY ($1)")
        .bind([thief, twin].to_vec())
        .fetch_one(world.server.sql())
        .await
        .unwrap();
    assert_eq!(linked, 0);
}

/// An import holds the addresses of its rows until it ends, which may take minutes: no call waits that long.
#[tokio::test]
async fn a_first_login_waits_only_for_a_moment_for_somebody_who_writes_the_address() {
    let world = World::with(|setup| setup.with("DATABASE__LOCK_TIMEOUT", "25s")).await;
    world.open_to_new_people(world.tenant).await;
    let (id, bearer) = world.newcomer("patient").await;
    let mail = world.kanidm.person(&id.to_string()).await.unwrap().unwrap()["mail"][0].as_str().unwrap().to_owned();
    let mut import = world.server.sql().begin().await.unwrap();
    let insert = "INSERT INTO users (user_id, tenant_id, email, email_key) VALUES (gen_random_uuid(), $1, $2, $2)";
    sqlx::query(insert).bind(world.tenant).bind(&mail).execute(&mut *import).await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(10), world.login_as(&bearer)).await;
    assert_eq!(reason(&refused.expect("at once").unwrap_err()), "DATABASE_UNAVAILABLE");
    import.rollback().await.unwrap();
    let signed_in = world.login_as(&bearer).await.expect("nobody has it");
    assert_eq!(signed_in.user.unwrap().user_id, id.to_string());
}

/// While a first login waits for a permit, its tenant may stop making users of people.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_login_decides_again_after_it_has_waited() {
    let world = World::with(|setup| setup.with("DATABASE__LOCK_TIMEOUT", "25s")).await;
    world.open_to_new_people(world.tenant).await;
    let (id, bearer) = world.newcomer("late").await;
    let begun = world.start().await.unwrap();
    let back = world.kanidm.authorise(&bearer, &begun.authorization_url).await.unwrap();
    let sql = world.server.sql();
    let count = async |waiting: &'static str| sqlx::query_scalar::<_, i64>(waiting).fetch_one(sql).await.unwrap();
    let lock = "LOCK TABLE kanidm_tenant_groups IN ACCESS EXCLUSIVE MODE";
    // Beside the few connections that a test looks with.
    let mut holder = PgConnection::connect_with(&sql.connect_options()).await.unwrap();
    let mut change = PgConnection::connect_with(&sql.connect_options()).await.unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::query(lock).execute(&mut *held).await.unwrap();
    let meanwhile = async {
        let deciding = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND application_name = 'sidle' AND wait_event_type = 'Lock' AND query LIKE '%kanidm_first_login%'";
        until("the login decides for the first time", async || count(deciding).await == 1).await;
        // Stands in line behind the login, so that it is let in when the first decision's transaction has ended, and
        // before the second decision.
        let close = async {
            let mut change = change.begin().await.unwrap();
            sqlx::query(lock).execute(&mut *change).await.unwrap();
            let settings = "UPDATE tenants SET settings = settings - 'sidle' WHERE tenant_id = $1";
            sqlx::query(settings).bind(world.tenant).execute(&mut *change).await.unwrap();
            change.commit().await.unwrap();
        };
        let let_in = async {
            let in_line = "SELECT count(*) FROM pg_locks WHERE relation = 'kanidm_tenant_groups'::regclass
                AND mode = 'AccessExclusiveLock' AND NOT granted";
            until("the change of the tenant stands in line", async || count(in_line).await == 1).await;
            held.commit().await.unwrap();
        };
        tokio::join!(close, let_in);
    };
    let (refused, ()) = tokio::join!(complete(&world.server, &back, &begun.login_secret), meanwhile);
    assert_eq!(reason(&refused.unwrap_err()), "PERSON_NOT_LINKED");
    assert!(reasons(&world.server, "user.created", "success").await.is_empty());
    world.open_to_new_people(world.tenant).await;
    let signed_in = world.login_as(&bearer).await.expect("a tenant that makes users makes one");
    assert_eq!(signed_in.user.unwrap().user_id, id.to_string());
}

#[tokio::test]
async fn whoever_was_deleted_here_does_not_come_back_as_a_new_user() {
    let world = World::new().await;
    world.open_to_new_people(world.tenant).await;
    let (id, bearer) = world.newcomer("gone").await;
    world.login_as(&bearer).await.unwrap();
    crate::authenticate::set(&world.server, id, "deleted_at = now()").await;
    assert_eq!(reason(&world.login_as(&bearer).await.unwrap_err()), "PERSON_NOT_LINKED");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_logins_at_the_same_moment_make_one_user() {
    let world = World::new().await;
    world.open_to_new_people(world.tenant).await;
    let (id, bearer) = world.newcomer("hasty").await;
    let mut begun = Vec::new();
    for _ in 0..6 {
        let attempt = world.start().await.unwrap();
        let back = world.kanidm.authorise(&bearer, &attempt.authorization_url).await.unwrap();
        begun.push((back, attempt.login_secret));
    }
    let replica = world.server.setup.start().await;
    let servers = [&world.server, &replica];
    let logins = begun.iter().enumerate().map(|(n, (back, secret))| complete(servers[n % 2], back, secret));
    for signed_in in join_all(logins).await {
        assert_eq!(signed_in.expect("each is signed in").user.unwrap().user_id, id.to_string());
    }
    assert_eq!(reasons(&world.server, "user.created", "success").await.len(), 1);
}

#[tokio::test]
async fn a_group_gives_a_new_user_its_own_tenant_and_several_have_to_be_chosen_from() {
    let world = World::new().await;
    world.open_to_new_people(world.tenant).await;
    let (stranger, bearer) = person(&world.kanidm, "stranger").await;
    let named = format!("tenant_a_users_{}", Uuid::new_v4().simple());
    world.kanidm.post("/v1/group", &json!({ "attrs": { "name": [named] } })).await.unwrap();
    world.kanidm.add_member(&named, &stranger.to_string()).await.unwrap();
    let refused = world.login_as(&bearer).await.unwrap_err();
    assert_eq!(reason(&refused), "PERSON_NOT_LINKED", "a group of nobody's, whatever its name");

    let other = world.server.tenant("b").await;
    let others = group(&world.kanidm, &world.server, other, "user").await;
    for group in [world.group, others] {
        world.kanidm.add_member(&group.to_string(), &stranger.to_string()).await.unwrap();
    }
    world.open_to_new_people(other).await;
    assert_eq!(reason(&world.login_as(&bearer).await.unwrap_err()), "TENANT_REQUIRED");
    assert_eq!(world.users().await, 1, "nobody was made without a home");
    let closed = world.server.tenant("c").await;
    let not_linked = || Err("PERSON_NOT_LINKED".to_owned());
    for (tenant_id, tenant_slug, answer) in [
        (closed.to_string(), "", not_linked()),
        (String::new(), "c", not_linked()),
        (String::new(), "of-nobody", not_linked()),
        (other.to_string(), "", Ok(other.to_string())),
        (String::new(), "b", Ok(other.to_string())),
    ] {
        let tenant_slug = tenant_slug.to_owned();
        let request = proto::StartKanidmLoginRequest {
            redirect_uri: REDIRECT.to_owned(),
            tenant_id,
            tenant_slug,
            ..Default::default()
        };
        let begun = world.server.client("").authenticate.start_kanidm_login(request).await.unwrap().into_inner();
        let back = world.kanidm.authorise(&bearer, &begun.authorization_url).await.unwrap();
        let came = complete(&world.server, &back, &begun.login_secret).await;
        assert_eq!(came.map(|signed_in| signed_in.tenant_id).map_err(|status| reason(&status)), answer);
    }
}
