//! How a user who was migrated gets a first credential in Kanidm: an invitation after a login, exchanged for the one
//! reset link that a person has at a time; or the password itself, carried over. Decides at login by what is in the
//! database, never by asking Kanidm.

mod carry_over;
mod link;
pub(super) mod redeem;
mod store;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Semaphore;
use uuid::Uuid;
use zeroize::Zeroizing;

pub(super) use self::link::EnrolmentLink;
pub(in crate::authenticate) use self::store::{InvitationRoute, NewInvitation};
use self::store::{Invited, Lease};
use super::settings::Settings;
use crate::access::Call;
use crate::audit::{Event, EventType, Recorder};
use crate::change::Changes;
use crate::context::Context;
use crate::db::{Db, Scope, interval};
use crate::fault::Result;
use crate::kanidm::Kanidm;
use crate::mail::{Kind, Message, Outbox};
use crate::metrics::Metrics;
use crate::seal::Keyring;
use crate::shared::Core;
use crate::token::opaque;

/// Prefix of invitations.
const PREFIX: &str = "sidle_iv_";

/// Gives users their first credential in Kanidm.
#[derive(Clone)]
pub struct Enrolment {
    config: Arc<Settings>,
    context: Context,
    db: Db,
    changes: Changes,
    keyring: Keyring,
    recorder: Recorder,
    metrics: Metrics,
    outbox: Outbox,
    kanidm: Option<Kanidm>,
    /// Permits for passwords that are being carried over.
    permits: Arc<Semaphore>,
}

/// An invitation that a login may hand out.
pub(super) struct Offer {
    hint: Hint,
    /// What the database function `invitation_offer` takes.
    pub record: NewInvitation,
}

/// An invitation in the answer to a login.
#[derive(Clone, Debug)]
pub struct Hint {
    /// The invitation.
    pub token: Zeroizing<String>,
    /// When it stops being accepted.
    pub expires_at: DateTime<Utc>,
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment").field("kanidm", &self.kanidm).finish_non_exhaustive()
    }
}

impl Enrolment {
    /// Into this Kanidm, where there is one.
    pub(super) fn new(core: Core, config: Arc<Settings>, changes: Changes, kanidm: Option<Kanidm>) -> Self {
        let Core { db, context, keyring, recorder, outbox, metrics, .. } = core;
        let permits = Arc::new(Semaphore::new(config.enrolment.carry_over_at_once));
        Self { config, context, db, changes, keyring, recorder, metrics, outbox, kanidm, permits }
    }

    /// An invitation for the database to hand out should this login be complete and the user be one to invite; none
    /// while logins invite no user.
    pub(super) fn offer(&self, call: &Call, user: Uuid) -> Option<Offer> {
        let config = &self.config.enrolment;
        if !config.hints || self.kanidm.is_none() {
            return None;
        }
        let token = opaque::mint(PREFIX, &self.context.entropy);
        let expires_at = self.context.now() + TimeDelta::from_std(config.invitation_lifetime).unwrap_or_default();
        let mail = Message::to_user(Kind::EnrolmentHint, user)
            .lifetime(config.invitation_lifetime)
            .with("token", token.as_str())
            .with("expires_at", expires_at);
        let issued = Event::new(EventType::MigrationInvitationIssued, call).by_user(user).target("user", user);
        let record = NewInvitation {
            invitation_id: self.context.new_id(),
            token_hash: opaque::digest(token.as_bytes()).to_vec(),
            expires_at,
            tenant_slugs: config.tenants.clone(),
            mail: self.outbox.prepare(mail),
            mail_every: interval(config.mail_every),
            issued: self.recorder.prepare(issued),
        };
        Some(Offer { hint: Hint { token, expires_at }, record })
    }

    /// What of an offer goes into the answer, by what `invitation_offer` said.
    pub(super) fn accepted(&self, offer: Option<Offer>, route: Option<InvitationRoute>) -> Option<Hint> {
        if route == Some(InvitationRoute::Mail) {
            self.outbox.wake();
        }
        offer.filter(|_| route == Some(InvitationRoute::Login)).map(|offer| offer.hint)
    }

    /// Whose invitation a token is, if it can be redeemed.
    pub(super) async fn find(&self, token: &str) -> Result<Option<Invited>> {
        if !opaque::is_plausible(PREFIX, token) {
            return Ok(None);
        }
        let mut tx = self.db.begin(Scope::Platform).await?;
        let invited = store::find(&mut tx, &opaque::digest(token), self.context.now()).await?;
        tx.commit().await?;
        Ok(invited)
    }

    /// Purges what has lapsed.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn purge_expired(&self) -> Result<()> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        store::purge_invitations(&mut tx, self.context.now()).await?;
        store::purge_links(&mut tx).await?;
        tx.commit().await
    }

    /// A lease that outlasts so many calls to Kanidm, each as long as it may take.
    fn lease(&self, calls: u32) -> Lease {
        let time = self.config.kanidm.timeout.saturating_mul(calls) + Duration::from_secs(5);
        Lease { id: self.context.new_id(), time }
    }
}
