//! Sealed values: secrets that lie in the database encrypted under keys that do not, each bound to the table, column
//! and row it belongs to, so that a value moved elsewhere no longer opens.

use std::sync::Arc;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{Key, KeyInit, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::context::Entropy;
use crate::fault::{Fault, Result};

const FORMAT: u8 = 1;
const NONCE: usize = 24;
const HEADER: usize = 1 + 4;

/// Where a sealed value is stored: its associated data. It opens nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealContext {
    pub table: &'static str,
    pub column: &'static str,
    /// Primary key of the row.
    pub row: Uuid,
}

impl SealContext {
    fn associated_data(&self, header: &[u8]) -> Vec<u8> {
        let mut data = Vec::with_capacity(64 + header.len());
        data.extend_from_slice(header);
        for part in [self.table, self.column] {
            // Lengths keep ("ab", "c") apart from ("a", "bc").
            data.extend_from_slice(&(part.len() as u32).to_be_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        data.extend_from_slice(self.row.as_bytes());
        data
    }
}

/// A sealed value as it lies in the database.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Where it lies.
    pub context: SealContext,
    pub value: Vec<u8>,
}

impl Sealed {
    /// Number of the key that it was sealed under; none where it is no sealed value.
    pub fn key_id(&self) -> Option<u32> {
        let (header, _) = self.value.split_at_checked(HEADER)?;
        (header[0] == FORMAT).then_some(u32::from_be_bytes(header[1..].try_into().ok()?))
    }
}

/// The keys that seal. The first seals and opens, the others only open what was sealed before a rotation.
#[derive(Clone)]
pub struct Keyring {
    keys: Arc<[SealingKey]>,
}

struct SealingKey {
    id: u32,
    root: Zeroizing<[u8; 32]>,
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| key.id)).finish()
    }
}

impl Keyring {
    /// A keyring of (id, 256-bit root key) pairs, the current one first; `None` when there is none.
    pub fn new(keys: impl IntoIterator<Item = (u32, Zeroizing<[u8; 32]>)>) -> Option<Self> {
        let keys: Arc<[SealingKey]> = keys
            .into_iter()
            .map(|(id, root)| {
                // The root never encrypts anything itself: one use, one key.
                let sealing = expand(&root, "seal");
                SealingKey { id, cipher: XChaCha20Poly1305::new(Key::from_slice(&*sealing)), root }
            })
            .collect();
        (!keys.is_empty()).then_some(Self { keys })
    }

    /// Encrypts `plaintext` for `context`.
    pub fn seal(&self, entropy: &Entropy, context: SealContext, plaintext: &[u8]) -> Vec<u8> {
        let key = &self.keys[0];
        let mut sealed = Vec::with_capacity(HEADER + NONCE + plaintext.len() + 16);
        sealed.push(FORMAT);
        sealed.extend_from_slice(&key.id.to_be_bytes());
        let nonce: [u8; NONCE] = entropy.array();
        let aad = context.associated_data(&sealed);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&encrypt(&key.cipher, &nonce, plaintext, &aad));
        sealed
    }

    /// Decrypts what [`Keyring::seal`] made for the same `context`.
    ///
    /// # Errors
    /// `INTERNAL` when it was sealed for another row or column, changed, or sealed under a key that the keyring lacks.
    pub fn open(&self, context: SealContext, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let opened = sealed.split_at_checked(HEADER).and_then(|(header, rest)| {
            let (nonce, ciphertext) = rest.split_at_checked(NONCE)?;
            let id = u32::from_be_bytes(header[1..].try_into().ok()?);
            let key = self.keys.iter().find(|key| key.id == id && header[0] == FORMAT)?;
            let aad = context.associated_data(header);
            let payload = Payload { msg: ciphertext, aad: &aad };
            key.cipher.decrypt(XNonce::from_slice(nonce), payload).ok()
        });
        opened.map(Zeroizing::new).ok_or_else(|| {
            Fault::internal(format!(
                "the sealed value in {}.{} of row {} does not open",
                context.table, context.column, context.row
            ))
        })
    }

    /// The numbers of the keys, the current one first.
    pub fn ids(&self) -> Vec<u32> {
        self.keys.iter().map(|key| key.id).collect()
    }

    /// A key for one purpose, derived from the current root key.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        expand(&self.keys[0].root, purpose)
    }

    /// The keys for one purpose from every root key, the current one first: for what must be recognised long after it
    /// was made.
    pub fn derive_all(&self, purpose: &str) -> Vec<Zeroizing<[u8; 32]>> {
        self.keys.iter().map(|key| expand(&key.root, purpose)).collect()
    }
}

