//! A Postgres cluster of a test's own, with a standby, which can be killed.

use std::path::PathBuf;
use std::process::{Command as Blocking, Stdio};

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{eventually, until};

/// Data directories and the programs that work on them. Stopped when this value is dropped.
pub struct Cluster {
    home: TempDir,
    programs: PathBuf,
    run_as: String,
    /// Where its primary listens.
    pub port: u16,
}

/// A running server.
pub struct Server {
    process: Child,
    port: u16,
}

impl Cluster {
    /// A primary with the roles and the empty database of an installation.
    pub async fn start() -> (Self, Server) {
        let (cluster, server) = Self::empty().await;
        let mut admin = server.connect("postgres").await;
        for statement in [
            "CREATE ROLE sidle_owner LOGIN CREATEROLE",
            "CREATE ROLE sidle_app LOGIN",
            "CREATE DATABASE sidle OWNER sidle_owner",
            "GRANT CONNECT ON DATABASE sidle TO sidle_app",
        ] {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
        }
        (cluster, server)
    }

    /// A primary with nothing in it but its superuser.
    pub async fn empty() -> (Self, Server) {
        let programs = PathBuf::from(std::env::var("SIDLE_DEV_PG_BIN").expect("started through ./run"));
        let run_as = std::env::var("SIDLE_DEV_PG_RUN_AS").expect("started through ./run");
        // Where the user that Postgres runs as may enter.
        let home = tempfile::Builder::new().prefix("sidle-cluster-").tempdir_in("/var/tmp").unwrap();
        let cluster = Self { home, programs, run_as, port: free_port() };
        if !cluster.run_as.is_empty() {
            let owner = Blocking::new("chown").arg(&cluster.run_as).arg(cluster.home.path()).status().unwrap();
            assert!(owner.success());
        }
        let arguments =
            ["-D", "primary", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-N"];
        cluster.run("initdb", &arguments).await;
        let server = cluster.serve("primary", cluster.port).await;
        (cluster, server)
    }

    /// The database as `role`.
    pub fn url(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/sidle", self.port)
    }

    /// The cluster's own programs, `psql` among them.
    pub fn programs(&self) -> &std::path::Path {
        &self.programs
    }

    /// Makes a standby of what the primary is now, lets it catch up, and stops it: it receives nothing that comes later.
    pub async fn take_standby(&self, primary: &Server) {
        let port = self.port.to_string();
        let from = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
        let how = ["-D", "standby", "-X", "stream", "-R", "-c", "fast", "--no-sync"];
        self.run("pg_basebackup", &[from.as_slice(), &how].concat()).await;
        let standby = self.serve("standby", free_port()).await;
        let position: String = ask(primary, "SELECT pg_current_wal_lsn()::text").await;
        let caught_up = format!("SELECT (pg_last_wal_replay_lsn() >= '{position}'::pg_lsn)::text");
        until("the standby catches up", async || ask(&standby, &caught_up).await == "true").await;
        standby.kill().await;
    }

    /// Starts the standby where the primary was, and makes it the primary.
    pub async fn promote_standby(&self) -> Server {
        let server = self.serve("standby", self.port).await;
        assert_eq!(ask(&server, "SELECT pg_promote(true, 60)::text").await, "true");
        server
    }

    async fn serve(&self, data: &str, port: u16) -> Server {
        let mut command = self.command("postgres");
        command.args(["-D", data, "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", "unix_socket_directories=", "-c", "max_connections=60", "-c", "shared_buffers=32MB"]);
        let process = command.stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let server = Server { process, port };
        server.connect("postgres").await.close().await.unwrap();
        server
    }

    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = if self.run_as.is_empty() {
            Command::new(program)
        } else {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={}", self.run_as)).arg(format!("--regid={}", group(&self.run_as)));
            command.args(["--init-groups", "--"]).arg(program);
            command
        };
        command.current_dir(self.home.path()).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    async fn run(&self, program: &str, arguments: &[&str]) {
        let output = self.command(program).args(arguments).stderr(Stdio::piped()).output().await.unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Server {
    /// SIGKILL: nothing is flushed, nothing is sent.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    async fn connect(&self, database: &str) -> PgConnection {
        let url = format!("postgres://postgres@127.0.0.1:{}/{database}", self.port);
        let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
        eventually("Postgres answers", async || options.connect().await.ok()).await
    }
}

/// The text result of a query, as the superuser.
async fn ask(server: &Server, query: &str) -> String {
    let mut connection = server.connect("postgres").await;
    let answer = sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    answer
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn group(user: &str) -> String {
    let output = Blocking::new("id").args(["-g", user]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
