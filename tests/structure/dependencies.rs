//! Where dependencies come from and under which licence. Also checks that each of them comes from the registry.

use std::process::Command;

use serde_json::Value;

use crate::root;

/// What development may use besides.
const DEVELOPMENT: [&str; 1] = ["MPL-2.0"];

/// The licences of what is shipped, as `cargo deny` is told them.
fn shipped() -> Vec<String> {
    let settings: toml::Table = std::fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap();
    let allowed = settings["licenses"]["allow"].as_array().unwrap();
    allowed.iter().map(|licence| licence.as_str().unwrap().to_owned()).collect()
}

fn metadata(manifest: &str) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
        .arg(root().join(manifest))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether an SPDX expression leaves a choice that is allowed. `/` is the old way of writing OR.
fn acceptable(expression: &str, allowed: &[impl AsRef<str>]) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    // Without nesting deeper than "(A OR B) AND C", which is all that occurs, AND binds last.
    expression
        .split(" AND ")
        .all(|part| part.split(" OR ").any(|licence| allowed.iter().any(|known| known.as_ref() == licence.trim())))
}

fn check(manifest: &str, allowed: &[impl AsRef<str>]) {
    let metadata = metadata(manifest);
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        match package["source"].as_str() {
            None => continue,
            Some(source) => assert!(source.starts_with("registry+"), "{name} comes from {source}"),
        }
        seen += 1;
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(acceptable(licence, allowed), "{name} is under {licence}");
    }
    assert!(seen > 50, "only {seen} dependencies were looked at");
}

#[test]
fn what_is_shipped_is_under_permissive_licences() {
    check("Cargo.toml", &shipped());
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    assert!(acceptable("MIT OR GPL-3.0-only", &shipped()));
    assert!(acceptable("(MIT OR Apache-2.0) AND Unicode-3.0", &shipped()));
    assert!(acceptable("Unlicense/MIT", &shipped()));
    assert!(!acceptable("MIT AND GPL-3.0-only", &shipped()));
    assert!(!acceptable("MPL-2.0", &shipped()));
    assert!(!acceptable("none", &shipped()));
    assert!(acceptable("MPL-2.0", &DEVELOPMENT));
}

/// What other services depend on with the client: nothing of the server, and no database driver.
#[test]
fn the_client_brings_no_server_along() {
    let metadata = metadata("Cargo.toml");
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let name = |id: &str| {
        let package = metadata["packages"].as_array().unwrap().iter().find(|package| package["id"] == id).unwrap();
        package["name"].as_str().unwrap().to_owned()
    };
    let mut open: Vec<&str> =
        nodes.iter().filter_map(|node| node["id"].as_str()).filter(|id| name(id) == "sidle-client").collect();
    assert_eq!(open.len(), 1);
    let mut seen = std::collections::BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(name(id)) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == id).unwrap();
        for dependency in node["deps"].as_array().unwrap() {
            let is_normal = dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
            if is_normal {
                open.push(dependency["pkg"].as_str().unwrap());
            }
        }
    }
    assert!(seen.contains("sidle-token") && seen.contains("tonic"), "{seen:?}");
    for unwanted in ["sidle", "sqlx", "sqlx-core", "bcrypt", "reqwest", "clap", "jsonwebtoken"] {
        assert!(!seen.contains(unwanted), "sidle-client depends on {unwanted}");
    }
}
