use proptest::prelude::*;

use super::*;

const HASH: &str = "$2b$10$kOPwQU8yz8wyPz4QFo1mYOtabGbRJL08UGLh6q2X2oK2SQkNFd8wy";

fn rows(text: &[u8], format: Format) -> Result<Vec<LegacyRow>, FileFault> {
    read(text, format)?.collect()
}

fn csv(text: &str) -> Result<Vec<LegacyRow>, FileFault> {
    rows(text.as_bytes(), Format::Csv)
}

fn json(text: &str) -> Result<Vec<LegacyRow>, FileFault> {
    rows(text.as_bytes(), Format::JsonLines)
}

#[test]
fn the_format_shows_in_the_name() {
    assert_eq!(Format::of(Path::new("a/users.CSV")), Some(Format::Csv));
    assert_eq!(Format::of(Path::new("users.jsonl")), Some(Format::JsonLines));
    assert_eq!(Format::of(Path::new("users.xlsx")), None);
}

#[test]
fn both_formats_give_the_same_rows() {
    let table = format!("id,email,password_hash,is_active,created_at\n7,ann@a.example,{HASH},1,2024-05-31 12:00:00\n");
    let object = format!(
        r#"{{"id":7,"email":"ann@a.example","password_hash":"{HASH}","is_active":true,"created_at":"2024-05-31T12:00:00Z"}}"#
    );
    let (csv, json) = (csv(&table).unwrap().remove(0), json(&object).unwrap().remove(0));
    assert_eq!(csv, LegacyRow { line: 2, ..json.clone() });
    assert_eq!(
        (json.line, json.is_active, json.created_at.unwrap().to_rfc3339().as_str()),
        (1, Some(true), "2024-05-31T12:00:00+00:00")
    );
}

