//! Rows of a CSV file.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::rc::Rc;

use super::row::{Column, FileFault, LONGEST_ROW, LegacyRow, shown};

/// How far the reader below has read, shared with the code that reads through it.
#[derive(Debug, Default)]
struct ReaderState {
    since_row: Cell<u64>,
    last_byte: Cell<u8>,
    at_end: Cell<bool>,
    length: Cell<u64>,
    /// Carriage returns and line feeds that no row's line has been counted by yet, with where they stand.
    breaks: RefCell<VecDeque<(u64, u8)>>,
}

/// Bounds the length of a row, and remembers whether the file ended with a line break.
struct Watched<R> {
    file: R,
    state: Rc<ReaderState>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.state.since_row.get() > LONGEST_ROW {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let length = self.file.read(buffer)?;
        self.state.since_row.set(self.state.since_row.get() + length as u64);
        let before = self.state.length.get();
        let breaks = (before..).zip(&buffer[..length]).filter(|(_, byte)| matches!(byte, b'\r' | b'\n'));
        self.state.breaks.borrow_mut().extend(breaks.map(|(at, byte)| (at, *byte)));
        self.state.length.set(before + length as u64);
        match buffer[..length].last() {
            Some(last) => self.state.last_byte.set(*last),
            None => self.state.at_end.set(true),
        }
        Ok(length)
    }
}

/// Where in the file a row begins. The reader's own count of lines is behind by one where lines end in CR LF, since it
/// ends a row at the CR, and does not count the blank lines before a row.
#[derive(Debug)]
struct Lines {
    line: u64,
    last_cr: Option<u64>,
}

impl Lines {
    /// The line of the row that the reader found from byte `start` on.
    fn of(&mut self, state: &ReaderState, mut start: u64) -> u64 {
        let mut breaks = state.breaks.borrow_mut();
        while let Some((at, byte)) = breaks.front().copied()
            && at <= start
        {
            breaks.pop_front();
            // A break where the row should begin belongs to the one before, or to a blank line.
            start += u64::from(at == start);
            let is_counted = byte == b'\n' && self.last_cr.is_some_and(|cr| cr + 1 == at);
            self.line += u64::from(!is_counted);
            self.last_cr = (byte == b'\r').then_some(at);
        }
        self.line
    }
}

pub(super) struct CsvRows<R> {
    reader: csv::Reader<Watched<R>>,
    state: Rc<ReaderState>,
    lines: Lines,
    columns: Vec<Column>,
    record: csv::ByteRecord,
    rows: u64,
    ended: bool,
}

impl<R: Read> CsvRows<R> {
    pub(super) fn new(file: R) -> Result<Self, FileFault> {
        let state = Rc::<ReaderState>::default();
        let watched = Watched { file, state: Rc::clone(&state) };
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
        let lines = Lines { line: 1, last_cr: None };
        Ok(Self { reader, state, lines, columns, record, rows: 0, ended: false })
    }

    fn row(&mut self) -> Result<Option<LegacyRow>, FileFault> {
        self.state.since_row.set(0);
        let start = self.reader.position().byte();
        let is_row = self.reader.read_byte_record(&mut self.record);
        let line = self.lines.of(&self.state, start);
        if !is_row.map_err(|e| csv_fault(e, line))? {
            return if self.rows == 0 { Err(FileFault::Empty) } else { Ok(None) };
        }
        self.rows += 1;
        let fields = text(&self.record, line)?;
        // The end of the file was reached within this row: either it has no line break after it, or its line break
        // belongs to a quotation that is still open.
        let is_unended = self.state.at_end.get();
        let is_quotation_open = is_unended && self.state.last_byte.get() == b'\n';
        if is_quotation_open || (is_unended && fields.len() != self.columns.len()) {
            return Err(FileFault::Truncated(line));
        }
        if fields.len() != self.columns.len() {
            let why = format!("the row has {} fields, the first line {}", fields.len(), self.columns.len());
            return Ok(Some(LegacyRow::unreadable(line, why)));
        }
        let mut row = LegacyRow { line, ..LegacyRow::default() };
        for (column, value) in self.columns.iter().zip(fields) {
            row.set(*column, value);
        }
        if is_unended && row.looks_cut() {
            return Err(FileFault::Truncated(line));
        }
        Ok(Some(row.finish()))
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

/// The fields as text. A NUL is valid UTF-8, but not text.
fn text(record: &csv::ByteRecord, line: u64) -> Result<Vec<&str>, FileFault> {
    record
        .iter()
        .map(|field| std::str::from_utf8(field).ok().filter(|field| !field.contains('\0')))
        .collect::<Option<Vec<&str>>>()
        .ok_or(FileFault::NotText(line))
}
