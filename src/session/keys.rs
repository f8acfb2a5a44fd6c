//! The keys that sign access tokens: kept sealed in the database, held unsealed here, published without their private
//! half, which the public one is always derived from.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::store::keys as store;
use crate::audit::{Event, EventType, Recorder};
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::{Fault, Result};
use crate::seal::{Keyring, Place};

/// Keys are read again after this time at the latest.
const RELOAD: Duration = Duration::from_secs(60);
/// And not more often than this, whoever presents unknown key ids.
const RELOAD_PAUSE: Duration = Duration::from_secs(2);
/// What stands before the 32 bytes of an Ed25519 key in PKCS#8.
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Where a key stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Published, so that verifiers know it before the first token.
    Pending,
    /// Signs.
    Active,
    /// Signs no more; its tokens are still good.
    Retiring,
}

/// A key in use.
pub struct SigningKey {
    /// Its id.
    pub kid: Uuid,
    /// Where it stands in its life.
    pub state: KeyState,
    pub(super) algorithm: Algorithm,
    pub(super) signs: EncodingKey,
    pub(super) verifies: DecodingKey,
    public: PublicKey,
}

/// The published half of a key, with the member names of RFC 7517.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PublicKey {
    /// Id of the key.
    pub kid: String,
    /// `OKP`, `EC` or `RSA`.
    pub kty: &'static str,
    /// The only algorithm it is used with.
    pub alg: &'static str,
    /// Always `sig`.
    #[serde(rename = "use")]
    pub usage: &'static str,
    /// Curve.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub crv: &'static str,
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

/// The keys as they were read last. Clones share them.
#[derive(Clone, Default)]
pub struct Keys {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    set: RwLock<Arc<[Arc<SigningKey>]>>,
    wanted: Notify,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all().iter().map(|key| key.kid)).finish()
    }
}

impl SigningKey {
    /// A key from its private half.
    pub(super) fn new(kid: Uuid, state: KeyState, algorithm: &str, private: &[u8]) -> Result<Self> {
        let unreadable = || Fault::internal(format!("signing key {kid} does not hold a {algorithm} key"));
        let (algorithm, signs) = match algorithm {
            "EdDSA" => (Algorithm::EdDSA, EncodingKey::from_ed_der(private)),
            "ES256" => (Algorithm::ES256, EncodingKey::from_ec_der(private)),
            "RS256" => (Algorithm::RS256, EncodingKey::from_rsa_der(private)),
            _ => return Err(unreadable()),
        };
        let jwk = Jwk::from_encoding_key(&signs, algorithm).map_err(|_| unreadable())?;
        let verifies = DecodingKey::from_jwk(&jwk).map_err(|_| unreadable())?;
        let public = PublicKey::new(kid, jwk).ok_or_else(unreadable)?;
        Ok(Self { kid, state, algorithm, signs, verifies, public })
    }

    /// The published half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }
}

impl PublicKey {
    fn new(kid: Uuid, jwk: Jwk) -> Option<Self> {
        let base = Self { kid: kid.to_string(), usage: "sig", ..Self::default() };
        match jwk.algorithm {
            AlgorithmParameters::OctetKeyPair(key) => {
                Some(Self { kty: "OKP", alg: "EdDSA", crv: "Ed25519", x: key.x, ..base })
            }
            AlgorithmParameters::EllipticCurve(key) => {
                Some(Self { kty: "EC", alg: "ES256", crv: "P-256", x: key.x, y: key.y, ..base })
            }
            AlgorithmParameters::RSA(key) => Some(Self { kty: "RSA", alg: "RS256", n: key.n, e: key.e, ..base }),
            _ => None,
        }
    }
}

impl Keys {
    /// The key of this id; asks for the keys to be read again when there is none.
    pub(super) fn find(&self, kid: Uuid) -> Option<Arc<SigningKey>> {
        let found = self.all().iter().find(|key| key.kid == kid).cloned();
        if found.is_none() {
            self.reload_soon();
        }
        found
    }

    /// The key that signs.
    pub(super) fn active(&self) -> Result<Arc<SigningKey>> {
        let active = self.all().iter().find(|key| key.state == KeyState::Active).cloned();
        active.ok_or_else(|| Fault::internal("there is no active signing key"))
    }

    /// The published halves of every key that a living token may be signed with, and of the one that comes next.
    pub fn published(&self) -> Vec<PublicKey> {
        self.all().iter().map(|key| key.public().clone()).collect()
    }

