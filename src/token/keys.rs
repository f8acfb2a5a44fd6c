//! The keys that sign access tokens: kept sealed in the database, held unsealed here, published without their private
//! half, which the public one is always derived from. What becomes of them in the course of time is in `rotation`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sidle_token::{Algorithm, Jwk, VerifyingKey};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::hs256::OldClient;
use super::signing::PrivateKey;
use super::store::keys as store;
pub use super::store::keys::KeyState;
use crate::audit::Recorder;
use crate::config::TokenConfig;
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::{Fault, Result};
use crate::seal::{Keyring, SealContext, Sealed};

/// A revocation is remembered this much longer than a token lives: for clocks that differ, and for tokens of a replica
/// that still runs with a longer lifetime.
pub(super) const MARGIN: Duration = Duration::from_secs(3600);
/// Keys are read again after this time at the latest.
const RELOAD: Duration = Duration::from_secs(60);
/// And not more often than this, however many unknown key ids are presented.
const RELOAD_PAUSE: Duration = Duration::from_millis(500);
/// How often it is asked, without I/O, whether a key's time has come.
const TICK: Duration = Duration::from_millis(250);

/// A key in use.
pub struct SigningKey {
    /// Its id.
    pub kid: Uuid,
    /// Where it stands in its life.
    pub state: KeyState,
    /// When that changes, unless an administrator changes it before.
    pub(super) due: Option<DateTime<Utc>>,
    pub(super) signs: PrivateKey,
    pub(super) verifies: Arc<VerifyingKey>,
    public: Jwk,
}

/// The keys as they were read last. Clones share them.
#[derive(Clone, Default)]
pub struct Keys {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    set: RwLock<Arc<[Arc<SigningKey>]>>,
    old_clients: Vec<OldClient>,
    wanted: Notify,
    /// The log reported a change that was not read yet.
    behind: AtomicBool,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all().iter().map(|key| key.kid)).finish()
    }
}

impl SigningKey {
    /// A key from its private half.
    pub(crate) fn new(kid: Uuid, state: KeyState, algorithm: &str, private: &[u8]) -> Result<Self> {
        let unreadable = || Fault::internal(format!("signing key {kid} does not hold a {algorithm} key"));
        let algorithm = Algorithm::parse(algorithm).ok_or_else(unreadable)?;
        let signs = PrivateKey::from_pkcs8(algorithm, private).ok_or_else(unreadable)?;
        let public = signs.public(kid).ok_or_else(unreadable)?;
        let verifies = Arc::new(VerifyingKey::from_jwk(&public).ok_or_else(unreadable)?);
        Ok(Self { kid, state, due: None, signs, verifies, public })
    }

    /// The published half.
    pub fn public(&self) -> &Jwk {
        &self.public
    }
}

impl Keys {
    /// No keys yet but those of old clients, which are configured.
    pub(super) fn new(old_clients: Vec<OldClient>) -> Self {
        Self { inner: Arc::new(Inner { old_clients, ..Inner::default() }) }
    }

