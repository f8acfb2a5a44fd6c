//! Personal data of events: encrypted under a key of its subject, with a commitment to it in the leaf. Destroying the
//! key forgets the person; the leaf, and every proof about it, stays as it was.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{Key, KeyInit, XChaCha20Poly1305, XNonce};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::json::canonical;
use crate::context::Entropy;
use crate::fault::Result;
use crate::seal::{Keyring, SealContext, encrypt};

const FORMAT: u8 = 1;
const NONCE: usize = 24;
/// Random bytes before the data in an opening: without them a commitment to an address could be found by trying all.
const BLINDING: usize = 32;

/// Which piece of an event's personal data. Sealed data of one opens as no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Address and user agent: the actor's.
    Origin,
    /// The rest: the subject's.
    Personal,
}

/// The key of one person.
#[derive(Clone)]
pub(super) struct SubjectKey(XChaCha20Poly1305);

impl SubjectKey {
    /// A fresh key, and its wrapped form for the database.
    pub(super) fn create(keyring: &Keyring, entropy: &Entropy, subject: Uuid) -> (Self, Vec<u8>) {
        let key = Zeroizing::new(entropy.array::<32>());
        let wrapped = keyring.seal(entropy, wrapping_context(subject), &*key);
        (Self(XChaCha20Poly1305::new(Key::from_slice(&*key))), wrapped)
    }

    /// The key in its wrapped form.
    ///
    /// # Errors
    /// `INTERNAL` when it was wrapped under a key that the keyring lacks, or for another subject.
    pub(super) fn unwrap(keyring: &Keyring, subject: Uuid, wrapped: &[u8]) -> Result<Self> {
        let key = keyring.open(wrapping_context(subject), wrapped)?;
        let key = XChaCha20Poly1305::new_from_slice(&key)
            .map_err(|_| crate::fault::Fault::internal("a subject key has the wrong length"))?;
        Ok(Self(key))
    }

    /// Encrypts an opening for one part of one event.
    pub(super) fn seal(&self, entropy: &Entropy, event_id: Uuid, part: Part, opening: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE] = entropy.array();
        let aad = associated_data(event_id, part);
        [&[FORMAT], nonce.as_slice(), &encrypt(&self.0, &nonce, opening, &aad)].concat()
    }

    /// Decrypts what [`SubjectKey::seal`] made for the same part of the same event.
    pub(super) fn open(&self, event_id: Uuid, part: Part, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, ciphertext) = sealed.strip_prefix(&[FORMAT])?.split_at_checked(NONCE)?;
        let aad = associated_data(event_id, part);
        self.0.decrypt(XNonce::from_slice(nonce), Payload { msg: ciphertext, aad: &aad }).ok()
    }
}

fn associated_data(event_id: Uuid, part: Part) -> Vec<u8> {
    let part: &[u8] = match part {
        Part::Origin => b"audit origin ",
        Part::Personal => b"audit personal ",
    };
    [part, event_id.as_bytes()].concat()
}

pub(super) fn wrapping_context(subject: Uuid) -> SealContext {
    SealContext { table: "audit_subject_keys", column: "wrapped_key", row: subject }
}

/// What a commitment is made from and opened with: random bytes, then the data.
pub(super) fn opening(entropy: &Entropy, data: &Map<String, Value>) -> Vec<u8> {
    [entropy.array::<BLINDING>().as_slice(), &canonical(data)].concat()
}

/// The commitment in the leaf. The prefix keeps it apart from hashes of leaves (0) and of inner nodes (1).
pub(super) fn commitment(opening: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([2]).chain_update(opening).finalize().into()
}

/// The data in an opening.
pub(super) fn contents(opening: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(opening.get(BLINDING..)?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keyring() -> Keyring {
        Keyring::new([(1, Zeroizing::new([7; 32]))]).unwrap()
    }

    fn data() -> Map<String, Value> {
        json!({"email": "ann@example.com"}).as_object().unwrap().clone()
    }

    #[test]
    fn data_opens_with_its_own_key_for_its_own_event_and_part_only() {
        let (entropy, subject, event) = (Entropy::system(), Uuid::from_u128(1), Uuid::from_u128(2));
        let (key, wrapped) = SubjectKey::create(&keyring(), &entropy, subject);
        let (stranger, _) = SubjectKey::create(&keyring(), &entropy, subject);
        let sealed = key.seal(&entropy, event, Part::Origin, &opening(&entropy, &data()));
        let again = SubjectKey::unwrap(&keyring(), subject, &wrapped).unwrap();
        assert_eq!(contents(&again.open(event, Part::Origin, &sealed).unwrap()), Some(data()));
        assert!(again.open(event, Part::Personal, &sealed).is_none());
        assert!(again.open(Uuid::from_u128(3), Part::Origin, &sealed).is_none());
        assert!(stranger.open(event, Part::Origin, &sealed).is_none());
        assert!(SubjectKey::unwrap(&keyring(), Uuid::from_u128(9), &wrapped).is_err(), "a key moved to another person");
    }

    #[test]
    fn equal_data_has_unequal_commitments() {
        let entropy = Entropy::system();
        let (a, b) = (opening(&entropy, &data()), opening(&entropy, &data()));
        assert_ne!(commitment(&a), commitment(&b));
        assert_eq!(contents(&a), contents(&b));
    }
}