#[test]
fn lines_are_those_of_the_file_also_after_quoted_line_breaks() {
    let rows = csv("email,full_name\na@a.example,\"Ann\nLee\"\nb@a.example,Bob\n").unwrap();
    assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(rows[0].full_name, "Ann\nLee");
    let rows = json("{\"email\":\"a@a.example\"}\n\n{\"email\":\"b@a.example\"}\n").unwrap();
    assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn lines_are_those_of_the_file_also_when_written_on_windows_or_with_blank_lines() {
    let lines = |text: &str| csv(text).unwrap().iter().map(|row| row.line).collect::<Vec<_>>();
    assert_eq!(lines("email\r\na@a.example\r\nb@a.example\r\n"), [2, 3]);
    assert_eq!(lines("email\r\n\r\n\r\na@a.example\r\n\r\nb@a.example"), [4, 6]);
    assert_eq!(lines("\u{feff}email\n\na@a.example\n\n\nb@a.example\n"), [3, 6]);
    assert_eq!(lines("email,full_name\r\na@a.example,\"Ann\r\nLee\"\r\nb@a.example,Bob\r\n"), [2, 4]);
    assert_eq!(lines("email\ra@a.example\rb@a.example\r"), [2, 3]);
    let long = format!("email\r\n{}", "a@a.example\r\n".repeat(5000));
    assert_eq!(lines(&long), (2..=5001).collect::<Vec<_>>());
}

#[test]
fn a_row_that_cannot_be_read_does_not_hide_the_others() {
    let rows = csv("email,is_active\na@a.example,maybe\nb@a.example\nc@a.example,1\n").unwrap();
    let unreadable = |row: &LegacyRow| row.unreadable.clone().unwrap();
    assert_eq!((unreadable(&rows[0]).field, rows[0].email.as_str()), ("is_active", "a@a.example"));
    assert!(unreadable(&rows[0]).why.contains("true, false"));
    assert!(unreadable(&rows[1]).why.contains("1 fields"));
    assert_eq!((rows[2].line, rows[2].email.as_str(), &rows[2].unreadable), (4, "c@a.example", &None));
    let rows = json("nonsense\n{\"email\":3}\n{\"passwort\":\"x\"}\n{\"email\":\"c@a.example\"}\n").unwrap();
    assert_eq!(rows.iter().filter(|row| row.unreadable.is_some()).count(), 3);
    assert_eq!(unreadable(&rows[1]), Unreadable { field: "email", why: "is a number instead of text".to_owned() });
    assert!(unreadable(&rows[2]).why.contains("passwort"));
    assert_eq!(rows[3].email, "c@a.example");
}

#[test]
fn a_file_without_the_right_columns_is_refused_at_once() {
    assert!(matches!(csv("id,username\n1,ann\n"), Err(FileFault::MissingColumn("email"))));
    assert!(matches!(csv("email,pasword_hash\n"), Err(FileFault::UnknownColumn(name)) if name == "pasword_hash"));
    assert!(matches!(csv("email,mail\n"), Err(FileFault::RepeatedColumn(_))));
    assert!(matches!(csv(""), Err(FileFault::Empty)));
    assert!(matches!(csv("email\n"), Err(FileFault::Empty)));
    assert!(matches!(json("\n\n"), Err(FileFault::Empty)));
    assert!(matches!(json("[{\"email\":\"a@a.example\"}]"), Err(FileFault::JsonArray)));
}

#[test]
fn a_binary_file_is_one_error() {
    for format in [Format::Csv, Format::JsonLines] {
        let sqlite = b"SQLite format 3\0\x10\0\x01\x01\0\x40 \x20\0\0\0\x0c\n\0\0";
        assert!(matches!(rows(sqlite, format), Err(FileFault::NotText(1))), "{format:?}");
        assert!(matches!(rows(b"\xff\xfee\0m\0a\0i\0l\0\n\0", format), Err(FileFault::NotText(1))), "{format:?}");
    }
    let latin1 = b"email,full_name\na@a.example,Ann\nb@a.example,J\xfcrgen\n";
    assert!(matches!(rows(latin1, Format::Csv), Err(FileFault::NotText(3))));
}

#[test]
fn a_file_cut_short_anywhere_in_its_last_row_is_noticed() {
    let table = format!("email,full_name,password_hash\na@a.example,Ann,{HASH}\nb@a.example,\"Bob, B.\",{HASH}\n");
    let last_row = table.trim_end().rfind('\n').unwrap() + 1;
    // A cut after the complete hash costs nothing but the line break.
    for end in last_row + 1..table.len() - 1 {
        let cut = csv(&table[..end]);
        // A hash of which only the first characters are left does not look like one; the import refuses the row.
        let lost = cut.as_ref().ok().and_then(|rows| rows.last()).is_some_and(|row| row.password_hash.is_empty());
        assert!(matches!(cut, Err(FileFault::Truncated(3))) || lost, "cut at {end}: {:?}", &table[last_row..end]);
    }
    assert_eq!(csv(&table[..table.len() - 1]).unwrap().len(), 2);

    let lines = format!("{{\"email\":\"a@a.example\"}}\n{{\"email\":\"b@a.example\",\"password_hash\":\"{HASH}\"}}\n");
    let last_row = lines.trim_end().rfind('\n').unwrap() + 1;
    for end in last_row + 1..lines.len() - 1 {
        assert!(matches!(json(&lines[..end]), Err(FileFault::Truncated(2))), "cut at {end}");
    }
    assert_eq!(json(&lines[..lines.len() - 1]).unwrap().len(), 2);
}

#[test]
fn an_open_quotation_does_not_swallow_the_file_unnoticed() {
    let open = "email,full_name\na@a.example,\"Ann\nb@a.example,Bob\nc@a.example,Cleo\n";
    let rows = csv(open);
    assert!(matches!(rows, Err(FileFault::Truncated(2))), "{rows:?}");
    let long = format!("email,full_name\na@a.example,\"{}", "x\n".repeat(1 << 20));
    assert!(matches!(csv(&long), Err(FileFault::RowTooLong(2))));
    assert!(matches!(json(&"x".repeat(2 << 20)), Err(FileFault::RowTooLong(1))));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = rows(&bytes, Format::Csv);
        let _ = rows(&bytes, Format::JsonLines);
        let mut with_header = b"email,full_name\n".to_vec();
        with_header.extend_from_slice(&bytes);
        let _ = rows(&with_header, Format::Csv);
    }
}
