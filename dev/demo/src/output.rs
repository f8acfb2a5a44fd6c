//! The output: numbered steps with their durations, aligned facts and tables.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

/// Column where facts begin.
const INDENT: &str = "   ";
/// Width of their labels.
const LABEL: usize = 36;

/// Whether the output is a terminal, rather than a file.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// A line of its own.
pub fn line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    // A reader that closed the pipe has seen enough; the checks still decide the exit code.
    let _ = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
}

/// A remark within a step.
pub fn note(text: impl AsRef<str>) {
    line(format!("{INDENT}{}", text.as_ref()));
}

/// A fact: label and value.
pub fn fact(label: &str, value: impl std::fmt::Display) {
    line(format!("{INDENT}{label:LABEL$}{value}"));
}

/// A line without alignment, which can be copied.
pub fn verbatim(text: impl AsRef<str>) {
    line(text);
}

/// Rows in columns as wide as they need to be. Numbers are aligned to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let show = |cells: &[String]| {
        let mut text = INDENT.to_owned();
        for (cell, width) in cells.iter().zip(&widths) {
            let is_number = !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit());
            text += &if is_number { format!("{cell:>width$}  ") } else { format!("{cell:width$}  ") };
        }
        line(text.trim_end());
    };
    if head.iter().any(|name| !name.is_empty()) {
        show(&head.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
    }
    rows.iter().for_each(|row| show(row));
}

/// `text` in bold on a terminal.
pub fn bold(text: &str) -> String {
    if is_terminal() { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// The beginning of an identifier, enough to recognise it.
pub fn short(text: &str) -> String {
    if text.chars().count() <= 16 {
        text.to_owned()
    } else {
        format!("{}...", text.chars().take(13).collect::<String>())
    }
}

/// At most `length` letters of a text; where letters are left out, how many there are.
pub fn clipped(text: &str, length: usize) -> String {
    let letters = text.chars().count();
    if letters <= length {
        return text.to_owned();
    }
    format!("{}... ({letters} letters)", text.chars().take(length).collect::<String>())
}

/// `1 user`, `2 users`.
pub fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// A numbered step; prints at its end how long it took.
pub struct Step {
    started: Instant,
}

/// Begins step `number`.
pub fn step(number: u32, title: &str) -> Step {
    line("");
    line(bold(&format!("{number:>2} {title}")));
    Step { started: Instant::now() }
}

impl Step {
    /// Ends the step.
    pub fn done(self) {
        note(format!("({:.1} s)", self.started.elapsed().as_secs_f64()));
    }
}
