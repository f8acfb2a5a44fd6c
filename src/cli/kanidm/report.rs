//! What a check found: a line for each thing, and what mends it.

use std::process::ExitCode;

use serde::Serialize;

use crate::cli::failure::{Result, exit};
use crate::cli::output::Out;

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Good,
    /// It works, and should be otherwise.
    Warning,
    /// It could not be found out.
    Unknown,
    /// It does not work like this.
    Missing,
}

/// One thing that was checked.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// Name for programs.
    check: &'static str,
    state: State,
    says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Everything that was checked.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub fn good(&mut self, check: &'static str, says: impl Into<String>) {
        self.add(check, State::Good, says.into(), None);
    }

    pub fn warning(&mut self, check: &'static str, says: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, State::Warning, says.into(), Some(remedy.into()));
    }

    pub fn unknown(&mut self, check: &'static str, says: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, State::Unknown, says.into(), Some(remedy.into()));
    }

    pub fn missing(&mut self, check: &'static str, says: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, State::Missing, says.into(), Some(remedy.into()));
    }

    fn add(&mut self, check: &'static str, state: State, says: String, remedy: Option<String>) {
        self.findings.push(Finding { check, state, says, remedy });
    }

    /// Prints it. The exit code tells whether anything is missing.
    pub fn print(&self, out: &Out) -> Result<ExitCode> {
        let missing = self.findings.iter().filter(|finding| finding.state == State::Missing).count();
        if out.is_json() {
            out.json(&serde_json::json!({"fit": missing == 0, "findings": self.findings}))?;
        } else {
            for finding in &self.findings {
                let state = match finding.state {
                    State::Good => "good",
                    State::Warning => "warning",
                    State::Unknown => "unknown",
                    State::Missing => "MISSING",
                };
                out.line(&format!("{state:7}  {}", finding.says))?;
                if let Some(remedy) = &finding.remedy {
                    out.line(&format!("         {remedy}"))?;
                }
            }
            out.line(&match missing {
                0 => "Kanidm is fit for Sidle.".to_owned(),
                1 => "1 thing is missing.".to_owned(),
                more => format!("{more} things are missing."),
            })?;
        }
        Ok(if missing == 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
    }
}
