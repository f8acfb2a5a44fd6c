//! Asking for secrets on the terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use zeroize::Zeroizing;

use super::failure::{Failure, Result};

/// A password, from wherever it cannot be seen.
pub(super) fn password(question: &str) -> Result<Zeroizing<String>> {
    password_of("SIDLE_PASSWORD", question)
}

/// A password that is about to be set. On a terminal it is asked for twice, since nobody sees what they type, and again when
/// the two differ.
pub(super) fn new_password(variable: &str, question: &str) -> Result<Zeroizing<String>> {
    if !is_asked(variable) {
        return password_of(variable, question);
    }
    loop {
        let first = password_of(variable, question)?;
        if *first == *rpassword::prompt_password("Once more: ").map(Zeroizing::new)? {
            return Ok(first);
        }
        writeln!(std::io::stderr(), "The two are not the same.")?;
    }
}

/// Whether a secret is asked for on the terminal, rather than read from this variable of the environment or from a pipe.
pub(super) fn is_asked(variable: &str) -> bool {
    std::env::var_os(variable).is_none() && std::io::stdin().is_terminal()
}

/// A password, from this variable of the environment, else from the terminal or, where there is none, from the next line
/// of standard input.
pub(super) fn password_of(variable: &str, question: &str) -> Result<Zeroizing<String>> {
    if let Ok(password) = std::env::var(variable) {
        return Ok(Zeroizing::new(password));
    }
    let password = secret(question)?;
    let password = Zeroizing::new(password.trim_end_matches(['\r', '\n']).to_owned());
    if password.is_empty() { Err(not_given("password", question, variable)) } else { Ok(password) }
}

/// Whether six digits were typed, which is a code of an authenticator application and no recovery code.
pub(super) fn is_totp(typed: &str) -> bool {
    let typed = typed.replace(' ', "");
    typed.len() == 6 && typed.bytes().all(|byte| byte.is_ascii_digit())
}

/// A code, from the terminal without showing it or, where there is none, from the next line of standard input.
pub(super) fn code(question: &str) -> Result<Zeroizing<String>> {
    let typed = secret(question)?;
    let typed = Zeroizing::new(typed.trim().to_owned());
    if typed.is_empty() { Err(not_given("code", question, "")) } else { Ok(typed) }
}

/// Says what was asked for, which nobody sees where there is no terminal, and how to give it.
fn not_given(what: &str, question: &str, variable: &str) -> Failure {
    let asked = question.trim_end_matches([':', ' ']);
    let elsewhere = if variable.is_empty() { String::new() } else { format!(", in {variable}") };
    Failure::new(format!("no {what} was given ({asked})"))
        .remedy(format!("Give it on a terminal{elsewhere}, or as the next line of standard input."))
}

/// What is typed on the terminal without being shown or, where there is none, the next line of standard input.
fn secret(question: &str) -> Result<Zeroizing<String>> {
    if std::io::stdin().is_terminal() {
        return Ok(Zeroizing::new(rpassword::prompt_password(question)?));
    }
    let mut line = Zeroizing::new(String::new());
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line)
}
