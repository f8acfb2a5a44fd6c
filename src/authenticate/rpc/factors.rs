//! Second factors and proofs on the wire.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::Service;
use super::convert::{secret, signed_in};
use crate::access::{Call, input, sensitive};
use crate::authenticate::account::factors::Codes;
use crate::authenticate::account::prove::{Asked, Proof};
use crate::authenticate::login::second_factor::Typed;
use crate::fault::{Fault, Result};
use crate::proto::{self, complete_mfa_request, step_up_request};

/// Bytes that a code may have, with every blank and hyphen that a user may put into it.
const LONGEST_CODE: usize = 64;

pub(super) async fn complete(
    service: &Service,
    call: &Call,
    request: proto::CompleteMfaRequest,
) -> Result<proto::CompleteMfaResponse> {
    let (token, typed) = answer(request)?;
    let done = service.authenticate.login.complete_mfa(call, &token, typed).await?;
    Ok(proto::CompleteMfaResponse { signed_in: Some(signed_in(done)) })
}

pub(super) async fn step_up(
    service: &Service,
    call: &Call,
    request: proto::StepUpRequest,
) -> Result<proto::StepUpResponse> {
    let given = service.authenticate.account.step_up(call, asked(request)?).await?;
    let expires_at = Some(input::to_proto(given.expires_at));
    Ok(proto::StepUpResponse { step_up_token: given.token.to_string(), expires_at })
}

pub(super) async fn enroll(
    service: &Service,
    call: &Call,
    _: proto::EnrollTotpRequest,
) -> Result<proto::EnrollTotpResponse> {
    let begun = service.authenticate.account.enroll_totp(call).await?;
    Ok(proto::EnrollTotpResponse {
        secret: begun.secret.to_string(),
        otpauth_uri: begun.uri.to_string(),
        expires_at: Some(input::to_proto(begun.expires_at)),
    })
}

pub(super) async fn confirm(
    service: &Service,
    call: &Call,
    request: proto::ConfirmTotpRequest,
) -> Result<proto::ConfirmTotpResponse> {
    let code = code("totp_code", request.totp_code)?;
    let (recovery_codes, ended) = service.authenticate.account.confirm_totp(call, code).await?;
    Ok(proto::ConfirmTotpResponse { recovery_codes: texts(recovery_codes), sessions_revoked: count(ended) })
}

pub(super) async fn disable(
    service: &Service,
    call: &Call,
    _: proto::DisableTotpRequest,
) -> Result<proto::DisableTotpResponse> {
    let ended = service.authenticate.account.disable_totp(call).await?;
    Ok(proto::DisableTotpResponse { sessions_revoked: count(ended) })
}

pub(super) async fn regenerate_codes(
    service: &Service,
    call: &Call,
    _: proto::RegenerateRecoveryCodesRequest,
) -> Result<proto::RegenerateRecoveryCodesResponse> {
    let codes = service.authenticate.account.regenerate_recovery_codes(call).await?;
    Ok(proto::RegenerateRecoveryCodesResponse { recovery_codes: texts(codes) })
}

/// A code as it was typed.
fn code(field: &'static str, code: String) -> Result<Zeroizing<String>> {
    let code = Zeroizing::new(code);
    secret(field, &code, LONGEST_CODE)?;
    Ok(code)
}

fn answer(request: proto::CompleteMfaRequest) -> Result<(Zeroizing<String>, Typed)> {
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

fn asked(request: proto::StepUpRequest) -> Result<Asked> {
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

/// What a call changes, as its refusal reported.
fn change(told: &str) -> Result<[u8; 32]> {
    let bytes = URL_SAFE_NO_PAD.decode(told).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Fault::field("change", "must be what the metadata of STEP_UP_REQUIRED holds under this name"))
}

fn texts(codes: Codes) -> Vec<String> {
    codes.into_iter().map(|code| code.to_string()).collect()
}

fn count(sessions: usize) -> i32 {
    i32::try_from(sessions).unwrap_or(i32::MAX)
}
