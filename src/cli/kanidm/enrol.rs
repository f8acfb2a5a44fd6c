//! `sidle kanidm enrol`.

use clap::Args;
use zeroize::Zeroizing;

use crate::access::names;
use crate::cli::connect::Caller;
use crate::cli::credentials::Store;
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Out, time};
use crate::cli::{Global, prompt};
use crate::proto::authenticate_password_response::Outcome;
use crate::proto::complete_mfa_request::Factor;
use crate::proto::{
    AuthenticatePasswordRequest, CompleteMfaRequest, MfaChallenge, RedeemInvitationRequest, RevokeSessionRequest,
    SignedIn,
};

/// Asks for the password, redeems the invitation that the login gives, and prints Kanidm's page where the credential is
/// set. From a device that `sidle login` has made known; elsewhere the invitation comes by mail.
#[derive(Args)]
pub(in crate::cli) struct Enrol {
    /// E-mail address or username
    #[arg(long, env = "SIDLE_EMAIL", value_name = "ADDRESS")]
    email: String,
}

impl Enrol {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        let password = prompt::password("Password: ")?;
        let known = Store::open()?.read()?.known_devices;
        let known = known.get(&caller.server).and_then(|devices| devices.get(&names::identifier_key(&self.email)));
        let request = AuthenticatePasswordRequest {
            identifier: self.email,
            password: password.to_string(),
            known_device_token: known.cloned().unwrap_or_default(),
            ..Default::default()
        };
        let (signed_in, has_factor) =
            match caller.anonymous().authenticate_password(request).await?.into_inner().outcome {
                Some(Outcome::SignedIn(signed_in)) => (signed_in, false),
                Some(Outcome::MfaChallenge(challenge)) => (second_factor(&caller, challenge).await?, true),
                None => return Err(Failure::new("the service answered neither tokens nor a question")),
            };
        let invitation = signed_in.enrolment.clone();
        sign_out(&caller, signed_in).await;
        let Some(invitation) = invitation else { return Err(not_invited(known.is_some())) };
        let code = if has_factor { prompt::code("The next code, or a recovery code: ")? } else { Default::default() };
        let request = RedeemInvitationRequest {
            invitation_token: invitation.invitation_token,
            password: password.to_string(),
            second_factor_code: code.to_string(),
        };
        let page = caller.anonymous().redeem_invitation(request).await?.into_inner();
        if out.is_json() {
            return out.message(&page);
        }
        out.note(&format!(
            "Open this page of Kanidm's and set a credential there, before {}. Whoever has it can do so: show it to nobody.",
            time(page.expires_at.as_ref())
        ));
        out.line(&page.enrolment_url)
    }
}

async fn second_factor(caller: &Caller, challenge: MfaChallenge) -> Result<SignedIn> {
    let typed = prompt::code("Code of the authenticator application, or a recovery code: ")?;
    let factor = if prompt::is_totp(&typed) { Factor::TotpCode } else { Factor::RecoveryCode };
    let factor = Some(factor(typed.to_string()));
    let request = CompleteMfaRequest { challenge_token: challenge.challenge_token, factor };
    let answer = caller.anonymous().complete_mfa(request).await?.into_inner();
    answer.signed_in.ok_or_else(|| Failure::new("the service answered no tokens"))
}

/// The session was a means; it would run out by itself.
async fn sign_out(caller: &Caller, signed_in: SignedIn) {
    let Some(tokens) = signed_in.tokens else { return };
    let holder = caller.as_holder_of(Zeroizing::new(tokens.access_token));
    if let Ok(mut sessions) = holder.sessions().await {
        let _ = sessions.revoke_session(RevokeSessionRequest { session_id: signed_in.session_id }).await;
    }
}

fn not_invited(is_known: bool) -> Failure {
    let failure = Failure::new("the login gave no invitation");
    match is_known {
        false => failure.remedy(
            "This device is not known yet: sign in once with `sidle login` and repeat the command, or use the invitation \
             that came by mail.",
        ),
        true => failure.remedy(
            "Invitations are for users who were migrated, never signed in through Kanidm and have no credential there, where \
             [enrolment] hints is on.",
        ),
    }
}
