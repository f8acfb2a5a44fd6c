//! Reading the configuration: defaults, then the file, then `SIDLE_SECTION__KEY` of the environment.

use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::{Table, Value};
use zeroize::Zeroizing;

use super::error::{ConfigError, Problem};
use super::{Config, KanidmConfig, MailConfig, PasswordConfig, SealConfig, Secret, files, value};
use crate::seal::Keyring;

/// The commented defaults: the documentation of every key.
pub const DEFAULTS: &str = include_str!("defaults.toml");

impl Config {
    /// Defaults, overlaid with `file` if given, overlaid with `environment`.
    ///
    /// # Errors
    /// Each setting that is wrong, where it was set, and what would be accepted; the line of a file that is no TOML.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let Some(path) = file else { return Self::read(None, environment) };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::new("", format!("cannot read the configuration file {name}: {}", files::unreadable(&error)))
        })?;
        Self::read(Some((&name, &text)), environment)
    }

    /// As [`Config::load`], with the name and the text of the file.
    pub(super) fn read(
        file: Option<(&str, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let parsed: Result<Table, _> = DEFAULTS.parse();
        let defaults = parsed.map_err(|e: toml::de::Error| ConfigError::new("", e.message()))?;
        let mut layers =
            Layers { defaults: &defaults, merged: defaults.clone(), set: Vec::new(), found: ConfigError::default() };
        if let Some((name, text)) = file {
            let table: Table = text.parse().map_err(|e: toml::de::Error| {
                // Not the library's own rendering: that quotes the line, which may hold a secret.
                let before = e.span().and_then(|span| text.get(..span.start));
                let line = before.map_or(0, |before| before.matches('\n').count() + 1);
                ConfigError::new("", format!("{name} is not TOML: line {line}: {}", e.message()))
            })?;
            layers.overlay(table, &format!("in {name}"));
        }
        let table = from_environment(environment, &defaults, &mut layers.found);
        layers.overlay(table, "in the environment");
        let config = layers.finish()?;
        config.check()?;
        Ok(config)
    }

    /// What only a running service needs: a database, TLS unless it is to do without, keys, and files that can be read, by
    /// nobody else where they hold secrets.
    ///
    /// # Errors
    /// Each setting that is missing, or whose file cannot be used.
    pub fn check_serving(&self) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        for (key, path) in
            [("server.tls_certificate", &self.server.tls_certificate), ("server.tls_key", &self.server.tls_key)]
        {
            if !self.server.plaintext && path.is_none() {
                found.add(
                    key,
                    "is not set: set it, or server.plaintext = true where something else protects the connection",
                );
            }
        }
        if self.database.url.is_empty() {
            found.add(
                "database.url",
                "is not set: set it to a Postgres URL such as postgres://sidle_app@host:5432/sidle",
            );
        }
        // Read for good when the parts are made; here so that everything is reported together.
        found.take(self.seal.keyring().map(drop));
        found.take(self.passwords.peppers().map(drop));
        found.take(self.passwords.open_breached().map(drop));
        found.take(self.tokens.old_clients().map(drop));
        if !self.kanidm.url.is_empty() {
            found.take(self.kanidm.token().map(drop));
            found.take(self.kanidm.client_secret().map(drop));
        }
        if !self.files.allow_loose_permissions {
            found.add_all(self.loose_files());
        }
        found.or_fine()
    }

    /// Files with secrets that others can read, with what to do.
    pub fn loose_files(&self) -> Vec<Problem> {
        files::exposed_among(self.secret_files())
    }

    /// Setting and path of each file that a secret is read from.
    fn secret_files(&self) -> Vec<(&'static str, PathBuf)> {
        let Self { server, seal, passwords, kanidm, mail, tokens, .. } = self;
        let mut files = Vec::new();
        let mut add = |key, path: &Option<PathBuf>, is_used: bool| {
            files.extend(path.clone().filter(|_| is_used).map(|path| (key, path)));
        };
        add("server.tls_key", &server.tls_key, !server.plaintext);
        add("seal.key_file", &seal.key_file, seal.keys.is_empty());
        add("passwords.pepper_file", &passwords.pepper_file, passwords.peppers.is_empty());
        add("kanidm.token_file", &kanidm.token_file, kanidm.token.is_empty());
        add("kanidm.client_secret_file", &kanidm.client_secret_file, kanidm.client_secret.is_empty());
        add("mail.password_file", &mail.password_file, mail.password.is_empty());
        let old_clients = tokens.old_client_files().unwrap_or_default();
        files.extend(old_clients.into_iter().map(|(_, path)| ("tokens.hs256_clients", path.to_owned())));
        files
    }

    fn check(&self) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        for checked in [
            self.server.check(),
            self.passwords.check(),
            self.tokens.check(),
            self.database.check(),
            self.api_keys.check(),
            self.mfa.check(),
            self.sessions.check(),
            self.telemetry.check(),
            self.log.check(),
            self.migration.check(&self.kanidm),
            self.enrolment.check(),
        ] {
            found.take(checked);
        }
        found.or_fine()
    }
}

