//! The templates: built-in ones, each of which a file of the same name in the operator's folder replaces. They are all
//! tried when the service starts, so that a broken one stops the start instead of a message.
//!
//! The first line of a text template is `Subject: ...`. Values are escaped in HTML, and lose line breaks and other
//! control characters everywhere, so that no name begins a line of its own.

use std::path::Path;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior};
use serde_json::{Map, Value, json};

use super::Kind;
use crate::config::{self, ConfigError, MailConfig};

macro_rules! built_in {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("templates/", $name)))),+]
    };
}

/// Every built-in template.
const BUILT_IN: &[(&str, &str)] = built_in![
    "layout.html",
    "layout.txt",
    "password_carried_over.txt",
    "password_carried_over.html",
    "password_changed.txt",
    "password_changed.html",
    "totp_enabled.txt",
    "totp_enabled.html",
    "totp_disabled.txt",
    "totp_disabled.html",
    "credentials_removed.txt",
    "credentials_removed.html",
    "recovery_codes_regenerated.txt",
    "recovery_codes_regenerated.html",
    "recovery_code_used.txt",
    "recovery_code_used.html",
    "second_factor_guessed.txt",
    "second_factor_guessed.html",
    "email_changed.txt",
    "email_changed.html",
    "kanidm_linked.txt",
    "kanidm_linked.html",
    "kanidm_unlinked.txt",
    "kanidm_unlinked.html",
    "verify_email.txt",
    "verify_email.html",
    "password_reset.txt",
    "password_reset.html",
    "kanidm_sign_in.txt",
    "kanidm_sign_in.html",
    "registration_attempt.txt",
    "registration_attempt.html",
    "enrolment_hint.txt",
    "enrolment_hint.html",
    "test.txt",
    "test.html",
];

/// A message as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Its subject: one line.
    pub subject: String,
    pub text: String,
    /// The same as HTML.
    pub html: String,
}

/// The templates, ready to be filled.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
}

impl Templates {
    /// The built-in templates and those of the operator's folder.
    ///
    /// # Errors
    /// Names the file and the line of a broken template.
    pub fn load(config: &MailConfig) -> Result<Self, ConfigError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|name| match name.ends_with(".html") {
            true => AutoEscape::Html,
            false => AutoEscape::None,
        });
        for (name, text) in BUILT_IN {
            environment.add_template(name, text).map_err(|error| broken(Path::new("(built in)"), &error))?;
        }
        let folder = config.templates.as_deref();
        if let Some(folder) = folder {
            replace(&mut environment, folder)?;
        }
        let templates = Self { environment };
        for kind in Kind::all() {
            let tried = templates.render(*kind, &sample(*kind));
            tried.map_err(|error| broken(folder.unwrap_or(Path::new("(built in)")), &error))?;
        }
        Ok(templates)
    }

    /// Fills the templates of a kind.
    ///
    /// # Errors
    /// When a template asks for something that is not there.
    pub fn render(&self, kind: Kind, values: &Value) -> Result<Rendered, Error> {
        let values = minijinja::Value::from(Serde(tame(values)));
        let part = |ending: &str| {
            let template = self.environment.get_template(&format!("{}.{ending}", kind.as_str()))?;
            template.render(&values)
        };
        let (text, html) = (part("txt")?, part("html")?);
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let Some(subject) = first.strip_prefix("Subject:") else {
            let problem = "the first line must be `Subject: ...`";
            return Err(Error::new(
                minijinja::ErrorKind::InvalidOperation,
                format!("{}.txt: {problem}", kind.as_str()),
            ));
        };
        Ok(Rendered { subject: one_line(subject), text: rest.trim_start().to_owned(), html })
    }
}

fn replace(environment: &mut Environment<'static>, folder: &Path) -> Result<(), ConfigError> {
    let unreadable = |path: &Path, error: std::io::Error| {
        let why = config::files::unreadable(&error);
        ConfigError::new("mail.templates", format!("has {}, which cannot be read: {why}", path.display()))
    };
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))?;
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !(name.ends_with(".txt") || name.ends_with(".html")) {
            continue;
        }
        if !BUILT_IN.iter().any(|(known, _)| *known == name) {
            // A name that was mistyped would silently leave the built-in one in place.
            let known = BUILT_IN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let text = format!("has {}, which replaces no template; the names are {known}", path.display());
            return Err(ConfigError::new("mail.templates", text));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
        environment.add_template_owned(name, text).map_err(|error| broken(folder, &error))?;
    }
    Ok(())
}

fn broken(folder: &Path, error: &Error) -> ConfigError {
    let name = error.name().unwrap_or("a template");
    let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    ConfigError::new(
        "mail.templates",
        format!("has {}{line}, which cannot be used: {detail}", folder.join(name).display()),
    )
}