/// Encrypts; the only place that does, so that nothing else can be stored in place of a ciphertext.
///
/// # Panics
/// Beyond 256 GiB, which is the cipher's only failure. A call that got so far is answered INTERNAL and stores nothing; going
/// on with an empty value would lose what was to be kept.
#[expect(clippy::expect_used, reason = "whatever was stored in place of the ciphertext would be lost for good")]
pub(crate) fn encrypt(cipher: &XChaCha20Poly1305, nonce: &[u8; NONCE], plaintext: &[u8], aad: &[u8]) -> Vec<u8> {
    let payload = Payload { msg: plaintext, aad };
    cipher.encrypt(XNonce::from_slice(nonce), payload).expect("no value that is sealed is as large as 256 GiB")
}

/// # Panics
/// Never: 32 bytes are within what HKDF-SHA-256 can give. If it failed, the key would be all zeroes.
#[expect(clippy::expect_used, reason = "a service that would go on with a key of zeroes must not go on")]
fn expand(root: &[u8; 32], purpose: &str) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    let info = [b"sidle v1 ".as_slice(), purpose.as_bytes()].concat();
    Hkdf::<Sha256>::new(None, root).expand(&info, &mut *key).expect("HKDF gives 32 bytes");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal_context() -> SealContext {
        SealContext { table: "signing_keys", column: "private_key", row: Uuid::from_u128(7) }
    }

    fn ring(ids: &[(u32, u8)]) -> Keyring {
        Keyring::new(ids.iter().map(|(id, byte)| (*id, Zeroizing::new([*byte; 32])))).unwrap_or_else(|| unreachable!())
    }

    #[test]
    fn a_sealed_value_opens_in_its_own_context_only() {
        let keys = ring(&[(1, 9)]);
        let sealed = keys.seal(&Entropy::system(), seal_context(), b"secret");
        assert_eq!(keys.open(seal_context(), &sealed).unwrap_or_default().as_slice(), b"secret");
        for elsewhere in [
            SealContext { table: "signing_key", ..seal_context() },
            SealContext { column: "public_key", ..seal_context() },
            SealContext { row: Uuid::from_u128(8), ..seal_context() },
            SealContext { table: "signing_keysp", column: "rivate_key", ..seal_context() },
        ] {
            assert!(keys.open(elsewhere, &sealed).is_err(), "{elsewhere:?}");
        }
    }

    /// A sealing that failed would leave no more than a header.
    #[test]
    fn a_sealed_value_is_never_shorter_than_what_went_in() {
        let keys = ring(&[(1, 9)]);
        for length in [0, 1, 15, 16, 17, 4096, 1 << 20] {
            let plaintext = vec![7; length];
            let sealed = keys.seal(&Entropy::system(), seal_context(), &plaintext);
            assert_eq!(sealed.len(), HEADER + NONCE + length + 16);
            assert_eq!(*keys.open(seal_context(), &sealed).unwrap(), plaintext);
        }
    }

    #[test]
    fn a_changed_byte_anywhere_keeps_it_shut() {
        let keys = ring(&[(1, 9)]);
        let sealed = keys.seal(&Entropy::system(), seal_context(), b"secret");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys.open(seal_context(), &changed).is_err(), "byte {at}");
            assert!(keys.open(seal_context(), &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn older_keys_open_and_the_first_seals() {
        let old = ring(&[(1, 9)]);
        let sealed = old.seal(&Entropy::system(), seal_context(), b"secret");
        let rotated = ring(&[(2, 5), (1, 9)]);
        assert!(rotated.open(seal_context(), &sealed).is_ok());
        let fresh = rotated.seal(&Entropy::system(), seal_context(), b"secret");
        assert!(old.open(seal_context(), &fresh).is_err());
        assert!(ring(&[(2, 5)]).open(seal_context(), &sealed).is_err());
    }

    #[test]
    fn every_purpose_has_its_own_key() {
        let keys = ring(&[(1, 9)]);
        assert_ne!(*keys.derive("page tokens"), *keys.derive("refresh"));
        assert_eq!(*keys.derive("refresh"), *keys.derive("refresh"));
        let all = ring(&[(2, 5), (1, 9)]).derive_all("refresh");
        assert_eq!(
            (all.len(), *all[1]),
            (2, *keys.derive("refresh")),
            "what was made before a rotation is known after it"
        );
    }
}
