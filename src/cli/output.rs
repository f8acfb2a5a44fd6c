//! Printing: tables for people, JSON for programs, and nothing that a terminal would obey.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;

use chrono::SecondsFormat;
use clap::ValueEnum;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::Timestamp;
use serde::Serialize;

use super::failure::{Failure, Result};
use crate::access::input;
use crate::proto::DESCRIPTORS;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    format: Format,
}

impl Out {
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Whether progress may move: text goes to a terminal.
    pub fn is_watched(self) -> bool {
        !self.is_json() && io::stderr().is_terminal()
    }

    /// A line of a result. A reader that has seen enough, such as `head`, is no error.
    pub fn line(self, text: &str) -> Result<()> {
        print(&clean(text))
    }

    /// A line beside the result, which redirecting the result leaves on the terminal.
    pub fn note(self, text: &str) {
        // When standard error is closed, this cannot be reported either.
        let _ = writeln!(io::stderr(), "{}", clean(text));
    }

    /// A message of the contract as JSON.
    pub fn message<M: Message + Name>(self, message: &M) -> Result<()> {
        print(&escape(&serde_json::to_string_pretty(&Json::of(message)?).map_err(|e| Failure::new(e.to_string()))?))
    }

    /// A message of the contract as one line of JSON, for streams.
    pub fn message_line<M: Message + Name>(self, message: &M) -> Result<()> {
        print(&escape(&serde_json::to_string(&Json::of(message)?).map_err(|e| Failure::new(e.to_string()))?))
    }

    /// Any value as JSON.
    pub fn json(self, value: &impl Serialize) -> Result<()> {
        print(&escape(&serde_json::to_string_pretty(value).map_err(|e| Failure::new(e.to_string()))?))
    }

    /// Messages as a table, or as a JSON array.
    pub fn list<M: Message + Name>(self, items: &[M], header: &[&str], row: impl Fn(&M) -> Vec<String>) -> Result<()> {
        if self.is_json() {
            return self.json(&items.iter().map(Json::of).collect::<Result<Vec<_>>>()?);
        }
        self.table(header, items.iter().map(row).collect())
    }

    /// Says that a list goes on.
    pub fn more(self, more: bool) {
        if more {
            self.note("There are more; --limit prints more of them.");
        }
    }

    /// Columns as wide as what stands in them.
    pub fn table(self, header: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
        let mut lines = vec![header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
        lines.extend(rows.into_iter().map(|row| row.iter().map(|cell| clean(cell)).collect()));
        let widths: Vec<usize> = (0..header.len())
            .map(|at| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        for line in lines {
            let mut text = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                let _ = write!(text, "{cell:width$}  ");
            }
            print(text.trim_end())?;
        }
        Ok(())
    }

    /// One thing: a name and a value a line.
    pub fn facts(self, facts: &[(&str, String)]) -> Result<()> {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        facts
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .try_for_each(|(name, value)| self.line(&format!("{name:width$}  {value}")))
    }

    /// A failure, and the exit code that goes with it.
    pub fn failure(self, failure: &Failure) -> ExitCode {
        if self.is_json() {
            let text = serde_json::to_string(&serde_json::json!({ "error": failure })).unwrap_or_default();
            let _ = writeln!(io::stderr(), "{}", escape(&text));
        } else {
            failure.lines().iter().for_each(|line| self.note(line));
        }
        ExitCode::from(failure.exit_code)
    }
}

fn print(text: &str) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

/// Whether a terminal obeys a character, or shows what follows in another order.
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` without anything that a terminal obeys.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// JSON with what a terminal obeys spelled out, which JSON itself asks of a few only.
pub(super) fn escape(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_obeyed(c) && c != '\n' {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// A message as JSON with the field names of the contract.
struct Json(DynamicMessage);

impl Json {
    fn of<M: Message + Name>(message: &M) -> Result<Self> {
        static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
        let failed = || Failure::new(format!("cannot print a {} as JSON", M::NAME));
        let pool = POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).ok()).as_ref().ok_or_else(failed)?;
        let kind = pool.get_message_by_name(&M::full_name()).ok_or_else(failed)?;
        DynamicMessage::decode(kind, message.encode_to_vec().as_slice()).map(Self).map_err(|_| failed())
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let options = SerializeOptions::new()
            .use_proto_field_name(true)
            .skip_default_fields(false)
            .stringify_64_bit_integers(false);
        self.0.serialize_with_options(serializer, &options)
    }
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing {
    use super::*;

    /// A message as it is printed, before what a terminal obeys is spelled out.
    pub(in crate::cli) fn as_json<M: Message + Name>(message: &M) -> Result<String> {
        serde_json::to_string(&Json::of(message)?).map_err(|e| Failure::new(e.to_string()))
    }
}

/// A time, in UTC; `-` for none.
pub(super) fn time(at: Option<&Timestamp>) -> String {
    at.and_then(|at| input::from_proto("at", at).ok())
        .map_or_else(|| "-".to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// The name of an enum value: `USER_STATUS_ACTIVE` is `active`.
pub(super) fn word<E: TryFrom<i32>>(number: i32, name: impl Fn(&E) -> &'static str, prefix: &str) -> String {
    match E::try_from(number) {
        Ok(value) => name(&value).trim_start_matches(prefix).to_lowercase(),
        Err(_) => number.to_string(),
    }
}

/// `text`, or `-` for nothing.
pub(super) fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// `yes` or nothing.
pub(super) fn yes(value: bool) -> String {
    if value { "yes".to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    #[test]
    fn nothing_that_is_printed_moves_the_cursor() {
        let name = "Ann\u{1b}[2J\u{9b}1A\r\n\u{202e}eel";
        assert!(!clean(name).chars().any(is_obeyed));
        let user = proto::User { full_name: name.to_owned(), ..Default::default() };
        let json = escape(&serde_json::to_string(&Json::of(&user).unwrap()).unwrap());
        assert!(!json.chars().any(is_obeyed), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["full_name"], name);
    }

    #[test]
    fn json_has_the_names_of_the_contract_and_every_field() {
        let user = proto::User { user_id: "x".to_owned(), status: 1, failed_login_attempts: 2, ..Default::default() };
        let json = serde_json::to_value(Json::of(&user).unwrap()).unwrap();
        assert_eq!(json["status"], "USER_STATUS_ACTIVE");
        assert_eq!((&json["failed_login_attempts"], &json["is_master_admin"]), (&2.into(), &false.into()));
    }

    #[test]
    fn words_are_short() {
        let status = |number| word::<proto::UserStatus>(number, proto::UserStatus::as_str_name, "USER_STATUS_");
        assert_eq!((status(2).as_str(), status(99).as_str()), ("pending_verification", "99"));
    }
}
