//! Redeeming an invitation: the link shows that a user was invited, the old password and the second factor that it is
//! they who come. Every refusal is the same, costs the same and is counted with the logins; nothing here spends an
//! invitation, which lives until it lapses, is voided or has led to a credential.

use std::sync::Arc;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Enrolment, EnrolmentLink};
use crate::access::Call;
use crate::audit::{Event, EventType, Outcome};
use crate::authenticate::invalid_credentials;
use crate::authenticate::login::Login;
use crate::authenticate::login::second_factor::{Purpose, Typed};
use crate::credential::{Charge, RateLimitBucket};
use crate::fault::{Reason, Result};

/// A call of `RedeemInvitation`.
pub(in crate::authenticate) struct Redemption {
    /// The invitation.
    pub token: Zeroizing<String>,
    pub password: Zeroizing<String>,
    /// A code of the authenticator application, or a recovery code.
    pub code: Zeroizing<String>,
}

/// Exchanges invitations for links.
#[derive(Clone)]
pub(in crate::authenticate) struct Redemptions {
    pub login: Login,
    pub enrolment: Enrolment,
}

impl Redemptions {
    /// Exchanges an invitation for the link at which a credential is set in Kanidm.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS` whatever is wrong with invitation, password and code; `THROTTLED`, `OVERLOADED`; after all of
    /// them were right also `ENROLMENT_LINK_PENDING`, `KANIDM_UNAVAILABLE`, `KANIDM_REFUSED` and `KANIDM_NOT_CONFIGURED`.
    pub(in crate::authenticate) async fn redeem(&self, call: &Call, redemption: Redemption) -> Result<EnrolmentLink> {
        let came_in = self.login.context.clock.instant();
        let charge = self.login.throttle(call, RateLimitBucket::MailToken).await?;
        let answer = self.redeem_at_once(call, &charge, redemption).await;
        self.login.pad_failure_latency(came_in, answer).await
    }

    async fn redeem_at_once(&self, call: &Call, charge: &Arc<Charge>, redemption: Redemption) -> Result<EnrolmentLink> {
        let invited = self.enrolment.find(&redemption.token).await?;
        // An unknown user takes as long to refuse, so that time does not reveal which links are good.
        let user = invited.map_or_else(|| self.login.context.new_id(), |invited| invited.user_id);
        self.login.verify_password_unpadded(call, charge, user, redemption.password).await?;
        let invited = invited.ok_or_else(invalid_credentials)?;
        if invited.second_factor {
            let refused = Event::new(EventType::MigrationInvitationRefused, call);
            let (purpose, code) = (Purpose { user, pending: false, refused }, Typed::of_either_kind(redemption.code));
            // Spent for good before Kanidm is asked: a redemption that fails there takes another code.
            self.login.spend_code(call, code, purpose, |_, _, tx| tx.commit()).await?;
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
        let event = self.login.recorder.prepare(event.target("user", user).reason(reason));
        crate::authenticate::login::store::login::login_refuse(&self.login.db, &event, None).await?;
        self.login.recorder.wake();
        Ok(())
    }
}
