//! Reading single values.

use std::time::Duration;

use serde::Deserialize as _;

/// An empty string stands for "none".
pub(super) fn optional<'de, T: From<String>, D: serde::Deserializer<'de>>(value: D) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(value)?;
    Ok((!text.is_empty()).then(|| T::from(text)))
}

/// An address and port, or none for the empty string.
pub(super) fn optional_address<'de, D>(value: D) -> Result<Option<std::net::SocketAddr>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let text = String::deserialize(value)?;
    let problem = |_| serde::de::Error::custom(no_address(&text));
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(problem) }
}

/// A time with its unit; none where it is none.
pub(super) fn duration(text: &str) -> Option<Duration> {
    humantime_serde::re::humantime::parse_duration(text).ok()
}

/// What is wrong with a text that should be a time.
pub(super) fn no_duration(text: &str) -> String {
    format!("must be a time with its unit, such as 15m or 1h 30m, not {}", quoted(text))
}

/// What is wrong with a text that should be an address.
pub(super) fn no_address(text: &str) -> String {
    format!("must be an address and a port such as 127.0.0.1:9464, not {}", quoted(text))
}

/// The beginning of a value that is no secret, for a message about it.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 64;
    let beginning: String = text.chars().take(LONGEST).collect();
    if beginning.len() == text.len() { format!("{text:?}") } else { format!("{beginning:?} and so on") }
}
