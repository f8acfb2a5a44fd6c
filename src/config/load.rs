//! Reading the configuration: defaults, then the file, then `SIDLE_SECTION__KEY` of the environment.

use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::{Table, Value};
use zeroize::Zeroizing;

use super::error::ConfigError;
use super::{Config, KanidmConfig, MailConfig, PasswordConfig, SealConfig, Secret};
use crate::seal::Keyring;

/// The commented defaults: the documentation of every key.
pub const DEFAULTS: &str = include_str!("defaults.toml");

impl Config {
    /// Defaults, overlaid with `file` if given, overlaid with `environment`.
    ///
    /// # Errors
    /// Names the key, the file and line where it is known, and what would be accepted.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let Some(path) = file else { return Self::read(None, environment) };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::new(format!("cannot read {name}: {e}")))?;
        Self::read(Some((&name, &text)), environment)
    }

    /// As [`Config::load`], with the name and the text of the file.
    pub(super) fn read(
        file: Option<(&str, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let defaults: Table = DEFAULTS.parse().map_err(|e: toml::de::Error| ConfigError::new(e.message()))?;
        let mut merged = defaults.clone();
        if let Some((name, text)) = file {
            let table: Table = text.parse().map_err(|e: toml::de::Error| {
                // Not the library's own rendering: that quotes the line, which may hold a secret.
                let before = e.span().and_then(|span| text.get(..span.start));
                let line = before.map_or(0, |before| before.matches('\n').count() + 1);
                ConfigError::new(format!("{name}, line {line}: {}", e.message()))
            })?;
            overlay(&mut merged, table, &defaults, "", &format!("in {name}"))?;
        }
        let table = from_environment(environment, &defaults)?;
        overlay(&mut merged, table, &defaults, "", "in the environment")?;
        let config = Self::deserialize(Value::Table(merged)).map_err(|e| ConfigError::new(e.message().to_owned()))?;
        config.check()?;
        Ok(config)
    }

    /// What only a running service needs: a database, TLS unless it is to do without, and the files about passwords.
    ///
    /// # Errors
    /// Names the key that is missing, or the file that cannot be read.
    pub fn check_serving(&self) -> Result<(), ConfigError> {
        let server = &self.server;
        if !server.plaintext && (server.tls_certificate.is_none() || server.tls_key.is_none()) {
            return Err(ConfigError::new(
                "server.tls_certificate and server.tls_key are not set: set both, or server.plaintext = true where \
                 something else protects the connection",
            ));
        }
        if self.database.url.is_empty() {
            return Err(ConfigError::new(
                "database.url is not set: set it to a Postgres URL such as postgres://sidle_app@host:5432/sidle",
            ));
        }
        // Read for good when the parts are made; here so that `sidle config check` sees them.
        self.passwords.peppers()?;
        self.passwords.open_breached()?;
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.server.check()?;
        self.passwords.check()?;
        self.tokens.check()?;
        self.database.check().map_err(ConfigError::new)?;
        self.api_keys.check()?;
        self.mfa.check()?;
        self.sessions.check()?;
        self.telemetry.check()?;
        self.server.client_authorities().map_err(ConfigError::new)?;
        self.migration.check(&self.kanidm)?;
        self.enrolment.check()
    }
}

/// Puts `table` over `base`. Every key must exist in the defaults; an empty string there stands for "none".
fn overlay(base: &mut Table, table: Table, known: &Table, path: &str, origin: &str) -> Result<(), ConfigError> {
    for (key, value) in table {
        let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let Some(default) = known.get(&key) else {
            let nearest = known
                .keys()
                .map(|candidate| (strsim::jaro_winkler(candidate, &key), candidate))
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .filter(|(likeness, _)| *likeness > 0.75)
                .map(|(_, candidate)| format!("; did you mean `{candidate}`?"))
                .unwrap_or_else(|| {
                    format!("; known there: {}", known.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
                });
            return Err(ConfigError::new(format!("unknown key `{name}` {origin}{nearest}")));
        };
        match (value, default, base.get_mut(&key)) {
            (Value::Table(inner), Value::Table(known), Some(Value::Table(base))) => {
                overlay(base, inner, known, &name, origin)?;
            }
            (value, default, _) => {
                if !value.same_type(default) {
                    return Err(ConfigError::new(format!(
                        "`{name}` {origin} must be of type {}, not {}",
                        default.type_str(),
                        value.type_str()
                    )));
                }
                base.insert(key, value);
            }
        }
    }
    Ok(())
}

/// `SIDLE_SERVER__PLAINTEXT=true` sets `server.plaintext`. Variables without a double underscore are not settings.
fn from_environment(
    environment: impl IntoIterator<Item = (String, String)>,
    defaults: &Table,
) -> Result<Table, ConfigError> {
    let mut table = Table::new();
    for (variable, text) in environment {
        let Some(path) = variable.strip_prefix("SIDLE_") else { continue };
        let Some((section, key)) = path.split_once("__") else { continue };
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        let default = defaults.get(&section).and_then(|section| section.get(&key));
        let value = match default {
            Some(Value::Boolean(_)) => text.parse().ok().map(Value::Boolean),
            Some(Value::Integer(_)) => text.parse().ok().map(Value::Integer),
            Some(Value::Float(_)) => text.parse().ok().map(Value::Float),
            Some(Value::Array(_)) => Some(Value::Array(
                text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| Value::String(s.to_owned())).collect(),
            )),
            // An unknown key goes on as text, so that the check that names it sees it.
            _ => Some(Value::String(text)),
        };
        let value = value.ok_or_else(|| {
            let kind = default.map_or("string", Value::type_str);
            ConfigError::new(format!("{variable} must be of type {kind}"))
        })?;
        if let Some(section) = table.entry(section).or_insert_with(|| Value::Table(Table::new())).as_table_mut() {
            section.insert(key, value);
        }
    }
    Ok(table)
}

