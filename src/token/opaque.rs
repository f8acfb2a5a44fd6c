//! Secrets that are handed out and come back: 256 random bits behind a prefix that says what they are. Only their
//! SHA-256 is kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::context::Entropy;

/// Characters that 256 bits take.
const BODY: usize = 43;

/// A fresh secret with this prefix.
pub fn mint(prefix: &str, entropy: &Entropy) -> Zeroizing<String> {
    let bytes = Zeroizing::new(entropy.array::<32>());
    with_bytes(prefix, &bytes)
}

/// The secret with this prefix and these bits.
pub fn with_bytes(prefix: &str, bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut secret = Zeroizing::new(String::with_capacity(prefix.len() + BODY));
    secret.push_str(prefix);
    URL_SAFE_NO_PAD.encode_string(bytes, &mut secret);
    secret
}

/// Whether `secret` looks like one that was minted with `prefix`: what does not need not be looked up.
pub fn is_plausible(prefix: &str, secret: &str) -> bool {
    secret.strip_prefix(prefix).is_some_and(|body| {
        body.len() == BODY && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    })
}

/// What is kept of a secret, and what it is found by.
pub fn digest(secret: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::digest(secret).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_secret_is_recognised_by_its_prefix_only() {
        let secret = mint("sidle_rt_", &Entropy::system());
        assert!(is_plausible("sidle_rt_", &secret));
        assert!(!is_plausible("sidle_ak_", &secret));
        assert!(!is_plausible("sidle_rt_", &secret[..secret.len() - 1]));
        assert!(!is_plausible("sidle_rt_", &format!("{}é", &secret[..secret.len() - 2])));
        assert_ne!(*secret, *mint("sidle_rt_", &Entropy::system()));
    }
}
