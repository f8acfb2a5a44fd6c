//! The connection to Sidle: one replica at a time, as the service account.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::proto::authenticate_service_client::AuthenticateServiceClient;
use crate::proto::{AuthenticateServiceAccountRequest, AuthenticateServiceAccountResponse};
use crate::{Clock, Secret};

/// Longest time that a call may take which is not a stream.
const PATIENCE: Duration = Duration::from_secs(5);
/// An access token whose lifetime is not known is used this long.
const SHORT: Duration = Duration::from_secs(60);
/// No access token is used longer, whatever expiry it states.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// Clones share the connection.
#[derive(Clone)]
pub(crate) struct Link {
    inner: Arc<Inner>,
}

struct Inner {
    channels: Vec<Channel>,
    at: AtomicUsize,
    api_key: Secret,
    token: Mutex<Option<Access>>,
    clock: Clock,
}

/// The access token that is sent with every request, until it is renewed.
pub(crate) struct Access {
    pub value: MetadataValue<Ascii>,
    pub renew_at: Instant,
}

impl Link {
    pub fn new(replicas: &[Endpoint], api_key: Secret, clock: Clock) -> Self {
        let connect = |endpoint: &Endpoint| {
            // A connection that is cut without a word is noticed by its silence.
            let endpoint = endpoint.clone().connect_timeout(PATIENCE).http2_keep_alive_interval(PATIENCE);
            endpoint.keep_alive_timeout(PATIENCE).keep_alive_while_idle(true).connect_lazy()
        };
        let channels = replicas.iter().map(connect).collect();
        Self { inner: Arc::new(Inner { channels, at: AtomicUsize::new(0), api_key, token: Mutex::default(), clock }) }
    }

    /// Source of the time for everything that uses this connection.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// The replica in use.
    pub fn channel(&self) -> Channel {
        self.inner.channels[self.at() % self.inner.channels.len()].clone()
    }

    /// Which replica is in use, for [`Link::give_up`].
    pub fn at(&self) -> usize {
        self.inner.at.load(Ordering::Relaxed)
    }

    /// Switches to the next replica in place of the one that was in use at `at`, unless that was done already: of
    /// several that fail together one switches, else they would come back to where they were.
    pub fn give_up(&self, at: usize) {
        let _ = self.inner.at.compare_exchange(at, at.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// `message` with the service account's access token, which is renewed before it expires.
    pub async fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token().await?);
        Ok(request)
    }

    /// Makes the next request use a fresh access token if this answer refuses the present one.
    pub async fn heed(&self, status: &Status) {
        if status.code() == Code::Unauthenticated {
            *self.inner.token.lock().await = None;
        }
    }

    /// Waits for an answer, but not for ever.
    pub async fn patiently<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let late = |_| Err(Status::deadline_exceeded("Sidle did not answer in time"));
        tokio::time::timeout(PATIENCE, call).await.unwrap_or_else(late)
    }

    async fn token(&self) -> Result<MetadataValue<Ascii>, Status> {
        // Concurrent callers wait for the same exchange.
        let mut token = self.inner.token.lock().await;
        if let Some(access) = token.as_ref().filter(|access| self.inner.clock.instant() < access.renew_at) {
            return Ok(access.value.clone());
        }
        let mut client = AuthenticateServiceClient::new(self.channel());
        let api_key = self.inner.api_key.0.to_string();
        let request = AuthenticateServiceAccountRequest { api_key, ..Default::default() };
        let answer = self.patiently(client.authenticate_service_account(request)).await?.into_inner();
        let access = access(&answer, self.inner.clock.now(), self.inner.clock.instant())?;
        let value = access.value.clone();
        *token = Some(access);
        Ok(value)
    }
}

/// The access token in an answer that came at this time, by both clocks.
pub(crate) fn access(
    answer: &AuthenticateServiceAccountResponse,
    now: DateTime<Utc>,
    instant: Instant,
) -> Result<Access, Status> {
    let unusable = |_| Status::internal("Sidle gave an access token that is none");
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", answer.access_token).parse().map_err(unusable)?;
    value.set_sensitive(true);
    let seconds = answer.access_token_expires_at.and_then(|at| at.seconds.checked_sub(now.timestamp()));
    let life = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(SHORT, Duration::from_secs);
    Ok(Access { value, renew_at: instant + life.clamp(SHORT, LONG).mul_f64(0.7) })
}
