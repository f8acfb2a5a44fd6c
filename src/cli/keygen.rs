//! `sidle keygen`.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use zeroize::Zeroizing;

use super::failure::{Failure, Result};
use super::output::Out;
use crate::context::Entropy;

/// Makes a fresh key for `seal.keys`. Keep it outside the database and its backups: losing it loses the signing
/// keys and the personal data in the audit log.
#[derive(Args)]
pub(super) struct Keygen {
    /// Number of the key; one more than the last when keys are changed
    #[arg(long, default_value_t = 1)]
    id: u32,
    /// Write it into a new file that only you can read, for `seal.key_file`, instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Keygen {
    pub fn run(self, out: &Out) -> Result<()> {
        let key = Zeroizing::new(Entropy::system().array::<32>());
        let text = Zeroizing::new(format!("{}:{}", self.id, STANDARD.encode(*key)));
        match self.out {
            None => out.line(&text),
            Some(path) => {
                write_new(&path, &text)?;
                out.note(&format!("The key is in {}, which only you can read.", path.display()));
                Ok(())
            }
        }
    }
}

/// Writes a file that is nobody else's from the moment it is there. One that exists is a key that something is sealed under.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let shown = path.display();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::AlreadyExists => "it exists already".to_owned(),
            ErrorKind::NotFound => "its folder does not exist".to_owned(),
            ErrorKind::PermissionDenied => "you may not write there".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(format!("cannot write the key to {shown}: {why}"))
            .remedy("Name a file that does not exist yet: whoever overwrites a key loses what is sealed under it.")
    })?;
    let written = writeln!(file, "{text}").and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a key is none; nothing else can be in the file.
        let _ = std::fs::remove_file(path);
        Failure::new(format!("cannot write the key to {shown}: {error}"))
    })
}