fn secret_or_file(secret: &Secret, file: Option<&PathBuf>, what: &str) -> Result<Secret, ConfigError> {
    match file {
        Some(path) if secret.is_empty() => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| ConfigError::new(format!("cannot read {what} from {}: {e}", path.display())))?;
            Ok(Secret::from(text.trim().to_owned()))
        }
        _ => Ok(secret.clone()),
    }
}

impl KanidmConfig {
    /// The API token, from the setting or its file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn token(&self) -> Result<Secret, ConfigError> {
        secret_or_file(&self.token, self.token_file.as_ref(), "the Kanidm token")
    }

    /// The OAuth2 client's secret, from the setting or its file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn client_secret(&self) -> Result<Secret, ConfigError> {
        secret_or_file(&self.client_secret, self.client_secret_file.as_ref(), "the OAuth2 client's secret")
    }
}

impl MailConfig {
    /// The mail server's password, from the setting or its file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn password(&self) -> Result<Secret, ConfigError> {
        secret_or_file(&self.password, self.password_file.as_ref(), "the mail server's password")
    }
}

impl SealConfig {
    /// The keyring.
    ///
    /// # Errors
    /// When there is no key, or one cannot be read.
    pub fn keyring(&self) -> Result<Keyring, ConfigError> {
        let text = secret_or_file(&self.keys, self.key_file.as_ref(), "the sealing keys")?;
        let keys = numbered_keys::<u32>(&text).ok_or_else(|| {
            ConfigError::new("a key in seal.keys is not ID:BASE64 of 32 bytes; make one with `sidle keygen`")
        })?;
        Keyring::new(keys).ok_or_else(|| {
            ConfigError::new("seal.keys is not set: make a key with `sidle keygen` and keep it outside the database")
        })
    }
}

/// A key of 32 bytes under a number of its own.
type NumberedKey<N> = (N, Zeroizing<[u8; 32]>);

/// Keys as `ID:BASE64`, by comma or line; none when one of them is something else.
fn numbered_keys<N: std::str::FromStr>(text: &Secret) -> Option<Vec<NumberedKey<N>>> {
    use base64::Engine as _;
    let entries = text.expose().split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty());
    let key = |entry: &str| {
        let (id, key) = entry.split_once(':')?;
        let bytes = Zeroizing::new(base64::engine::general_purpose::STANDARD.decode(key.trim()).ok()?);
        Some((id.trim().parse().ok()?, Zeroizing::new(bytes.as_slice().try_into().ok()?)))
    };
    entries.map(key).collect()
}

impl PasswordConfig {
    /// The peppers, the current one first; none when passwords are hashed without.
    ///
    /// # Errors
    /// When the file cannot be read, or a key in it.
    pub fn peppers(&self) -> Result<Vec<NumberedKey<i16>>, ConfigError> {
        let text = secret_or_file(&self.peppers, self.pepper_file.as_ref(), "the peppers")?;
        let mut seen = std::collections::HashSet::new();
        numbered_keys::<i16>(&text).filter(|keys| keys.iter().all(|(id, _)| *id > 0 && seen.insert(*id))).ok_or_else(
            || {
                ConfigError::new(
                    "passwords.peppers must be ID:BASE64 of 32 bytes each, with IDs of their own from 1 to 32767; \
                     `sidle keygen` makes such a key",
                )
            },
        )
    }

