//! Reading a legacy user table from a file: CSV with a header, or JSON lines. Runs where the file is, in the command-line
//! tool. A row that cannot be read is passed on as such, with its line; what shows that the file itself is not what it
//! should be (binary, cut short, no such columns) is one error for the whole file.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use serde_json::Value;

use super::hash_form;

/// A longer row is no row of a user table.
const LONGEST_ROW: u64 = 1 << 20;

/// How a file holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values, RFC 4180, with a line of column names.
    Csv,
    /// One JSON object a line.
    JsonLines,
}

impl Format {
    /// The format that the file's name tells.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

/// A row as the file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyRow {
    /// Line of the file on which the row begins, from 1.
    pub line: u64,
    /// Column `id`.
    pub legacy_id: String,
    /// Column `email`.
    pub email: String,
    /// Column `username`.
    pub username: String,
    /// Column `full_name`.
    pub full_name: String,
    /// Column `password_hash`.
    pub password_hash: String,
    /// Column `is_active`.
    pub is_active: Option<bool>,
    /// Column `created_at`.
    pub created_at: Option<DateTime<Utc>>,
    /// Column `tenant`.
    pub tenant: String,
    /// Column `role`.
    pub role: String,
    /// Why the row could not be read; the other fields are empty then.
    pub unreadable: Option<String>,
}

/// Why a file cannot be imported at all.
#[derive(Debug)]
pub enum FileFault {
    /// It could not be read.
    Io(io::Error),
    /// It has no rows.
    Empty,
    /// It is not text in UTF-8, from this line on.
    NotText(u64),
    /// It ends in the middle of the row that begins on this line.
    Truncated(u64),
    /// The row that begins on this line is over a megabyte long: a quotation is not closed, or it is another kind of file.
    RowTooLong(u64),
    /// It is one JSON array instead of an object a line.
    JsonArray,
    /// A column that an import needs is missing.
    MissingColumn(&'static str),
    /// A column is not known.
    UnknownColumn(String),
    /// A column stands there twice.
    RepeatedColumn(String),
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the file cannot be read: {error}"),
            Self::Empty => f.write_str("the file has no rows"),
            Self::NotText(line) => {
                write!(f, "line {line} is not text in UTF-8: a binary file, or one in another encoding")
            }
            Self::Truncated(line) => {
                write!(f, "the file ends in the middle of the row on line {line}: it is cut short")
            }
            Self::RowTooLong(line) => {
                write!(
                    f,
                    "the row on line {line} is over a megabyte long: a quotation mark is not closed, or the file is not a table"
                )
            }
            Self::JsonArray => {
                f.write_str("the file is one JSON array; what is read is one object a line (jq -c '.[]' makes it)")
            }
            Self::MissingColumn(column) => {
                write!(f, "the first line has no column `{column}`; known: {}", known_columns())
            }
            Self::UnknownColumn(column) => {
                write!(f, "column `{column}` is not known and would be lost; known: {}", known_columns())
            }
            Self::RepeatedColumn(column) => write!(f, "column `{column}` stands there twice"),
        }
    }
}

impl std::error::Error for FileFault {}

/// A column that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Id,
    Email,
    Username,
    FullName,
    PasswordHash,
    IsActive,
    CreatedAt,
    Tenant,
    Role,
}

const COLUMNS: [(Column, &str, &[&str]); 9] = [
    (Column::Id, "id", &["legacy_id", "user_id"]),
    (Column::Email, "email", &["mail", "email_address"]),
    (Column::Username, "username", &["login", "user_name"]),
    (Column::FullName, "full_name", &["name", "display_name"]),
    (Column::PasswordHash, "password_hash", &["hashed_password", "password_digest"]),
    (Column::IsActive, "is_active", &["active"]),
    (Column::CreatedAt, "created_at", &["created"]),
    (Column::Tenant, "tenant", &["tenant_slug", "tenant_id"]),
    (Column::Role, "role", &[]),
];

fn known_columns() -> String {
    COLUMNS.map(|(_, name, _)| name).join(", ")
}

impl Column {
    fn of(name: &str) -> Option<Self> {
        let name = name.trim().to_lowercase();
        COLUMNS
            .into_iter()
            .find(|(_, known, others)| *known == name || others.contains(&name.as_str()))
            .map(|(c, ..)| c)
    }
}

impl LegacyRow {
    fn unreadable(line: u64, why: impl Into<String>) -> Self {
        Self { line, unreadable: Some(why.into()), ..Self::default() }
    }

    fn set(&mut self, column: Column, value: &str) -> Result<(), String> {
        let value = value.trim();
        let text = match column {
            Column::Id => &mut self.legacy_id,
            Column::Email => &mut self.email,
            Column::Username => &mut self.username,
            Column::FullName => &mut self.full_name,
            Column::PasswordHash => &mut self.password_hash,
            Column::Tenant => &mut self.tenant,
            Column::Role => &mut self.role,
            Column::IsActive => {
                self.is_active = flag(value)?;
                return Ok(());
            }
            Column::CreatedAt => {
                self.created_at = time(value)?;
                return Ok(());
            }
        };
        value.clone_into(text);
        Ok(())
    }

