//! Schema migrations as files: both ways there, every column explained, row-level security on every table.

use crate::files;

fn migrations(ending: &str) -> Vec<(String, String)> {
    files("migrations", ending)
}

#[test]
fn every_migration_goes_both_ways() {
    let down: Vec<String> = migrations(".down.sql").into_iter().map(|(name, _)| name.replace(".down.", ".")).collect();
    let up: Vec<String> = migrations(".up.sql").into_iter().map(|(name, _)| name.replace(".up.", ".")).collect();
    assert_eq!(up, down);
    let versions: Vec<&str> = up.iter().map(|name| name.split('_').next().unwrap()).collect();
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "versions are unique and in order: {versions:?}");
}

/// Revocations of tokens are ordered by the one function that makes them.
#[test]
fn tokens_are_revoked_by_one_function() {
    let assigns = |text: &str| text.lines().filter(|line| line.contains("tokens_valid_from =")).count();
    for (name, text) in migrations(".sql") {
        let allowed = if name.starts_with("0001_foundation.up") { 2 } else { 0 };
        assert_eq!(assigns(&text), allowed, "{name}: only tokens_revoke() writes tokens_valid_from");
    }
    for (name, text) in files("src", ".rs") {
        assert_eq!(assigns(&text), 0, "{name}: only tokens_revoke() writes tokens_valid_from");
    }
}

#[test]
fn functions_fix_their_search_path() {
    for (file, text) in migrations(".up.sql") {
        for function in text.replace("CREATE OR REPLACE", "CREATE").split("CREATE FUNCTION ").skip(1) {
            let head = function.split("$$").next().unwrap_or_default();
            let name = function.split('(').next().unwrap_or_default().trim();
            // What the standard's `RETURN` means is settled when it is created.
            if head.lines().any(|line| line.trim_start().starts_with("RETURN ")) {
                continue;
            }
            assert!(head.contains("SET search_path"), "{file}: {name} does not fix its search path");
            // 0015 gave it to those from before.
            let ends_well = head.contains("SET search_path = pg_catalog, public, pg_temp\n");
            assert!(file.as_str() < "0014" || ends_well, "{file}: {name} looks at temporary tables before ours");
        }
    }
}

/// Postgres and Rust fold case differently (`İ`), and two folds make two keys of one name or one key of two.
#[test]
fn the_database_folds_no_case() {
    for (file, text) in files("migrations", ".sql").into_iter().chain(files("src", ".rs")) {
        for (number, line) in text.lines().enumerate() {
            let is_sql = file.ends_with(".sql") || line.contains("SELECT") || line.contains("WHERE");
            let folds = ["lower(", "upper(", "initcap(", "ILIKE", "~*", "citext"].into_iter().find(|fold| {
                line.match_indices(fold).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            });
            let line = number + 1;
            assert!(!is_sql || folds.is_none(), "{file}, line {line}: {folds:?}: keys are made in src/access/names.rs");
        }
    }
}
