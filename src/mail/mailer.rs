//! From a row of the outbox to the bytes that the mail server gets: the template filled, links to the configured origin
//! only, headers that no name or address can add to.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::{Address, Message as Email};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Kind;
use super::failure::{Failure, Unconnected};
use super::smtp::{Connection, Smtp};
use super::templates::{Rendered, Templates};
use crate::access::input;
use crate::config::{ConfigError, MailConfig};
use crate::network::Peer;

/// What a message is made from.
pub struct Letter {
    /// Id of its row, which gives the Message-ID.
    pub mail_id: Uuid,
    /// What it is about.
    pub kind: Kind,
    /// Where it goes.
    pub recipient: String,
    /// The recipient's name; empty when there is none or it is not to be trusted.
    pub name: String,
    /// When its cause happened.
    pub created_at: DateTime<Utc>,
    /// What else its template is filled with.
    pub parameters: Map<String, Value>,
}

/// A message that is ready to be sent.
pub struct Composed {
    to: Address,
    bytes: Vec<u8>,
}

impl Composed {
    /// The message as it goes to the server.
    #[cfg(any(test, fuzzing))]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Fills templates.
#[derive(Debug)]
pub struct Renderer {
    config: MailConfig,
    templates: Templates,
}

/// Makes messages and takes them to the server.
#[derive(Debug)]
pub struct Mailer {
    renderer: Renderer,
    smtp: Smtp,
    from: Mailbox,
    reply_to: Option<Mailbox>,
}

impl Renderer {
    /// The templates, with links to the configured origin. Needs no mail server.
    ///
    /// # Errors
    /// Names the setting, or the file and line of the template, that is not usable.
    pub fn new(config: &MailConfig) -> Result<Self, ConfigError> {
        check_origin(&config.origin)?;
        for (name, path) in [
            ("verify_path", &config.verify_path),
            ("reset_path", &config.reset_path),
            ("enrol_path", &config.enrol_path),
            ("sign_in_path", &config.sign_in_path),
        ] {
            let is_path = path.starts_with('/') && !path.starts_with("//");
            // Nothing that would need escaping in HTML: there links stand as they are.
            let is_plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~?=&;:%+".contains(c));
            if !is_path || !is_plain {
                return Err(ConfigError::new(format!("mail.{name}"), "must be a path on the origin, such as /page"));
            }
        }
        Ok(Self { config: config.clone(), templates: Templates::load(config)? })
    }

    /// Fills the templates of a message.
    ///
    /// # Errors
    /// When a template asks for something that is not there.
    pub fn render(&self, letter: &Letter) -> Result<Rendered, Failure> {
        let values = self.values(letter).ok_or(Failure::Unusable)?;
        self.templates.render(letter.kind, &values).map_err(|error| {
            // The template and its line, but not what it was filled with.
            tracing::error!(event = "mail_template_failed", kind = letter.kind.as_str(), template = error.name(),
                line = error.line(), cause = %error.kind());
            Failure::Unusable
        })
    }

    fn values(&self, letter: &Letter) -> Option<Value> {
        let mut values = letter.parameters.clone();
        if let Some(token) = values.remove("token") {
            values.insert("link".to_owned(), Value::String(self.link(letter.kind, token.as_str()?)?));
        }
        if let Some(at) = values.get("expires_at").and_then(Value::as_str) {
            let at = DateTime::parse_from_rfc3339(at).ok()?.to_utc();
            values.insert("expires_at".to_owned(), Value::String(readable(at)));
        }
        let texts = [
            ("service", self.config.service_name.clone()),
            ("name", letter.name.clone()),
            ("address", letter.recipient.clone()),
            ("time", readable(letter.created_at)),
            ("sign_in_link", format!("{}{}", self.config.origin, self.config.sign_in_path)),
        ];
        values.extend(texts.map(|(key, value)| (key.to_owned(), Value::String(value))));
        Some(Value::Object(values))
    }

