//! Logins with a password.

use sidle::proto;
use sqlx::Connection as _;
use tonic::Code;
use uuid::Uuid;

use super::{ask, attempt, set, set_hash};
use crate::look::{event, reason, reasons};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, cheap_hash, until};

#[tokio::test]
async fn a_user_signs_in_by_address_or_name_in_any_case() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "Ann@Example.com", "admin").await;
    set(&server, user, "username = 'Ann', username_key = 'ann'").await;
    for identifier in ["ann@example.com", "ANN@EXAMPLE.COM", "ann", "ANN", " ann "] {
        let signed_in = attempt(&server, identifier, ADMIN_PASSWORD).await.unwrap();
        assert_eq!(signed_in.tenant_id, tenant.to_string());
        let shown = signed_in.user.unwrap();
        assert_eq!((shown.user_id.as_str(), shown.email.as_str()), (user.to_string().as_str(), "Ann@Example.com"));
    }
    let signed_in = attempt(&server, "ann", ADMIN_PASSWORD).await.unwrap();
    let client = server.client(&signed_in.tokens.unwrap().access_token);
    let me = client.clone().authenticate.who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner();
    let claims = me.claims.unwrap();
    assert_eq!((claims.subject, claims.session_id), (user.to_string(), signed_in.session_id.clone()));
    assert_eq!(claims.roles, ["admin"]);
    assert!(claims.permissions.contains(&"users.read".to_owned()) && claims.platform_permissions.is_empty());
    assert_eq!(me.tenants.len(), 1);
    assert!(me.tenants[0].home && me.tenants[0].slug == "a" && me.tenants[0].roles == ["admin"]);

    let recorded = event(&server, "user.authenticated").await;
    assert_eq!((recorded.actor_id, recorded.tenant_id), (Some(user), Some(tenant)));
    assert!(recorded.session_id.is_some());
    let last_login: Option<chrono::DateTime<chrono::Utc>> =
        sqlx::query_scalar("SELECT last_login_at FROM users WHERE user_id = $1")
            .bind(user)
            .fetch_one(server.sql())
            .await
            .unwrap();
    assert!(last_login.is_some());
}

#[tokio::test]
async fn every_refusal_looks_the_same_and_is_written_down_before_it_is_answered() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = async |name: &str| server.user(tenant, &format!("{name}@example.com"), "user").await;
    user("wrong").await;
    set(&server, user("disabled").await, "status = 'disabled'").await;
    set(&server, user("unverified").await, "status = 'pending_verification'").await;
    set(&server, user("locked").await, "locked_until = now() + interval '1 hour', lock_reason = 'administrator'").await;
    set(&server, user("kanidm").await, "auth_method = 'kanidm', kanidm_user_id = gen_random_uuid()").await;
    set(&server, user("none").await, "password_hash = NULL, password_cost = NULL").await;
    set(&server, user("deleted").await, "deleted_at = now()").await;
    set_hash(&server, user("broken").await, "$2b$04$short", 4).await;
    set_hash(&server, user("costly").await, &cheap_hash(ADMIN_PASSWORD).replace("$04$", "$15$"), 4).await;
    let cases = [
        ("nobody", ADMIN_PASSWORD, "unknown"),
        ("deleted", ADMIN_PASSWORD, "unknown"),
        ("wrong", "not the password", "wrong_password"),
        ("disabled", ADMIN_PASSWORD, "disabled"),
        ("unverified", ADMIN_PASSWORD, "unverified"),
        ("locked", ADMIN_PASSWORD, "locked"),
        ("kanidm", ADMIN_PASSWORD, "kanidm_only"),
        ("none", ADMIN_PASSWORD, "no_password"),
        ("broken", ADMIN_PASSWORD, "hash_malformed"),
        ("costly", ADMIN_PASSWORD, "hash_too_costly"),
    ];
    for (count, (name, password, why)) in cases.into_iter().enumerate() {
        let refused = attempt(&server, &format!("{name}@example.com"), password).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Unauthenticated, "INVALID_CREDENTIALS"),
            "{name}"
        );
        assert_eq!(refused.message(), "The credentials are not accepted.", "{name}");
        // Already recorded when the answer comes, with the reason that the caller does not see.
        let written = reasons(&server, "user.login_refused", "refused").await;
        // Of unknown identifiers the first is recorded, and the others of the same address are counted.
        let counted: i64 = sqlx::query_scalar("SELECT coalesce(sum(refusals), 0)::bigint FROM unknown_refusals")
            .fetch_one(server.sql())
            .await
            .unwrap();
        let durable = written.len() + counted as usize;
        assert_eq!((durable, written.last().map(String::as_str)), (count + 1, Some(why)), "{name}");
    }
}

