//! Rows of a CSV file.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use super::{Column, FileFault, LONGEST_ROW, LegacyRow, shown};

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

pub(super) struct CsvRows<R> {
    reader: csv::Reader<Watched<R>>,
    seen: Rc<Seen>,
    columns: Vec<Column>,
    record: csv::ByteRecord,
    rows: u64,
    ended: bool,
}

impl<R: Read> CsvRows<R> {
    pub(super) fn new(file: R) -> Result<Self, FileFault> {
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
