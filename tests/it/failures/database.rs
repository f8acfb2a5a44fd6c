//! A database that cannot be reached, that does not let the service in, or that it must not work with.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::fakes::{Certificate, Fake, closed_port};
use super::{Attempt, OTHER_KEY, PASSWORD};
use crate::support::Setup;
use crate::support::cluster::Cluster;

async fn execute(url: &str, statements: &[&str]) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe((*statement).to_owned())).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}

fn to_port(port: u16, parameters: &str) -> Attempt {
    let url = format!("postgres://sidle_app:{PASSWORD}@localhost:{port}/sidle{parameters}");
    Attempt::new().with("DATABASE__URL", &url).word(port, "PORT")
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_named_with_the_cause() {
    to_port(closed_port(), "").says("start_database_refused", &["serve"]).await;
    let silent = Fake::silent().await;
    to_port(silent.port, "").says("start_database_silent", &["serve"]).await;
    let closing = Fake::closing().await;
    to_port(closing.port, "").says("start_database_closed", &["serve"]).await;
    let url = format!("postgres://sidle_app:{PASSWORD}@no-such-host.invalid/sidle?sslmode=require");
    let attempt = Attempt::new().with("DATABASE__URL", &url).with("DATABASE__ACQUIRE_TIMEOUT", "30s");
    attempt.says("start_database_unresolvable", &["serve"]).await;
}

#[tokio::test]
async fn a_database_whose_certificate_is_not_to_be_trusted_is_told_from_one_without_tls() {
    let setup = Setup::new().await;
    let url = format!("{}?sslmode=require", setup.database().app_url);
    Attempt::of(&setup).with("DATABASE__URL", &url).says("start_database_without_tls", &["serve"]).await;
    let (own, other) = (Certificate::new("localhost"), Certificate::new("localhost"));
    let (named, expired) = (Certificate::new("db.example"), Certificate::valid("localhost", -1));
    for (name, certificate, authority) in [
        ("start_database_untrusted", &own, &other),
        ("start_database_of_another_name", &named, &named),
        ("start_database_certificate_expired", &expired, &expired),
    ] {
        let server = Fake::tls(certificate, true).await;
        let attempt = Attempt::new();
        let file = attempt.file("authority.pem", &authority.pem, 0o644);
        let parameters = format!("?sslmode=verify-full&sslrootcert={}", file.display());
        let url = format!("postgres://sidle_app:{PASSWORD}@localhost:{}/sidle{parameters}", server.port);
        attempt.with("DATABASE__URL", &url).word(server.port, "PORT").says(name, &["serve"]).await;
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_refused_before_anything_is_connected_to() {
    for (name, url) in [
        ("start_database_url_of_another_kind", format!("mysql://sidle_app:{PASSWORD}@localhost/sidle")),
        ("start_database_in_plaintext", format!("postgres://sidle_app:{PASSWORD}@db.example.com/sidle")),
        ("start_database_url_missing", String::new()),
    ] {
        Attempt::new().with("DATABASE__URL", &url).says(name, &["serve"]).await;
    }
}

#[tokio::test]
async fn what_postgres_refuses_is_told_in_words() {
    let setup = Setup::new().await;
    let (_, place) = setup.database().app_url.split_once('@').unwrap();
    let wrong = format!("postgres://sidle_app:{PASSWORD}@{place}");
    Attempt::of(&setup).with("DATABASE__URL", &wrong).says("start_database_wrong_password", &["serve"]).await;

    let (cluster, _server) = Cluster::start().await;
    let attempt = |role: &str, database: &str| {
        let url = format!("{}/{database}", cluster.url(role).rsplit_once('/').unwrap().0);
        let attempt = Attempt::new().with("DATABASE__URL", &url).word(cluster.port, "PORT");
        attempt.with("DATABASE__ACQUIRE_TIMEOUT", "5s").with("SEAL__KEYS", &format!("1:{OTHER_KEY}"))
    };
    attempt("nobody", "sidle").says("start_database_unknown_role", &["serve"]).await;
    attempt("sidle_app", "nothing").says("start_database_missing", &["serve"]).await;
    attempt("sidle_app", "sidle").says("start_schema_missing", &["serve"]).await;
    let superuser = cluster.url("postgres");
    execute(&superuser, &["REVOKE CONNECT ON DATABASE sidle FROM PUBLIC, sidle_app"]).await;
    attempt("sidle_app", "sidle").says("start_database_closed_to_the_role", &["serve"]).await;
    execute(&superuser, &["GRANT CONNECT ON DATABASE sidle TO PUBLIC", "ALTER ROLE sidle_app CONNECTION LIMIT 0"])
        .await;
    let full = attempt("sidle_app", "sidle").with("DATABASE__ACQUIRE_TIMEOUT", "400ms");
    full.says("start_database_full", &["serve"]).await;
    execute(&superuser, &["REVOKE CONNECT ON DATABASE sidle FROM sidle_app", "DROP ROLE sidle_app"]).await;
    attempt("sidle_app", "sidle").says("start_role_missing", &["serve"]).await;
    let owner = ["ALTER ROLE sidle_owner NOCREATEROLE"];
    execute(&superuser, &owner).await;
    let up = attempt("sidle_app", "sidle").with("DATABASE__OWNER_URL", &cluster.url("sidle_owner"));
    up.says("schema_up_without_the_right_to_make_roles", &["schema", "up"]).await;
}

#[tokio::test]
async fn a_schema_of_another_release_is_named_with_what_it_lacks() {
    let setup = Setup::new().await;
    let owner = setup.database().owner_url.clone();
    execute(&owner, &["DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)"])
        .await;
    Attempt::of(&setup).says("start_schema_older", &["serve"]).await;

    let setup = Setup::new().await;
    let owner = setup.database().owner_url.clone();
    let newer = "INSERT INTO schema_migrations (version, filename, applied_at, execution_time_ms, checksum)
        VALUES (9999, '9999_newer.up.sql', now(), 0, '\\x00')";
    execute(&owner, &[newer, "DELETE FROM schema_functions WHERE name = 'login_begin'"]).await;
    Attempt::of(&setup).says("start_schema_newer", &["serve"]).await;
}

#[tokio::test]
async fn a_role_that_row_level_security_does_not_hold_is_refused_in_words() {
    let setup = Setup::new().await;
    let superuser = setup.superuser_url();
    Attempt::of(&setup).with("DATABASE__URL", &superuser).says("start_role_superuser", &["serve"]).await;
    let owner = setup.database().owner_url.clone();
    Attempt::of(&setup).with("DATABASE__URL", &owner).says("start_role_owner", &["serve"]).await;
    let (role, (_, place)) = (format!("{}_b", setup.database().name), owner.split_once('@').unwrap());
    execute(&superuser, &[&format!("CREATE ROLE {role} LOGIN BYPASSRLS PASSWORD '{PASSWORD}'")]).await;
    let url = format!("postgres://{role}:{PASSWORD}@{place}");
    Attempt::of(&setup).with("DATABASE__URL", &url).says("start_role_bypassing", &["serve"]).await;
    execute(&superuser, &[&format!("DROP ROLE {role}")]).await;
}

#[tokio::test]
async fn a_sealing_key_that_is_not_the_databases_is_never_started_with() {
    let setup = Setup::new().await;
    setup.start().await.stop().await;
    let keys = || sqlx::query_scalar::<_, i64>("SELECT count(*) FROM signing_keys");
    let mut look = PgConnection::connect(&setup.superuser_url()).await.unwrap();
    let before = keys().fetch_one(&mut look).await.unwrap();
    let other = Attempt::of(&setup).with("SEAL__KEYS", &format!("1:{OTHER_KEY}"));
    other.says("start_seal_other_key", &["serve"]).await;
    let number = Attempt::of(&setup).with("SEAL__KEYS", &format!("2:{OTHER_KEY}"));
    number.says("start_seal_key_of_another_number", &["serve"]).await;
    let reset = ["admin", "reset-password", "--email", "root@platform.example", "--generate-password"];
    other.says("reset_password_with_other_key", &reset).await;
    assert_eq!(keys().fetch_one(&mut look).await.unwrap(), before, "nothing was made under the wrong key");
    look.close().await.unwrap();
}

/// The first administrator is made before any service has run: what is sealed then lies in the inbox only.
#[tokio::test]
async fn a_key_that_is_not_that_of_the_first_administrator_is_refused_as_well() {
    let setup = Setup::new().await;
    let operator = Attempt::of(&setup).env("SIDLE_PASSWORD", "correct horse battery staple");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidle"));
    command.args(["admin", "bootstrap", "--email", "root@platform.example"]).env_clear().envs(&operator.environment);
    let made = command.output().await.unwrap();
    assert!(made.status.success(), "{made:?}");
    let other = Attempt::of(&setup).with("SEAL__KEYS", &format!("1:{OTHER_KEY}"));
    other.says("start_seal_other_key_than_at_bootstrap", &["serve"]).await;
}
