//! Helpers that only development needs: a Kanidm to test against, persons who sign in to it, databases copied from a
//! template, a mail server. Shared by the integration tests, the benchmarks and the demonstration; no part of the
//! product.
#![allow(clippy::disallowed_methods, reason = "test data may be random without being handed the randomness")]

pub mod kanidm;
pub mod persona;
pub mod postgres;
pub mod smtp;

/// Errors here are shown to a developer, so that text is enough.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// A variable that `./run` sets.
///
/// # Errors
/// When it is not set, with the command that sets it.
pub fn variable(name: &str) -> Result<String> {
    std::env::var(name)
        .map_err(|_| format!("{name} is not set: start through ./run, which prepares what is needed").into())
}

/// `length` random characters of a-z0-9, for names and passwords of test data.
pub fn random_word(length: usize) -> String {
    let mut word = String::new();
    while word.len() < length {
        word.push_str(&uuid::Uuid::new_v4().simple().to_string());
    }
    word.truncate(length);
    word
}
