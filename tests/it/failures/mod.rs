//! Ways to fail, each tried with the real program, and what it says then: the whole message, as a person sees it who has
//! never read the source. What was tried, where, why it failed, what to do. The texts are in `snapshots/`;
//! `SIDLE_WRITE_SNAPSHOTS=1` writes them anew, to be read before they are committed.

mod calls;
mod check;
mod database;
mod fakes;
mod files;
mod mail;
mod ports;
mod settings;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::support::{Setup, within};

/// The password in every address that tests use: it must stand in no message.
const PASSWORD: &str = "hunter2";
/// A sealing key that no test's database was sealed under.
const OTHER_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// A run of the program that is meant to fail.
struct Attempt {
    home: tempfile::TempDir,
    environment: BTreeMap<String, String>,
    /// What differs from run to run, and what stands for it in the snapshot.
    words: Vec<(String, String)>,
}

impl Attempt {
    /// Settings that are complete, with a database that nothing gets as far as.
    fn new() -> Self {
        let attempt = Self { home: tempfile::tempdir().unwrap(), environment: BTreeMap::new(), words: Vec::new() };
        attempt
            .with("SERVER__PLAINTEXT", "true")
            .with("SERVER__GRPC_ADDRESS", "127.0.0.1:0")
            .with("SERVER__OPS_ADDRESS", "127.0.0.1:0")
            .with("DATABASE__URL", &format!("postgres://sidle_app:{PASSWORD}@127.0.0.1:1/sidle"))
            .with("DATABASE__ACQUIRE_TIMEOUT", "400ms")
            .with("SEAL__KEYS", &format!("1:{OTHER_KEY}"))
            .with("PASSWORDS__COST", "4")
            .with("LOG__LEVEL", "error")
            .with("LOG__FORMAT", "text")
    }

    /// Settings of a service that would start.
    fn of(setup: &Setup) -> Self {
        let mut attempt = Self::new();
        attempt.environment.extend(setup.environment().iter().map(|(key, value)| (key.clone(), value.clone())));
        attempt.words.push((setup.database().name.clone(), "DATABASE".to_owned()));
        attempt.words.push((std::env::var("SIDLE_DEV_PG_PORT").unwrap(), "PORT".to_owned()));
        attempt.with("LOG__LEVEL", "error").with("DATABASE__ACQUIRE_TIMEOUT", "5s")
    }

    fn with(mut self, key: &str, value: &str) -> Self {
        self.environment.insert(format!("SIDLE_{key}"), value.to_owned());
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.environment.remove(&format!("SIDLE_{key}"));
        self
    }

    /// Another variable of the environment.
    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// `word` differs from run to run.
    fn word(mut self, word: impl ToString, stands_for: &str) -> Self {
        self.words.push((word.to_string(), stands_for.to_owned()));
        self
    }

    /// A file with this mode; its path.
    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// With a setting that names a file of this text and mode.
    fn with_file(self, key: &str, name: &str, text: &str, mode: u32) -> Self {
        let path = self.file(name, text, mode);
        self.with(key, &path.to_string_lossy())
    }

    /// Runs the program, and compares everything that it says with the snapshot of this name.
    async fn says(&self, name: &str, arguments: &[&str]) {
        self.says_with(name, arguments, Path::new(env!("CARGO_BIN_EXE_sidle"))).await;
    }

    async fn says_with(&self, name: &str, arguments: &[&str], program: &Path) {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("HOME", self.home.path()).envs(&self.environment);
        command.current_dir(self.home.path()).kill_on_drop(true);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = within(&format!("{name} ends"), child.wait_with_output()).await.unwrap();
        let code = output.status.code().unwrap_or_else(|| panic!("{name} was killed"));
        assert_ne!(code, 0, "{name} is meant to fail");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        let told = format!("$ sidle {}\n{said}exit code {code}\n", arguments.join(" "));
        judge(name, &told);
        compare(name, &self.settled(told));
    }

    /// With what differs from run to run replaced.
    fn settled(&self, told: String) -> String {
        let told = told.replace(&*self.home.path().to_string_lossy(), "FOLDER");
        self.words.iter().fold(told, |told, (word, stands_for)| told.replace(word.as_str(), stands_for))
    }
}

/// What holds for every message.
fn judge(name: &str, told: &str) {
    for secret in [PASSWORD, OTHER_KEY] {
        assert!(!told.contains(secret), "{name} repeats a secret: {told}");
    }
    if name.starts_with("call") {
        return;
    }
    // Nobody has called, and there is no log to look into.
    for word in ["request_id", "correlation", "the call", "its log has", "INTERNAL"] {
        assert!(!told.contains(word), "{name} speaks of {word}: {told}");
    }
}

fn compare(name: &str, told: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/failures/snapshots/{name}.txt"));
    if std::env::var_os("SIDLE_WRITE_SNAPSHOTS").is_some() {
        std::fs::write(&path, told).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(told, kept, "{name}: if the new text is right, write it with SIDLE_WRITE_SNAPSHOTS=1");
}

/// Every snapshot is a situation that a test here tries: one that no test names any more would be kept for nothing.
#[test]
fn forty_ways_to_fail_are_tried_and_every_snapshot_belongs_to_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/failures");
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    let entries = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let tests: String =
        entries(&folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs")).map(read).collect();
    let snapshots = entries(&folder.join("snapshots"));
    assert!(snapshots.len() >= 40, "{} snapshots", snapshots.len());
    for path in snapshots {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(tests.contains(&format!("\"{name}\"")), "no test tries {name}");
        let text = read(path);
        assert!(text.contains("error"), "{name}: {text}");
    }
}
