//! A command on a terminal of its own, as a person has it: what is asked for without echo is asked of the terminal, never of
//! a pipe.

use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::within;

/// Runs its arguments on a terminal, and copies between that and its own input and output. What is typed waits until the
/// terminal shows no more what is typed, as a person's fingers do: a question is written a moment before that.
const RELAY: &str = r"
import os, pty, select, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
inputs, typed = [0, terminal], b''
while True:
    if typed and not termios.tcgetattr(terminal)[3] & termios.ECHO:
        os.write(terminal, typed)
        typed = b''
    ready, _, _ = select.select(inputs, [], [], 0.005 if typed else None)
    if terminal in ready:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            data = b''
        if not data:
            break
        os.write(1, data)
    if 0 in ready:
        data = os.read(0, 65536)
        if data:
            typed += data
        else:
            inputs.remove(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

/// A command that runs on a terminal.
pub struct Terminal {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// What was shown and not expected yet.
    shown: String,
}

impl Terminal {
    /// Starts `program` with nothing in its environment but `environment`.
    pub fn run(program: &str, arguments: &[&str], environment: &[(String, String)]) -> Self {
        let python = std::env::var("SIDLE_DEV_SMTP_PYTHON").expect("started through ./run");
        let mut command = Command::new(python);
        command
            .args(["-c", RELAY, program])
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("a terminal");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output, shown: String::new() }
    }

    /// Waits until this is shown; gives what was shown before it.
    pub async fn expect(&mut self, text: &str) -> String {
        let what = format!("{text:?} on the terminal");
        let shown = within(&what, async {
            loop {
                if let Some((before, after)) = self.shown.split_once(text) {
                    let (before, after) = (before.to_owned(), after.to_owned());
                    self.shown = after;
                    return before;
                }
                assert!(self.read().await, "no {text:?} in {:?}", self.shown);
            }
        });
        shown.await
    }

    /// Types a line that is not shown: a password, a code.
    pub async fn answer(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Waits for the end; gives the exit code and what was shown and not expected.
    pub async fn end(mut self) -> (i32, String) {
        within("the end of the command", async { while self.read().await {} }).await;
        let status = within("the end of the terminal", self.child.wait()).await.unwrap();
        (status.code().expect("ends by itself"), self.shown)
    }

    async fn read(&mut self) -> bool {
        let mut some = [0; 4096];
        let read = self.output.read(&mut some).await.unwrap();
        self.shown.push_str(&String::from_utf8_lossy(&some[..read]));
        read > 0
    }
}
