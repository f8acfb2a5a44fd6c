//! `[seal]`

use std::path::PathBuf;

use serde::Deserialize;

use super::secret::Secret;
use super::value;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealConfig {
    /// Keys as `ID:BASE64`, separated by commas, the current one first.
    pub keys: Secret,
    /// File with one such key a line; used when `keys` is empty.
    #[serde(deserialize_with = "value::optional")]
    pub key_file: Option<PathBuf>,
}