#[tokio::test]
async fn a_weaker_hash_is_replaced_after_the_login() {
    let server = Setup::new().await.with("PASSWORDS__COST", "5").start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap();
    let recorded = event(&server, "user.password_rehashed").await;
    assert_eq!(recorded.target_id, Some(user.to_string()));
    let (hash, cost): (String, i16) =
        sqlx::query_as("SELECT password_hash, password_cost FROM users WHERE user_id = $1")
            .bind(user)
            .fetch_one(server.sql())
            .await
            .unwrap();
    assert!(hash.starts_with("$2b$05$") && cost == 5, "{hash}");
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap();
}

/// Otherwise the time would reveal that a hash is an old one, and the user would wait for two.
#[tokio::test]
async fn a_login_is_answered_before_its_password_is_hashed_anew() {
    let server = Setup::new().await.with("PASSWORDS__COST", "5").start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    // The new hash is not written before the test releases this lock.
    let trigger = "CREATE FUNCTION held_up() RETURNS trigger LANGUAGE plpgsql AS $$
                   BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$;
                   CREATE TRIGGER held_up BEFORE UPDATE OF password_cost ON users FOR EACH ROW
                   WHEN (OLD.password_cost IS DISTINCT FROM NEW.password_cost) EXECUTE FUNCTION held_up()";
    sqlx::raw_sql(trigger).execute(server.sql()).await.unwrap();
    let mut held = sqlx::PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(4711)").execute(&mut held).await.unwrap();

    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.expect("the answer does not wait for the new hash");
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND objid = 4711
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until("the new hash waits for the lock", async || {
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(server.sql()).await.unwrap() != 0
    })
    .await;
    let cost = async || -> i16 {
        let select = "SELECT password_cost FROM users WHERE user_id = $1";
        sqlx::query_scalar(select).bind(user).fetch_one(server.sql()).await.unwrap()
    };
    assert_eq!(cost().await, 4, "it is on its way");
    sqlx::query("SELECT pg_advisory_unlock(4711)").execute(&mut held).await.unwrap();
    event(&server, "user.password_rehashed").await;
    assert_eq!(cost().await, 5);
}

#[tokio::test]
async fn hashes_of_the_old_miscomputing_implementation_let_their_users_in_once_more() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    // Made with libxcrypt; its cost is above today's, and it is replaced all the same.
    set_hash(&server, user, "$2x$05$abcdefghijklmnopqrstuuYZ.mRQSBtUiayzORceQSb5BVOX7p5lO", 5).await;
    attempt(&server, "ann@example.com", "Grün").await.unwrap();
    event(&server, "user.password_rehashed").await;
    let hash: String = sqlx::query_scalar("SELECT password_hash FROM users WHERE user_id = $1")
        .bind(user)
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert!(hash.starts_with("$2b$04$"), "{hash}");
    attempt(&server, "ann@example.com", "Grün").await.unwrap();
}

#[tokio::test]
async fn a_login_acts_in_the_tenant_asked_for_or_at_home() {
    let server = TestServer::start().await;
    let (home, other, third) =
        (server.tenant("home").await, server.tenant("other").await, server.tenant("third").await);
    let user = server.user(home, "ann@example.com", "user").await;
    let join = "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
                SELECT gen_random_uuid(), $1, $2, role_id, 'local' FROM roles WHERE name = 'admin' AND tenant_id IS NULL";
    sqlx::query(join).bind(other).bind(user).execute(server.sql()).await.unwrap();
    let request = |tenant: Option<Uuid>| proto::AuthenticatePasswordRequest {
        identifier: "ann@example.com".to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        tenant_id: tenant.map(|tenant| tenant.to_string()).unwrap_or_default(),
        ..Default::default()
    };
    assert_eq!(ask(&server, request(None)).await.unwrap().tenant_id, home.to_string());
    assert_eq!(ask(&server, request(Some(other))).await.unwrap().tenant_id, other.to_string());
    assert_eq!(reason(&ask(&server, request(Some(third))).await.unwrap_err()), "NO_TENANT");

    let disable = "UPDATE tenants SET status = 'disabled' WHERE tenant_id = $1";
    sqlx::query(disable).bind(home).execute(server.sql()).await.unwrap();
    assert_eq!(ask(&server, request(None)).await.unwrap().tenant_id, other.to_string(), "the only one left");
    sqlx::query(join).bind(third).bind(user).execute(server.sql()).await.unwrap();
    let refused = ask(&server, request(None)).await.unwrap_err();
    assert_eq!(reason(&refused), "TENANT_REQUIRED");
    for tenant in [other, third] {
        sqlx::query(disable).bind(tenant).execute(server.sql()).await.unwrap();
    }
    assert_eq!(reason(&ask(&server, request(None)).await.unwrap_err()), "NO_TENANT");
}