/// What every template of a kind can use, with values to try it with.
pub fn sample(kind: Kind) -> Value {
    let mut values = json!({
        "service": "Sidle",
        "name": "Ann Lee",
        "address": "ann@example.com",
        "time": "1 January 2026, 12:00 UTC",
        "sign_in_link": "https://accounts.example.com/",
    });
    if let Value::Object(values) = &mut values {
        values.extend(sample_of(kind));
    }
    values
}

fn sample_of(kind: Kind) -> Map<String, Value> {
    let own = match kind {
        Kind::VerifyEmail | Kind::PasswordReset | Kind::EnrolmentHint => {
            json!({ "link": "https://accounts.example.com/#token=sidle", "expires_at": "2 January 2026, 12:00 UTC" })
        }
        Kind::EmailChanged => json!({ "is_old": true }),
        _ => json!({}),
    };
    match own {
        Value::Object(own) => own,
        _ => Map::new(),
    }
}

/// Texts without line breaks and other control characters.
fn tame(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(one_line(text)),
        Value::Array(values) => values.iter().map(tame).collect(),
        Value::Object(values) => Value::Object(values.iter().map(|(key, value)| (key.clone(), tame(value))).collect()),
        other => other.clone(),
    }
}

/// Whatever could end a line, or turn the direction of what follows, becomes a space.
fn one_line(text: &str) -> String {
    let ends_a_line = |c: char| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.replace(ends_a_line, " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(folder: Option<&Path>) -> MailConfig {
        MailConfig { templates: folder.map(Path::to_owned), ..Config::load(None, []).unwrap().mail }
    }

    #[test]
    fn every_kind_has_a_subject_a_text_and_html() {
        let templates = Templates::load(&config(None)).unwrap();
        for kind in Kind::all() {
            let rendered = templates.render(*kind, &sample(*kind)).unwrap();
            assert!(!rendered.subject.is_empty() && !rendered.subject.contains('\n'), "{kind:?}");
            assert!(rendered.text.len() > 40 && rendered.html.contains("</html>"), "{kind:?}");
            for link in ["link", "sign_in_link"].iter().filter_map(|key| sample(*kind)[key].as_str().map(str::to_owned))
            {
                assert!(!rendered.text.contains("{{"), "{kind:?}");
                if sample(*kind).get("link").is_some_and(|own| own == &link) {
                    assert!(rendered.text.contains(&link) && rendered.html.contains("#token=sidle"), "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn a_name_can_neither_begin_a_line_nor_bring_markup() {
        let templates = Templates::load(&config(None)).unwrap();
        let mut values = sample(Kind::PasswordChanged);
        values["name"] = "Eve\r\nBcc: all@example.com\u{2028}\r\n\r\n<img src=x onerror=alert(1)> \"'".into();
        let rendered = templates.render(Kind::PasswordChanged, &values).unwrap();
        assert!(rendered.text.lines().all(|line| !line.starts_with("Bcc:") && !line.starts_with("<img")));
        assert!(!rendered.html.contains("<img") && rendered.html.contains("&lt;img"), "{}", rendered.html);
        assert!(rendered.html.contains("Bcc: all") && !rendered.html.contains("\nBcc"));
    }

    #[test]
    fn a_subject_is_one_line_whatever_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("test.txt"), "Subject: Hello {{ name }}\n\nText of a few more words here.")
            .unwrap();
        let templates = Templates::load(&config(Some(folder.path()))).unwrap();
        let mut values = sample(Kind::Test);
        values["name"] = "Eve\r\nBcc: all@example.com".into();
        assert_eq!(templates.render(Kind::Test, &values).unwrap().subject, "Hello Eve  Bcc: all@example.com");
    }

    #[test]
    fn a_file_replaces_the_built_in_template_of_its_name_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("test.txt"), "Subject: Ours\n\nFor {{ name }}").unwrap();
        std::fs::write(folder.path().join("README"), "not a template").unwrap();
        let templates = Templates::load(&config(Some(folder.path()))).unwrap();
        let rendered = templates.render(Kind::Test, &sample(Kind::Test)).unwrap();
        assert_eq!((rendered.subject.as_str(), rendered.text.as_str()), ("Ours", "For Ann Lee"));
        assert!(rendered.html.contains("</html>"));
    }

    #[test]
    fn a_broken_template_is_named_with_its_file_and_line() {
        for (file, text, words) in [
            ("test.txt", "Subject: x\n\n{% if %}", "test.txt, line 3"),
            ("test.html", "<p>\n{{ nobody }}</p>", "test.html, line 2"),
            ("test.txt", "no subject", "Subject:"),
            ("tset.txt", "Subject: x", "tset.txt, which replaces no template"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(file), text).unwrap();
            let error = Templates::load(&config(Some(folder.path()))).unwrap_err().to_string();
            assert!(error.contains(words), "{file}: {error}");
        }
    }
}
