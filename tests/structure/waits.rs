//! Integration tests wait with a bound: one that hangs when its guard is removed does not fail. Reads `tests/it` as
//! text.

use crate::files;

/// Calls that bound the future between their parentheses, or run it in a task that no test has to wait for.
const BOUNDS: [&str; 5] = ["within(", "eventually(", "until(", "timeout(", "spawn("];

/// Methods of streams, channels and processes that may never return.
const WAITS: [&str; 10] = [
    ".message(",
    ".recv(",
    ".next(",
    ".next_line(",
    ".progress(",
    ".changed(",
    ".notified(",
    ".accept(",
    ".wait(",
    ".wait_with_output(",
];

/// The helpers themselves, and a proxy whose tasks forward bytes for as long as its test lasts.
const OUTSIDE: [&str; 2] = ["support/wait.rs", "support/proxy.rs"];

/// The same code with blanks in place of comments, strings and characters, so that every bracket is one.
fn bare(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut bare = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let is_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let hashes = rest.strip_prefix('r').map(|rest| rest.bytes().take_while(|byte| *byte == b'#').count());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(hashes) = hashes.filter(|hashes| !is_word && rest[1 + hashes..].starts_with('"')) {
            let end = format!("\"{}", "#".repeat(hashes));
            let begun = hashes + 2;
            rest[begun..].find(&end).map_or(rest.len(), |found| begun + found + end.len())
        } else if rest.starts_with('"') {
            quoted(rest, '"')
        } else if let Some(behind) = rest.strip_prefix('\'') {
            // A lifetime has no second quote; a character has one close by.
            let length = quoted(rest, '\'');
            let is_character = length == 3 || (behind.starts_with('\\') && length <= 12);
            if is_character || behind.chars().next().is_some_and(|c| !c.is_ascii() && length == 2 + c.len_utf8()) {
                length
            } else {
                0
            }
        } else {
            0
        };
        for blank in &mut bare[at..at + length] {
            if *blank != b'\n' {
                *blank = b' ';
            }
        }
        at += length.max(1);
        while !text.is_char_boundary(at) {
            at += 1;
        }
    }
    // A character outside of strings that is not ASCII would be cut.
    String::from_utf8_lossy(&bare).into_owned()
}

