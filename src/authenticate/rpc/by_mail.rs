//! Registration, verification and password reset by mail, on the wire.

use zeroize::Zeroizing;

use super::password::LONGEST_TYPED;
use super::{Service, convert};
use crate::access::{Call, input, names};
use crate::authenticate::account::by_mail::NewAccount;
use crate::fault::{Fault, Result};
use crate::proto::*;

pub(super) async fn register(service: &Service, call: &Call, request: RegisterRequest) -> Result<RegisterResponse> {
    let password = Zeroizing::new(request.password);
    convert::secret("password", &password, LONGEST_TYPED)?;
    let new = NewAccount {
        request_id: input::uuid("request_id", &request.request_id)?,
        tenant_id: input::uuid("tenant_id", &request.tenant_id)?,
        email: input::email("email", &request.email)?,
        username: names::username("username", &request.username)?,
        full_name: input::text("full_name", &request.full_name, 200)?,
        password,
    };
    let registered = service.authenticate.account.register(call, new).await?;
    Ok(RegisterResponse {
        verification_expires_at: Some(input::to_proto(registered.expires_at)),
        registration_secret: registered.secret.to_string(),
    })
}

pub(super) async fn verify(service: &Service, call: &Call, request: VerifyEmailRequest) -> Result<VerifyEmailResponse> {
    let (token, secret) = (Zeroizing::new(request.verification_token), Zeroizing::new(request.registration_secret));
    convert::secret("verification_token", &token, 256)?;
    if secret.len() > 256 {
        return Err(Fault::field("registration_secret", "must be at most 256 bytes long"));
    }
    let verified = service.authenticate.account.verify_email(call, &token, &secret).await?;
    Ok(VerifyEmailResponse {
        user_id: verified.user_id.to_string(),
        verified_at: Some(input::to_proto(verified.verified_at)),
        password_kept: verified.password_kept,
    })
}

pub(super) async fn request_reset(
    service: &Service,
    call: &Call,
    request: RequestPasswordResetRequest,
) -> Result<RequestPasswordResetResponse> {
    let identifier = input::required("identifier", &request.identifier, 254)?;
    let expires_at = service.authenticate.account.request_reset(call, &identifier).await?;
    Ok(RequestPasswordResetResponse { expires_at: Some(input::to_proto(expires_at)) })
}

pub(super) async fn reset(
    service: &Service,
    call: &Call,
    request: ResetPasswordRequest,
) -> Result<ResetPasswordResponse> {
    let (token, new) = (Zeroizing::new(request.reset_token), Zeroizing::new(request.new_password));
    let code = Zeroizing::new(request.second_factor_code);
    convert::secret("reset_token", &token, 256)?;
    convert::secret("new_password", &new, LONGEST_TYPED)?;
    if code.len() > 64 {
        return Err(Fault::field("second_factor_code", "must be at most 64 bytes long"));
    }
    let ended = service.authenticate.account.reset_password(call, &token, new, code).await?;
    Ok(ResetPasswordResponse { sessions_revoked: i32::try_from(ended).unwrap_or(i32::MAX) })
}
