//! Steps that wait for locks of others: they let all other statements pass, and report which one holds the lock.

use std::time::Duration;

use sidle::schema::{Files, LockWait, MigrationFile};
use sqlx::{Connection as _, PgConnection};

use super::schema;
use crate::support::{TestServer, eventually};

/// A waiting step is in the lock queue, and later statements are behind it.
#[tokio::test]
async fn a_login_never_waits_behind_a_migration_for_longer_than_the_lock_timeout() {
    let server = TestServer::start().await;
    let tenant = server.tenant("queue").await;
    server.user(tenant, "ann@queue.example", "user").await;
    let database = server.setup.database();
    let mut holder = PgConnection::connect(&format!("{}?application_name=report", database.owner_url)).await.unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM users").execute(&mut *held).await.unwrap();

    // Shorter than the service itself waits for a lock before it gives up. There are no pauses, so that the step waits
    // nearly all of the time.
    let wait = LockWait { timeout: Duration::from_millis(500), pause: Duration::from_nanos(1), attempts: 8 };
    let mut files = Files::embedded();
    files.migrations.to_mut().push(MigrationFile {
        version: 9999,
        description: "late".into(),
        filename: "9999_late.up.sql".into(),
        up: "ALTER TABLE users ADD COLUMN late integer".into(),
        down: "ALTER TABLE users DROP COLUMN late".into(),
    });
    let mut schema = schema(database).await.with_files(files).with_lock_wait(wait);
    let run = tokio::spawn(async move {
        let done = schema.up(false).await;
        (schema, done)
    });
    let waits =
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'users'::regclass AND mode = 'AccessExclusiveLock'
        AND NOT granted)";
    eventually("the step waits", async || {
        let waiting: bool = sqlx::query_scalar(waits).fetch_one(server.sql()).await.unwrap();
        waiting.then_some(())
    })
    .await;
    server.sign_in("ann@queue.example").await;

    let (mut schema, done) = run.await.unwrap();
    let cause = done.expect_err("the table was held").cause().unwrap().to_string();
    assert!(cause.contains("9999_late.up.sql") && cause.contains("(report, ") && cause.contains("pid "), "{cause}");
    assert!(cause.contains("idle in transaction") && cause.contains("open for "), "{cause}");
    held.rollback().await.unwrap();
    assert_eq!(schema.up(false).await.unwrap().files, ["9999_late.up.sql"]);
}