    /// The file of breached passwords, where there is one.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_breached(&self) -> Result<Option<std::fs::File>, ConfigError> {
        let open = |path: &PathBuf| {
            std::fs::File::open(path).map_err(|error| {
                ConfigError::new(format!("cannot read passwords.breached_file {}: {error}", path.display()))
            })
        };
        self.breached_file.as_ref().map(open).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sidle.toml");
        std::fs::write(&file, text).unwrap();
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::load(Some(&file), environment).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_complete_and_ask_for_tls() {
        let config = Config::load(None, []).unwrap();
        let error = config.check_serving().unwrap_err().to_string();
        assert!(error.contains("server.plaintext"), "{error}");
        let settings = [("SIDLE_SERVER__PLAINTEXT", "true"), ("SIDLE_DATABASE__URL", "postgres://a@b/c")];
        let config = Config::load(None, settings.map(|(key, value)| (key.into(), value.into()))).unwrap();
        assert!(config.check_serving().is_ok());
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        let error = load("[server]\nplain_text = true\n", &[]).unwrap_err();
        assert!(error.contains("`server.plain_text`") && error.contains("`plaintext`"), "{error}");
        let error = load("[sever]\n", &[]).unwrap_err();
        assert!(error.contains("`sever`") && error.contains("`server`"), "{error}");
        let error = load("", &[("SIDLE_SERVER__PLAINTXT", "true")]).unwrap_err();
        assert!(error.contains("`server.plaintxt`") && error.contains("environment"), "{error}");
    }

    #[test]
    fn a_broken_file_names_the_line_and_does_not_quote_it() {
        let error = load("[database]\nurl = \"postgres://a:secret@b\nx", &[]).unwrap_err();
        assert!(error.contains("line 3") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let plain = ("SIDLE_SERVER__PLAINTEXT", "true");
        let config = load("[passwords]\ncost = 10\n", &[plain, ("SIDLE_PASSWORDS__COST", "11")]).unwrap();
        assert_eq!(config.passwords.cost, 11);
        let config =
            load("[kanidm]\nredirect_uris = []\n", &[plain, ("SIDLE_KANIDM__REDIRECT_URIS", "https://a/, https://b/")]);
        assert_eq!(config.unwrap().kanidm.redirect_uris, ["https://a/", "https://b/"]);
        let error = load("", &[plain, ("SIDLE_PASSWORDS__COST", "many")]).unwrap_err();
        assert!(error.contains("SIDLE_PASSWORDS__COST"), "{error}");
        let error = load("[passwords]\ncost = \"many\"\n", &[plain]).unwrap_err();
        assert!(error.contains("passwords.cost") && error.contains("integer"), "{error}");
    }

    #[test]
    fn secrets_do_not_print() {
        let config =
            load("[database]\nurl = \"postgres://a:hunter2@b/c\"\n", &[("SIDLE_SERVER__PLAINTEXT", "true")]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn a_list_of_passwords_that_cannot_be_read_stops_the_start() {
        let mut config = Config::load(None, []).unwrap();
        config.server.plaintext = true;
        config.database.url = "postgres://a@b/c".to_owned().into();
        assert!(config.check_serving().is_ok());
        config.passwords.breached_file = Some("/nowhere/breached.txt".into());
        let error = config.check_serving().unwrap_err().to_string();
        assert!(error.contains("passwords.breached_file") && error.contains("/nowhere/breached.txt"), "{error}");
    }

    #[test]
    fn peppers_are_none_or_each_has_a_number_of_its_own() {
        let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [7; 32]);
        let peppers = |text: &str| {
            let mut passwords = Config::load(None, []).unwrap().passwords;
            passwords.peppers = text.to_owned().into();
            passwords.peppers().map(|keys| keys.into_iter().map(|(id, _)| id).collect::<Vec<_>>())
        };
        assert_eq!(peppers("").unwrap(), [0i16; 0]);
        assert_eq!(peppers(&format!("2:{key}, 1:{key}")).unwrap(), [2, 1]);
        for broken in [format!("0:{key}"), format!("1:{key},1:{key}"), format!("40000:{key}"), "1:AAAA".to_owned()] {
            assert!(peppers(&broken).unwrap_err().to_string().contains("passwords.peppers"), "{broken}");
        }
    }

    #[test]
    fn sealing_keys_are_read_or_refused_by_name() {
        let key = format!("3:{}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [7; 32]));
        let seal = |keys: &str| SealConfig { keys: keys.to_owned().into(), key_file: None };
        assert!(seal(&key).keyring().is_ok());
        for broken in ["", "3:AAAA", "x:y", &key[2..]] {
            assert!(seal(broken).keyring().unwrap_err().to_string().contains("sidle keygen"), "{broken:?}");
        }
    }
}