/// The settings while they are put together.
struct Layers<'d> {
    defaults: &'d Table,
    merged: Table,
    /// Section, key and where it was set, of what differs from the defaults; later ones win.
    set: Vec<(String, String, String)>,
    found: ConfigError,
}

impl Layers<'_> {
    /// Puts `table` over what is there. Every key must exist in the defaults.
    fn overlay(&mut self, table: Table, origin: &str) {
        for (section, value) in table {
            let Some(Value::Table(known)) = self.defaults.get(&section) else {
                self.found.add(&*section, unknown(&section, self.defaults, origin));
                continue;
            };
            let Value::Table(keys) = value else {
                self.found.add(&*section, format!("{origin} must be a section, [{section}]"));
                continue;
            };
            for (key, value) in keys {
                let name = format!("{section}.{key}");
                let Some(default) = known.get(&key) else {
                    self.found.add(name, unknown(&key, known, origin));
                    continue;
                };
                if !value.same_type(default) {
                    let (wanted, given) = (default.type_str(), value.type_str());
                    self.found.add(name, format!("{origin} must be of type {wanted}, not {given}"));
                    continue;
                }
                if let Some(merged) = self.merged.get_mut(&section).and_then(Value::as_table_mut) {
                    merged.insert(key.clone(), value);
                    self.set.push((section.clone(), key, origin.to_owned()));
                }
            }
        }
    }

    /// Reads the values.
    fn finish(mut self) -> Result<Config, ConfigError> {
        match Config::deserialize(Value::Table(self.merged.clone())) {
            Ok(config) => self.found.or_fine().map(|()| config),
            Err(error) => {
                self.find_unreadable();
                if self.found.problems().is_empty() {
                    self.found.add("", error.message());
                }
                Err(self.found)
            }
        }
    }

    /// Which values cannot be read: those that cannot be read alone either, with defaults for all others.
    fn find_unreadable(&mut self) {
        for (section, key, origin) in std::mem::take(&mut self.set) {
            let Some(value) = self.merged.get(&section).and_then(|keys| keys.get(&key)).cloned() else { continue };
            let mut alone = self.defaults.clone();
            let Some(keys) = alone.get_mut(&section).and_then(Value::as_table_mut) else { continue };
            let default = keys.insert(key.clone(), value.clone());
            let Err(error) = Config::deserialize(Value::Table(alone)) else { continue };
            let name = format!("{section}.{key}");
            if !self.found.problems().iter().any(|known| known.key == name) {
                self.found.add(name, format!("{origin} {}", must(default.as_ref(), &value, error.message())));
            }
        }
    }
}

