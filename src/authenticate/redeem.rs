//! Redeeming an invitation: the link shows that somebody was invited, the old password and the second factor that it is
//! they who come. Every refusal is the same, costs the same and is counted with the logins; nothing here spends an
//! invitation, which lives until it lapses, is voided or has led to a credential.

use std::sync::Arc;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::enrolment::EnrolmentLink;
use super::second_factor::{Purpose, Typed};
use super::{Authenticate, Charge, Lane, invalid_credentials};
use crate::access::Call;
use crate::audit::{Event, EventType, Outcome};
use crate::fault::{Reason, Result};

/// A call of `RedeemInvitation`.
pub(super) struct Redemption {
    /// The invitation.
    pub token: Zeroizing<String>,
    /// The password.
    pub password: Zeroizing<String>,
    /// A code of the authenticator application, or a recovery code.
    pub code: Zeroizing<String>,
}

impl Authenticate {
    /// Exchanges an invitation for the link at which a credential is set in Kanidm.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` whatever is wrong with invitation, password and code; `THROTTLED`, `OVERLOADED`; after all of
    /// them were right also `ENROLMENT_LINK_OUT`, `KANIDM_UNAVAILABLE`, `KANIDM_REFUSED` and `KANIDM_NOT_CONFIGURED`.
    pub(super) async fn redeem(&self, call: &Call, redemption: Redemption) -> Result<EnrolmentLink> {
        let came_in = self.context.clock.instant();
        let charge = self.throttle(call, Lane::MailToken).await?;
        let answer = self.redeem_at_once(call, &charge, redemption).await;
        self.on_the_grid(came_in, answer).await
    }

    async fn redeem_at_once(&self, call: &Call, charge: &Arc<Charge>, redemption: Redemption) -> Result<EnrolmentLink> {
        let invited = self.enrolment.find(&redemption.token).await?;
        // Somebody who is not there takes as long to refuse, so that time does not tell which links are good.
        let user = invited.map_or_else(|| self.context.new_id(), |invited| invited.user_id);
        self.show_password_at_once(call, charge, user, redemption.password).await?;
        let invited = invited.ok_or_else(invalid_credentials)?;
        if invited.second_factor {
            let refused = Event::new(EventType::MigrationInvitationRefused, call);
            let (purpose, code) = (Purpose { user, pending: false, refused }, Typed::of_either_kind(redemption.code));
            // Spent for good before Kanidm is asked: a redemption that fails there takes another code.
            self.spend_code(call, code, purpose, |_, _, tx| tx.commit()).await?;
        }
        let link = self.enrolment.link(call, invited).await;
        if link.as_ref().is_err_and(|fault| fault.reason() == Reason::InvalidCredentials) {
            self.record_refusal(call, user, "void").await?;
        }
        link
    }

    /// Writes down why an invitation was not accepted though the password was right.
    async fn record_refusal(&self, call: &Call, user: Uuid, reason: &'static str) -> Result<()> {
        let event = Event::new(EventType::MigrationInvitationRefused, call).outcome(Outcome::Refused);
        let event = self.recorder.prepare(event.target("user", user).reason(reason));
        super::store::login::login_refuse(&self.db, &event, None).await?;
        self.recorder.nudge();
        Ok(())
    }
}
