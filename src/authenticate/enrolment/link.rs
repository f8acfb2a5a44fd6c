//! The one reset link that a person has at a time. Made only while the person has no credential, by whoever holds the
//! lease on the person, and written down before Kanidm is asked: after an answer that got lost there may be a link that
//! nobody has, and another one would be the second.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Enrolment;
use super::store::{self as store, Begun, Invited, Lease, LiveLink, Minted};
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::authenticate::invalid_credentials;
use crate::correlation;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::{Kanidm, KanidmError, SHORTEST_LINK};
use crate::seal::Place;

/// How often somebody who waits for the lease looks whether it is free.
const LOOK: Duration = Duration::from_millis(100);

/// What an invitation is exchanged for.
pub(in crate::authenticate) struct EnrolmentLink {
    /// Page of Kanidm's at which the person sets a credential.
    pub url: Zeroizing<String>,
    /// When it stops working.
    pub expires_at: DateTime<Utc>,
}

impl EnrolmentLink {
    /// As it is sealed.
    fn pack(&self) -> Zeroizing<Vec<u8>> {
        let mut packed = Zeroizing::new(Vec::with_capacity(8 + self.url.len()));
        packed.extend_from_slice(&self.expires_at.timestamp().to_be_bytes());
        packed.extend_from_slice(self.url.as_bytes());
        packed
    }

    fn unpack(packed: &[u8]) -> Result<Self> {
        let broken = || Fault::internal("a sealed link is not one");
        let (expires_at, url) = packed.split_first_chunk::<8>().ok_or_else(broken)?;
        let expires_at = DateTime::from_timestamp(i64::from_be_bytes(*expires_at), 0).ok_or_else(broken)?;
        let url = std::str::from_utf8(url).map_err(|_| broken())?;
        Ok(Self { url: Zeroizing::new(url.to_owned()), expires_at })
    }
}

/// How making a link ended.
enum Ended {
    Handed(EnrolmentLink),
    /// The person has a credential.
    Enrolled,
    /// The invitation died.
    Gone,
}

impl Enrolment {
    /// The reset link for somebody who has shown all that redeeming the invitation takes. Runs to its end also if the
    /// caller goes away: a link that was made is kept.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` when the invitation died meanwhile; `ENROLMENT_LINK_PENDING`; `KANIDM_UNAVAILABLE`,
    /// `KANIDM_REFUSED`, `KANIDM_NOT_CONFIGURED`.
    pub(in crate::authenticate) async fn link(&self, call: &Call, invited: Invited) -> Result<EnrolmentLink> {
        let kanidm = self.kanidm.clone();
        let kanidm = kanidm.ok_or_else(|| Fault::new(Reason::KanidmNotConfigured, "No Kanidm is configured."))?;
        let (room, call) = (self.clone(), call.clone());
        let made = correlation::spawn(async move {
            let lease = room.lease(4);
            let (person, link) = room.take(&invited, lease).await?;
            match room.with_lease(&call, &kanidm, &invited, person, link, lease).await {
                Ok(Ended::Handed(link)) => Ok(link),
                Ok(Ended::Enrolled) => {
                    store::has_credential(&room.db, person, lease, room.context.now()).await?;
                    Err(invalid_credentials())
                }
                Ok(Ended::Gone) => {
                    store::release(&room.db, person, lease, None).await?;
                    Err(invalid_credentials())
                }
                Err(fault) => {
                    store::release(&room.db, person, lease, None).await?;
                    Err(fault)
                }
            }
        });
        made.await.map_err(Fault::internal)?
    }

    /// Takes the lease, waiting for whoever holds it for about as long as they should need.
    async fn take(&self, invited: &Invited, lease: Lease) -> Result<(Uuid, Option<LiveLink>)> {
        let since = self.context.clock.instant();
        loop {
            match store::begin(&self.db, invited, self.context.now(), lease).await? {
                Begun::Leased { person, link } => return Ok((person, link)),
                Begun::Gone => return Err(invalid_credentials()),
                Begun::Busy if self.context.clock.instant() - since >= self.config.kanidm.timeout => {
                    return Err(link_out(Duration::from_secs(1)));
                }
                Begun::Busy => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn with_lease(
        &self,
        call: &Call,
        kanidm: &Kanidm,
        invited: &Invited,
        person: Uuid,
        link: Option<LiveLink>,
        lease: Lease,
    ) -> Result<Ended> {
        // Not by what was seen earlier: the person may have enrolled by a way of which Sidle does not learn.
        if kanidm.has_credential(person).await? {
            return Ok(Ended::Enrolled);
        }
        let Some(live) = link else { return self.mint(call, kanidm, invited, person, lease).await };
        let Some(sealed) = live.sealed else { return Err(link_out(live.wait)) };
        let link = EnrolmentLink::unpack(&self.keyring.open(place(person), &sealed)?)?;
        let event = self.recorder.prepare(redeemed(call, invited).detail("repeated", true));
        let now = self.context.now();
        let may = store::repeat(&self.db, invited, person, lease, live.link_id, now, &event).await?;
        self.recorder.wake();
        Ok(if may { Ended::Handed(link) } else { Ended::Gone })
    }

    async fn mint(&self, call: &Call, kanidm: &Kanidm, invited: &Invited, person: Uuid, lease: Lease) -> Result<Ended> {
        let link_id = self.context.new_id();
        // Kanidm may act on the request as long as we wait for it, and the link lives from then on.
        let at_most = SHORTEST_LINK + self.config.kanidm.timeout + Duration::from_secs(5);
        if !store::intend(&self.db, person, lease, link_id, at_most).await? {
            return Err(link_out(Duration::from_secs(1)));
        }
        let made = match kanidm.reset_link(person).await {
            Ok(made) => made,
            Err(error) => {
                // Only a refusal says that there is no link.
                let unmade = is_unmade(&error).then_some(link_id);
                store::release(&self.db, person, lease, unmade).await?;
                return Err(error.into());
            }
        };
        let lifetime = (made.expires_at - self.context.now()).to_std().unwrap_or_default().max(SHORTEST_LINK);
        let link = EnrolmentLink { url: made.url, expires_at: made.expires_at };
        let sealed = self.keyring.seal(&self.context.entropy, place(person), &link.pack());
        let minted = Minted { link_id, sealed, lifetime };
        let event = self.recorder.prepare(redeemed(call, invited).detail("repeated", false));
        let now = self.context.now();
        let may = store::minted(&self.db, invited, person, lease, &minted, now, &event).await?;
        self.recorder.wake();
        tracing::info!(event = "invitation_redeemed", user_id = %invited.user_id, handed_out = may);
        Ok(if may { Ended::Handed(link) } else { Ended::Gone })
    }
}

/// Whether Kanidm certainly made no link.
fn is_unmade(error: &KanidmError) -> bool {
    !error.is_outcome_unknown()
}

fn place(person: Uuid) -> Place {
    Place { table: "kanidm_enrolments", column: "link", row: person }
}

fn redeemed(call: &Call, invited: &Invited) -> Event {
    Event::new(EventType::MigrationInvitationRedeemed, call).by_user(invited.user_id).target("user", invited.user_id)
}

/// The refusal while another link may work, or is being made.
fn link_out(wait: Duration) -> Fault {
    let text = "A link for this person may still work and cannot be handed out again.";
    Fault::new(Reason::EnrolmentLinkPending, text).retry_after(wait.max(Duration::from_secs(1)))
}
