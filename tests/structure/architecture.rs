//! Which module may use what. Reads the sources of `src/` as text: a forbidden import is named with its file. The
//! layers and circles are in `layers.rs`.

use crate::files;

const SERVICES: [&str; 6] = ["authenticate", "session", "token", "directory", "audit", "migration"];

/// The code of a file without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(text);
    text.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

fn module(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

fn stem(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

fn mentions(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_') && after == Some(':')
    })
}

/// Checks `allowed(file)` for every file that mentions `name::`.
fn only_in(name: &str, allowed: impl Fn(&str) -> bool) {
    let offenders: Vec<String> = files("src", ".rs")
        .into_iter()
        .filter(|(file, text)| mentions(&code(text), name) && !allowed(file))
        .map(|(file, _)| file)
        .collect();
    assert!(offenders.is_empty(), "`{name}` does not belong in {offenders:?}");
}

/// A file is a module's store when it is `store.rs`, lies in `store/`, or is named `..._store.rs`.
fn is_store(file: &str) -> bool {
    stem(file) == "store.rs" || file.contains("/store/") || stem(file).ends_with("_store.rs")
}

fn is_rpc(file: &str) -> bool {
    stem(file) == "rpc.rs" || file.contains("/rpc/")
}

#[test]
fn sql_stands_in_stores_only() {
    for (file, text) in files("src", ".rs") {
        let code = code(&text);
        let has_query = ["sqlx::query", "query!(", "query_as!(", "query_scalar!("].iter().any(|q| code.contains(q));
        let allowed = is_store(&file) || ["db", "schema"].contains(&module(&file));
        assert!(!has_query || allowed, "{file} holds SQL: it belongs in the module's store.rs");
    }
}

#[test]
fn the_driver_is_known_to_stores_only() {
    let offenders: Vec<String> = files("src", ".rs")
        .into_iter()
        .filter(|(file, text)| {
            let code = code(text).replace("sqlx::Error", "");
            mentions(&code, "sqlx") && !is_store(file) && !["db", "schema"].contains(&module(file))
        })
        .map(|(file, _)| file)
        .collect();
    assert!(offenders.is_empty(), "sqlx does not belong in {offenders:?}");
}

/// A connection that is not lent by `db` can be returned in the middle of a transaction.
#[test]
fn connections_are_made_and_lent_by_one_module() {
    let offenders: Vec<String> = files("src", ".rs")
        .into_iter()
        .filter(|(file, text)| {
            let code = code(text);
            let names = ["PgConnection", "PgPool", "PgPoolOptions", "PgConnectOptions", "PgListener"];
            names.iter().any(|name| code.contains(name)) && !["db", "schema"].contains(&module(file))
        })
        .map(|(file, _)| file)
        .collect();
    assert!(offenders.is_empty(), "connections are made in src/db, and lent as Db and Tx: {offenders:?}");
}

#[test]
fn grpc_stays_at_the_edge() {
    only_in("tonic", |file| {
        is_rpc(file)
            || ["server", "access", "cli", "app", "codec", "metrics", "proto", "telemetry"].contains(&module(file))
    });
}

#[test]
fn http_to_kanidm_stays_in_its_module() {
    only_in("reqwest", |file| module(file) == "kanidm");
}

#[test]
fn the_mail_server_is_known_to_mail_only() {
    only_in("lettre", |file| module(file) == "mail");
    only_in("minijinja", |file| module(file) == "mail");
}

#[test]
fn a_module_is_entered_by_its_mod_rs() {
    for (file, text) in files("src", ".rs") {
        let code = code(&text);
        for other in SERVICES {
            if module(&file) == other {
                continue;
            }
            let back_door = format!("{other}::store");
            assert!(!code.contains(&back_door), "{file} reaches into {back_door}");
            let rpc = format!("crate::{other}::rpc");
            assert!(!code.contains(&rpc), "{file} reaches into {rpc}");
        }
    }
}

#[test]
fn a_status_is_built_in_one_place() {
    for (file, text) in files("src", ".rs") {
        if module(&file) == "server" || module(&file) == "cli" {
            continue;
        }
        let code = code(&text);
        for call in [
            "Status::new(",
            "Status::internal(",
            "Status::invalid_argument(",
            "Status::unauthenticated(",
            "Status::not_found(",
            "Status::unavailable(",
            "Status::permission_denied(",
            "Status::unimplemented(",
        ] {
            assert!(!code.contains(call), "{file} builds a status: return a Fault");
        }
    }
}

/// Work whose cost its caller chooses runs on the bounded hashing threads, with a permit that a charge paid for.
#[test]
fn what_is_expensive_runs_on_the_hashing_threads_only() {
    let pool = "credential/hashing.rs";
    for (call, home) in [
        ("zxcvbn::", "credential/strength.rs"),
        ("bcrypt::", "credential/bcrypt_hash.rs"),
        ("strength::score(", pool),
        ("bcrypt_hash::hash(", pool),
        ("bcrypt_hash::spend(", pool),
        (".compute_and_compare(", pool),
    ] {
        let files = files("src", ".rs");
        // Fuzz targets call what they test by themselves.
        let users = files.iter().filter(|(file, text)| !file.ends_with("fuzzing.rs") && code(text).contains(call));
        let users: Vec<&str> = users.map(|(file, _)| file.as_str()).collect();
        assert_eq!(users, [home], "`{call}` is called there");
    }
    // Nor are they imported under another name.
    for (file, text) in files("src", ".rs") {
        let imports_all = code(&text).contains("strength::{") || code(&text).contains("bcrypt_hash::*");
        assert!(!imports_all, "{file} imports what only {pool} may call");
    }
}

#[test]
fn nothing_is_left_half_done() {
    let words = ["todo!(", "unimplemented!(", "FIXME", "XXX", "#[ignore", "allow(dead_code)"];
    for folder in ["src", "client/src", "token/src", "tests/it", "benches", "dev/support/src"] {
        for (file, text) in files(folder, ".rs") {
            for word in words {
                assert!(!text.contains(word), "{folder}/{file} has {word}");
            }
        }
    }
}

#[test]
fn files_can_be_read_in_one_sitting() {
    for (file, text) in files("src", ".rs") {
        let lines = text.lines().count();
        assert!(lines <= 600, "{file} has {lines} lines: move a wall");
    }
}