#[tokio::test]
async fn who_must_change_the_password_may_do_nothing_else() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "SYSTEM_ADMIN").await;
    set(&server, user, "must_change_password = true").await;
    let signed_in = attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap();
    assert!(signed_in.must_change_password);
    let mut client = server.client(&signed_in.tokens.unwrap().access_token);
    let me = client.authenticate.who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner();
    assert!(me.must_change_password);
    assert_eq!(me.claims.unwrap().platform_permissions, Vec::<String>::new());
    let everybody = proto::ListSessionsRequest { user_id: "-".to_owned(), ..Default::default() };
    let refused = client.session.list_sessions(everybody).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED");
}

#[tokio::test]
async fn what_no_login_can_mean_is_named() {
    let server = TestServer::start().await;
    let good = || proto::AuthenticatePasswordRequest {
        identifier: "ann@example.com".to_owned(),
        password: "x".to_owned(),
        ..Default::default()
    };
    let device = |device_id: &str| Some(proto::Device { device_id: device_id.to_owned(), ..Default::default() });
    for (what, request) in [
        ("no identifier", proto::AuthenticatePasswordRequest { identifier: String::new(), ..good() }),
        ("no password", proto::AuthenticatePasswordRequest { password: String::new(), ..good() }),
        ("NUL", proto::AuthenticatePasswordRequest { password: "a\0b".to_owned(), ..good() }),
        ("a long password", proto::AuthenticatePasswordRequest { password: "x".repeat(1025), ..good() }),
        ("a long identifier", proto::AuthenticatePasswordRequest { identifier: "x".repeat(255), ..good() }),
        ("no tenant id", proto::AuthenticatePasswordRequest { tenant_id: "a".to_owned(), ..good() }),
        ("an audience of nobody", proto::AuthenticatePasswordRequest { audience: "nobody".to_owned(), ..good() }),
        ("a device with NUL", proto::AuthenticatePasswordRequest { device: device("a\0"), ..good() }),
    ] {
        let refused = ask(&server, request).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"), "{what}");
    }
}

/// Between two multiples of the failure latency quantum no refusal is answered, however early it was decided and
/// recorded.
#[tokio::test]
async fn a_refusal_waits_for_the_next_multiple_of_the_quantum() {
    let server = Setup::new().await.with("PASSWORDS__FAILURE_LATENCY_QUANTUM", "1h").start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    let client = server.client(&server.sign_in("ann@example.com").await.access_token);
    let guess = proto::StepUpRequest {
        method: "sidle.v1.AuthenticateService/EnrollTotp".to_owned(),
        proof: Some(proto::step_up_request::Proof::Password("a guess".to_owned())),
        ..Default::default()
    };
    let prove = async { client.authenticate.clone().step_up(guess).await.map(drop) };
    let sign_in = async |who| attempt(&server, who, "a guess").await.map(drop);
    let (mut known, mut unknown) = (Box::pin(sign_in("ann@example.com")), Box::pin(sign_in("nobody@example.com")));
    let mut proof = Box::pin(prove);
    let decided = async {
        until("both refusals are recorded", async || {
            reasons(&server, "user.login_refused", "refused").await.len() >= 2
                && !reasons(&server, "user.reauthentication_failed", "refused").await.is_empty()
        })
        .await;
        // A success does not wait; and an answer to the others would have come before this one.
        server.sign_in("ann@example.com").await;
    };
    tokio::select! {
        biased;
        answer = &mut known => panic!("answered at once: {answer:?}"),
        answer = &mut unknown => panic!("answered at once: {answer:?}"),
        answer = &mut proof => panic!("answered at once: {answer:?}"),
        () = decided => {}
    }
}

/// As when a newer release has written it: what the word means is not known, so it must not pass for one that is.
#[tokio::test]
async fn a_refusal_that_this_release_does_not_know_is_not_taken_for_a_wrong_password() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    set(&server, user, "status = 'disabled'").await;
    let refused = attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_CREDENTIALS");

    let text = "SELECT replace(pg_get_functiondef('login_begin'::regproc), 'THEN ''disabled''', 'THEN ''on_holiday''')";
    let text: String = sqlx::query_scalar(text).fetch_one(server.sql()).await.unwrap();
    for change in ["ALTER TYPE attempt_refusal ADD VALUE 'on_holiday'", &text] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(change.to_owned())).execute(server.sql()).await.unwrap();
    }
    let failed = attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap_err();
    assert_eq!(reason(&failed), "INTERNAL");
}
