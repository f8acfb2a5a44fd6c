//! `docs/getting-started.md`, performed: its shell blocks, in their order, on an empty Postgres and a Kanidm that knows
//! nothing of Sidle. What a person does in a browser is done here by the same requests.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use sidle_dev::kanidm::Kanidm;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::cli::lasting_address;
use crate::support::cluster::Cluster;
use crate::support::{kanidm, within};

const PAGE: &str = include_str!("../../docs/getting-started.md");
const REDIRECT: &str = "http://localhost:8931/callback";
const PASSWORD: &str = "a-password-that-Kanidm-likes-4711";

/// A block of the page, and how it is run: the words of the comment before it.
struct Block {
    how: String,
    script: String,
}

/// Every shell block. One without a comment would go unnoticed, so there is none.
fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = PAGE.lines();
    let mut how = None;
    while let Some(line) = lines.next() {
        if let Some(said) = line.strip_prefix("<!-- run") {
            how = Some(said.trim_end_matches("-->").trim_start_matches(':').trim().to_owned());
        } else if line == "```sh" {
            let script: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let how = how.take().unwrap_or_else(|| panic!("how is this run? {script:?}"));
            blocks.push(Block { how, script: script.join("\n") });
        }
    }
    blocks
}

/// What came out of a block.
struct Said {
    out: String,
    err: String,
}

struct Reader {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    /// What every terminal begins with.
    start: String,
    kanidm: Kanidm,
    last: String,
    service: Option<Child>,
}

impl Reader {
    async fn new(kanidm: Kanidm, cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sidle = Path::new(env!("CARGO_BIN_EXE_sidle")).parent().unwrap().display().to_string();
        let address = lasting_address();
        let port = address.rsplit_once(':').unwrap().1;
        let ca = kanidm.ca_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let path = format!("{sidle}:{}:/usr/bin:/bin", cluster.programs().display());
        let environment = [
            ("PATH", path),
            ("HOME", folder.path().join("home").display().to_string()),
            ("POSTGRES", format!("postgres://postgres@127.0.0.1:{}", cluster.port)),
            ("KANIDM", kanidm.url.clone()),
            ("KANIDM_CA", ca),
            ("SIDLE_SERVER", format!("https://localhost:{port}")),
            ("SIDLE_SERVER__GRPC_ADDRESS", address),
            ("SIDLE_SERVER__OPS_ADDRESS", "127.0.0.1:0".to_owned()),
            ("SIDLE_LOG__FORMAT", "json".to_owned()),
            ("SIDLE_LOG__LEVEL", "info".to_owned()),
            ("SIDLE_KANIDM_ADMIN_PASSWORD", kanidm.admin_password().to_owned()),
        ];
        let environment = environment.map(|(key, value)| (key.to_owned(), value)).into();
        Self { folder, environment, start: String::new(), kanidm, last: String::new(), service: None }
    }

    fn bash(&self, script: &str, more: &[(&str, &str)]) -> Command {
        let mut command = Command::new("bash");
        command
            .args(["-c", &format!("set -eu\n{}\n{script}", self.start)])
            .current_dir(self.folder.path())
            .env_clear()
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn follow(&mut self, block: Block) -> Said {
        let nothing = || Said { out: String::new(), err: String::new() };
        let script = self.with_plan(&block.script);
        match block.how.as_str() {
            // The addresses, which are the test's.
            "given" => nothing(),
            "serve" => {
                self.service = Some(serve(self.bash(&format!("exec {}", script.trim()), &[])).await);
                nothing()
            }
            "browser" => self.browse(self.bash(&script, &[])).await,
            how => {
                let said = run(self.bash(&script, how.split_once('=').as_slice()), &script).await;
                // Only what stays in a terminal: variables and the like.
                if how.is_empty() && script.starts_with("export ") {
                    self.start = script;
                }
                if said.out.contains("/ui/reset?token=") {
                    self.enrol(said.out.trim()).await;
                }
                self.last = format!("{}\n{}", said.out, said.err);
                said
            }
        }
    }

    /// The script with the plan and the digest that the block before printed.
    fn with_plan(&self, script: &str) -> String {
        if !script.contains("PLAN") {
            return script.to_owned();
        }
        let start = self.last.lines().find_map(|line| line.split_once("sidle migrate start ")).expect("a plan").1;
        let words: Vec<&str> = start.split(' ').collect();
        script.replace("PLAN", words[0]).replace("DIGEST", words[2])
    }

    /// What Ann does on the page where she sets a credential. That a password is enough is for the test.
    async fn enrol(&self, page: &str) {
        let policy = "/v1/group/idm_all_persons/_attr/credential_type_minimum";
        self.kanidm.put(policy, &json!(["any"])).await.unwrap();
        let token = page.split_once("token=").expect("a link").1;
        self.kanidm.use_reset_link(token, PASSWORD).await.unwrap();
    }

    /// A login through a browser, whose address is pasted back.
    async fn browse(&self, mut command: Command) -> Said {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut err = String::new();
        let address = within("an address to open", async {
            loop {
                let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("no address in {err}"));
                if line.trim().starts_with("http") {
                    break line.trim().to_owned();
                }
                err.push_str(&line);
            }
        })
        .await;
        let bearer = self.kanidm.sign_in("ann", PASSWORD).await.unwrap();
        let back = self.kanidm.authorise(&bearer, &address).await.unwrap();
        let reply = format!("{REDIRECT}?code={}&state={}\n", back.code, back.state);
        child.stdin.take().unwrap().write_all(reply.as_bytes()).await.unwrap();
        // Beside each other: a pipe that nobody reads would hold it up.
        let mut rest = lines.into_inner();
        let ended =
            within("the login ends", async { tokio::join!(rest.read_to_string(&mut err), child.wait_with_output()) });
        let output = ended.await.1.unwrap();
        assert!(output.status.success(), "{err}");
        Said { out: String::from_utf8(output.stdout).unwrap(), err }
    }
}

async fn run(mut command: Command, script: &str) -> Said {
    let output = within(script, command.output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let said = Said { out: text(output.stdout), err: text(output.stderr) };
    assert!(output.status.success(), "{script}\n{}\n{}", said.out, said.err);
    said
}

/// Starts the service and waits until it serves.
async fn serve(mut command: Command) -> Child {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    within("the service starts", async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the service goes on");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if line["event"] == "service_started" {
                break;
            }
        }
    })
    .await;
    // A pipe that is not read would block it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    child
}

#[tokio::test]
async fn a_newcomer_comes_from_nothing_to_the_first_migrated_user() {
    let (cluster, server) = Cluster::empty().await;
    let mut reader = Reader::new(kanidm().await, &cluster).await;
    let mut said = Vec::new();
    for block in blocks() {
        let script = block.script.clone();
        said.push((script, reader.follow(block).await));
    }
    let out = |command: &str| {
        let (_, said) = said.iter().rev().find(|(script, _)| script.contains(command)).unwrap();
        format!("{}{}", said.out, said.err)
    };
    assert!(out("kanidm check").contains("Kanidm is fit for Sidle."));
    assert!(out("users list").contains("ann@harbour.example") && out("users list").contains("disabled"));
    assert!(out("migrate start").contains("2 users, 2 done, 0 failed, 0 skipped"), "{}", out("migrate start"));
    assert!(out("users get").contains("dual"));
    assert!(out("sidle whoami\nsidle audit").contains("ann@harbour.example"));
    drop(reader.service);
    server.kill().await;
}
