//! Exchanging refresh tokens. A family has one live branch: a second use of a token is either the repeat of a call whose
//! answer got lost or a call of the same client that another one outran, which get the same answer, or theft, which ends
//! the family. The database decides which, in one statement; here the successor is derived from the token, so that each
//! arrives at the same one without anything being stored.

use std::time::Duration;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Sessions;
use super::manage::By;
use super::opening::{REFRESH_PREFIX, Tokens};
use super::store::refresh::{self as store, Exchange, Outcome};
use super::waiters::raced;
use crate::access::Call;
use crate::audit::{Event, EventType, Outcome as EventOutcome};
use crate::correlation;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::Renewed;
use crate::token::opaque;

/// A lost answer may be asked for again for so long.
const REPEAT: Duration = Duration::from_secs(60);
/// How long a replica has the lease on a session while it renews it at Kanidm, beyond Kanidm's own time limit.
pub(super) const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// Pause before looking whether another call has finished renewing the session; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(40);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A call of `RefreshToken`.
pub struct Refresh {
    pub token: Zeroizing<String>,
    /// Makes the call repeatable.
    pub request_id: Option<Uuid>,
    /// Tenant to act in from now on.
    pub tenant_id: Option<Uuid>,
    /// Audience that the caller takes the session to be for; whatever it is for when none.
    pub audience: Option<String>,
}

/// What it led to.
#[derive(Debug)]
pub struct Refreshed {
    /// The next pair.
    pub tokens: Tokens,
    pub session_id: Uuid,
    /// The tenant it acts in.
    pub tenant_id: Option<Uuid>,
    /// Whether a new password must be set before anything else.
    pub must_change_password: bool,
}

impl Sessions {
    /// Exchanges a refresh token for the next pair.
    ///
    /// # Errors
    /// `INVALID_REFRESH_TOKEN`, `NO_TENANT`, `REQUEST_ID_REUSED`, `REFRESH_RACED`, `AUDIENCE_BOUND`, `KANIDM_UNAVAILABLE`,
    /// `THROTTLED`, `OVERLOADED`.
    pub async fn refresh(&self, call: &Call, refresh: &Refresh) -> Result<Refreshed> {
        if !opaque::is_plausible(REFRESH_PREFIX, &refresh.token) {
            return Err(invalid());
        }
        let successor = self.successor(&refresh.token);
        let mut exchange = self.exchange_of(call, refresh, &successor);
        let outcome = self.exchange(call, &mut exchange).await?;
        let done = self.accepted(outcome)?;
        self.recorder.wake();
        self.note(done.user_id, &done.rights);
        let grant = done.rights.grant(done.user_id, done.session_id, done.audience, done.expires_at);
        let access = self.issuer.issue(exchange.access_jti, &grant)?;
        let tokens = Tokens { access, refresh_token: successor, refresh_expires_at: done.refresh_expires_at };
        let (session_id, tenant_id) = (done.session_id, done.rights.tenant_id);
        Ok(Refreshed { tokens, session_id, tenant_id, must_change_password: done.rights.must_change_password })
    }

    /// What the database is asked: whether the token is good, and that the successor follow it if so.
    fn exchange_of(&self, call: &Call, refresh: &Refresh, successor: &str) -> Exchange {
        // Without an id of its own the call cannot be repeated: no other one will come to this id.
        let request = refresh.request_id.map_or_else(|| self.context.entropy.array(), Uuid::into_bytes);
        Exchange {
            token_hash: opaque::digest(refresh.token.as_bytes()),
            request_hash: opaque::digest(request),
            successor_id: self.context.new_id(),
            successor_hash: opaque::digest(successor.as_bytes()),
            access_jti: self.context.new_id(),
            tenant_id: refresh.tenant_id,
            audience: refresh.audience.clone(),
            now: self.context.now(),
            repeat: REPEAT,
            leeway: self.config.tokens.refresh_leeway,
            access_until: self.issuer.access_until(),
            idle: self.session_factory.idle(false),
            persistent_idle: self.session_factory.idle(true),
            lease: self.context.new_id(),
            lease_time: self.config.kanidm.timeout + LEASE_MARGIN,
            charge: self.config.throttle.session_refresh(),
            refreshed: self.recorder.prepare(Event::new(EventType::SessionRefreshed, call)),
            reused: self.recorder.prepare(
                Event::new(EventType::SessionRefreshReused, call).outcome(EventOutcome::Refused).reason("token_reuse"),
            ),
        }
    }

    /// What of an exchange goes on, or its refusal; the reuse of a token has ended its session, which this replica
    /// refuses from now on.
    fn accepted(&self, outcome: Outcome) -> Result<store::Done> {
        Err(match outcome {
            Outcome::Refreshed(done) => return Ok(done),
            Outcome::Reused(session) => {
                self.revocations.end_session(session);
                self.recorder.wake();
                tracing::warn!(event = "refresh_token_reused", session_id = %session, "a refresh token was used twice: its session ended");
                invalid()
            }
            Outcome::NoTenant => no_tenant(),
            Outcome::RequestIdReused => {
                Fault::new(Reason::RequestIdReused, "The request_id was used before for another tenant.")
            }
            Outcome::Raced => raced(),
            Outcome::Throttled(wait) => {
                Fault::new(Reason::Throttled, "The session is refreshed too often.").retry_after(wait)
            }
            Outcome::OtherAudience => other_audience(),
            Outcome::Invalid | Outcome::KanidmBusy | Outcome::KanidmRequired(_) => invalid(),
        })
    }

