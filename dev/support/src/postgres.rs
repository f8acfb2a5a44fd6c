//! Databases for tests: one template a run, a copy of it for each test, dropped afterwards.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::{Result, random_word, variable};

/// A database of its own. Dropped with this value.
#[derive(Debug)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// URL as the application role.
    pub app_url: String,
    /// URL as the owner.
    pub owner_url: String,
    admin_url: String,
}

/// `url` with another database.
fn with_database(url: &str, database: &str) -> String {
    let (server, _) = url.rsplit_once('/').unwrap_or((url, ""));
    format!("{server}/{database}")
}

impl Database {
    /// A fresh database on the private cluster of `./run`, a copy of `template` where given.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn create(prefix: &str, template: Option<&str>) -> Result<Self> {
        let admin_url = variable("SIDLE_DEV_PG_SUPER_URL")?;
        // The process id tells later runs which process made it.
        let name = format!("{prefix}_{}_{}", std::process::id(), random_word(8));
        let template = template.map(|name| format!(" TEMPLATE {name}")).unwrap_or_default();
        let mut admin = connect(&admin_url).await?;
        execute(&mut admin, format!("CREATE DATABASE {name} OWNER sidle_owner{template}")).await?;
        admin.close().await?;
        Ok(Self {
            app_url: with_database(&variable("SIDLE_DEV_PG_APP_URL")?, &name),
            owner_url: with_database(&variable("SIDLE_DEV_PG_OWNER_URL")?, &name),
            name,
            admin_url,
        })
    }

    /// Drops databases whose process has ended without doing so.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn sweep(prefix: &str) -> Result<()> {
        let mut admin = connect(&variable("SIDLE_DEV_PG_SUPER_URL")?).await?;
        let names: Vec<String> = sqlx::query_scalar("SELECT datname FROM pg_database WHERE datname LIKE $1 || '\\_%'")
            .bind(prefix)
            .fetch_all(&mut admin)
            .await?;
        for name in names {
            let process = name.rsplit('_').nth(1).unwrap_or_default();
            if !std::path::Path::new("/proc").join(process).exists() {
                execute(&mut admin, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
            }
        }
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin_url, name) = (self.admin_url.clone(), self.name.clone());
        // A runtime of its own, which is not waited for: Postgres waits for every connection that is being made, and
        // one of those may be made by the runtime that this would block. What is not done in time, the next run drops.
        std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut admin = connect(&admin_url).await?;
                execute(&mut admin, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
            })
        });
    }
}

async fn connect(url: &str) -> Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    Ok(options.disable_statement_logging().connect().await?)
}

async fn execute(connection: &mut PgConnection, statement: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}
