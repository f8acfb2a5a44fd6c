//! The Kanidm that a command works on.

use std::path::PathBuf;

use crate::cli::failure::{Failure, Result};
use crate::config::{Config, KanidmConfig};
use crate::context::Clock;
use crate::kanidm::Kanidm;
use crate::metrics::Metrics;

/// The settings of a Kanidm of which only the address is known.
pub(super) fn settings(url: &str, ca_file: Option<PathBuf>) -> Result<KanidmConfig> {
    let defaults = Config::load(None, std::iter::empty())?.kanidm;
    Ok(KanidmConfig { url: url.to_owned(), ca_file, ..defaults })
}

/// Its client.
pub(super) fn client(settings: &KanidmConfig) -> Result<Kanidm> {
    let kanidm = Kanidm::new(settings, Clock::system(), Metrics::new())?;
    kanidm.ok_or_else(|| {
        Failure::new("no Kanidm is configured")
            .remedy("Set [kanidm]: `sidle kanidm setup` makes what it needs, and the section.")
    })
}