    /// Has the keys read again, at a bounded rate.
    pub fn reload_soon(&self) {
        self.inner.wanted.notify_one();
    }

    pub(super) fn all(&self) -> Arc<[Arc<SigningKey>]> {
        Arc::clone(&self.inner.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replace(&self, keys: Vec<SigningKey>) {
        let keys = keys.into_iter().map(Arc::new).collect();
        *self.inner.set.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

/// Reads the keys and keeps them current.
#[derive(Clone, Debug)]
pub struct KeyRoom {
    /// What it reads them into.
    pub keys: Keys,
    db: Db,
    context: Context,
    keyring: Keyring,
    recorder: Recorder,
}

impl KeyRoom {
    /// A room without keys yet.
    pub fn new(db: Db, context: Context, keyring: Keyring, recorder: Recorder) -> Self {
        Self { keys: Keys::default(), db, context, keyring, recorder }
    }

    /// Reads the keys; makes the first one if there is none. Of replicas that start together one makes it.
    ///
    /// # Errors
    /// When the database fails, or a key was sealed under a key that is not configured.
    pub async fn load(&self) -> Result<()> {
        self.read().await?;
        if self.keys.active().is_err() {
            self.create_first().await?;
            self.read().await?;
        }
        Ok(())
    }

    /// Reads the keys again when asked to and every minute, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.keys.inner.wanted.notified() => {}
                () = tokio::time::sleep(RELOAD) => {}
            }
            if let Err(fault) = self.read().await {
                tracing::warn!(event = "signing_keys_not_read", %fault, cause = fault.cause().map(tracing::field::display));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RELOAD_PAUSE) => {}
            }
        }
    }

    async fn read(&self) -> Result<()> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let rows = store::usable(&mut tx).await?;
        let open = |row: store::Row| {
            let private = self.keyring.open(place(row.kid), &row.private_key)?;
            SigningKey::new(row.kid, row.state, &row.algorithm, &private)
        };
        self.keys.replace(rows.into_iter().map(open).collect::<Result<_>>()?);
        Ok(())
    }

    async fn create_first(&self) -> Result<()> {
        let kid = self.context.new_id();
        let mut private = Zeroizing::new([0; 48]);
        private[..16].copy_from_slice(&ED25519_PKCS8);
        self.context.entropy.fill(&mut private[16..]);
        let sealed = self.keyring.seal(&self.context.entropy, place(kid), &*private);
        let mut tx = self.db.begin(Scope::Platform).await?;
        if store::insert_first(&mut tx, kid, "EdDSA", &sealed, self.context.now()).await? {
            let event = Event::by_system(EventType::SigningKeyCreated, kid).target("signing_key", kid);
            self.recorder.record(&mut tx, event.detail("algorithm", "EdDSA")).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

fn place(kid: Uuid) -> Place {
    Place { table: "signing_keys", column: "private_key", row: kid }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An Ed25519 key of these bytes.
    pub(in crate::session) fn key(kid: u128, state: KeyState, byte: u8) -> SigningKey {
        let private = [ED25519_PKCS8.as_slice(), &[byte; 32]].concat();
        SigningKey::new(Uuid::from_u128(kid), state, "EdDSA", &private).unwrap()
    }

    #[test]
    fn the_published_half_comes_from_the_private_one() {
        // RFC 8032, section 7.1, test 1.
        let secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let secret: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&secret[2 * at..2 * at + 2], 16).unwrap()).collect();
        let private = [ED25519_PKCS8.as_slice(), &secret].concat();
        let key = SigningKey::new(Uuid::nil(), KeyState::Active, "EdDSA", &private).unwrap();
        assert_eq!(key.public().x, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!((key.public().kty, key.public().alg), ("OKP", "EdDSA"));
    }

    #[test]
    fn a_key_of_another_kind_than_it_says_is_refused() {
        assert!(SigningKey::new(Uuid::nil(), KeyState::Active, "EdDSA", b"short").is_err());
        assert!(SigningKey::new(Uuid::nil(), KeyState::Active, "HS256", &[7; 48]).is_err());
    }

    #[test]
    fn an_unknown_key_id_finds_nothing() {
        let keys = Keys::default();
        keys.replace(vec![key(1, KeyState::Retiring, 1)]);
        assert!(keys.find(Uuid::from_u128(1)).is_some());
        assert!(keys.find(Uuid::from_u128(2)).is_none());
        assert!(keys.active().is_err(), "a retiring key does not sign");
    }
}
