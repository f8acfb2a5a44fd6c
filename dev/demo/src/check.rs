//! Expected and actual numbers.

use std::fmt::Debug;

use crate::output;

/// The result of a comparison. A difference does not stop the demonstration: all of them are listed at its end.
#[derive(Default)]
pub struct Checks {
    numbers: Vec<Compared>,
    others: usize,
    differences: Vec<String>,
}

struct Compared {
    what: String,
    expected: String,
    found: String,
    is_right: bool,
}

impl Checks {
    /// A number that is in the summary.
    pub fn number(&mut self, what: &str, expected: usize, found: usize) {
        self.summarised(what, expected.to_string(), found, expected == found);
    }

    /// A number that is in the summary and has two bounds.
    pub fn within(&mut self, what: &str, at_least: usize, at_most: usize, found: usize) {
        self.summarised(what, format!("{at_least} to {at_most}"), found, (at_least..=at_most).contains(&found));
    }

    fn summarised(&mut self, what: &str, expected: String, found: usize, is_right: bool) {
        let found = found.to_string();
        if !is_right {
            self.differ(format!("{what}: {found} instead of {expected}"));
        }
        self.numbers.push(Compared { what: what.to_owned(), expected, found, is_right });
    }

    /// A value that is only listed when it differs.
    pub fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: &T, found: &T) {
        self.others += 1;
        if expected != found {
            self.differ(format!("{what}: {} instead of {}", shortened(found), shortened(expected)));
        }
    }

    /// A condition that must hold.
    pub fn holds(&mut self, what: &str, is_so: bool) {
        self.others += 1;
        if !is_so {
            self.differ(format!("not so: {what}"));
        }
    }

    fn differ(&mut self, difference: String) {
        output::note(format!("DIFFERENT {difference}"));
        self.differences.push(difference);
    }

    /// Whether everything was as expected.
    pub fn all_right(&self) -> bool {
        self.differences.is_empty()
    }

    /// The table of numbers and the verdict.
    pub fn show(&self) {
        let row = |number: &Compared| {
            let verdict = if number.is_right { "" } else { "DIFFERENT" };
            vec![number.what.clone(), number.found.clone(), number.expected.clone(), verdict.to_owned()]
        };
        output::table(&["", "found", "expected", ""], &self.numbers.iter().map(row).collect::<Vec<_>>());
        output::line("");
        let compared = format!("{} numbers above and {} more comparisons", self.numbers.len(), self.others);
        if self.all_right() {
            output::note(format!("{compared}: all as expected."));
        } else {
            output::note(format!("{compared}; not as expected:"));
            self.differences.iter().for_each(|difference| output::note(format!("  - {difference}")));
        }
    }
}

/// Sets of hundreds of names would hide the differences.
fn shortened(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    if text.chars().count() <= 300 { text } else { format!("{}...", text.chars().take(300).collect::<String>()) }
}
