//! Fuzz targets of the configuration.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use toml::Table;

use super::{Config, SealConfig, Secret, tokens};
use crate::fuzzing::Input;

/// A flag; then lines of NAME=VALUE as in the environment, or a file. What is refused is refused in few words, which do
/// not repeat a secret.
pub(crate) fn configuration(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte() == b'E' {
        let text = input.rest_as_text();
        let variables = text.lines().filter_map(|line| line.split_once('='));
        check(None, variables.map(|(name, value)| (format!("SIDLE_{name}"), value.to_owned())), text.len());
        return;
    }
    let text = input.rest_as_text();
    check(Some(&text), None, text.len());
    // Where the file is one that can be read, a secret in it stays in it.
    const SECRET: &str = "correct-horse-battery";
    if text.parse::<Table>().is_ok() && !text.contains(SECRET) {
        for (section, key) in [("kanidm", "token"), ("database", "url"), ("seal", "keys")] {
            let text = format!("{text}\n[{section}]\n{key} = \"{SECRET}\"\n");
            let told = check(Some(&text), None, text.len());
            assert!(!told.contains(SECRET), "a refusal repeats a secret: {told}");
        }
    }
}

/// Why the settings are refused, or how they print.
fn check(file: Option<&str>, environment: impl IntoIterator<Item = (String, String)>, length: usize) -> String {
    let told = match Config::read(file.map(|text| ("fuzzed.toml", text)), environment) {
        Ok(config) => {
            let _ = config.check_serving();
            return format!("{config:?}");
        }
        Err(error) => error.to_string(),
    };
    assert!(told.len() < 2048 + 4 * length, "{told}");
    told
}

/// A key file of any bytes gives keys, or a refusal that repeats nothing of it.
pub(crate) fn sealing_keys(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(secret) = tokens::secret(&text) {
        assert!(secret.len() >= 32 && STANDARD.encode(&*secret) == text.trim(), "a key has two spellings");
    }
    let config = SealConfig { keys: Secret::from(text.into_owned()), key_file: None };
    if let Err(error) = config.keyring() {
        let told = error.to_string();
        assert!(told.len() < 200 && told.is_ascii(), "{told}");
    }
    let mut passwords = Config::load(None, []).expect("the defaults can be read").passwords;
    passwords.peppers = config.keys;
    match passwords.peppers() {
        Ok(peppers) => assert!(peppers.iter().all(|(id, _)| *id > 0)),
        Err(error) => {
            let told = error.to_string();
            assert!(told.len() < 200 && told.is_ascii(), "{told}");
        }
    }
}
