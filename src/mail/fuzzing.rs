//! Fuzz targets of this module.

use std::sync::OnceLock;

use chrono::DateTime;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Kind, Letter, Mailer};
use crate::config::{Config, MailConfig};
use crate::fuzzing::Input;

const HEADERS: [&str; 8] =
    ["from", "to", "subject", "date", "message-id", "auto-submitted", "mime-version", "content-type"];

fn mailer() -> &'static Mailer {
    static MAILER: OnceLock<Mailer> = OnceLock::new();
    MAILER.get_or_init(|| {
        let config = MailConfig {
            host: "localhost".to_owned(),
            from: "Sidle <sidle@example.com>".to_owned(),
            origin: "https://accounts.example.com".to_owned(),
            ..Config::load(None, []).expect("the defaults can be read").mail
        };
        Mailer::new(&config).expect("the settings are good").expect("there is a mail server")
    })
}

fn letter(kind: Kind, recipient: &str, name: &str, token: &str) -> Letter {
    let mut parameters = Map::new();
    parameters.insert("token".to_owned(), Value::from(token));
    parameters.insert("expires_at".to_owned(), Value::from("2026-01-02T12:00:00Z"));
    parameters.insert("is_old".to_owned(), Value::from(true));
    let created_at = DateTime::from_timestamp(1_767_268_800, 0).expect("a time");
    let (recipient, name) = (recipient.to_owned(), name.to_owned());
    Letter { mail_id: Uuid::from_u128(7), kind, recipient, name, created_at, parameters }
}

/// A byte for the kind, then address, token and name. Whatever they are: one recipient, the headers that every message
/// has and no others, no tag in the HTML that the template did not write, no link to anywhere else.
pub(crate) fn mail_messages(data: &[u8]) {
    let mut input = Input::new(data);
    let kinds = Kind::all();
    let kind = kinds[usize::from(input.byte()) % kinds.len()];
    let (recipient, token, name) = (input.text(), input.text(), input.rest_as_text());
    let letter = letter(kind, &recipient, &name, &token);
    let mailer = mailer();
    let Ok(composed) = mailer.compose(&letter) else { return };

    let text = str::from_utf8(composed.bytes()).expect("a message is ASCII or UTF-8");
    let (head, _) = text.split_once("\r\n\r\n").expect("a message has headers and a body");
    let names: Vec<String> = head
        .split("\r\n")
        // What begins with a blank goes on with the header before.
        .filter(|line| !line.starts_with([' ', '\t']))
        .map(|line| line.split(':').next().unwrap_or_default().to_ascii_lowercase())
        .collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    let mut expected = HEADERS.map(str::to_owned);
    expected.sort_unstable();
    assert_eq!(sorted, expected, "{head}");
    assert!(!head.replace("\r\n", "").contains(['\r', '\n']), "{head:?}");
    assert!(text.lines().all(|line| line.len() <= 998), "a line that mail servers cut");

    let rendered = mailer.render(&letter).expect("what was composed can be rendered");
    assert!(!rendered.subject.chars().any(char::is_control));
    let plain = self::letter(kind, "a@example.com", if name.is_empty() { "" } else { "Ann" }, &token);
    let plain = mailer.render(&plain).expect("a plain message can be rendered");
    let count = |text: &str, what: char| text.matches(what).count();
    for tag in ['<', '>', '"'] {
        assert_eq!(count(&rendered.html, tag), count(&plain.html, tag), "{}", rendered.html);
    }
    let elsewhere =
        rendered.html.split("<a href=").skip(1).find(|link| !link.starts_with("\"https://accounts.example.com/"));
    assert_eq!(elsewhere, None);
}
