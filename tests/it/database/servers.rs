//! The server and the role that the service accepts: a server that takes writes, a role that row-level security binds.

use sidle::app::App;
use sidle::config::Config;
use sidle::context::Context;
use sidle::db::Scope;
use sqlx::AssertSqlSafe;
use tonic::Code;

use super::pool;
use crate::authenticate::attempt;
use crate::support::{ADMIN_PASSWORD, Setup, eventually};

/// The refusal of a service that connects with this URL.
async fn refusal(setup: &Setup, url: &str) -> String {
    let setup = setup.clone().with("DATABASE__URL", url);
    let config = Config::load(None, setup.environment().clone()).unwrap();
    match App::new(config, Context::system()).await.unwrap().start().await {
        Ok(_) => panic!("it starts as a role that sees every tenant"),
        Err(failure) => format!("{failure} {}", failure.what_to_do().unwrap_or_default()),
    }
}

#[tokio::test]
async fn a_role_that_row_level_security_does_not_hold_is_refused_by_name() {
    let setup = Setup::new().await;
    let server = setup.start().await;
    let superuser = std::env::var("SIDLE_DEV_PG_SUPER_URL").unwrap();
    let superuser = format!("{}/{}", superuser.rsplit_once('/').unwrap().0, setup.database().name);
    let refused = refusal(&setup, &superuser).await;
    assert!(
        refused.contains("postgres") && refused.contains("superuser") && refused.contains("sidle_app"),
        "{refused}"
    );
    let refused = refusal(&setup, &setup.database().owner_url).await;
    assert!(refused.contains("sidle_owner") && refused.contains("owns"), "{refused}");

    // By membership as well: a role that may become such a role counts as one.
    let (bypassing, member) = (format!("{}_b", setup.database().name), format!("{}_m", setup.database().name));
    for sql in [
        format!("CREATE ROLE {bypassing} LOGIN BYPASSRLS PASSWORD 'x' IN ROLE sidle_app"),
        format!("CREATE ROLE {member} LOGIN PASSWORD 'x' IN ROLE sidle_app, {bypassing}"),
    ] {
        sqlx::query(AssertSqlSafe(sql)).execute(server.sql()).await.unwrap();
    }
    let (_, place) = setup.database().app_url.split_once('@').unwrap();
    for role in [&bypassing, &member] {
        let refused = refusal(&setup, &format!("postgres://{role}:x@{place}")).await;
        assert!(refused.contains(role.as_str()) && refused.contains("BYPASSRLS"), "{refused}");
    }
    for role in [member, bypassing] {
        sqlx::query(AssertSqlSafe(format!("DROP ROLE {role}"))).execute(server.sql()).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_takes_no_writes_is_replaced() {
    let setup = Setup::new().await;
    let server = setup.start().await;
    let db = pool(&setup, 1);
    let write = async || -> sqlx::Result<()> {
        let mut tx = db.begin(Scope::Platform).await.unwrap();
        sqlx::query("DELETE FROM request_answers").execute(&mut *tx).await?;
        tx.commit().await.unwrap();
        Ok(())
    };
    write().await.unwrap();
    // What a session on a demoted server sees.
    sqlx::query("SET default_transaction_read_only = on").execute(&db).await.unwrap();
    let refused = write().await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "25006");
    write().await.expect("the next caller gets a connection that takes writes");
    sqlx::query("SET default_transaction_read_only = on").execute(&db).await.unwrap();
    db.ping().await.expect_err("not ready");
    db.ping().await.expect("and found out so, it is replaced");
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_makes_the_service_unready_until_it_does() {
    let server = Setup::new().await.with("DATABASE__ACQUIRE_TIMEOUT", "2s").start().await;
    let tenant = server.tenant("acme").await;
    server.user(tenant, "ann@example.com", "user").await;
    let name = server.setup.database().name.clone();
    let readiness = async || reqwest::get(format!("{}/readyz", server.ops_url())).await.unwrap().status().as_u16();
    assert_eq!(readiness().await, 200);

    let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    sqlx::query(AssertSqlSafe(set)).execute(server.sql()).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename <> current_user";
    sqlx::query(end).execute(server.sql()).await.unwrap();
    let refused = attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(readiness().await, 503);

    let reset = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
    let mut kept = server.sql().acquire().await.unwrap();
    sqlx::query("SET default_transaction_read_only = off").execute(&mut *kept).await.unwrap();
    sqlx::query(AssertSqlSafe(reset)).execute(&mut *kept).await.unwrap();
    eventually("ready again", async || (readiness().await == 200).then_some(())).await;
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.expect("without a restart");
}

#[tokio::test]
async fn of_several_servers_the_one_that_answers_is_taken() {
    let setup = Setup::new().await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = setup.database().app_url.replacen('@', &format!("@{gone},"), 1);
    let setup = setup.clone().with("DATABASE__URL", &format!("{url}?target_session_attrs=read-write"));
    let server = setup.start().await;
    let tenant = server.tenant("acme").await;
    server.user(tenant, "ann@example.com", "user").await;
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap();
}