    /// The key of this id; asks for the keys to be read again when there is none.
    pub(super) fn find(&self, kid: Uuid) -> Option<Arc<VerifyingKey>> {
        let found = self.all().iter().find(|key| key.kid == kid).map(|key| Arc::clone(&key.verifies));
        let found = found.or_else(|| {
            let old_client = self.inner.old_clients.iter().find(|client| client.verifies.kid() == kid);
            old_client.map(|client| Arc::clone(&client.verifies))
        });
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

    /// The old client that this audience stands for, if it does.
    pub(super) fn old_client(&self, audience: &str) -> Option<&OldClient> {
        self.inner.old_clients.iter().find(|client| client.audience == audience)
    }

    /// The published halves of every key that a living token may be signed with, and of the one that comes next.
    pub fn published(&self) -> Vec<Jwk> {
        self.all().iter().map(|key| key.public().clone()).collect()
    }

    /// Has the keys read again, at a bounded rate.
    pub fn reload_soon(&self) {
        self.inner.wanted.notify_one();
    }

    /// Has the keys read again because they have changed. Until that is done, an id that is not known here may well be
    /// that of a good key.
    pub(super) fn have_changed(&self) {
        self.inner.behind.store(true, Ordering::Release);
        self.reload_soon();
    }

    /// Whether a change is known of that was not read yet.
    pub(super) fn is_behind(&self) -> bool {
        self.inner.behind.load(Ordering::Acquire)
    }

    pub(super) fn all(&self) -> Arc<[Arc<SigningKey>]> {
        Arc::clone(&self.inner.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, keys: Vec<SigningKey>) {
        let keys = keys.into_iter().map(Arc::new).collect();
        *self.inner.set.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Whether a key's state is to change by `now`.
    fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.all().iter().any(|key| key.due.is_some_and(|due| due <= now))
    }
}

/// Reads the keys, keeps them current, and changes them.
#[derive(Clone, Debug)]
pub struct SigningKeyManager {
    /// What it reads them into.
    pub keys: Keys,
    pub(super) db: Db,
    pub(super) context: Context,
    pub(super) keyring: Keyring,
    pub(super) recorder: Recorder,
    pub(super) config: Arc<TokenConfig>,
    /// Keys are made one at a time.
    pub(super) making: Arc<tokio::sync::Mutex<()>>,
}

impl SigningKeyManager {
    /// A manager without keys yet.
    ///
    /// # Errors
    /// When the key of an old client cannot be used.
    pub fn new(
        db: Db,
        context: Context,
        keyring: Keyring,
        recorder: Recorder,
        config: Arc<TokenConfig>,
    ) -> Result<Self> {
        let keys = Keys::new(OldClient::all(&config)?);
        Ok(Self { keys, db, context, keyring, recorder, config, making: Arc::default() })
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

    /// Reads the keys again when asked to and every minute, and changes those whose time has come, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut read_at = self.context.clock.instant();
        loop {
            let wanted = tokio::select! {
                () = stop.cancelled() => return,
                () = self.keys.inner.wanted.notified() => true,
                () = tokio::time::sleep(TICK) => false,
            };
            let is_due = self.keys.is_due(self.context.now());
            if !wanted && !is_due && self.context.clock.instant().saturating_duration_since(read_at) < RELOAD {
                continue;
            }
            let done = async {
                if is_due {
                    self.advance().await?;
                }
                self.read().await
            };
            if let Err(fault) = done.await {
                tracing::warn!(event = "signing_keys_not_read", %fault, cause = fault.cause().map(tracing::field::display));
                // What was asked for is still wanted.
                self.keys.reload_soon();
            }
            read_at = self.context.clock.instant();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RELOAD_PAUSE) => {}
            }
        }
    }

    /// Reads the keys now.
    ///
    /// # Errors
    /// When the database fails, or a key does not open.
    pub(super) async fn read(&self) -> Result<()> {
        // Before the reading: a change that is reported meanwhile may have come too late for it.
        self.keys.inner.behind.store(false, Ordering::Release);
        let result = self.read_all().await;
        if result.is_err() {
            self.keys.inner.behind.store(true, Ordering::Release);
        }
        result
    }

    async fn read_all(&self) -> Result<()> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let rows = store::usable(&mut tx).await?;
        let due = due(&rows, self.config.rotate_after);
        let open = |row: store::Row| {
            let private = self.keyring.open(seal_context(row.kid), &row.private_key)?;
            let key = SigningKey::new(row.kid, row.state, &row.algorithm, &private)?;
            Ok(SigningKey { due: due(&row), ..key })
        };
        self.keys.replace(rows.into_iter().map(open).collect::<Result<_>>()?);
        Ok(())
    }
}

/// The private keys as they lie in the database, for the start to try its own keys on.
///
/// # Errors
/// When the database fails.
pub async fn sealed(db: &Db) -> Result<Vec<Sealed>> {
    let mut tx = db.begin(Scope::Platform).await?;
    let rows = store::usable(&mut tx).await?;
    Ok(rows.into_iter().map(|row| Sealed { context: seal_context(row.kid), value: row.private_key }).collect())
}

/// When the state of each of these keys changes by itself.
pub(super) fn due(
    rows: &[store::Row],
    rotate_after: Option<Duration>,
) -> impl Fn(&store::Row) -> Option<DateTime<Utc>> + use<> {
    let is_rotating = rows.iter().any(|row| row.state == KeyState::Pending);
    let rotate_after = rotate_after.and_then(|age| TimeDelta::from_std(age).ok()).filter(|_| !is_rotating);
    move |row| match row.state {
        KeyState::Pending => Some(row.activates_at),
        KeyState::Active => rotate_after.map(|age| row.activates_at + age),
        KeyState::Retiring => row.expires_at,
        KeyState::Retired => None,
    }
}

/// Where a key's private half lies.
pub(super) fn seal_context(kid: Uuid) -> SealContext {
    SealContext { table: "signing_keys", column: "private_key", row: kid }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An Ed25519 key of these bytes.
    pub(crate) fn key(kid: u128, state: KeyState, byte: u8) -> SigningKey {
        let private = PrivateKey::EdDsa(ed25519_dalek::SigningKey::from_bytes(&[byte; 32])).to_pkcs8().unwrap();
        SigningKey::new(Uuid::from_u128(kid), state, "EdDSA", &private).unwrap()
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
