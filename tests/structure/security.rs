//! docs/security.md says which tests perform which attack. A test that was renamed, moved or removed must not stay
//! listed there.

use crate::root;

const PAGE: &str = "docs/security.md";

/// Everything of the form `file.rs::function` between backticks; with its line.
fn named(page: &str) -> Vec<(usize, &str)> {
    let mut named = Vec::new();
    for (line, text) in page.lines().enumerate() {
        // Every second part is between backticks.
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path =
                ["tests/", "src/", "client/", "dev/", "benches/", "fuzz/"].iter().any(|f| quoted.starts_with(f));
            if is_path && quoted.contains("::") {
                named.push((line + 1, quoted));
            }
        }
    }
    named
}

/// What is wrong with a name; none when there is such a function in such a file.
fn problem(name: &str) -> Option<String> {
    let (file, function) = name.split_once("::")?;
    let function = function.rsplit("::").next().unwrap_or(function);
    let Ok(text) = std::fs::read_to_string(root().join(file)) else {
        return Some(format!("there is no file {file}"));
    };
    let is_there = text
        .match_indices(&format!("fn {function}"))
        .any(|(at, found)| text[at + found.len()..].starts_with(['(', '<']));
    (!is_there).then(|| format!("{file} has no function {function}"))
}

#[test]
fn the_page_on_security_names_only_tests_that_exist() {
    let page = std::fs::read_to_string(root().join(PAGE)).unwrap();
    let problems: Vec<String> = named(&page)
        .into_iter()
        .filter_map(|(line, name)| problem(name).map(|problem| format!("line {line}: `{name}`: {problem}")))
        .collect();
    assert!(problems.is_empty(), "{PAGE} names what is not there:\n{}", problems.join("\n"));
}

#[test]
fn every_rule_has_one_row() {
    let page = std::fs::read_to_string(root().join(PAGE)).unwrap();
    for rule in 1..=34 {
        let rows = page.lines().filter(|line| line.starts_with(&format!("| **S{rule}** "))).count();
        assert_eq!(rows, 1, "{PAGE} has {rows} rows for S{rule}");
    }
    for line in page.lines().filter(|line| line.starts_with("| **S")) {
        // A bar inside a cell would be a column of its own.
        assert_eq!(line.matches('|').count(), 5, "not four columns: {line}");
    }
}

#[test]
fn a_name_without_a_test_is_found() {
    assert_eq!(problem("tests/structure/security.rs::every_rule_has_one_row"), None);
    assert!(problem("tests/structure/security.rs::every_rule").is_some());
    assert!(problem("tests/structure/nowhere.rs::every_rule_has_one_row").is_some());
    let found = named("| x | `tests/a.rs::b`, `src/c.rs::d` and `Some::thing` |");
    assert_eq!(found, [(1, "tests/a.rs::b"), (1, "src/c.rs::d")]);
}
