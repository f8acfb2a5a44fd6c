//! The schema as files: versioned ones go up and down and are never edited, each function is in a file of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::{files, root};

const CHECKSUMS: &str = "migrations/checksums.txt";

/// The functions that tables are made of, which are in the first versioned file.
const FOUNDATION: [&str; 3] = ["sidle_tenant", "sidle_platform", "sidle_touch"];

fn migrations(ending: &str) -> Vec<(String, String)> {
    files("migrations", ending)
}

/// The functions' files, by the path below `migrations/functions/`.
fn functions() -> Vec<(String, String)> {
    files("migrations/functions", ".sql")
}

/// The name in a path such as `audit/audit_record.sql`.
fn name(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file).trim_end_matches(".sql")
}

/// What a text makes functions of, without comments and bodies.
fn made(text: &str) -> Vec<String> {
    let text = text.replace("CREATE OR REPLACE FUNCTION", "CREATE FUNCTION");
    let name = |rest: &str| rest.split('(').next().unwrap_or_default().trim().to_owned();
    text.split("CREATE FUNCTION ").skip(1).map(name).collect()
}

#[test]
fn every_migration_goes_both_ways() {
    let down: Vec<String> = migrations(".down.sql").into_iter().map(|(name, _)| name.replace(".down.", ".")).collect();
    let up: Vec<String> = migrations(".up.sql").into_iter().map(|(name, _)| name.replace(".up.", ".")).collect();
    assert_eq!(up, down);
    let versions: Vec<&str> = up.iter().map(|name| name.split('_').next().unwrap()).collect();
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "versions are unique and in order: {versions:?}");
}

#[test]
fn a_versioned_file_is_never_edited() {
    let listed = std::fs::read_to_string(root().join(CHECKSUMS)).unwrap();
    let lines = listed.lines().filter(|line| !line.starts_with('#'));
    let listed: BTreeMap<&str, &str> = lines
        .map(|line| line.split_once("  ").expect("checksum, two spaces, name"))
        .map(|(sum, name)| (name, sum))
        .collect();
    let mut problems = Vec::new();
    let mut there = 0;
    for (name, text) in migrations(".sql").into_iter().filter(|(name, _)| !name.contains('/')) {
        let sum = Sha256::digest(&text).iter().fold(String::new(), |mut sum, byte| {
            let _ = write!(sum, "{byte:02x}");
            sum
        });
        match listed.get(name.as_str()) {
            Some(is) if *is == sum => {}
            Some(_) => problems.push(format!(
                "migrations/{name} was changed: take the change back and make it in a new versioned file. Only while the \
                 head of {CHECKSUMS} says that nothing binds yet, its line may become: {sum}  {name}"
            )),
            None => problems.push(format!("add this line to {CHECKSUMS}: {sum}  {name}")),
        }
        there += usize::from(listed.contains_key(name.as_str()));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!(there, listed.len(), "{CHECKSUMS} lists a file that is gone");
}

#[test]
fn each_function_stands_once_in_a_file_of_its_name() {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for (file, text) in functions() {
        assert_eq!(made(&text), [name(&file)], "functions/{file}: one function, named like the file");
        assert!(text.contains("CREATE OR REPLACE FUNCTION "), "functions/{file} can be applied again");
        assert!(
            text.matches(" TRIGGER ").count() == text.matches("CREATE OR REPLACE TRIGGER ").count(),
            "functions/{file}: triggers can be applied again"
        );
        let service = file.split('/').next().unwrap();
        let is_service = service == "retired" || root().join("src").join(service).is_dir();
        assert!(is_service && file.matches('/').count() == 1, "functions/{file}: a service of src/, or retired");
        if let Some(other) = seen.insert(name(&file).to_owned(), file.clone()) {
            panic!("functions/{file} is there a second time, as functions/{other}");
        }
    }
    for (file, text) in migrations(".up.sql") {
        let expected: &[&str] = if file == "0001_foundation.up.sql" { &FOUNDATION } else { &[] };
        assert_eq!(made(&text), expected, "{file}: functions stand in migrations/functions/, one in each file");
    }
}

/// Revocations of tokens are ordered by the one function that makes them.
#[test]
fn tokens_are_revoked_by_one_function() {
    let assigns = |text: &str| text.lines().filter(|line| line.contains("tokens_valid_from =")).count();
    for (name, text) in migrations(".sql") {
        let allowed = if name == "functions/directory/tokens_revoke.sql" { 2 } else { 0 };
        assert_eq!(assigns(&text), allowed, "{name}: only tokens_revoke() writes tokens_valid_from");
    }
    for (name, text) in files("src", ".rs") {
        assert_eq!(assigns(&text), 0, "{name}: only tokens_revoke() writes tokens_valid_from");
    }
}

#[test]
fn functions_fix_their_search_path() {
    for (file, text) in functions() {
        let head = text.split("$$").next().unwrap_or_default();
        let lines = ["SET search_path = pg_catalog, public, pg_temp\n", "SET search_path = pg_catalog\n"];
        assert!(
            lines.iter().any(|line| head.contains(line)),
            "functions/{file} looks at what everybody can make, temporary tables, before ours"
        );
    }
}

/// The types that versioned files make, by name: the fields of a composite type in their order, the words of an enum.
fn types() -> BTreeMap<String, Vec<String>> {
    let mut types = BTreeMap::new();
    for (_, text) in migrations(".up.sql") {
        for made in text.split("CREATE TYPE ").skip(1) {
            let (head, rest) = made.split_once('(').unwrap();
            let (name, body) = (head.split(' ').next().unwrap(), rest.split_once(");").unwrap().0);
            let words = if head.contains("ENUM") {
                body.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
            } else {
                body.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
            };
            types.insert(name.to_owned(), words);
        }
    }
    types
}

/// The fields of a struct or the variants of an enum, as the database spells them.
fn members(body: &str) -> Vec<String> {
    let lines = body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['/', '#']));
    let name = |line: &str| {
        let name = line.split_once(": ").map_or(line, |(name, _)| name).trim_end_matches(',');
        let name = name.rsplit(' ').next().unwrap_or_default();
        name.chars().enumerate().fold(String::new(), |mut name, (at, letter)| {
            if at > 0 && letter.is_uppercase() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
            name
        })
    };
    lines.map(name).collect()
}

