//! A mail server to test against: a process of its own (`dev/smtp/server.py`), which writes accepted messages to a
//! directory and fails when it is told to.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{Result, random_word, variable};

/// Longest time until a message is expected to arrive, on a machine that runs many tests concurrently.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a message fails.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The sender is refused.
    Sender,
    /// The recipient is refused.
    Recipient,
    /// The message is refused.
    Refuse,
    /// The message is deferred.
    Defer,
    /// The connection is closed instead.
    DropBefore,
    /// The message is accepted, and the connection is closed without the server saying so.
    DropAfter,
    /// The message is accepted, and the server says so only when the fault ends.
    Hold,
}

/// How the server is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `starttls`, `tls`, or empty for none.
    pub tls: &'static str,
    /// PEM files with certificate and private key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `NAME:PASSWORD` that is required.
    pub login: Option<&'static str>,
    /// Port; 0 for a free one.
    pub port: u16,
}

/// A running mail server. Ends with this value.
pub struct Smtp {
    /// Its port on 127.0.0.1.
    pub port: u16,
    directory: PathBuf,
    commands: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
    /// Events that arrived while another was waited for.
    pending: Vec<Value>,
    // Ends when dropped.
    _process: Child,
}

/// A message that the server accepted.
#[derive(Clone, Debug, Deserialize)]
pub struct Taken {
    /// Sender of the envelope.
    pub from: String,
    /// Recipients of the envelope.
    pub to: Vec<String>,
    /// The message as it was received.
    pub data: String,
    /// Whether it was received over TLS.
    pub tls: bool,
    /// The authenticated sender.
    pub login: Option<String>,
}

impl Taken {
    /// A header, unfolded; none when it is not there.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.data.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n ", " ");
        head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
    }

    /// The decoded body: text and HTML.
    pub fn body(&self) -> String {
        // Quoted-printable, as far as messages of this project use it.
        let joined = self.data.replace("=\r\n", "");
        let mut bytes = Vec::with_capacity(joined.len());
        let mut rest = joined.as_bytes();
        while let Some((first, tail)) = rest.split_first() {
            let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
            match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'=') {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &tail[2..];
                }
                None => {
                    bytes.push(*first);
                    rest = tail;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The token in the message's link.
    pub fn token(&self) -> Option<String> {
        let body = self.body();
        let (_, after) = body.split_once("#token=")?;
        Some(after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '-').collect())
    }
}

impl Smtp {
    /// Starts a server.
    ///
    /// # Errors
    /// When there is no Python with aiosmtpd, or it does not get ready.
    pub async fn start(options: Options) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("sidle-smtp-{}", random_word(12)));
        std::fs::create_dir(&directory)?;
        let mut command = Command::new(variable("SIDLE_DEV_SMTP_PYTHON")?);
        command.arg(variable("SIDLE_DEV_SMTP_SERVER")?).arg("--directory").arg(&directory);
        command.arg("--port").arg(options.port.to_string());
        if !options.tls.is_empty() {
            command.arg("--tls").arg(options.tls);
        }
        if let Some((certificate, key)) = &options.certificate {
            command.arg("--certificate").arg(certificate).arg("--key").arg(key);
        }
        if let Some(login) = options.login {
            command.arg("--login").arg(login);
        }
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        let commands = process.stdin.take().ok_or("the mail server has no standard input")?;
        let output = process.stdout.take().ok_or("the mail server has no standard output")?;
        let mut server = Self {
            port: 0,
            directory,
            commands,
            events: BufReader::new(output).lines(),
            pending: Vec::new(),
            _process: process,
        };
        let ready = server.event("ready").await?;
        server.port = ready["port"].as_u64().and_then(|port| u16::try_from(port).ok()).ok_or("no port")?;
        Ok(server)
    }

    /// Makes the next `count` messages fail.
    ///
    /// # Errors
    /// When the server has ended.
    pub async fn fault(&mut self, fault: Fault, count: u32) -> Result<()> {
        let name = match fault {
            Fault::Sender => "sender",
            Fault::Recipient => "recipient",
            Fault::Refuse => "refuse",
            Fault::Defer => "defer",
            Fault::DropBefore => "drop_before",
            Fault::DropAfter => "drop_after",
            Fault::Hold => "hold",
        };
        self.tell(&json!({ "fault": name, "count": count })).await
    }

    /// Ends every fault.
    ///
    /// # Errors
    /// When the server has ended.
    pub async fn heal(&mut self) -> Result<()> {
        self.tell(&json!({ "fault": null })).await
    }

    async fn tell(&mut self, command: &Value) -> Result<()> {
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        self.commands.flush().await?;
        self.event("told").await.map(drop)
    }

    /// The next message that the server accepts.
    ///
    /// # Errors
    /// When none comes.
    pub async fn message(&mut self) -> Result<Taken> {
        let event = self.event("message").await?;
        let file = event["file"].as_str().ok_or("a message without file")?;
        Ok(serde_json::from_slice(&std::fs::read(file)?)?)
    }

    /// Waits until a message has failed.
    ///
    /// # Errors
    /// When none does.
    pub async fn failed(&mut self) -> Result<()> {
        self.event("failed").await.map(drop)
    }

    /// Every message that the server has accepted so far.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn taken(&self) -> Result<Vec<Taken>> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.directory)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()?;
        files.retain(|file| file.extension() == Some(Path::new("json").as_os_str()));
        files.sort();
        files.iter().map(|file| Ok(serde_json::from_slice(&std::fs::read(file)?)?)).collect()
    }

    /// The next event of this kind.
    async fn event(&mut self, kind: &str) -> Result<Value> {
        if let Some(at) = self.pending.iter().position(|event| event["event"] == kind) {
            return Ok(self.pending.remove(at));
        }
        let wanted = async {
            loop {
                let line = self.events.next_line().await?.ok_or("the mail server has ended")?;
                let event: Value = serde_json::from_str(&line)?;
                if event["event"] == kind {
                    return Ok(event);
                }
                self.pending.push(event);
            }
        };
        tokio::time::timeout(PATIENCE, wanted).await.map_err(|_| format!("no {kind} came"))?
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
