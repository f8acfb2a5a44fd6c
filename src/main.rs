//! The `sidle` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidle::cli::run()
}
