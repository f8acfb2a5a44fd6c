//! `[files]`, and the files that settings name: why one cannot be read, and whether others can read one that holds a secret.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{ConfigError, Problem};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// Whether files with secrets may be readable by users who have no part in this service.
    pub allow_loose_permissions: bool,
}

/// Why a file cannot be read, in words that go with its path.
pub(crate) fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "this process may not read it".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        io::ErrorKind::InvalidData => "it is not text in UTF-8".to_owned(),
        _ => error.to_string(),
    }
}

/// The text of the file that the setting `key` names.
pub(super) fn read_text(key: &str, path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| cannot_read(key, path, &error))
}

pub(super) fn cannot_read(key: &str, path: &Path, error: &io::Error) -> ConfigError {
    let text = format!("names {}, which cannot be read: {}", path.display(), unreadable(error));
    ConfigError::new(key, text).remedy(format!("Correct {key}, or the file and who may read it."))
}

/// Who, besides this process and root, gets at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposed {
    Everybody,
    /// A group that this process is not in: it is not by the group that it reads the file.
    Group,
}

/// Kubernetes mounts secrets as root's, readable by the group that it puts the process into: nobody else is in that one.
fn exposed(mode: u32, group: u32, own_groups: &[u32]) -> Option<Exposed> {
    match mode {
        mode if mode & 0o007 != 0 => Some(Exposed::Everybody),
        mode if mode & 0o070 != 0 && !own_groups.contains(&group) => Some(Exposed::Group),
        _ => None,
    }
}

fn own_groups() -> Vec<u32> {
    let own = [rustix::process::getegid()];
    let others = rustix::process::getgroups().unwrap_or_default();
    own.into_iter().chain(others).map(|group| group.as_raw()).collect()
}

/// Whether others can read one of these files, which hold secrets: each by the setting that names it, with what to do.
pub(super) fn exposed_among(files: Vec<(&'static str, PathBuf)>) -> Vec<Problem> {
    let groups = own_groups();
    let problem = |(key, path): (&str, PathBuf)| {
        // Of the file itself, also where the path is a link. One that cannot be read is reported by whoever reads it.
        let file = std::fs::metadata(&path).ok()?;
        let who = match exposed(file.mode(), file.gid(), &groups)? {
            Exposed::Everybody => "every user of this machine",
            Exposed::Group => "a group that this process is not in",
        };
        let (path, mode) = (path.display(), file.mode() & 0o7777);
        let text = format!("names {path}, a secret that {who} can get at (mode {mode:04o})");
        let remedy =
            format!("`chmod 600 {path}`; in Kubernetes, give the volume defaultMode 0440 and the pod an fsGroup.");
        Some(Problem { key: key.to_owned(), text, remedy: Some(remedy) })
    };
    files.into_iter().filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_for_this_process_and_for_the_group_that_it_was_given() {
        let groups = [1000, 2000];
        for (mode, group, verdict) in [
            (0o600, 1000, None),
            (0o400, 0, None),
            // As Kubernetes mounts secrets, with fsGroup 2000.
            (0o440, 2000, None),
            (0o640, 1000, None),
            (0o440, 3000, Some(Exposed::Group)),
            (0o620, 3000, Some(Exposed::Group)),
            (0o644, 1000, Some(Exposed::Everybody)),
            (0o604, 1000, Some(Exposed::Everybody)),
            (0o602, 1000, Some(Exposed::Everybody)),
        ] {
            assert_eq!(exposed(mode, group, &groups), verdict, "{mode:o} of group {group}");
        }
    }
}