/// Postgres knows the fields of a composite argument by their place: two of one type in the other order would be mistaken
/// for each other. A word that one side lacks fails the first call that brings it.
#[test]
fn types_of_the_schema_and_those_of_rust_have_the_same_members() {
    let types = types();
    let mut twins = BTreeMap::new();
    for (file, text) in files("src", ".rs") {
        for made in text.split("#[sqlx(type_name = \"").skip(1) {
            let (name, rest) = made.split_once('"').unwrap();
            if name == "text" {
                continue;
            }
            let (head, rest) = rest.split_once('{').unwrap();
            let mut found = members(rest.split_once("\n}").unwrap().0);
            let mut expected =
                types.get(name).unwrap_or_else(|| panic!("{file}: the schema has no type {name}")).clone();
            let is_enum = head.contains("enum ");
            assert!(!is_enum || head.contains("rename_all = \"snake_case\""), "{file}: {name} in snake_case");
            if is_enum {
                found.sort();
                expected.sort();
            }
            assert_eq!(found, expected, "{file}: {name}");
            twins.insert(name.to_owned(), is_enum);
        }
    }
    let is_enum = |name: &&String| {
        migrations(".up.sql").iter().any(|(_, text)| text.contains(&format!("CREATE TYPE {name} AS ENUM")))
    };
    for name in types.keys().filter(is_enum) {
        assert_eq!(twins.get(name), Some(&true), "no enum in src/ reads {name}");
    }
}

/// One file says what a function is for, as whom it runs and who may call it.
#[test]
fn a_functions_file_says_what_it_is_for_and_who_may_call_it() {
    let all = functions();
    for (file, text) in &all {
        let name = name(file);
        let says = |what: &str| text.contains(&format!("{what} {name}("));
        assert!(says("COMMENT ON FUNCTION"), "functions/{file} has no comment");
        if !text.contains("SECURITY DEFINER") {
            continue;
        }
        assert!(
            says("REVOKE ALL ON FUNCTION"),
            "functions/{file} runs as the owner for everybody: REVOKE ALL ON FUNCTION {name}(...) FROM PUBLIC"
        );
        // Triggers are not called, and functions that only other functions call need no grant to the service.
        let is_inner = text.contains("RETURNS trigger")
            || all.iter().any(|(other, text)| other != file && text.contains(&format!("{name}(")));
        assert!(
            says("GRANT EXECUTE ON FUNCTION") || is_inner,
            "functions/{file} can be called by nobody: GRANT EXECUTE ON FUNCTION {name}(...) TO sidle_app"
        );
    }
}

/// Postgres and Rust fold case differently (`İ`), and two foldings make two keys of one name or one key of two.
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
