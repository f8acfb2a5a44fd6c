//! Reading single values.

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
    let problem = |_| serde::de::Error::custom(format!("`{text}` must be an address and a port such as 0.0.0.0:9465"));
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(problem) }
}