/// What a value must be, by what stands there by default; else in the words of whoever could not read it.
fn must(default: Option<&Value>, value: &Value, message: &str) -> String {
    match (default.and_then(Value::as_str), value.as_str()) {
        (Some(default), Some(text)) if value::duration(default).is_some() => value::no_duration(text),
        (Some(default), Some(text)) if default.parse::<std::net::SocketAddr>().is_ok() => value::no_address(text),
        _ if message.starts_with("must") => message.to_owned(),
        _ => format!("cannot be read: {message}"),
    }
}

/// What is wrong with a name that nothing has.
fn unknown(name: &str, known: &Table, origin: &str) -> String {
    let likeness = |known: &String| strsim::jaro_winkler(known, name);
    let nearest = known.keys().map(|known| (likeness(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match nearest.filter(|(likeness, _)| *likeness > 0.75) {
        Some((_, nearest)) => format!("; did you mean `{nearest}`?"),
        None => String::new(),
    };
    format!("{origin} is no setting{hint}")
}

/// `SIDLE_SERVER__PLAINTEXT=true` sets `server.plaintext`. Variables without a double underscore are not settings.
fn from_environment(
    environment: impl IntoIterator<Item = (String, String)>,
    defaults: &Table,
    found: &mut ConfigError,
) -> Table {
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
        let Some(value) = value else {
            let kind = default.map_or("string", Value::type_str);
            found.add(format!("{section}.{key}"), format!("in the environment ({variable}) must be of type {kind}"));
            continue;
        };
        if let Some(section) = table.entry(section).or_insert_with(|| Value::Table(Table::new())).as_table_mut() {
            section.insert(key, value);
        }
    }
    table
}

fn secret_or_file(secret: &Secret, file: Option<&PathBuf>, key: &str) -> Result<Secret, ConfigError> {
    match file {
        Some(path) if secret.is_empty() => Ok(Secret::from(files::read_text(key, path)?.trim().to_owned())),
        _ => Ok(secret.clone()),
    }
}

impl KanidmConfig {
    /// The API token, from the setting or its file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn token(&self) -> Result<Secret, ConfigError> {
        secret_or_file(&self.token, self.token_file.as_ref(), "kanidm.token_file")
    }

    /// The OAuth2 client's secret, from the setting or its file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn client_secret(&self) -> Result<Secret, ConfigError> {
        secret_or_file(&self.client_secret, self.client_secret_file.as_ref(), "kanidm.client_secret_file")
    }
}

impl MailConfig {
    /// The mail server's password, from the setting or its file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn password(&self) -> Result<Secret, ConfigError> {
        secret_or_file(&self.password, self.password_file.as_ref(), "mail.password_file")
    }
}

/// The setting that keys came from, and what is said of it.
fn key_setting<'k>(text: &Secret, file: Option<&PathBuf>, keys: &'k str, key_file: &'k str) -> (&'k str, String) {
    match file {
        Some(path) if text.is_empty() => (key_file, format!("names {}, which", path.display())),
        _ => (keys, String::new()),
    }
}

