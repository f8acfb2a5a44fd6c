//! Password logins on the wire.

use zeroize::Zeroizing;

use super::{Service, convert};
use crate::access::{Call, input};
use crate::authenticate::login::password::Attempt;
use crate::authenticate::{Factor, Outcome};
use crate::fault::Result;
use crate::proto;
use crate::proto::authenticate_password_response::Outcome as Sent;

/// Bytes that a password may have as it is typed.
pub(super) const LONGEST_TYPED: usize = 1024;

pub(super) async fn authenticate(
    service: &Service,
    call: &Call,
    request: proto::AuthenticatePasswordRequest,
) -> Result<proto::AuthenticatePasswordResponse> {
    let attempt = attempt(service, request)?;
    Ok(answer(service.authenticate.login.password(call, attempt).await?))
}

pub(super) async fn change(
    service: &Service,
    call: &Call,
    request: proto::ChangePasswordRequest,
) -> Result<proto::ChangePasswordResponse> {
    let (current, new) = (Zeroizing::new(request.current_password), Zeroizing::new(request.new_password));
    convert::secret("current_password", &current, LONGEST_TYPED)?;
    convert::secret("new_password", &new, LONGEST_TYPED)?;
    let changed = service.authenticate.account.change_password(call, current, new).await?;
    Ok(proto::ChangePasswordResponse {
        tokens: Some(convert::tokens(changed.tokens)),
        sessions_revoked: i32::try_from(changed.sessions_revoked).unwrap_or(i32::MAX),
    })
}

fn attempt(service: &Service, request: proto::AuthenticatePasswordRequest) -> Result<Attempt> {
    let (password, token) = (Zeroizing::new(request.password), Zeroizing::new(request.known_device_token));
    convert::secret("password", &password, LONGEST_TYPED)?;
    let identifier = input::required("identifier", &request.identifier, 254)?;
    let tenant = (request.tenant_id.as_str(), request.tenant_slug.as_str());
    let session_request = service.session_request(tenant, &request.audience, request.device, request.persistent)?;
    Ok(Attempt {
        identifier,
        password,
        known_device: crate::authenticate::login::devices::digest(&token),
        session_request,
    })
}

fn answer(outcome: Outcome) -> proto::AuthenticatePasswordResponse {
    let outcome = match outcome {
        Outcome::SignedIn(signed_in) => Sent::SignedIn(convert::signed_in(*signed_in)),
        Outcome::MfaRequired(challenge) => Sent::MfaChallenge(proto::MfaChallenge {
            challenge_token: challenge.token.to_string(),
            expires_at: Some(input::to_proto(challenge.expires_at)),
            factors: challenge.factors.into_iter().map(factor).collect(),
        }),
    };
    proto::AuthenticatePasswordResponse { outcome: Some(outcome) }
}

fn factor(factor: Factor) -> i32 {
    match factor {
        Factor::Totp => proto::SecondFactor::Totp,
        Factor::RecoveryCode => proto::SecondFactor::RecoveryCode,
    }
    .into()
}
