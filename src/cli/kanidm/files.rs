//! Where the secrets and the `[kanidm]` section go: files that nobody else reads, and that are never half written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use toml::{Table, Value};
use zeroize::Zeroizing;

use crate::cli::failure::{Failure, Result};
use crate::config::Secret;
use crate::context::Context;

/// A secret of Kanidm's is a few hundred bytes.
const LARGEST: u64 = 64 << 10;

/// A folder for secrets.
pub(super) struct Folder(PathBuf);

/// A file that is there to be written, and is not yet under its name.
pub(super) struct Reserved {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Folder {
    /// The folder, as an absolute path. Made when it is not there, for its owner alone.
    pub fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let failed = |what: &str, error: &std::io::Error| {
            Failure::new(format!("cannot {what} the folder {} for secrets: {error}", path.display()))
        };
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed("make", &error)),
            _ => {}
        }
        let mode = fs::metadata(&path).map_err(|error| failed("look at", &error))?.permissions().mode();
        if mode & 0o002 != 0 {
            return Err(Failure::new(format!("every user of this machine may write to the folder {}", path.display()))
                .remedy("Name another one for the secrets with --secrets."));
        }
        Ok(Self(path))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What a file holds; none when it is not there.
    pub fn read(&self, name: &str) -> Result<Option<Secret>> {
        let path = self.path(name);
        let failed =
            |error: std::io::Error| Failure::new(format!("cannot read the secret in {}: {error}", path.display()));
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let mut text = Zeroizing::new(String::new());
        file.take(LARGEST).read_to_string(&mut text).map_err(failed)?;
        Ok(Some(Secret::from(text.trim().to_owned())))
    }

    /// Whether a file may be read by others.
    pub fn is_open(&self, name: &str) -> bool {
        fs::metadata(self.path(name)).is_ok_and(|file| file.permissions().mode() & 0o077 != 0)
    }

    /// A file that can certainly be written, so that no secret is made that cannot be kept.
    pub fn reserve(&self, name: &str) -> Result<Reserved> {
        let (path, id) = (self.path(name), Context::system().new_id());
        let temporary = self.path(&format!(".{name}.{id}"));
        // Not one that is there, nor a link to elsewhere.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let file = file.map_err(|error| Failure::new(format!("cannot write {}: {error}", temporary.display())))?;
        Ok(Reserved { file, temporary, path })
    }
}

impl Reserved {
    /// Puts the secret there, in place of what was under the name.
    pub fn keep(mut self, secret: &Secret) -> Result<()> {
        let written = (self.file.write_all(secret.expose().as_bytes()))
            .and_then(|()| self.file.write_all(b"\n"))
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fs::rename(&self.temporary, &self.path));
        written.map_err(|error| Failure::new(format!("cannot write {}: {error}", self.path.display())))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // It has another name when it was kept.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// The `[kanidm]` section.
pub(super) struct Section(pub Vec<(&'static str, Value)>);

/// What has to be done to a configuration file so that it has the section.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Create,
    Append,
    Nothing,
}

impl Section {
    /// The section as text.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new("[kanidm]\n".to_owned());
        for (key, value) in &self.0 {
            // A text of JSON, or a list of them, is one of TOML too.
            let value = Zeroizing::new(serde_json::to_string(value).unwrap_or_default());
            [key, " = ", value.as_str(), "\n"].iter().for_each(|part| text.push_str(part));
        }
        text
    }

    /// What has to be done to the file. What a file has under `[kanidm]` is never changed.
    pub fn change(&self, path: &Path) -> Result<Change> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Change::Create),
            text => text.map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?,
        };
        // Without the library's words: they quote the line.
        let unreadable = |_| Failure::new(format!("{} is not TOML", path.display()));
        let table: Table = text.parse().map_err(unreadable)?;
        let Some(section) = table.get("kanidm") else { return Ok(Change::Append) };
        let differs = self.0.iter().filter(|(key, value)| section.get(key) != Some(value)).map(|(key, _)| *key);
        let differs: Vec<&str> = differs.collect();
        if differs.is_empty() {
            return Ok(Change::Nothing);
        }
        Err(Failure::new(format!(
            "{} has a [kanidm] section already, with another value of {}",
            path.display(),
            differs.join(", ")
        ))
        .remedy("Nothing was changed. Name another file with --write, or remove the section from this one first."))
    }

    /// Makes the change.
    pub fn write(&self, path: &Path, change: &Change) -> Result<()> {
        let mut options = OpenOptions::new();
        let (options, before) = match change {
            Change::Nothing => return Ok(()),
            Change::Create => (options.write(true).create_new(true).mode(0o600), ""),
            // In place: the file keeps its owner and its mode.
            Change::Append => (options.append(true), "\n"),
        };
        let text = Zeroizing::new(format!("{before}{}", *self.text()));
        let written = options.open(path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> Section {
        Section(vec![
            ("url", "https://idm.example".into()),
            ("token_file", "/etc/sidle/\"odd\\name".into()),
            ("redirect_uris", Value::Array(vec!["https://a.example/cb".into(), "http://127.0.0.1:1/cb".into()])),
        ])
    }

    #[test]
    fn the_section_is_toml_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidle.toml");
        assert_eq!(section().change(&path).unwrap(), Change::Create);
        section().write(&path, &Change::Create).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(section().change(&path).unwrap(), Change::Nothing);
        assert!(section().write(&path, &Change::Create).is_err(), "a file that came meanwhile is not replaced");

        fs::write(&path, "[log]\nlevel = \"info\"").unwrap();
        assert_eq!(section().change(&path).unwrap(), Change::Append);
        section().write(&path, &Change::Append).unwrap();
        assert_eq!(section().change(&path).unwrap(), Change::Nothing);
        assert!(fs::read_to_string(&path).unwrap().starts_with("[log]\nlevel = \"info\"\n[kanidm]\n"));

        fs::write(&path, "[kanidm]\nurl = \"https://other.example\"\ntoken = \"s3cret\"").unwrap();
        let failure = section().change(&path).unwrap_err();
        assert!(failure.message.contains("another value of url, token_file, redirect_uris"), "{failure:?}");
        fs::write(&path, "[kanidm\ntoken = \"s3cret\"").unwrap();
        assert!(!format!("{:?}", section().change(&path).unwrap_err()).contains("s3cret"));
    }

    #[test]
    fn a_secret_is_its_owners_and_replaces_a_link_without_following_it() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Folder::open(&folder.path().join("new")).unwrap();
        assert_eq!(fs::metadata(folder.path().join("new")).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(secrets.read("token").unwrap().is_none());
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "untouched").unwrap();
        std::os::unix::fs::symlink(&elsewhere, secrets.path("token")).unwrap();
        secrets.reserve("token").unwrap().keep(&Secret::from("abc".to_owned())).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
        assert_eq!(secrets.read("token").unwrap().unwrap().expose(), "abc");
        let mode = fs::symlink_metadata(secrets.path("token")).unwrap().permissions().mode();
        assert!(mode & 0o777 == 0o600 && !secrets.is_open("token"), "{mode:o}");
        drop(secrets.reserve("token").unwrap());
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1, "nothing stays behind");
        fs::set_permissions(secrets.path("token"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(secrets.is_open("token"));
    }

    #[test]
    fn no_secret_goes_where_everybody_may_write() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(Folder::open(folder.path()).is_err());
    }
}
