//! Sessions: their tokens, their renewal and their end, and keeping the signing keys and the snapshot of revocations
//! current. Knows Kanidm only as the service that is asked whether a person is still good, and nothing of how users
//! authenticate.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod kanidm_watch;
mod manage;
mod opening;
mod recheck;
mod refresh;
mod renewal;
mod rpc;
mod settings;
mod store;
mod waiters;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

pub use self::manage::{Listing, SessionOwner, SessionView, Status};
pub use self::opening::{Device, PendingSession, REFRESH_PREFIX, Rights, SessionFactory, SessionRequest, Tokens};
pub use self::recheck::Rechecks;
pub use self::refresh::{Refresh, Refreshed, no_tenant};
pub use self::renewal::Renewal;
pub use self::rpc::Service;
pub use self::settings::Settings;
pub use self::store::types::{NewSession, UserRights};
use crate::access::paging::Paging;
use crate::audit::{Log, Recorder};
use crate::context::Context;
use crate::correlation;
use crate::db::{Db, Scope};
use crate::fault::Result;
use crate::kanidm::Oidc;
use crate::metrics::Metrics;
use crate::shared::Core;
use crate::token::{Issuer, KanidmTokens, Revocations, SigningKeyManager, Verifier};

/// Pause between looks whether the snapshot of revocations is complete, at the start.
const SETTLING: Duration = Duration::from_millis(5);
/// How often lapsed sessions are marked.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// Sessions and their tokens.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// Makes access tokens.
    pub issuer: Issuer,
    /// Checks access tokens.
    pub verifier: Verifier,
    /// Begins sessions.
    pub session_factory: SessionFactory,
    /// The snapshot of revocations.
    pub revocations: Revocations,
    /// Checks access tokens of Kanidm's own, where there is one.
    pub kanidm_tokens: Option<KanidmTokens>,
    /// The keys that sign.
    pub keys: SigningKeyManager,
    db: Db,
    context: Context,
    recorder: Recorder,
    paging: Paging,
    config: Arc<Settings>,
    kanidm: Option<Oidc>,
    successor_key: Arc<Zeroizing<[u8; 32]>>,
    waiters: waiters::Waiters,
}

impl Sessions {
    /// Without keys and without a snapshot of revocations until [`Sessions::start`].
    ///
    /// # Errors
    /// When the key of an old client cannot be used.
    pub fn new(core: Core, config: Settings, kanidm: Option<Oidc>) -> Result<Self> {
        let Core { db, context, keyring, recorder, paging, .. } = core;
        let (tokens, config) = (Arc::new(config.tokens.clone()), Arc::new(config));
        let keys = SigningKeyManager::new(
            db.clone(),
            context.clone(),
            keyring.clone(),
            recorder.clone(),
            Arc::clone(&tokens),
        )?;
        let revocations = Revocations::new(context.clone(), tokens.access_lifetime);
        let issuer = Issuer::new(keys.keys.clone(), context.clone(), Arc::clone(&tokens));
        let (set, clock) = (keys.keys.clone(), context.clock.clone());
        let verifier = Verifier::new(set, revocations.clone(), clock, Arc::clone(&tokens));
        let session_factory = SessionFactory {
            context: context.clone(),
            keyring: keyring.clone(),
            issuer: issuer.clone(),
            recorder: recorder.clone(),
            config: Arc::clone(&config),
        };
        let kanidm_tokens = kanidm.clone().map(|kanidm| {
            KanidmTokens::new(kanidm, db.clone(), revocations.clone(), context.clone(), &config.kanidm, tokens)
        });
        let successor_key = Arc::new(keyring.derive("refresh token successors"));
        Ok(Self {
            issuer,
            verifier,
            session_factory,
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
            waiters: waiters::Waiters::default(),
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
        let work = correlation::spawn(async move {
            tokio::join!(keys, revocations, housekeeping, kanidm);
        });
        // Loaded is not enough: no token can be verified before it is known that nothing is missing.
        while self.revocations.age().is_none() && !stop.is_cancelled() {
            tokio::time::sleep(SETTLING).await;
        }
        Ok(async move {
            // It ends with `stop`; a panic in it has been reported where it happened.
            let _ = work.await;
        })
    }

    /// The tenant that a login asks for. Only for callers who have authenticated: a slug can be guessed. One that no tenant
    /// has becomes the id of none, so that it is refused exactly as a tenant that the user is no member of.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE`.
    pub async fn asked_tenant(&self, request: &SessionRequest) -> Result<Option<Uuid>> {
        let Some(slug) = &request.tenant_slug else { return Ok(request.tenant_id) };
        Ok(Some(store::sessions::tenant_of_slug(&self.db, slug).await?.unwrap_or(Uuid::nil())))
    }

    /// Applies here immediately that a login or a refresh ended a user's older tokens.
    pub fn note(&self, user: Uuid, rights: &Rights) {
        // What ended long ago is in the snapshot, or of no consequence any more.
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
