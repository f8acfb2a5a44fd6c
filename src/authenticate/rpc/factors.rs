//! Second factors and proofs on the wire.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::convert::{secret, signed_in};
use crate::access::{input, sensitive};
use crate::authenticate::SignedIn;
use crate::authenticate::account::factors::{Codes, Enrolment};
use crate::authenticate::account::prove::{Asked, Given, Proof};
use crate::authenticate::login::second_factor::Typed;
use crate::fault::{Fault, Result};
use crate::proto::{self, complete_mfa_request, step_up_request};

/// Bytes that a code may have, with every blank and hyphen that somebody may put into it.
const LONGEST_CODE: usize = 64;

/// A code as somebody typed it.
pub(super) fn code(field: &'static str, code: String) -> Result<Zeroizing<String>> {
    let code = Zeroizing::new(code);
    secret(field, &code, LONGEST_CODE)?;
    Ok(code)
}

pub(super) fn answer(request: proto::CompleteMfaRequest) -> Result<(Zeroizing<String>, Typed)> {
    use complete_mfa_request::Factor;
    let token = Zeroizing::new(request.challenge_token);
    secret("challenge_token", &token, 256)?;
    let typed = match request.factor {
        Some(Factor::TotpCode(typed)) => Typed::Totp(code("totp_code", typed)?),
        Some(Factor::RecoveryCode(typed)) => Typed::RecoveryCode(code("recovery_code", typed)?),
        None => return Err(Fault::field("factor", "must be one of totp_code, recovery_code")),
    };
    Ok((token, typed))
}

pub(super) fn completed(done: SignedIn) -> proto::CompleteMfaResponse {
    proto::CompleteMfaResponse { signed_in: Some(signed_in(done)) }
}

pub(super) fn asked(request: proto::StepUpRequest) -> Result<Asked> {
    use step_up_request::Proof as Sent;
    // Wrapped before anything may fail.
    let proof = match request.proof {
        Some(Sent::Password(password)) => {
            let password = Zeroizing::new(password);
            secret("password", &password, super::password::LONGEST_TYPED)?;
            Proof::Password(password)
        }
        Some(Sent::TotpCode(typed)) => Proof::Code(Typed::Totp(code("totp_code", typed)?)),
        Some(Sent::RecoveryCode(typed)) => Proof::Code(Typed::RecoveryCode(code("recovery_code", typed)?)),
        Some(Sent::Kanidm(back)) => Proof::Kanidm(super::kanidm::returned(back.state, back.code, back.login_secret)?),
        None => return Err(Fault::field("proof", "must be one of password, totp_code, recovery_code, kanidm")),
    };
    let method = sensitive(&request.method).ok_or_else(|| {
        Fault::field(
            "method",
            "must be the full name of an RPC that needs a step-up, such as \
            sidle.v1.AuthenticateService/DisableTotp",
        )
    })?;
    let change = match request.change.as_str() {
        "" => None,
        told => Some(change(told)?),
    };
    Ok(Asked { method, target: input::optional_uuid("target", &request.target)?, change, proof })
}

/// What a call changes, as its refusal told.
fn change(told: &str) -> Result<[u8; 32]> {
    let bytes = URL_SAFE_NO_PAD.decode(told).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Fault::field("change", "must be what the metadata of STEP_UP_REQUIRED holds under this name"))
}

pub(super) fn given(given: Given) -> proto::StepUpResponse {
    let expires_at = Some(input::to_proto(given.expires_at));
    proto::StepUpResponse { step_up_token: given.token.to_string(), expires_at }
}

pub(super) fn enrolment(begun: Enrolment) -> proto::EnrollTotpResponse {
    proto::EnrollTotpResponse {
        secret: begun.secret.to_string(),
        otpauth_uri: begun.uri.to_string(),
        expires_at: Some(input::to_proto(begun.expires_at)),
    }
}

pub(super) fn codes(codes: Codes) -> Vec<String> {
    codes.into_iter().map(|code| code.to_string()).collect()
}

pub(super) fn count(sessions: usize) -> i32 {
    i32::try_from(sessions).unwrap_or(i32::MAX)
}
