//! A row of a legacy file, its columns, and what can be wrong with the file.

use std::fmt;
use std::io;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

use crate::credential::hash_form;

/// A longer row is no row of a user table.
pub(super) const LONGEST_ROW: u64 = 1 << 20;

/// A row as the file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyRow {
    /// Line of the file on which the row begins, from 1.
    pub line: u64,
    /// Column `id`.
    pub legacy_id: String,
    pub email: String,
    pub username: String,
    pub full_name: String,
    pub password_hash: String,
    pub is_active: Option<bool>,
    pub created_at: Option<DateTime<Utc>>,
    pub tenant: String,
    pub role: String,
    /// Why the row could not be read. Of the other fields, id and address may be filled then, to find the row by.
    pub unreadable: Option<Unreadable>,
}

/// Why a row could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The field at fault, as the contract names it; empty for the row as a whole.
    pub field: &'static str,
    /// What is wrong, without the row's content.
    pub why: String,
}

impl Unreadable {
    pub(super) fn row(why: impl Into<String>) -> Self {
        Self { field: "", why: why.into() }
    }
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
pub(super) enum Column {
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

pub(super) const COLUMNS: [(Column, &str, &[&str]); 9] = [
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
    pub fn of(name: &str) -> Option<Self> {
        let name = name.trim().to_lowercase();
        COLUMNS
            .into_iter()
            .find(|(_, known, others)| *known == name || others.contains(&name.as_str()))
            .map(|(c, ..)| c)
    }

    /// The field of the contract that the column fills.
    pub fn field(self) -> &'static str {
        match self {
            Self::Id => "legacy_id",
            Self::Email => "email",
            Self::Username => "username",
            Self::FullName => "full_name",
            Self::PasswordHash => "password_hash",
            Self::IsActive => "is_active",
            Self::CreatedAt => "created_at",
            Self::Tenant => "tenant",
            Self::Role => "role",
        }
    }
}

impl LegacyRow {
    pub(super) fn unreadable(line: u64, why: impl Into<String>) -> Self {
        Self { line, unreadable: Some(Unreadable::row(why)), ..Self::default() }
    }

    /// Notes what is wrong with the row. The first thing that was found stays.
    pub(super) fn found(&mut self, problem: Unreadable) {
        self.unreadable.get_or_insert(problem);
    }

    /// The row as it is passed on: of one that could not be read, only what it can be found by.
    pub(super) fn finish(self) -> Self {
        match self.unreadable {
            None => self,
            Some(why) => Self {
                line: self.line,
                legacy_id: self.legacy_id,
                email: self.email,
                unreadable: Some(why),
                ..Self::default()
            },
        }
    }

    pub(super) fn set(&mut self, column: Column, value: &str) {
        if let Err(why) = self.try_set(column, value) {
            self.found(Unreadable { field: column.field(), why: why.to_owned() });
        }
    }

    fn try_set(&mut self, column: Column, value: &str) -> Result<(), &'static str> {
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
    pub(super) fn looks_cut(&self) -> bool {
        self.password_hash.starts_with('$') && hash_form::read(&self.password_hash) == Err(hash_form::HashFault::Broken)
    }
}

pub(super) fn flag(value: &str) -> Result<Option<bool>, &'static str> {
    match value.to_ascii_lowercase().as_str() {
        "" => Ok(None),
        "true" | "t" | "1" | "yes" | "y" => Ok(Some(true)),
        "false" | "f" | "0" | "no" | "n" => Ok(Some(false)),
        _ => Err("is none of true, false, yes, no, 1 and 0"),
    }
}

pub(super) fn time(value: &str) -> Result<Option<DateTime<Utc>>, &'static str> {
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
    with_zone.or_else(|_| without_zone()).map(Some).map_err(|_| "is not a time such as 2024-05-31T12:00:00Z")
}

/// A column's name, short enough for a message and without what a terminal would obey.
pub(super) fn shown(name: &str) -> String {
    name.trim().chars().filter(|c| !c.is_control()).take(40).collect()
}
