//! What is wrong with settings.

/// Problems that are spelled out in one message; more are counted.
const SPELLED_OUT: usize = 8;

/// What is wrong with the configuration, and what would be accepted: everything that was found, since whoever corrects one
/// setting at a time starts as often as there are mistakes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

/// What is wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, such as `server.tls_key`; empty for what is wrong with the file as a whole.
    pub key: String,
    /// What follows its name in a sentence, such as "must be at least 1".
    pub text: String,
    /// What to do, where that does not follow from what must be.
    pub remedy: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.key.is_empty() { f.write_str(&self.text) } else { write!(f, "{} {}", self.key, self.text) }
    }
}

impl ConfigError {
    /// A problem with the setting `key`, in words that follow its name.
    pub fn new(key: impl Into<String>, text: impl Into<String>) -> Self {
        let mut error = Self::default();
        error.add(key, text);
        error
    }

    /// What to do about the problem that was added last.
    #[must_use]
    pub(super) fn remedy(mut self, text: impl Into<String>) -> Self {
        if let Some(last) = self.problems.last_mut() {
            last.remedy = Some(text.into());
        }
        self
    }

    /// One more problem.
    pub(super) fn add(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.problems.push(Problem { key: key.into(), text: text.into(), remedy: None });
    }

    /// Further problems.
    pub(super) fn add_all(&mut self, problems: Vec<Problem>) {
        self.problems.extend(problems);
    }

    /// The problems of another part.
    pub(super) fn take(&mut self, other: Result<(), Self>) {
        if let Err(other) = other {
            self.problems.extend(other.problems);
        }
    }

    /// `Ok` when nothing was found.
    pub(super) fn or_fine(self) -> Result<(), Self> {
        if self.problems.is_empty() { Ok(()) } else { Err(self) }
    }

    /// Each problem, in the order in which they were found.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, problem) in self.problems.iter().take(SPELLED_OUT).enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "; " })?;
        }
        match self.problems.len().saturating_sub(SPELLED_OUT) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for ConfigError {}
