//! Private keys: making them, keeping them as PKCS#8, signing with them, and deriving their public halves.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use p256::ecdsa::signature::{RandomizedSigner as _, SignatureEncoding as _, Signer as _};
use p256::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use rsa::rand_core::{CryptoRng, Error as RngError, RngCore};
use rsa::traits::PublicKeyParts as _;
use sha2::Sha256;
use sidle_token::{Algorithm, Jwk};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::context::Entropy;
use crate::fault::{Fault, Result};

/// What stands before the 32 bytes of an Ed25519 key in PKCS#8.
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A key that signs.
pub(super) enum PrivateKey {
    EdDsa(ed25519_dalek::SigningKey),
    Es256(p256::ecdsa::SigningKey),
    Rs256(Box<rsa::pkcs1v15::SigningKey<Sha256>>),
    Hs256(Zeroizing<Vec<u8>>),
}

/// The operating system's generator, for crates that want one.
struct Random<'a>(&'a Entropy);

impl RngCore for Random<'_> {
    fn next_u32(&mut self) -> u32 {
        u32::from_le_bytes(self.0.array())
    }

    fn next_u64(&mut self) -> u64 {
        u64::from_le_bytes(self.0.array())
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), RngError> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl CryptoRng for Random<'_> {}

impl PrivateKey {
    /// A fresh key. An RSA key takes seconds: not for threads that have calls to answer.
    pub fn generate(algorithm: Algorithm, rsa_bits: u32, entropy: &Entropy) -> Result<Self> {
        let mut random = Random(entropy);
        match algorithm {
            Algorithm::EdDsa => {
                let secret = Zeroizing::new(entropy.array());
                Ok(Self::EdDsa(ed25519_dalek::SigningKey::from_bytes(&secret)))
            }
            Algorithm::Es256 => Ok(Self::Es256(p256::ecdsa::SigningKey::random(&mut random))),
            Algorithm::Rs256 => {
                let bits = usize::try_from(rsa_bits).map_err(Fault::internal)?;
                let key = rsa::RsaPrivateKey::new(&mut random, bits).map_err(Fault::internal)?;
                Ok(Self::Rs256(Box::new(rsa::pkcs1v15::SigningKey::new(key))))
            }
            Algorithm::Hs256 => Err(Fault::internal("keys of old clients are configured, never made")),
        }
    }

