//! The one reset link that a person has at a time. Made only while the person has no credential, by the holder of the
//! lease on the person, and written down before Kanidm is asked: after an answer that got lost there may be a link that
//! no user has, and another one would be the second.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Enrolment;
use super::store::{self as store, Invited, Lease, LiveLink, Minted};
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::authenticate::invalid_credentials;
use crate::correlation;
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::{Kanidm, KanidmError, SHORTEST_LINK};
use crate::seal::SealContext;

/// How often a call that waits for the lease looks whether it is free.
const LEASE_POLL: Duration = Duration::from_millis(100);

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

/// How taking the lease on a person ended.
enum LeaseOutcome {
    /// The invitation has died meanwhile.
    Gone,
    /// Another call holds it.
    Busy,
    /// It is ours now.
    Leased { person: Uuid, link: Option<LiveLink> },
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
    /// The reset link for a user who has shown all that redeeming the invitation takes. Runs to its end also if the
    /// client disconnects: a link that was made is kept.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` when the invitation died meanwhile; `ENROLMENT_LINK_PENDING`; `KANIDM_UNAVAILABLE`,
    /// `KANIDM_REFUSED`, `KANIDM_NOT_CONFIGURED`.
    pub(in crate::authenticate) async fn link(&self, call: &Call, invited: Invited) -> Result<EnrolmentLink> {
        let kanidm = self.kanidm.clone();
        let kanidm = kanidm.ok_or_else(|| Fault::new(Reason::KanidmNotConfigured, "No Kanidm is configured."))?;
        let (enrolment, call) = (self.clone(), call.clone());
        let made = correlation::spawn(async move {
            let lease = enrolment.lease(4);
            let (person, link) = enrolment.take(&invited, lease).await?;
            match enrolment.with_lease(&call, &kanidm, &invited, person, link, lease).await {
                Ok(Ended::Handed(link)) => Ok(link),
                Ok(Ended::Enrolled) => {
                    enrolment.has_credential(person, lease).await?;
                    Err(invalid_credentials())
                }
                Ok(Ended::Gone) => {
                    enrolment.release(person, lease, None).await?;
                    Err(invalid_credentials())
                }
                Err(fault) => {
                    enrolment.release(person, lease, None).await?;
                    Err(fault)
                }
            }
        });
        made.await.map_err(Fault::internal)?
    }

    /// Takes the lease, waiting for its holder for about as long as that should need.
    async fn take(&self, invited: &Invited, lease: Lease) -> Result<(Uuid, Option<LiveLink>)> {
        let since = self.context.clock.instant();
        loop {
            match self.begin(invited, lease).await? {
                LeaseOutcome::Leased { person, link } => return Ok((person, link)),
                LeaseOutcome::Gone => return Err(invalid_credentials()),
                LeaseOutcome::Busy if self.context.clock.instant() - since >= self.config.kanidm.timeout => {
                    return Err(link_out(Duration::from_secs(1)));
                }
                LeaseOutcome::Busy => tokio::time::sleep(LEASE_POLL).await,
            }
        }
    }