impl SealConfig {
    /// The keyring.
    ///
    /// # Errors
    /// When there is no key, or one cannot be read.
    pub fn keyring(&self) -> Result<Keyring, ConfigError> {
        let text = secret_or_file(&self.keys, self.key_file.as_ref(), "seal.key_file")?;
        let (setting, place) = key_setting(&self.keys, self.key_file.as_ref(), "seal.keys", "seal.key_file");
        let keys = numbered_keys::<u32>(&text).ok_or_else(|| {
            let text = "holds a key that is not ID:BASE64 of 32 bytes; make one with `sidle keygen`";
            ConfigError::new(setting, format!("{place} {text}").trim_start())
        })?;
        Keyring::new(keys).ok_or_else(|| match place.as_str() {
            "" => ConfigError::new(
                "seal.keys",
                "is not set: make a key with `sidle keygen --out FILE`, keep it outside the database, and name it in \
                 seal.key_file",
            ),
            place => {
                ConfigError::new(setting, format!("{place} holds no key; make one with `sidle keygen --out FILE`"))
            }
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
        let text = secret_or_file(&self.peppers, self.pepper_file.as_ref(), "passwords.pepper_file")?;
        let (setting, place) =
            key_setting(&self.peppers, self.pepper_file.as_ref(), "passwords.peppers", "passwords.pepper_file");
        let mut seen = std::collections::HashSet::new();
        let keys = numbered_keys::<i16>(&text);
        keys.filter(|keys| keys.iter().all(|(id, _)| *id > 0 && seen.insert(*id))).ok_or_else(|| {
            let text = "must be ID:BASE64 of 32 bytes each, with IDs of their own from 1 to 32767; `sidle keygen` makes \
                        such a key";
            ConfigError::new(setting, format!("{place} {text}").trim_start())
        })
    }

    /// The file of breached passwords, where there is one.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_breached(&self) -> Result<Option<std::fs::File>, ConfigError> {
        let open = |path: &PathBuf| {
            std::fs::File::open(path).map_err(|error| files::cannot_read("passwords.breached_file", path, &error))
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
        let key = format!("1:{}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [7; 32]));
        let settings = [
            ("SIDLE_SERVER__PLAINTEXT", "true"),
            ("SIDLE_DATABASE__URL", "postgres://a@b/c"),
            ("SIDLE_SEAL__KEYS", key.as_str()),
        ];
        let config = Config::load(None, settings.map(|(key, value)| (key.into(), value.into()))).unwrap();
        assert!(config.check_serving().is_ok());
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        let error = load("[server]\nplain_text = true\n", &[]).unwrap_err();
        assert!(error.contains("server.plain_text in /") && error.contains("`plaintext`"), "{error}");
        let error = load("[sever]\n", &[]).unwrap_err();
        assert!(error.contains("sever in /") && error.contains("`server`"), "{error}");
        let error = load("", &[("SIDLE_SERVER__PLAINTXT", "true")]).unwrap_err();
        assert!(error.contains("server.plaintxt in the environment") && error.contains("`plaintext`"), "{error}");
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
        config.seal.keys = format!("1:{}", "A".repeat(43) + "=").into();
        assert!(config.check_serving().is_ok());
        config.passwords.breached_file = Some("/nowhere/breached.txt".into());
        let error = config.check_serving().unwrap_err().to_string();
        assert!(error.contains("passwords.breached_file") && error.contains("/nowhere/breached.txt"), "{error}");
    }

    #[test]
    fn every_setting_that_is_wrong_is_reported_with_where_it_was_set() {
        let text = "[server]\nidle_timeout = \"5 minuts\"\ngrpc_address = \"localhost\"\nplain = 1\nplaintext = 1\n\
                    [log]\nformat = \"xml\"\n[tokens]\nrotate_after = \"later\"\n[srever]\n";
        let error = load(text, &[("SIDLE_PASSWORDS__COST", "many")]).unwrap_err();
        for part in [
            "server.idle_timeout in /",
            "such as 15m or 1h 30m, not \"5 minuts\"",
            "server.grpc_address in /",
            "such as 127.0.0.1:9464, not \"localhost\"",
            "server.plain in /",
            "server.plaintext in /",
            "log.format in /",
            "`json`",
            "tokens.rotate_after in /",
            "srever in /",
            "passwords.cost in the environment (SIDLE_PASSWORDS__COST)",
        ] {
            assert!(error.contains(part) || error.contains("more"), "{part}: {error}");
        }
        let settings = [("SIDLE_PASSWORDS__COST", "3"), ("SIDLE_MFA__ISSUER", "a:b"), ("SIDLE_TOKENS__RSA_BITS", "1")];
        let error = load("", &settings).unwrap_err();
        assert!(["passwords.cost", "mfa.issuer", "tokens.rsa_bits"].iter().all(|key| error.contains(key)), "{error}");
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