    /// The page for a token. In the fragment, which browsers do not send to servers, so that it stands in no log.
    fn link(&self, kind: Kind, token: &str) -> Option<String> {
        let path = match kind {
            Kind::VerifyEmail => &self.config.verify_path,
            Kind::PasswordReset => &self.config.reset_path,
            Kind::EnrolmentHint => &self.config.enrol_path,
            _ => return None,
        };
        let is_token = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        is_token.then(|| format!("{}{path}#token={token}", self.config.origin))
    }
}

impl Mailer {
    /// The mailer; none without a mail server.
    ///
    /// # Errors
    /// Names the setting, or the file and line of the template, that is not usable.
    pub fn new(config: &MailConfig) -> Result<Option<Self>, ConfigError> {
        if !config.is_configured() {
            return Ok(None);
        }
        if config.keep < Duration::from_secs(3600) {
            return Err(ConfigError::new("mail.keep", "must be at least 1h: messages to an address are counted by it"));
        }
        let renderer = Renderer::new(config)?;
        let from = mailbox("mail.from", &config.from)?;
        let reply_to = match config.reply_to.as_str() {
            "" => None,
            given => Some(mailbox("mail.reply_to", given)?),
        };
        Ok(Some(Self { renderer, smtp: Smtp::new(config)?, from, reply_to }))
    }

    /// Connects to the mail server.
    ///
    /// # Errors
    /// What is wrong with the server, or why it refuses us.
    pub async fn connect(&self) -> Result<Connection, Unconnected> {
        self.smtp.connect().await
    }

    /// The mail server.
    pub(super) fn peer(&self) -> Peer {
        self.smtp.peer()
    }

    /// Sends a message that is ready.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn send(&self, connection: &mut Connection, composed: &Composed) -> Result<(), Failure> {
        connection.send(&self.from.email, &composed.to, &composed.bytes).await
    }

    /// Fills the templates of a message.
    ///
    /// # Errors
    /// When a template asks for something that is not there.
    pub fn render(&self, letter: &Letter) -> Result<Rendered, Failure> {
        self.renderer.render(letter)
    }

    /// Makes a message.
    ///
    /// # Errors
    /// When the address is none, or a template asks for something that is not there.
    pub fn compose(&self, letter: &Letter) -> Result<Composed, Failure> {
        // Imported addresses never went through the checks of the API.
        let address = input::email("recipient", &letter.recipient).map_err(|_| Failure::Unusable)?;
        let to: Address = address.parse().map_err(|_| Failure::Unusable)?;
        let rendered = self.render(letter)?;
        let mut builder = Email::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(rendered.subject)
            .date(SystemTime::from(letter.created_at))
            // The same at every attempt, so that a message that arrives twice can be recognised.
            .message_id(Some(format!("<{}@{}>", letter.mail_id, self.from.email.domain())))
            .header(AutoSubmitted);
        if let Some(reply_to) = self.reply_to.clone() {
            builder = builder.reply_to(reply_to);
        }
        let email = builder.multipart(MultiPart::alternative_plain_html(rendered.text, rendered.html));
        let email = email.map_err(|_| Failure::Unusable)?;
        Ok(Composed { to, bytes: email.formatted() })
    }
}

fn readable(time: DateTime<Utc>) -> String {
    time.format("%-d %B %Y, %H:%M UTC").to_string()
}

fn mailbox(setting: &str, value: &str) -> Result<Mailbox, ConfigError> {
    let unusable = || ConfigError::new(setting, "must be name@example.com or Name <name@example.com>");
    if value.contains(char::is_control) {
        return Err(unusable());
    }
    value.parse().map_err(|_| unusable())
}

/// Scheme, host and port, and nothing else: what is put behind it then stays a path.
fn check_origin(origin: &str) -> Result<(), ConfigError> {
    let unusable = || ConfigError::new("mail.origin", "must be an origin such as https://accounts.example.com");
    let (scheme, host) = origin.split_once("://").ok_or_else(unusable)?;
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.parse::<u16>().is_ok() { name } else { "" });
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    if !is_name || !(scheme == "https" || scheme == "http") {
        return Err(unusable());
    }
    if scheme == "http" && name != "localhost" && name != "127.0.0.1" {
        return Err(ConfigError::new("mail.origin", "must begin with https://, except on localhost"));
    }
    Ok(())
}