    /// A key from its PKCS#8 form; none when that is not exactly a key for this algorithm.
    pub fn from_pkcs8(algorithm: Algorithm, private: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::EdDsa => ed25519_dalek::SigningKey::from_pkcs8_der(private).ok().map(Self::EdDsa),
            Algorithm::Es256 => p256::ecdsa::SigningKey::from_pkcs8_der(private).ok().map(Self::Es256),
            Algorithm::Rs256 => {
                let key = rsa::RsaPrivateKey::from_pkcs8_der(private).ok()?;
                Some(Self::Rs256(Box::new(rsa::pkcs1v15::SigningKey::new(key))))
            }
            Algorithm::Hs256 => None,
        }
    }

    /// The PKCS#8 form.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>> {
        match self {
            Self::EdDsa(key) => {
                let mut private = Zeroizing::new(Vec::with_capacity(48));
                private.extend_from_slice(&ED25519_PKCS8);
                private.extend_from_slice(key.as_bytes());
                Ok(private)
            }
            Self::Es256(key) => Ok(key.to_pkcs8_der().map_err(Fault::internal)?.to_bytes()),
            Self::Rs256(key) => {
                let key: &rsa::RsaPrivateKey = (**key).as_ref();
                Ok(key.to_pkcs8_der().map_err(Fault::internal)?.to_bytes())
            }
            Self::Hs256(_) => Err(Fault::internal("keys of old clients are configured, never stored")),
        }
    }

    /// The algorithm it is used with.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::EdDsa(_) => Algorithm::EdDsa,
            Self::Es256(_) => Algorithm::Es256,
            Self::Rs256(_) => Algorithm::Rs256,
            Self::Hs256(_) => Algorithm::Hs256,
        }
    }

    /// Its signature on `message`, in the form that tokens carry.
    pub fn sign(&self, entropy: &Entropy, message: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::EdDsa(key) => Ok(key.sign(message).to_bytes().to_vec()),
            Self::Es256(key) => {
                let signature: p256::ecdsa::Signature = key.try_sign(message).map_err(Fault::internal)?;
                Ok(signature.to_bytes().to_vec())
            }
            // With blinding: without it the time that it takes would reveal something about the key.
            Self::Rs256(key) => {
                let signature = key.try_sign_with_rng(&mut Random(entropy), message).map_err(Fault::internal)?;
                Ok(signature.to_vec())
            }
            Self::Hs256(secret) => {
                let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(Fault::internal)?;
                mac.update(message);
                Ok(mac.finalize().into_bytes().to_vec())
            }
        }
    }

    /// The published half; none for a key that has no public one.
    pub fn public(&self, kid: Uuid) -> Option<Jwk> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let alg = self.algorithm().as_str().to_owned();
        let base = Jwk { kid: kid.to_string(), alg, usage: "sig".to_owned(), ..Jwk::default() };
        match self {
            Self::EdDsa(key) => {
                let x = text(key.verifying_key().as_bytes());
                Some(Jwk { kty: "OKP".to_owned(), crv: "Ed25519".to_owned(), x, ..base })
            }
            Self::Es256(key) => {
                let point = key.verifying_key().to_encoded_point(false);
                let (x, y) = (text(point.x()?), text(point.y()?));
                Some(Jwk { kty: "EC".to_owned(), crv: "P-256".to_owned(), x, y, ..base })
            }
            Self::Rs256(key) => {
                let key: &rsa::RsaPrivateKey = (**key).as_ref();
                let (n, e) = (text(&key.n().to_bytes_be()), text(&key.e().to_bytes_be()));
                Some(Jwk { kty: "RSA".to_owned(), n, e, ..base })
            }
            Self::Hs256(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use sidle_token::VerifyingKey;

    use super::*;

    #[test]
    fn the_published_half_comes_from_the_private_one() {
        // RFC 8032, section 7.1, test 1.
        let secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let secret: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&secret[2 * at..2 * at + 2], 16).unwrap()).collect();
        let private = [ED25519_PKCS8.as_slice(), &secret].concat();
        let jwk = PrivateKey::from_pkcs8(Algorithm::EdDsa, &private).unwrap().public(Uuid::nil()).unwrap();
        assert_eq!(jwk.x, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!((jwk.kty.as_str(), jwk.alg.as_str()), ("OKP", "EdDSA"));
    }

    #[test]
    fn what_a_key_signs_its_published_half_verifies_and_nothing_else_does() {
        let entropy = Entropy::system();
        for algorithm in [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256] {
            let made = PrivateKey::generate(algorithm, 2048, &entropy).unwrap();
            let key = PrivateKey::from_pkcs8(algorithm, &made.to_pkcs8().unwrap()).unwrap();
            let public = VerifyingKey::from_jwk(&key.public(Uuid::from_u128(1)).unwrap()).unwrap();
            assert_eq!(public.algorithm(), algorithm);
            let signature = key.sign(&entropy, b"message").unwrap();
            assert!(public.verify(b"message", &signature), "{algorithm:?}");
            assert!(!public.verify(b"messagf", &signature), "{algorithm:?}");
            for at in 0..signature.len() {
                let mut changed = signature.clone();
                changed[at] ^= 1;
                assert!(!public.verify(b"message", &changed), "{algorithm:?}, byte {at}");
            }
            for broken in [&signature[1..], &[0; 64], &[], &[signature.as_slice(), &[0]].concat()] {
                assert!(!public.verify(b"message", broken), "{algorithm:?}");
            }
            for other in [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256, Algorithm::Hs256] {
                let taken = PrivateKey::from_pkcs8(other, &made.to_pkcs8().unwrap());
                assert_eq!(taken.is_some(), other == algorithm, "a key of another kind than it says");
            }
        }
    }
}
