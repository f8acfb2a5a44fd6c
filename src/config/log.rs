//! `[log]`

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::error::ConfigError;
use super::value;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Which events are written: a level, or a filter in the syntax of `RUST_LOG`.
    pub level: String,
    /// `json` or `text`.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl LogConfig {
    /// What is written.
    ///
    /// # Errors
    /// When it is no level and no filter.
    pub fn filter(&self) -> Result<EnvFilter, ConfigError> {
        let unusable = |why: String| {
            let levels = "off, error, warn, info, debug or trace";
            ConfigError::new("log.level", format!("must be {levels}, or a filter such as info,sidle::mail=debug{why}"))
        };
        let directives =
            directives(&self.level).ok_or_else(|| unusable(format!(", not {}", value::quoted(&self.level))))?;
        EnvFilter::try_new(directives).map_err(|error| unusable(format!(": {error}")))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.filter().map(drop)
    }
}

/// A level alone is that of Sidle's own lines. The libraries below write each frame of HTTP/2 and each statement of TLS at
/// `debug`, which hides everything else: they stay at `warn` unless the filter names them.
fn directives(level: &str) -> Option<String> {
    let mut plain = Vec::new();
    let mut named = Vec::new();
    for part in level.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse::<LevelFilter>() {
            Ok(level) => plain.extend([level.min(LevelFilter::WARN).to_string(), format!("sidle={level}")]),
            // Taken for the name of a crate otherwise, a level with a typo would switch everything else off.
            Err(_) if !part.contains(['=', '[']) => return None,
            Err(_) => named.push(part.to_owned()),
        }
    }
    plain.append(&mut named);
    (!plain.is_empty()).then(|| plain.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_that_of_sidles_own_lines() {
        let directives = |level: &str| directives(level).unwrap_or_default();
        assert_eq!(directives("debug"), "warn,sidle=debug");
        assert_eq!(directives("INFO"), "warn,sidle=info");
        assert_eq!(directives("error"), "error,sidle=error");
        assert_eq!(directives("off"), "off,sidle=off");
        assert_eq!(directives("h2=debug,info"), "warn,sidle=info,h2=debug");
        assert_eq!(directives("debug, sidle::db=trace"), "warn,sidle=debug,sidle::db=trace");
    }

    #[test]
    fn a_typo_is_no_filter() {
        for level in ["debgu", "", ",", "info,h2"] {
            assert_eq!(directives(level), None, "{level:?}");
        }
        let config = LogConfig { level: "sidle=louder".to_owned(), format: LogFormat::Text };
        assert!(config.filter().unwrap_err().to_string().starts_with("log.level must be "));
    }
}