    /// Takes the lease on the person of a user who has shown all that redeeming an invitation takes.
    async fn begin(&self, invited: &Invited, lease: Lease) -> Result<LeaseOutcome> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let now = self.context.now();
        store::lock_user(&mut tx, invited.user_id).await?;
        let enrollee = store::enrollee(&mut tx, invited.user_id).await?;
        // While the password was compared the invitation may have died, or a second factor been added.
        let is_invited = store::is_invited(&mut tx, invited, now).await?;
        let enrollee = enrollee.filter(|enrollee| {
            is_invited
                && enrollee.is_pending
                && enrollee.locked_until.is_none_or(|until| until <= now)
                && (invited.second_factor || !enrollee.has_second_factor)
        });
        let outcome = match enrollee.and_then(|enrollee| enrollee.person) {
            None => LeaseOutcome::Gone,
            Some(person) => match store::lease(&mut tx, person, lease).await? {
                None => LeaseOutcome::Busy,
                Some(leased) => LeaseOutcome::Leased { person, link: leased.live },
            },
        };
        tx.commit().await?;
        Ok(outcome)
    }

    /// Gives a lease back, and forgets the link that was not made.
    async fn release(&self, person: Uuid, lease: Lease, unmade: Option<Uuid>) -> Result<()> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        store::release(&mut tx, person, lease).await?;
        if let Some(unmade) = unmade {
            store::forget_link(&mut tx, person, unmade).await?;
        }
        tx.commit().await
    }

    /// Writes down that a person has a credential, and gives the lease back.
    async fn has_credential(&self, person: Uuid, lease: Lease) -> Result<()> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        store::lock_user_of(&mut tx, person).await?;
        store::credential_seen(&mut tx, person, self.context.now()).await?;
        store::release(&mut tx, person, lease).await?;
        tx.commit().await
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
        let link = EnrolmentLink::unpack(&self.keyring.open(seal_context(person), &sealed)?)?;
        let may = self.repeat(call, invited, person, lease, live.link_id).await?;
        Ok(if may { Ended::Handed(link) } else { Ended::Gone })
    }

    /// Hands a link out once more that still works. False when the invitation died meanwhile.
    async fn repeat(&self, call: &Call, invited: &Invited, person: Uuid, lease: Lease, link_id: Uuid) -> Result<bool> {
        let mut change = self.changes.begin(Scope::Platform).await?;
        let now = change.now;
        store::lock_user(&mut change.tx, invited.user_id).await?;
        let enrollee = store::enrollee(&mut change.tx, invited.user_id).await?;
        let mut may = false;
        if let Some(enrollee) = enrollee.filter(|enrollee| enrollee.person == Some(person))
            && store::is_invited(&mut change.tx, invited, now).await?
            && store::release_with_link(&mut change.tx, person, lease, link_id).await?
        {
            change.record(redeemed(call, invited).tenant(enrollee.tenant_id).detail("repeated", true)).await?;
            may = true;
        }
        change.commit().await?;
        Ok(may)
    }

    async fn mint(&self, call: &Call, kanidm: &Kanidm, invited: &Invited, person: Uuid, lease: Lease) -> Result<Ended> {
        let link_id = self.context.new_id();
        // Kanidm may act on the request as long as we wait for it, and the link lives from then on.
        let at_most = SHORTEST_LINK + self.config.kanidm.timeout + Duration::from_secs(5);
        let mut tx = self.db.begin(Scope::Platform).await?;
        let may = store::intend(&mut tx, person, lease, link_id, at_most).await?;
        tx.commit().await?;
        if !may {
            return Err(link_out(Duration::from_secs(1)));
        }
        let made = match kanidm.reset_link(person).await {
            Ok(made) => made,
            Err(error) => {
                // Only a refusal says that there is no link.
                let unmade = is_unmade(&error).then_some(link_id);
                self.release(person, lease, unmade).await?;
                return Err(error.into());
            }
        };
        let lifetime = (made.expires_at - self.context.now()).to_std().unwrap_or_default().max(SHORTEST_LINK);
        let link = EnrolmentLink { url: made.url, expires_at: made.expires_at };
        let sealed = self.keyring.seal(&self.context.entropy, seal_context(person), &link.pack());
        let minted = Minted { link_id, sealed, lifetime };
        let may = self.keep(call, invited, person, lease, &minted).await?;
        tracing::info!(event = "invitation_redeemed", user_id = %invited.user_id, handed_out = may);
        Ok(if may { Ended::Handed(link) } else { Ended::Gone })
    }

    /// Keeps a link that was made. False when it must not be handed out, because the invitation died meanwhile.
    async fn keep(&self, call: &Call, invited: &Invited, person: Uuid, lease: Lease, minted: &Minted) -> Result<bool> {
        let mut change = self.changes.begin(Scope::Platform).await?;
        let now = change.now;
        store::lock_user(&mut change.tx, invited.user_id).await?;
        // Also when no user is handed it: a link that was made works.
        store::extend_link(&mut change.tx, person, minted).await?;
        let enrollee = store::enrollee(&mut change.tx, invited.user_id).await?;
        let enrollee = enrollee.filter(|enrollee| enrollee.person == Some(person) && enrollee.is_pending);
        let mut may = false;
        if let Some(enrollee) = enrollee
            && store::is_invited(&mut change.tx, invited, now).await?
            && store::keep_link(&mut change.tx, person, lease, minted).await?
        {
            change.record(redeemed(call, invited).tenant(enrollee.tenant_id).detail("repeated", false)).await?;
            may = true;
        }
        change.commit().await?;
        Ok(may)
    }
}

/// Whether Kanidm certainly made no link.
fn is_unmade(error: &KanidmError) -> bool {
    !error.is_outcome_unknown()
}

fn seal_context(person: Uuid) -> SealContext {
    SealContext { table: "kanidm_enrolments", column: "link", row: person }
}

fn redeemed(call: &Call, invited: &Invited) -> Event {
    Event::new(EventType::MigrationInvitationRedeemed, call).by_user(invited.user_id).target("user", invited.user_id)
}

/// The refusal while another link may work, or is being made.
fn link_out(wait: Duration) -> Fault {
    let text = "A link for this person may still work and cannot be handed out again.";
    Fault::new(Reason::EnrolmentLinkPending, text).retry_after(wait.max(Duration::from_secs(1)))
}
