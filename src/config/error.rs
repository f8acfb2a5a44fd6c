//! What is wrong with a setting.

/// What is wrong with the configuration, and what to do.
#[derive(Debug)]
pub struct ConfigError(String);

impl ConfigError {
    /// A problem, in words that name the setting.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}
