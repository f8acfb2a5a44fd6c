//! Asking for secrets on the terminal.

use std::io::{BufRead as _, IsTerminal as _};

use zeroize::Zeroizing;

use super::failure::{Failure, Result};

/// A password, from wherever it cannot be seen.
pub(super) fn password(question: &str) -> Result<Zeroizing<String>> {
    password_of("SIDLE_PASSWORD", question)
}

/// As [`password`], of a user other than the caller, from another variable of the environment.
pub(super) fn password_of(variable: &str, question: &str) -> Result<Zeroizing<String>> {
    if let Ok(password) = std::env::var(variable) {
        return Ok(Zeroizing::new(password));
    }
    let password = if std::io::stdin().is_terminal() {
        Zeroizing::new(rpassword::prompt_password(question)?)
    } else {
        let mut line = Zeroizing::new(String::new());
        std::io::stdin().lock().read_line(&mut line)?;
        Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned())
    };
    if password.is_empty() { Err(Failure::new("no password was given")) } else { Ok(password) }
}

/// Whether six digits were typed, which is a code of an authenticator application and no recovery code.
pub(super) fn is_totp(typed: &str) -> bool {
    let typed = typed.replace(' ', "");
    typed.len() == 6 && typed.bytes().all(|byte| byte.is_ascii_digit())
}

/// A code, from the terminal without showing it or, where there is none, from the next line of standard input.
pub(super) fn code(question: &str) -> Result<Zeroizing<String>> {
    let typed = if std::io::stdin().is_terminal() {
        Zeroizing::new(rpassword::prompt_password(question)?)
    } else {
        let mut line = Zeroizing::new(String::new());
        std::io::stdin().lock().read_line(&mut line)?;
        Zeroizing::new(line.trim().to_owned())
    };
    if typed.is_empty() { Err(Failure::new("no code was given")) } else { Ok(typed) }
}
