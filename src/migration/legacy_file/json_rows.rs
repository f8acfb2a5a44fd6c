//! Rows of a file with a JSON object a line.

use std::io::{BufRead as _, BufReader, Read};

use serde_json::Value;

use super::row::{Column, FileFault, LONGEST_ROW, LegacyRow, Unreadable, shown};

pub(super) struct JsonRows<R> {
    file: BufReader<R>,
    line: u64,
    rows: u64,
    ended: bool,
}

impl<R: Read> JsonRows<R> {
    pub(super) fn new(file: R) -> Self {
        Self { file: BufReader::new(file), line: 0, rows: 0, ended: false }
    }

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
            Ok(Value::Object(fields)) => json_row(line, fields),
            Err(_) if !has_line_break => return Err(FileFault::Truncated(line)),
            _ => LegacyRow::unreadable(line, "the line is not a JSON object"),
        };
        if !has_line_break && row.looks_cut() { Err(FileFault::Truncated(line)) } else { Ok(row.finish()) }
    }
}

fn json_row(line: u64, fields: serde_json::Map<String, Value>) -> LegacyRow {
    let mut row = LegacyRow { line, ..LegacyRow::default() };
    for (key, value) in fields {
        let Some(column) = Column::of(&key) else {
            row.found(Unreadable::row(format!("key `{}` is not known", shown(&key))));
            continue;
        };
        match value {
            Value::Null => {}
            Value::String(text) => row.set(column, &text),
            Value::Number(number) if matches!(column, Column::Id | Column::IsActive) => {
                row.set(column, &number.to_string());
            }
            Value::Bool(flag) if column == Column::IsActive => row.is_active = Some(flag),
            other => row.found(Unreadable { field: column.field(), why: format!("is {}", kind(&other)) }),
        }
    }
    row
}

/// What a value is that cannot be what the field holds.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false instead of text",
        Value::Number(_) => "a number instead of text",
        Value::String(_) => "text",
        Value::Array(_) => "a list instead of one value",
        Value::Object(_) => "an object instead of one value",
    }
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
