//! The commands.

use std::process::ExitCode;

/// Parses and runs.
pub fn run() -> ExitCode {
    ExitCode::SUCCESS
}