    /// The statement, and for a session that depends on Kanidm, what Kanidm says between two of them.
    async fn exchange(&self, call: &Call, exchange: &mut Exchange) -> Result<Outcome> {
        let deadline = self.context.clock.instant() + exchange.lease_time;
        let (mut waiting, mut pause) = (None, FIRST_PAUSE);
        loop {
            // Asked for anew each time: a token counts as used when it is exchanged, not when the call came that led to it,
            // and what is handed out for it is good for as long as any other.
            exchange.now = self.context.now();
            exchange.access_jti = self.context.new_id();
            exchange.access_until = self.issuer.access_until();
            match store::exchange(&self.db, exchange).await? {
                // Another call is renewing the same session. Kanidm's tokens rotate, so they come first.
                Outcome::KanidmBusy if self.context.clock.instant() < deadline => {
                    if waiting.is_none() {
                        waiting = Some(self.waiters.wait(exchange.token_hash)?);
                    }
                    tokio::time::sleep(self.context.entropy.jitter(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Outcome::KanidmBusy => return Err(crate::kanidm::unavailable()),
                Outcome::KanidmRequired(lease) => self.renew(call, exchange.lease, lease).await?,
                outcome => return Ok(outcome),
            }
            // The call has been charged.
            exchange.charge = None;
        }
    }

    /// Renews a session at Kanidm and keeps what came of it; afterwards the exchange can go on.
    async fn renew(&self, call: &Call, id: Uuid, lease: store::Lease) -> Result<()> {
        // To its end, even if the client disconnects: Kanidm's next token must not be lost.
        let (sessions, call) = (self.clone(), call.clone());
        let work = async move {
            match sessions.ask_kanidm(&lease).await {
                Ok(Some(renewed)) => sessions.keep(&call, id, &lease, &renewed).await,
                Ok(None) => {
                    sessions.end_for_kanidm(&call, lease.session_id).await?;
                    Err(invalid())
                }
                Err(fault) => {
                    store::release(&sessions.db, lease.session_id, id).await?;
                    Err(fault)
                }
            }
        };
        correlation::spawn(work).await.map_err(Fault::internal)?
    }

    /// What Kanidm says about the person now; none when it does not confirm them any more.
    pub(super) async fn ask_kanidm(&self, lease: &store::Lease) -> Result<Option<Renewed>> {
        let kanidm = self.kanidm.as_ref().ok_or_else(crate::kanidm::unavailable)?;
        let Some(sealed) = &lease.refresh_token else { return Ok(None) };
        let token = self.session_factory.open_kanidm(lease.session_id, sealed)?;
        let renewed = kanidm.renew(&token).await?;
        // Another person than the one who signed in is not accepted.
        Ok(renewed.filter(|renewed| renewed.person == lease.kanidm_user_id))
    }

    pub(super) async fn keep(&self, call: &Call, id: Uuid, lease: &store::Lease, renewed: &Renewed) -> Result<()> {
        let sealed = self.session_factory.seal_kanidm(lease.session_id, &renewed.refresh_token);
        let event = Event::by_system(EventType::MembershipSynced, call.correlation_id);
        let event = self.recorder.prepare(event);
        let (db, now) = (&self.db, self.context.now());
        let ended = store::renewed(db, lease.session_id, id, &sealed, &renewed.groups, now, &event).await?;
        self.recorder.wake();
        if let Some((user, epoch)) = ended {
            self.revocations.end_tokens(user, epoch);
        }
        Ok(())
    }

    pub(super) async fn end_for_kanidm(&self, call: &Call, session: Uuid) -> Result<()> {
        let event = Event::by_system(EventType::SessionRevoked, call.correlation_id).session(session).reason("kanidm");
        self.end(By::Service, session, "kanidm", event, crate::db::Scope::Platform).await.map(|_| ())
    }

    /// The same for the same token, under a key that the database does not have.
    fn successor(&self, token: &str) -> Zeroizing<String> {
        // HMAC takes keys of any length, so this cannot fail.
        #[expect(clippy::expect_used, reason = "HMAC accepts keys of every length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(self.successor_key.as_slice()).expect("HMAC takes any key");
        mac.update(token.as_bytes());
        let bytes = Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()));
        opaque::with_bytes(REFRESH_PREFIX, &bytes)
    }
}

fn invalid() -> Fault {
    Fault::new(Reason::InvalidRefreshToken, "The refresh token is not accepted.")
}

fn other_audience() -> Fault {
    Fault::new(Reason::AudienceBound, "The session is for another audience.")
}

/// The refusal of a user without a usable tenant.
pub fn no_tenant() -> Fault {
    Fault::new(Reason::NoTenant, "The user is not a member of the tenant asked for, or of any.")
}
