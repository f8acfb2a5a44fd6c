//! The file that keeps a person signed in: tokens by address of the service, readable by its owner only.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::failure::{Failure, Result};
use crate::access::names;
use crate::context::Context;

/// What the file holds.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Credentials {
    /// Address of the service that was signed in to last.
    pub current: Option<String>,
    /// Sessions, by address.
    pub servers: BTreeMap<String, SignIn>,
    /// Files with the authority of a service's certificate, by address: they outlast sessions, so that the next login needs
    /// no options.
    #[serde(default)]
    pub authorities: BTreeMap<String, PathBuf>,
    /// Secrets by which services know this device, by address and by what was typed to sign in: they outlast sessions, so
    /// that guesses of others do not lock the user out here.
    #[serde(default)]
    pub known_devices: BTreeMap<String, BTreeMap<String, String>>,
}

impl Credentials {
    /// The secret by which a service knows the device of the user who is signed in there.
    pub fn known_device(&self, server: &str) -> Option<&str> {
        let email = &self.servers.get(server)?.email;
        self.known_devices.get(server)?.get(&names::identifier_key(email)).map(String::as_str)
    }
}

/// A session with one service.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct SignIn {
    pub email: String,
    pub session_id: String,
    pub access_token: String,
    #[serde(default)]
    pub access_token_obtained_at: Option<DateTime<Utc>>,
    pub access_token_expires_at: DateTime<Utc>,
    pub refresh_token: String,
    /// The `request_id` of a refresh whose answer has not been seen: a repeat with it gets the same tokens.
    pub pending_refresh: Option<String>,
}

/// The file, kept from other runs of the command while this value lives: a refresh token that two of them used would
/// end the session.
pub(super) struct Store {
    path: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the file, in `sidle/` of the user's configuration folder.
    pub fn open() -> Result<Self> {
        let folder = folder()?;
        fs::create_dir_all(&folder)
            .map_err(|e| Failure::new(format!("cannot make the folder {}: {e}", folder.display())))?;
        let lock = private(&folder.join("credentials.lock"))?;
        lock.lock()?;
        Ok(Self { path: folder.join("credentials.json"), _lock: lock })
    }

    pub fn read(&self) -> Result<Credentials> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| {
                Failure::new(format!("{} cannot be read", self.path.display()))
                    .remedy("Remove the file and sign in again with `sidle login`.")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Credentials::default()),
            Err(error) => Err(Failure::new(format!("cannot read {}: {error}", self.path.display()))),
        }
    }

    /// Replaces the file as a whole, so that a crash leaves the old one or the new one.
    pub fn write(&self, credentials: &Credentials, context: &Context) -> Result<()> {
        let text = serde_json::to_vec_pretty(credentials).map_err(|e| Failure::new(e.to_string()))?;
        let fresh = self.path.with_extension(format!("{}.tmp", context.new_id()));
        let written = private(&fresh).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            Ok(fs::rename(&fresh, &self.path)?)
        });
        if written.is_err() {
            // What could not become the file must not stay behind with tokens in it.
            let _ = fs::remove_file(&fresh);
        }
        written
    }
}

fn private(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display())))
}

fn folder() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CONFIG_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".config")))
        .map(|folder| folder.join("sidle"))
        .ok_or_else(|| {
            Failure::new("neither XDG_CONFIG_HOME nor HOME is set, so there is nowhere to keep tokens")
                .remedy("Set one of them, or pass a token in SIDLE_TOKEN.")
        })
}
