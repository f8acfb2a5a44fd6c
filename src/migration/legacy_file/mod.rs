//! Reading a legacy user table from a file: CSV with a header, or JSON lines. Runs where the file is, in the command-line
//! tool. A row that cannot be read is passed on as such, with its line; what shows that the file itself is not what it
//! should be (binary, cut short, no such columns) is one error for the whole file.

mod csv_rows;
mod json_rows;
mod row;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::Path;

use self::csv_rows::CsvRows;
use self::json_rows::JsonRows;
pub use self::row::{FileFault, LegacyRow, Unreadable};

/// How a file holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values, RFC 4180, with a line of column names.
    Csv,
    /// One JSON object a line.
    JsonLines,
}

impl Format {
    /// The format by the file's name.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            _ => None,
        }
    }
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
        Format::JsonLines => Ok(Box::new(JsonRows::new(file))),
    }
}