    /// Whether this, as the last row of a file without a final line break, may have lost its end.
    fn looks_cut(&self) -> bool {
        self.password_hash.starts_with('$') && hash_form::read(&self.password_hash) == Err(hash_form::HashFault::Broken)
    }
}

fn flag(value: &str) -> Result<Option<bool>, String> {
    match value.to_ascii_lowercase().as_str() {
        "" => Ok(None),
        "true" | "t" | "1" | "yes" | "y" => Ok(Some(true)),
        "false" | "f" | "0" | "no" | "n" => Ok(Some(false)),
        _ => Err("is_active is neither true nor false".to_owned()),
    }
}

fn time(value: &str) -> Result<Option<DateTime<Utc>>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    let with_zone = DateTime::parse_from_rfc3339(value)
        .or_else(|_| DateTime::parse_from_str(value, "%Y-%m-%d %H:%M:%S%.f%#z"))
        .map(|time| time.to_utc());
    // Databases write times without a zone where they mean UTC.
    let without_zone = || {
        NaiveDateTime::parse_from_str(value, "%Y-%m-%d %H:%M:%S%.f")
            .or_else(|_| NaiveDateTime::parse_from_str(value, "%Y-%m-%dT%H:%M:%S%.f"))
            .or_else(|_| NaiveDate::parse_from_str(value, "%Y-%m-%d").map(|day| day.and_time(chrono::NaiveTime::MIN)))
            .map(|time| time.and_utc())
    };
    let problem = "created_at is not a time such as 2024-05-31T12:00:00Z";
    with_zone.or_else(|_| without_zone()).map(Some).map_err(|_| problem.to_owned())
}

/// Reads the rows of a file.
///
/// # Errors
/// When the first line already shows that it is not a table that can be imported.
pub fn read<'a>(
    file: impl Read + 'a,
    format: Format,
) -> Result<Box<dyn Iterator<Item = Result<LegacyRow, FileFault>> + 'a>, FileFault> {
    match format {
        Format::Csv => Ok(Box::new(CsvRows::new(file)?)),
        Format::JsonLines => Ok(Box::new(JsonRows { file: BufReader::new(file), line: 0, rows: 0, ended: false })),
    }
}

/// What the reader below has seen, shared with whoever reads through it.
#[derive(Debug, Default)]
struct Seen {
    since_row: Cell<u64>,
    last_byte: Cell<u8>,
    at_end: Cell<bool>,
}

/// Bounds the length of a row, and remembers whether the file ended with a line break.
struct Watched<R> {
    file: R,
    seen: Rc<Seen>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.seen.since_row.get() > LONGEST_ROW {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let length = self.file.read(buffer)?;
        self.seen.since_row.set(self.seen.since_row.get() + length as u64);
        match buffer[..length].last() {
            Some(last) => self.seen.last_byte.set(*last),
            None => self.seen.at_end.set(true),
        }
        Ok(length)
    }
}

struct CsvRows<R> {
    reader: csv::Reader<Watched<R>>,
    seen: Rc<Seen>,
    columns: Vec<Column>,
    record: csv::ByteRecord,
    rows: u64,
    ended: bool,
}

impl<R: Read> CsvRows<R> {
    fn new(file: R) -> Result<Self, FileFault> {
        let seen = Rc::<Seen>::default();
        let watched = Watched { file, seen: Rc::clone(&seen) };
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(watched);
        let mut record = csv::ByteRecord::new();
        if !reader.read_byte_record(&mut record).map_err(|e| csv_fault(e, 1))? {
            return Err(FileFault::Empty);
        }
        let header = text(&record, 1)?;
        let mut columns = Vec::with_capacity(header.len());
        for name in header {
            let column = Column::of(name).ok_or_else(|| FileFault::UnknownColumn(shown(name)))?;
            if columns.contains(&column) {
                return Err(FileFault::RepeatedColumn(shown(name)));
            }
            columns.push(column);
        }
        if !columns.contains(&Column::Email) {
            return Err(FileFault::MissingColumn("email"));
        }
        Ok(Self { reader, seen, columns, record, rows: 0, ended: false })
    }

