//! Sessions: their tokens, the keys that sign them, their renewal and their end, and the picture of revocations that
//! every token is checked against. Knows Kanidm only as somebody who is asked whether a person is still good, and
//! nothing of how people sign in.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hs256;
mod issuer;
mod kanidm_token;
mod kanidm_watch;
mod keys;
mod manage;
pub mod opaque;
mod opening;
mod refresh;
mod renewal;
mod revocation;
mod role_names;
mod rotation;
mod rpc;
mod signing;
mod store;
mod verifier;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

pub use self::issuer::{AccessToken, Grant, Issuer};
pub use self::kanidm_token::{KanidmTokens, KanidmVerified, TokenUser};
pub use self::keys::{KeyRoom, KeyState, Keys, SigningKey};
pub use self::manage::{Listing, SessionView, Status, Whose};
pub use self::opening::{Device, Opener, Opening, REFRESH_PREFIX, Rights, Tokens, Wish, hex};
pub use self::refresh::{Refresh, Refreshed, no_tenant};
pub use self::renewal::{Renewal, Renewed};
pub use self::revocation::Revocations;
pub use self::role_names::RoleNames;
pub use self::rotation::{FreshKey, KeyView, Revoke, Rotated, Rotation};
pub use self::rpc::Service;
pub use self::verifier::{MAX_TOKEN_BYTES, Verified, Verifier};
use crate::access::paging::Paging;
use crate::audit::{Log, Recorder};
use crate::config::Config;
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::Result;
use crate::kanidm::Oidc;
use crate::metrics::Metrics;
use crate::seal::Keyring;

/// Pause between looks whether the picture of revocations is complete, at the start.
const SETTLING: Duration = Duration::from_millis(5);
/// How often lapsed sessions are marked.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// Everything this room offers.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// Makes access tokens.
    pub issuer: Issuer,
    /// Checks access tokens.
    pub verifier: Verifier,
    /// Begins sessions.
    pub opener: Opener,
    /// The picture of revocations.
    pub revocations: Revocations,
    /// Checks access tokens of Kanidm's own, where there is one.
    pub kanidm_tokens: Option<KanidmTokens>,
    /// The keys that sign.
    pub keys: KeyRoom,
    db: Db,
    context: Context,
    recorder: Recorder,
    paging: Paging,
    config: Arc<Config>,
    kanidm: Option<Oidc>,
    successor_key: Arc<Zeroizing<[u8; 32]>>,
}

impl Sessions {
    /// The room. Without keys and without a picture of revocations until [`Sessions::start`].
    ///
    /// # Errors
    /// When the key of an old client cannot be used.
    pub fn new(
        config: Arc<Config>,
        context: Context,
        db: Db,
        keyring: Keyring,
        recorder: Recorder,
        paging: Paging,
        kanidm: Option<Oidc>,
    ) -> Result<Self> {
        let tokens = Arc::new(config.tokens.clone());
        let keys = KeyRoom::new(db.clone(), context.clone(), keyring.clone(), recorder.clone(), Arc::clone(&tokens))?;
        let revocations = Revocations::new(context.clone(), tokens.access_lifetime);
        let issuer = Issuer::new(keys.keys.clone(), context.clone(), Arc::clone(&tokens));
        let verifier = Verifier::new(keys.keys.clone(), revocations.clone(), context.clock.clone(), tokens);
        let opener = Opener {
            context: context.clone(),
            keyring: keyring.clone(),
            issuer: issuer.clone(),
            recorder: recorder.clone(),
            config: Arc::clone(&config),
        };
        let kanidm_tokens = kanidm.clone().map(|kanidm| {
            KanidmTokens::new(kanidm, db.clone(), revocations.clone(), context.clone(), Arc::clone(&config))
        });
        let successor_key = Arc::new(keyring.derive("refresh token successors"));
        Ok(Self {
            issuer,
            verifier,
            opener,
            revocations,
            kanidm_tokens,
            keys,
            db,
            context,
            recorder,
            paging,
            config,
            kanidm,
            successor_key,
        })
    }

    /// Loads what must be there before the first call, keys and revocations, and keeps both current until `stop`. The
    /// log's feed must be running. What it gives back ends with that work.
    ///
    /// # Errors
    /// When the database fails, or a key does not open.
    pub async fn start(
        &self,
        log: &Log,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = ()> + Send + 'static> {
        self.keys.load().await?;
        let origin = self.revocations.load(log).await?;
        let keys = self.keys.clone().run(stop.clone());
        let revocations = self.revocations.clone().follow(log.clone(), origin, self.keys.clone(), stop.clone());
        let kanidm = self.clone().watch_kanidm(metrics.clone(), stop.clone());
        let housekeeping = self.clone().housekeep(metrics, stop.clone());
        let work = tokio::spawn(async move {
            tokio::join!(keys, revocations, housekeeping, kanidm);
        });
        // Loaded is not enough: nothing can be vouched for before it is known that nothing is missing.
        while self.revocations.age().is_none() && !stop.is_cancelled() {
            tokio::time::sleep(SETTLING).await;
        }
        Ok(async move {
            // It ends with `stop`; a panic in it has been reported where it happened.
            let _ = work.await;
        })
    }

    /// Applies here at once that a login or a refresh ended a user's older tokens.
    pub fn note(&self, user: Uuid, rights: &Rights) {
        // What ended long ago is in the picture, or of no consequence any more.
        if rights.epoch.time() > self.context.now() - HOUSEKEEPING {
            self.revocations.end_tokens(user, rights.epoch);
        }
    }

    /// Marks lapsed sessions, and counts the living ones, until `stop`.
    async fn housekeep(self, metrics: Metrics, stop: CancellationToken) {
        loop {
            let done = async {
                store::sessions::expire(&self.db, self.context.now(), self.config.sessions.keep_ended).await?;
                store::sessions::count_active(&mut *self.db.begin(Scope::Platform).await?).await
            };
            match done.await {
                Ok(active) => _ = metrics.sessions_active.set(active),
                Err(fault) => {
                    tracing::warn!(event = "sessions_not_tidied", %fault, cause = fault.cause().map(tracing::field::display));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.context.entropy.jitter(HOUSEKEEPING)) => {}
            }
        }
    }
}
