//! Where dependencies come from and under which licence. Also a check that none of them is pulled from elsewhere than
//! the registry.

use std::process::Command;

use serde_json::Value;

use crate::root;

/// Licences that a product under Apache-2.0 can ship.
const SHIPPED: [&str; 12] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unlicense",
    "Unicode-3.0",
    "CC0-1.0",
];
/// Data that is shipped as it is.
const DATA: [&str; 2] = ["CDLA-Permissive-2.0", "Unicode-DFS-2016"];
/// What only development may use, on top.
const DEVELOPMENT: [&str; 1] = ["MPL-2.0"];

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
fn acceptable(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    // Without nesting deeper than "(A OR B) AND C", which is all that occurs, AND binds last.
    expression.split(" AND ").all(|part| part.split(" OR ").any(|licence| allowed.contains(&licence.trim())))
}

fn check(manifest: &str, allowed: &[&str]) {
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
    check("Cargo.toml", &[SHIPPED.as_slice(), &DATA].concat());
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    assert!(acceptable("MIT OR GPL-3.0-only", &SHIPPED));
    assert!(acceptable("(MIT OR Apache-2.0) AND Unicode-3.0", &SHIPPED));
    assert!(acceptable("Unlicense/MIT", &SHIPPED));
    assert!(!acceptable("MIT AND GPL-3.0-only", &SHIPPED));
    assert!(!acceptable("MPL-2.0", &SHIPPED));
    assert!(!acceptable("none", &SHIPPED));
    assert!(acceptable("MPL-2.0", &DEVELOPMENT));
}

/// What other services take in with the client: nothing of the server, and no database driver.
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
