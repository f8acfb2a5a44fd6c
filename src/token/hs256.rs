//! Keys of old clients that can check nothing but HS256 (S12). A client that can verify such a token can sign one as well, so
//! each has a key and an audience of its own, the key signs for that audience only, and it is published nowhere.

use std::sync::Arc;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use sidle_token::VerifyingKey;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::signing::PrivateKey;
use crate::config::TokenConfig;
use crate::fault::{Fault, Result};

pub(super) struct OldClient {
    /// The audience that only it stands for.
    pub audience: String,
    pub signs: PrivateKey,
    pub verifies: Arc<VerifyingKey>,
}

impl OldClient {
    /// Every old client of the configuration.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold a key that is long enough.
    pub fn all(config: &TokenConfig) -> Result<Vec<Self>> {
        let keys = config.old_clients().map_err(Fault::internal)?;
        keys.into_iter().map(|(audience, secret)| Self::new(audience, secret)).collect()
    }

    fn new(audience: String, secret: Zeroizing<Vec<u8>>) -> Result<Self> {
        // An id that changes with the key, and reveals nothing about it.
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret).map_err(Fault::internal)?;
        mac.update(b"sidle v1 key id of an old client ");
        mac.update(audience.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        let kid = uuid::Builder::from_custom_bytes(id).into_uuid();
        Ok(Self::with_id(kid, audience, secret))
    }

    fn with_id(kid: Uuid, audience: String, secret: Zeroizing<Vec<u8>>) -> Self {
        let verifies = Arc::new(VerifyingKey::hs256(kid, secret.clone(), &audience));
        Self { audience, signs: PrivateKey::Hs256(secret), verifies }
    }
}
