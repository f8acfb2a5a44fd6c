//! Fuzz targets of this module.

use uuid::Uuid;

pub(crate) use super::import::fuzzing::import_rows;
use super::legacy_file::{self, FileFault, Format};
use super::names;
use crate::fuzzing::Input;

/// A CSV file of any bytes.
pub(crate) fn legacy_csv(data: &[u8]) {
    legacy_file(data, Format::Csv);
}

/// A JSON lines file of any bytes.
pub(crate) fn legacy_json(data: &[u8]) {
    legacy_file(data, Format::JsonLines);
}

/// Reading ends; lines only grow; what was read has no NUL and no more bytes than the file; a cause stays short.
fn legacy_file(data: &[u8], format: Format) {
    let rows = match legacy_file::read(data, format) {
        Ok(rows) => rows,
        Err(fault) => return check(&fault),
    };
    let mut lines = lines(data, format);
    let (mut line, mut count) = (0, 0);
    for row in rows {
        count += 1;
        assert!(count <= data.len() + 1, "more rows than bytes");
        let row = match row {
            Ok(row) => row,
            Err(fault) => return check(&fault),
        };
        assert!(row.line > line, "line {} after line {line}", row.line);
        line = row.line;
        if let Some(lines) = &mut lines {
            assert_eq!(lines.next(), Some(line), "the verdict on a row names another line");
        }
        let texts =
            [&row.legacy_id, &row.email, &row.username, &row.full_name, &row.password_hash, &row.tenant, &row.role];
        // JSON may spell a NUL out; the checks of each field find it.
        assert!(format == Format::JsonLines || texts.iter().all(|text| !text.contains('\0')));
        // A number in JSON may be written longer than it stood there.
        assert!(texts.iter().map(|text| text.len()).sum::<usize>() <= 2 * data.len() + 400);
        if let Some(why) = row.unreadable {
            assert!(texts[2..].iter().all(|text| text.is_empty()), "an unreadable row has more than its names");
            assert!(why.why.len() < 256 && !why.why.chars().any(char::is_control), "{why:?}");
        }
    }
}

/// The lines on which rows stand: those that are not blank, after the first for CSV. None where a quotation may hold line
/// breaks, or where lines end as on no system of today.
fn lines(data: &[u8], format: Format) -> Option<impl Iterator<Item = u64>> {
    let text = str::from_utf8(data).ok()?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
    let is_csv = format == Format::Csv;
    if is_csv && (text.contains('"') || text.replace("\r\n", "\n").contains('\r')) {
        return None;
    }
    let is_row = move |line: &str| {
        if is_csv { !line.is_empty() } else { !line.trim_start_matches('\u{feff}').trim().is_empty() }
    };
    let lines = text.split('\n').map(|line| line.trim_end_matches('\r').to_owned()).collect::<Vec<_>>();
    Some((1..).zip(lines).filter(move |(_, line)| is_row(line)).map(|(at, _)| at).skip(usize::from(is_csv)))
}

fn check(fault: &FileFault) {
    let text = fault.to_string();
    assert!(text.len() < 400 && !text.chars().any(char::is_control), "{text}");
}

/// Whatever a user is called, Kanidm accepts the name that is derived, also the hundredth choice, and the same user
/// gets the same one.
pub(crate) fn person_names(data: &[u8]) {
    let mut input = Input::new(data);
    let (username, email, full_name) = (input.text(), input.text(), input.rest_as_text());
    let username = (!username.is_empty()).then_some(username.as_ref());
    let first = names::first_choice(Uuid::from_u128(7), username, &email, &full_name);
    assert!(names::is_acceptable(&first), "{first}");
    assert_eq!(names::first_choice(Uuid::from_u128(7), username, &email, &full_name), first);
    for number in [1, 2, 10, 99, 100_000] {
        let choice = names::choice(&first, number);
        assert!(names::is_acceptable(&choice), "{choice}");
    }
}