/// Keeps other machines from answering (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config() -> MailConfig {
        MailConfig {
            host: "localhost".to_owned(),
            from: "Sidle <sidle@example.com>".to_owned(),
            origin: "https://accounts.example.com".to_owned(),
            ..Config::load(None, []).unwrap().mail
        }
    }

    fn mailer() -> Mailer {
        Mailer::new(&config()).unwrap().unwrap()
    }

    fn letter(kind: Kind, recipient: &str, name: &str) -> Letter {
        let mut parameters = Map::new();
        parameters.insert("token".to_owned(), "sidle_pr_abc".into());
        parameters.insert("expires_at".to_owned(), "2026-01-02T12:00:00Z".into());
        Letter {
            mail_id: Uuid::from_u128(7),
            kind,
            recipient: recipient.to_owned(),
            name: name.to_owned(),
            created_at: DateTime::from_timestamp(1_767_268_800, 0).unwrap(),
            parameters,
        }
    }

    fn headers(composed: &Composed) -> String {
        let text = String::from_utf8(composed.bytes.clone()).unwrap();
        text.split("\r\n\r\n").next().unwrap().to_owned()
    }

    #[test]
    fn an_address_with_a_line_break_reaches_no_header() {
        for address in [
            "a@example.com\r\nBcc: all@example.com",
            "a@example.com\nX: y",
            "a@example.com, b@example.com",
            "<a@example.com>",
            "a@example.com>\r\nRCPT TO:<b@example.com",
        ] {
            let made = mailer().compose(&letter(Kind::PasswordReset, address, "Eve"));
            assert_eq!(made.err(), Some(Failure::Unusable), "{address:?}");
        }
    }

    #[test]
    fn a_name_with_a_line_break_reaches_no_header() {
        let made = mailer().compose(&letter(Kind::PasswordReset, "a@example.com", "Eve\r\nBcc: all@example.com"));
        let headers = headers(&made.unwrap());
        assert!(!headers.contains("Bcc"), "{headers}");
        assert!(
            headers.contains("To: a@example.com") && headers.contains("Auto-Submitted: auto-generated"),
            "{headers}"
        );
    }

    #[test]
    fn the_message_id_is_that_of_the_row() {
        let first = headers(&mailer().compose(&letter(Kind::PasswordReset, "a@example.com", "")).unwrap());
        let id = format!("Message-ID: <{}@example.com>", Uuid::from_u128(7));
        assert!(first.contains(&id), "{first}");
    }

    #[test]
    fn links_point_to_the_configured_origin_whatever_the_token_is() {
        let rendered = mailer().render(&letter(Kind::PasswordReset, "a@example.com", "Ann")).unwrap();
        assert!(rendered.text.contains("https://accounts.example.com/reset-password#token=sidle_pr_abc"));
        let mut evil = letter(Kind::PasswordReset, "a@example.com", "Ann");
        evil.parameters.insert("token".to_owned(), "@evil.example/".into());
        assert_eq!(mailer().render(&evil).err(), Some(Failure::Unusable));
    }

    #[test]
    fn settings_that_could_lead_elsewhere_are_refused() {
        for origin in [
            "",
            "accounts.example.com",
            "https://a.example/path",
            "https://a@b.example",
            "javascript://x",
            "http://a.example",
            "https://a.example#",
            "https://a.example:port",
        ] {
            assert!(Mailer::new(&MailConfig { origin: origin.to_owned(), ..config() }).is_err(), "{origin}");
        }
        for path in ["page", "//evil.example", "/a b", "/a#b", "/a\"onclick=\"x", "/a<b"] {
            assert!(Mailer::new(&MailConfig { reset_path: path.to_owned(), ..config() }).is_err(), "{path}");
        }
        for from in ["", "nobody", "a@example.com\r\nBcc: b@example.com"] {
            assert!(Mailer::new(&MailConfig { from: from.to_owned(), ..config() }).is_err(), "{from:?}");
        }
        let elsewhere = MailConfig { host: "mail.example".to_owned(), tls: crate::config::MailTls::None, ..config() };
        assert!(Mailer::new(&elsewhere).unwrap_err().to_string().contains("allow_plaintext"));
        assert!(Mailer::new(&MailConfig { allow_plaintext: true, ..elsewhere.clone() }).is_ok());
        let in_the_clear = MailConfig { username: "u".to_owned(), allow_plaintext: true, ..elsewhere };
        assert!(Mailer::new(&in_the_clear).unwrap_err().to_string().contains("clear"));
    }
}
