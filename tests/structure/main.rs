//! Checks of the tree itself, which need nothing running: imports, the origin and licences of dependencies, generated
//! pages, migrations up and down.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod architecture;
mod correlation;
mod dependencies;
mod layers;
mod modules;
mod pages;
mod schema;
mod security;
mod waits;

use std::path::{Path, PathBuf};

/// The project's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Every file below `folder` with this ending, as paths relative to it, with its text.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, ending, found);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    let base = root().join(folder);
    let mut found = Vec::new();
    walk(&base, ending, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no {ending} below {folder}");
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&base).unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect()
}
