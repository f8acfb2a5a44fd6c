//! `sidle keygen`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use zeroize::Zeroizing;

use super::failure::Result;
use super::output::Out;
use crate::context::Entropy;

/// Prints a fresh key for `seal.keys`. Keep it outside the database and its backups: losing it loses the signing
/// keys and the personal data in the audit log.
#[derive(Args)]
pub(super) struct Keygen {
    /// Number of the key; one more than the last when keys are changed
    #[arg(long, default_value_t = 1)]
    id: u32,
}

impl Keygen {
    pub fn run(self, out: &Out) -> Result<()> {
        let key = Zeroizing::new(Entropy::system().array::<32>());
        let text = Zeroizing::new(format!("{}:{}", self.id, STANDARD.encode(*key)));
        out.line(&text)
    }
}
