//! Keys that verify: each has an id and is pinned to one algorithm.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use p256::ecdsa::signature::Verifier as _;
use rsa::BigUint;
use rsa::traits::PublicKeyParts as _;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Sizes of RSA keys that are accepted, in bits: smaller ones are weak, larger ones only slow.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSA, PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// HMAC with SHA-256, for old clients only: a holder of the key that verifies can sign as well.
    Hs256,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 4] = [Self::EdDsa, Self::Es256, Self::Rs256, Self::Hs256];

    /// Its name in headers and key sets.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Hs256 => "HS256",
        }
    }

    /// The algorithm of exactly this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }
}

/// The published half of a key, with the member names of RFC 7517.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Jwk {
    /// Id of the key.
    pub kid: String,
    /// `OKP`, `EC` or `RSA`.
    pub kty: String,
    /// The only algorithm it is used with.
    pub alg: String,
    /// Always `sig`.
    #[serde(rename = "use")]
    pub usage: String,
    /// Curve.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub crv: String,
    /// First coordinate, or the Ed25519 key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub x: String,
    /// Second coordinate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub y: String,
    /// RSA modulus.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub n: String,
    /// RSA exponent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub e: String,
}

/// A key that verifies.
pub struct VerifyingKey {
    kid: Uuid,
    material: Material,
}

enum Material {
    // Decompressed once, not for every token.
    EdDsa(ed25519_dalek::VerifyingKey),
    Es256(p256::ecdsa::VerifyingKey),
    Rs256(rsa::pkcs1v15::VerifyingKey<Sha256>),
    Hs256 { secret: Zeroizing<Vec<u8>>, audience: String },
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifyingKey({}, {})", self.kid, self.algorithm().as_str())
    }
}

impl VerifyingKey {
    /// The key of a key set's entry; none for one that is not exactly of a kind known here.
    pub fn from_jwk(jwk: &Jwk) -> Option<Self> {
        if jwk.usage != "sig" {
            return None;
        }
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let material = match (jwk.kty.as_str(), jwk.alg.as_str(), jwk.crv.as_str()) {
            ("OKP", "EdDSA", "Ed25519") => {
                let key = ed25519_dalek::VerifyingKey::from_bytes(&bytes(&jwk.x)?.try_into().ok()?).ok()?;
                Material::EdDsa(key)
            }
            ("EC", "ES256", "P-256") => {
                let (x, y): ([u8; 32], [u8; 32]) = (bytes(&jwk.x)?.try_into().ok()?, bytes(&jwk.y)?.try_into().ok()?);
                let point = p256::EncodedPoint::from_affine_coordinates(&x.into(), &y.into(), false);
                Material::Es256(p256::ecdsa::VerifyingKey::from_encoded_point(&point).ok()?)
            }
            ("RSA", "RS256", "") => {
                let (n, e) = (BigUint::from_bytes_be(&bytes(&jwk.n)?), BigUint::from_bytes_be(&bytes(&jwk.e)?));
                let key = rsa::RsaPublicKey::new(n, e).ok().filter(|key| RSA_BITS.contains(&key.n().bits()))?;
                Material::Rs256(rsa::pkcs1v15::VerifyingKey::new(key))
            }
            _ => return None,
        };
        Some(Self { kid: Uuid::try_parse(&jwk.kid).ok()?, material })
    }

    /// The key that an old client shares with the service. It is valid for tokens of this one audience and no other.
    pub fn hs256(kid: Uuid, secret: Zeroizing<Vec<u8>>, audience: &str) -> Self {
        Self { kid, material: Material::Hs256 { secret, audience: audience.to_owned() } }
    }

    /// Its id.
    pub fn kid(&self) -> Uuid {
        self.kid
    }

    /// The one algorithm it is used with.
    pub fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::EdDsa(_) => Algorithm::EdDsa,
            Material::Es256(_) => Algorithm::Es256,
            Material::Rs256(_) => Algorithm::Rs256,
            Material::Hs256 { .. } => Algorithm::Hs256,
        }
    }

    /// The only audience that its tokens may have; none for keys that sign for every audience.
    pub fn bound_audience(&self) -> Option<&str> {
        match &self.material {
            Material::Hs256 { audience, .. } => Some(audience),
            _ => None,
        }
    }

    /// Whether `signature` is this key's on `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::EdDsa(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
            // Two numbers of 32 bytes each; other encodings, and zeros, are not signatures here.
            Material::Es256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Material::Rs256(key) => rsa::pkcs1v15::Signature::try_from(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Material::Hs256 { secret, .. } => Hmac::<Sha256>::new_from_slice(secret).is_ok_and(|mut mac| {
                mac.update(message);
                // In constant time.
                mac.verify_slice(signature).is_ok()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ed25519() -> Jwk {
        // RFC 8032, section 7.1, test 1.
        Jwk {
            kid: Uuid::from_u128(1).to_string(),
            kty: "OKP".into(),
            alg: "EdDSA".into(),
            usage: "sig".into(),
            crv: "Ed25519".into(),
            x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".into(),
            ..Jwk::default()
        }
    }

    #[test]
    fn a_published_key_is_taken_for_what_it_is_or_not_at_all() {
        assert_eq!(VerifyingKey::from_jwk(&ed25519()).unwrap().algorithm(), Algorithm::EdDsa);
        for change in [
            (|jwk: &mut Jwk| jwk.alg = "HS256".into()) as fn(&mut Jwk),
            |jwk| jwk.alg = String::new(),
            |jwk| jwk.kty = "oct".into(),
            |jwk| jwk.usage = "enc".into(),
            |jwk| jwk.crv = "X25519".into(),
            |jwk| jwk.kid = "1".into(),
            |jwk| jwk.x = "AAAA".into(),
            |jwk| jwk.x.push('='),
        ] {
            let mut jwk = ed25519();
            change(&mut jwk);
            assert!(VerifyingKey::from_jwk(&jwk).is_none(), "{jwk:?}");
        }
    }

    #[test]
    fn short_rsa_keys_are_refused() {
        for (bytes, good) in [(128, false), (255, false), (256, true), (512, true), (513, false)] {
            let mut n = vec![0xff; bytes];
            n[bytes - 1] = 0xfd;
            let n = URL_SAFE_NO_PAD.encode(n);
            let jwk =
                Jwk { kty: "RSA".into(), alg: "RS256".into(), crv: String::new(), n, e: "AQAB".into(), ..ed25519() };
            assert_eq!(VerifyingKey::from_jwk(&jwk).is_some(), good, "{bytes} bytes");
        }
    }

    #[test]
    fn algorithms_go_by_their_exact_names() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::parse(algorithm.as_str()), Some(algorithm));
        }
        for other in ["none", "None", "eddsa", "ES384", "HS512", "", "EdDSA "] {
            assert_eq!(Algorithm::parse(other), None, "{other}");
        }
    }
}