    fn row(&mut self) -> Result<Option<LegacyRow>, FileFault> {
        self.seen.since_row.set(0);
        let expected = self.reader.position().line();
        if !self.reader.read_byte_record(&mut self.record).map_err(|e| csv_fault(e, expected))? {
            return if self.rows == 0 { Err(FileFault::Empty) } else { Ok(None) };
        }
        self.rows += 1;
        let line = self.record.position().map_or(expected, csv::Position::line);
        let fields = text(&self.record, line)?;
        // The end of the file was reached within this row: either it has no line break after it, or its line break
        // belongs to a quotation that is still open.
        let is_unended = self.seen.at_end.get();
        let is_quotation_open = is_unended && self.seen.last_byte.get() == b'\n';
        if is_quotation_open || (is_unended && fields.len() != self.columns.len()) {
            return Err(FileFault::Truncated(line));
        }
        if fields.len() != self.columns.len() {
            let why = format!("the row has {} fields, the first line {}", fields.len(), self.columns.len());
            return Ok(Some(LegacyRow::unreadable(line, why)));
        }
        let mut row = LegacyRow { line, ..LegacyRow::default() };
        for (column, value) in self.columns.iter().zip(fields) {
            if let Err(why) = row.set(*column, value) {
                return Ok(Some(LegacyRow::unreadable(line, why)));
            }
        }
        if is_unended && row.looks_cut() {
            return Err(FileFault::Truncated(line));
        }
        Ok(Some(row))
    }
}

impl<R: Read> Iterator for CsvRows<R> {
    type Item = Result<LegacyRow, FileFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.row().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}

fn csv_fault(error: csv::Error, line: u64) -> FileFault {
    match error.into_kind() {
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => FileFault::RowTooLong(line),
        csv::ErrorKind::Io(error) => FileFault::Io(error),
        _ => FileFault::NotText(line),
    }
}

/// The fields as text. A NUL is text to UTF-8, and to nobody else.
fn text(record: &csv::ByteRecord, line: u64) -> Result<Vec<&str>, FileFault> {
    record
        .iter()
        .map(|field| std::str::from_utf8(field).ok().filter(|field| !field.contains('\0')))
        .collect::<Option<Vec<&str>>>()
        .ok_or(FileFault::NotText(line))
}

/// A column's name, short enough for a message and without what a terminal would obey.
fn shown(name: &str) -> String {
    name.trim().chars().filter(|c| !c.is_control()).take(40).collect()
}

struct JsonRows<R> {
    file: BufReader<R>,
    line: u64,
    rows: u64,
    ended: bool,
}

impl<R: Read> JsonRows<R> {
    fn row(&mut self) -> Result<Option<LegacyRow>, FileFault> {
        loop {
            let mut bytes = Vec::new();
            self.line += 1;
            (&mut self.file).take(LONGEST_ROW + 1).read_until(b'\n', &mut bytes).map_err(FileFault::Io)?;
            if bytes.is_empty() {
                return if self.rows == 0 { Err(FileFault::Empty) } else { Ok(None) };
            }
            if bytes.len() as u64 > LONGEST_ROW {
                return Err(FileFault::RowTooLong(self.line));
            }
            let has_line_break = bytes.ends_with(b"\n");
            let text = std::str::from_utf8(&bytes).ok().filter(|text| !text.contains('\0'));
            let text = match text {
                Some(text) => text.trim_start_matches('\u{feff}').trim(),
                // A character cut in half at the very end is a cut, not another encoding.
                None if !has_line_break && self.rows > 0 => return Err(FileFault::Truncated(self.line)),
                None => return Err(FileFault::NotText(self.line)),
            };
            if text.is_empty() {
                continue;
            }
            if self.rows == 0 && text.starts_with('[') {
                return Err(FileFault::JsonArray);
            }
            self.rows += 1;
            return self.parse(text, has_line_break).map(Some);
        }
    }

    fn parse(&self, text: &str, has_line_break: bool) -> Result<LegacyRow, FileFault> {
        let line = self.line;
        let row = match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => json_row(line, fields).unwrap_or_else(|why| LegacyRow::unreadable(line, why)),
            Err(_) if !has_line_break => return Err(FileFault::Truncated(line)),
            _ => LegacyRow::unreadable(line, "the line is not a JSON object"),
        };
        if !has_line_break && row.looks_cut() { Err(FileFault::Truncated(line)) } else { Ok(row) }
    }
}

fn json_row(line: u64, fields: serde_json::Map<String, Value>) -> Result<LegacyRow, String> {
    let mut row = LegacyRow { line, ..LegacyRow::default() };
    for (key, value) in fields {
        let column = Column::of(&key).ok_or_else(|| format!("key `{}` is not known", shown(&key)))?;
        match value {
            Value::Null => {}
            Value::String(text) => row.set(column, &text)?,
            Value::Number(number) if matches!(column, Column::Id | Column::IsActive) => {
                row.set(column, &number.to_string())?
            }
            Value::Bool(flag) if column == Column::IsActive => row.is_active = Some(flag),
            _ => return Err(format!("key `{}` has a value of another kind than it should", shown(&key))),
        }
    }
    Ok(row)
}

impl<R: Read> Iterator for JsonRows<R> {
    type Item = Result<LegacyRow, FileFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.row().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}

#[cfg(test)]
#[path = "legacy_file_tests.rs"]
mod tests;
