//! Clients that are not ours, as the documentation shows them: the blocks of README.md and docs/clients.md are run as they
//! stand there, by the programs that people have.

mod jose;
mod readme;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::support::{ADMIN_PASSWORD, TestServer, within};

/// A directory of the project.
fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What `./run test` has put in order; cargo alone has no such clients.
fn prepared(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: ./run test gets the clients of other languages and sets it"))
}

/// The block of code in `page` after the line `<!-- run: NAME -->`.
fn block(page: &str, name: &str) -> String {
    let text = std::fs::read_to_string(root(page)).unwrap();
    let marker = format!("<!-- run: {name} -->\n");
    let (_, rest) = text.split_once(&marker).unwrap_or_else(|| panic!("{page} has no block {name}"));
    let (_, rest) = rest.split_once("```").unwrap();
    let (_language, rest) = rest.split_once('\n').unwrap();
    let (code, _) = rest.split_once("\n```").unwrap();
    code.to_owned()
}

/// A directory in which a block is run: a copy of the project, as far as blocks use it.
struct Place {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Place {
    /// For a caller who signs in as `identifier`.
    fn new(server: &TestServer, identifier: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(root("proto"), folder.path().join("proto")).unwrap();
        let address = server.grpc_url().trim_start_matches("http://").to_owned();
        let path = format!("{}:/usr/bin:/bin", prepared("SIDLE_DEV_CLIENTS_PATH"));
        let modules = format!("{}/node_modules", prepared("SIDLE_DEV_CLIENTS"));
        let environment = [
            ("PATH", path),
            ("NODE_PATH", modules),
            ("HOME", folder.path().to_string_lossy().into_owned()),
            ("SIDLE", address),
            ("IDENTIFIER", identifier.to_owned()),
            ("PASSWORD", ADMIN_PASSWORD.to_owned()),
        ];
        Self { folder, environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec() }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes a file beside which blocks are run.
    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Runs a program to its end; its exit code and everything that it prints.
    async fn run(&self, program: &str, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new("/usr/bin/env");
        command
            .arg(program)
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let ran = within(program, command.output()).await.unwrap_or_else(|e| panic!("{program}: {e}"));
        let text = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
        (ran.status.code().unwrap_or(-1), text.into_owned())
    }

    /// Runs a block of commands, each of which may fail.
    async fn shell(&self, commands: &str) -> String {
        self.run("sh", &["-c", commands]).await.1
    }
}
