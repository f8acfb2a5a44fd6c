//! Sidle's published keys.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sidle_token::{Jwk, VerifyingKey};
use tokio::sync::Mutex;
use tonic::Status;
use uuid::Uuid;

use crate::link::Link;
use crate::proto::authenticate_service_client::AuthenticateServiceClient;
use crate::proto::{GetJwksRequest, GetJwksResponse};
use crate::{proto, wire};

/// Keys are fetched again no sooner than this, however many unknown key ids are presented.
const PAUSE: Duration = Duration::from_secs(1);
/// Bounds on the lifetime that the answer states for itself.
const LIFE: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(3600);

type Set = HashMap<Uuid, Arc<VerifyingKey>>;

/// The keys as they were fetched last. Clones share them.
#[derive(Clone)]
pub(crate) struct Keys {
    link: Link,
    set: Arc<RwLock<Arc<Set>>>,
    last: Arc<Mutex<Option<Fetch>>>,
}

/// The last attempt to fetch them.
#[derive(Clone, Copy)]
struct Fetch {
    began: Instant,
    succeeded: bool,
}

impl Keys {
    pub fn new(link: Link) -> Self {
        Self { link, set: Arc::default(), last: Arc::default() }
    }

    /// The key of this id.
    pub fn find(&self, kid: Uuid) -> Option<Arc<VerifyingKey>> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).get(&kid).cloned()
    }

    pub fn is_empty(&self) -> bool {
        self.set.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Fetches the keys because of one that is not known, unless that was done just now; returns whether it is known
    /// then. Concurrent callers share one fetch.
    ///
    /// # Errors
    /// When they cannot be fetched, or could not be just now: it is not known then whether there is such a key.
    pub async fn look_for(&self, kid: Uuid) -> Result<bool, Status> {
        let mut last = self.last.lock().await;
        if self.find(kid).is_some() {
            return Ok(true);
        }
        let now = self.link.clock().instant();
        match last.filter(|last| now < last.began + PAUSE) {
            Some(Fetch { succeeded: true, .. }) => Ok(false),
            Some(_) => Err(Status::unavailable("the keys could not be fetched a moment ago")),
            None => {
                self.fetch(&mut last).await?;
                Ok(self.find(kid).is_some())
            }
        }
    }

    /// Fetches the keys again whenever they have expired.
    pub async fn keep_current(self) {
        loop {
            let at = self.link.at();
            let life = self.fetch(&mut *self.last.lock().await).await;
            let pause = match life {
                Ok(life) => life,
                Err(status) => {
                    tracing::warn!(code = ?status.code(), "the keys of Sidle cannot be fetched: {}", status.message());
                    self.link.give_up(at);
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn fetch(&self, last: &mut Option<Fetch>) -> Result<Duration, Status> {
        let began = self.link.clock().instant();
        // Failed until it has succeeded, also when the waiting call is cancelled.
        *last = Some(Fetch { began, succeeded: false });
        let mut client = AuthenticateServiceClient::new(self.link.channel());
        let answer = self.link.patiently(client.get_jwks(GetJwksRequest {})).await?.into_inner();
        let (keys, life) = usable(answer);
        *self.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        *last = Some(Fetch { began, succeeded: true });
        Ok(life)
    }
}

/// The keys of an answer that are of a kind known here, and their lifetime.
pub(crate) fn usable(answer: GetJwksResponse) -> (Set, Duration) {
    let life = answer.max_age.and_then(wire::duration).unwrap_or(*LIFE.start());
    let keys = answer.keys.into_iter().filter_map(|key| {
        let kid = key.kid.clone();
        let key = VerifyingKey::from_jwk(&read(key));
        if key.is_none() {
            tracing::warn!(kid, "a key of Sidle is of a kind that is not known here");
        }
        key.map(|key| (key.kid(), Arc::new(key)))
    });
    (keys.collect(), life.clamp(*LIFE.start(), *LIFE.end()))
}

fn read(key: proto::Jwk) -> Jwk {
    Jwk {
        kid: key.kid,
        kty: key.kty,
        alg: key.alg,
        usage: key.r#use,
        crv: key.crv,
        x: key.x,
        y: key.y,
        n: key.n,
        e: key.e,
    }
}