/// Length of the literal that `rest` begins with, up to the second `quote` that is not escaped.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Where the bracket at `open` is closed.
fn closed(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[open..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth -= 1;
                if depth == 0 {
                    return open + at;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Whether the code at `place` is bounded: in the parentheses of one of [`BOUNDS`], or in an `async` block with a name
/// that is given to one later.
fn is_bounded(code: &str, place: usize) -> bool {
    let mut depth = 0;
    for (at, c) in code[..place].char_indices().rev() {
        match c {
            ')' | ']' | '}' => depth += 1,
            '(' | '[' | '{' if depth > 0 => depth -= 1,
            '(' if BOUNDS.iter().any(|bound| code[..=at].ends_with(bound)) => return true,
            '{' => {
                let before = code[..at].trim_end().trim_end_matches(" move").trim_end_matches(" async").trim_end();
                let name = before.strip_suffix('=').and_then(|before| before.rsplit_once("let ")).map(|(_, name)| name);
                let name = name.map(|name| name.trim().trim_start_matches("mut ")).unwrap_or_default();
                if !name.is_empty() && is_given_to_a_bound(&code[closed(code, at)..], name) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

fn is_given_to_a_bound(code: &str, name: &str) -> bool {
    let calls = BOUNDS.iter().flat_map(|bound| code.match_indices(bound).map(|(at, bound)| at + bound.len() - 1));
    calls.into_iter().any(|open| words(&code[open..closed(code, open)]).any(|(_, word)| word == name))
}

fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.split(move |c| !is_word(c))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// Positions that wait without a bound, with their code.
fn unbounded(text: &str) -> Vec<(usize, String)> {
    let code = bare(text);
    let mut found = Vec::new();
    for (at, word) in words(&code).filter(|(_, word)| ["loop", "while"].contains(word)) {
        let mut open = at + word.len();
        // The body begins with the first brace that is in no other bracket.
        while let Some(next) = code[open..].find(['(', '[', '{']).map(|next| open + next)
            && !code[next..].starts_with('{')
        {
            open = closed(&code, next) + 1;
        }
        let body = code[open..].find('{').map_or(code.len(), |next| closed(&code, open + next));
        if code[at..body].contains(".await") && !is_bounded(&code, at) {
            found.push(at);
        }
    }
    for (at, wait) in WAITS.iter().flat_map(|wait| code.match_indices(wait)) {
        let end = closed(&code, at + wait.len() - 1) + 1;
        // The mail server of tests has a bound of its own.
        let is_mail = code[..at].ends_with("smtp");
        if code[end.min(code.len())..].trim_start().starts_with(".await") && !is_mail && !is_bounded(&code, at) {
            found.push(at);
        }
    }
    let place = |at: usize| (text[..at].matches('\n').count() + 1, text[at..].lines().next().unwrap_or("").to_owned());
    found.into_iter().map(place).collect()
}

#[test]
fn no_integration_test_waits_without_a_bound() {
    let mut offenders = Vec::new();
    for (file, text) in files("tests/it", ".rs") {
        if !OUTSIDE.contains(&file.as_str()) {
            let places = unbounded(&text);
            offenders.extend(places.into_iter().map(|(line, what)| format!("tests/it/{file}:{line}: {what}")));
        }
    }
    assert!(
        offenders.is_empty(),
        "these may wait for ever: await them in support::within, or ask in support::eventually or support::until\n{}",
        offenders.join("\n")
    );
}

/// Only the helpers sleep; a test that sleeps guesses how long something takes.
#[test]
fn no_integration_test_sleeps() {
    for (file, text) in files("tests/it", ".rs") {
        let sleeps = bare(&text).contains("sleep(") && !OUTSIDE.contains(&file.as_str());
        assert!(
            !sleeps,
            "tests/it/{file} sleeps: wait for what it sleeps for, with support::within or support::eventually"
        );
    }
}

#[test]
fn waits_are_recognised() {
    for bad in [
        "async fn f() { loop { g().await; } }",
        "async fn f() { while g(|x| { x }).await { yield_now().await; } }",
        "async fn f() { let waits = async { loop { g().await } }; join!(waits); }",
        "async fn f() { stream.message().await.unwrap(); }",
        "async fn f() { within(\"(\", g()).await; while g().await {} }",
        "async fn f() { let c = '{'; while let Some(x) = calls.next().await {} }",
    ] {
        assert!(!unbounded(bad).is_empty(), "{bad}");
    }
    for good in [
        "async fn f() { within(\"it ends\", async { loop { g().await; } }).await; }",
        "async fn f() { let waits = async { loop { g().await } }; timeout(LIMIT, waits).await; }",
        "async fn f() { until(\"a } or ) in it\", async || g().await).await; }",
        "async fn f() { spawn(async move { while h.accept().await.is_ok() {} }); }",
        "async fn f<'a>() { while x < 3 { x += 1; } g().await; // loop { g().await }\n }",
        "async fn f() { for x in y { g(x).await; } let r = r#\"loop { \"x\".await }\"#; }",
        "async fn f() { smtp.message().await.unwrap(); stream.next(); }",
    ] {
        assert_eq!(unbounded(good), [], "{good}");
    }
}

/// The names that `./run test kanidm` leaves out against a full Kanidm.
fn left_out() -> Vec<String> {
    let list = std::fs::read_to_string(crate::root().join("tests/it/needs_dev_kanidm.txt")).unwrap();
    list.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// Every test of `tests/it`: its name and its code.
fn tests() -> Vec<(String, String)> {
    let mut tests = Vec::new();
    for (_, text) in files("tests/it", ".rs") {
        let code = bare(&text);
        for (at, _) in code.match_indices("#[tokio::test") {
            let Some((_, name)) = code[at..].split_once("fn ") else { continue };
            let name = name.split('(').next().unwrap_or_default().to_owned();
            let open = at + code[at..].find('{').unwrap_or_default();
            tests.push((name, code[open..closed(&code, open)].to_owned()));
        }
    }
    tests
}

#[test]
fn tests_that_are_left_out_against_a_full_kanidm_exist_and_leave_out_no_other() {
    let (left_out, tests) = (left_out(), tests());
    assert!(left_out.is_sorted_by(|one, next| one < next), "in order, each once");
    for name in &left_out {
        // `--skip` leaves out whatever has the name in its own.
        let hit: Vec<&str> =
            tests.iter().map(|(test, _)| test.as_str()).filter(|test| test.starts_with(name)).collect();
        assert_eq!(hit, [name], "tests that are left out for {name}");
    }
}

#[test]
fn whoever_asks_for_what_only_dev_kanidm_has_is_left_out_against_a_full_one() {
    let left_out = left_out();
    let only_dev =
        ["fault", "answer_with", "slow", "heal", "advance", "requests"].map(|call| format!("kanidm.{call}("));
    let asks =
        |code: &str| only_dev.iter().any(|call| code.contains(call.as_str())) && !code.contains("kanidm.is_dev()");
    let missing: Vec<String> = tests()
        .into_iter()
        .filter(|(name, code)| asks(code) && !left_out.contains(name))
        .map(|(name, _)| name)
        .collect();
    assert!(missing.is_empty(), "these belong in tests/it/needs_dev_kanidm.txt: {missing:?}");
}
