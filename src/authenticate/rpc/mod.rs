//! `sidle.v1.AuthenticateService` on the wire.

mod by_mail;
mod convert;
mod enrolment;
mod factors;
mod kanidm;
mod password;
mod service;
mod service_account;

use std::sync::Arc;

use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

pub use self::service::Service;
use crate::access::{Call, input};
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};
use crate::proto;
use crate::proto::authenticate_service_server::AuthenticateService;
use crate::session::Refresh;
use crate::token::Verified;

type Answer<T> = std::result::Result<Response<T>, Status>;

/// What a caller needs who asks about tokens.
const VERIFY: &str = "tokens.verify";
/// Tokens that `VerifyTokens` takes at once.
const MOST_TOKENS: usize = 256;
/// Seconds for which the published keys may be kept.
const JWKS_MAX_AGE: i64 = 60;

impl Service {
    /// What a token says that is good now: one of Sidle's, or of Kanidm's own, which is looked at only after it was found
    /// not to be one of Sidle's. Whoever has the permission in one tenant is told of that tenant's tokens only: of any other
    /// they learn no more than of a bad one.
    async fn token_claims(&self, scope: Scope, token: &str, audience: &str) -> Result<proto::TokenClaims> {
        let claims = self.any_claims(token, audience).await?;
        match scope {
            Scope::Tenant(own) if claims.tenant_id != own.to_string() => {
                Err(Fault::new(Reason::InvalidToken, "The token is not accepted."))
            }
            _ => Ok(claims),
        }
    }

    async fn any_claims(&self, token: &str, audience: &str) -> Result<proto::TokenClaims> {
        match (self.verify(token, audience), &self.room.login.sessions.kanidm_tokens) {
            (Ok(verified), _) => Ok(self.claims(&verified)),
            (Err(fault), Some(theirs)) if fault.reason() == Reason::InvalidToken && theirs.claims_to_be(token) => {
                Ok(kanidm::claims(theirs.verify(token, audience).await?, audience))
            }
            (Err(fault), _) => Err(fault),
        }
    }

    fn claims(&self, verified: &Verified) -> proto::TokenClaims {
        convert::claims(verified, self.room.login.sessions.verifier.revocation_bound())
    }

    fn revocations_age(&self) -> Option<prost_types::Duration> {
        self.room.login.sessions.verifier.revocation_age().and_then(convert::duration)
    }
}

#[tonic::async_trait]
impl AuthenticateService for Service {
    async fn authenticate_password(
        &self,
        request: Request<proto::AuthenticatePasswordRequest>,
    ) -> Answer<proto::AuthenticatePasswordResponse> {
        let call = Call::of(&request)?;
        let attempt = password::attempt(self, request.into_inner())?;
        Ok(Response::new(password::answer(self.room.login.password(&call, attempt).await?)))
    }

    async fn start_kanidm_login(
        &self,
        request: Request<proto::StartKanidmLoginRequest>,
    ) -> Answer<proto::StartKanidmLoginResponse> {
        Ok(Response::new(kanidm::start(self, request).await?))
    }

    async fn complete_kanidm_login(
        &self,
        request: Request<proto::CompleteKanidmLoginRequest>,
    ) -> Answer<proto::CompleteKanidmLoginResponse> {
        Ok(Response::new(kanidm::complete(self, request).await?))
    }

    async fn authenticate_service_account(
        &self,
        request: Request<proto::AuthenticateServiceAccountRequest>,
    ) -> Answer<proto::AuthenticateServiceAccountResponse> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let shown = service_account::shown(request.api_key, request.client_credentials)?;
        let audience = self.room.login.sessions.issuer.audience(&request.audience)?;
        let exchanged = self.room.login.service_account(&call, &shown, audience).await?;
        Ok(Response::new(service_account::exchanged(exchanged)))
    }

    async fn refresh_token(&self, request: Request<proto::RefreshTokenRequest>) -> Answer<proto::RefreshTokenResponse> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let token = Zeroizing::new(request.refresh_token);
        convert::secret("refresh_token", &token, 256)?;
        let audience = match request.audience.as_str() {
            "" => None,
            asked => Some(self.room.login.sessions.issuer.audience(asked)?),
        };
        let request_id = input::optional_uuid("request_id", &request.request_id)?;
        let tenant_id = input::optional_uuid("tenant_id", &request.tenant_id)?;
        let refresh = Refresh { token, request_id, tenant_id, audience };
        let refreshed = self.room.login.refresh(&call, &refresh).await?;
        Ok(Response::new(proto::RefreshTokenResponse {
            tokens: Some(convert::tokens(refreshed.tokens)),
            session_id: refreshed.session_id.to_string(),
            tenant_id: convert::id(refreshed.tenant_id),
            must_change_password: refreshed.must_change_password,
        }))
    }

    async fn verify_token(&self, request: Request<proto::VerifyTokenRequest>) -> Answer<proto::VerifyTokenResponse> {
        let scope = Call::of(&request)?.principal()?.authorize(VERIFY, None)?;
        let request = request.into_inner();
        required_audience(&request.audience)?;
        let claims = Some(self.token_claims(scope, &request.token, &request.audience).await?);
        Ok(Response::new(proto::VerifyTokenResponse { claims, revocations_age: self.revocations_age() }))
    }

    async fn verify_tokens(&self, request: Request<proto::VerifyTokensRequest>) -> Answer<proto::VerifyTokensResponse> {
        let scope = Call::of(&request)?.principal()?.authorize(VERIFY, None)?;
        let request = request.into_inner();
        required_audience(&request.audience)?;
        if request.tokens.is_empty() || request.tokens.len() > MOST_TOKENS {
            return Err(Fault::field("tokens", format!("must hold from 1 to {MOST_TOKENS} tokens")).into());
        }
        let mut verdicts = Vec::with_capacity(request.tokens.len());
        for token in &request.tokens {
            let verdict = match self.token_claims(scope, token, &request.audience).await {
                Ok(claims) => proto::token_verdict::Verdict::Claims(claims),
                Err(fault) if matches!(fault.reason(), Reason::InvalidToken | Reason::KanidmUnavailable) => {
                    proto::token_verdict::Verdict::Refused(fault.reason().into())
                }
                Err(fault) => return Err(fault.into()),
            };
            verdicts.push(proto::TokenVerdict { verdict: Some(verdict) });
        }
        Ok(Response::new(proto::VerifyTokensResponse { verdicts, revocations_age: self.revocations_age() }))
    }

    async fn who_am_i(&self, request: Request<proto::WhoAmIRequest>) -> Answer<proto::WhoAmIResponse> {
        let call = Call::of(&request)?;
        let verified = self.presented(&call, &request)?;
        let (who, tenants) = self.room.account.who_am_i(&call).await?;
        let bound = self.room.login.sessions.verifier.revocation_bound();
        Ok(Response::new(convert::who(&verified, bound, who, tenants)))
    }

    async fn get_jwks(&self, _request: Request<proto::GetJwksRequest>) -> Answer<proto::GetJwksResponse> {
        let keys = self.room.login.sessions.verifier.published_keys().into_iter().map(convert::jwk).collect();
        let max_age = Some(prost_types::Duration { seconds: JWKS_MAX_AGE, nanos: 0 });
        Ok(Response::new(proto::GetJwksResponse { keys, max_age }))
    }

    async fn register(&self, request: Request<proto::RegisterRequest>) -> Answer<proto::RegisterResponse> {
        let call = Call::of(&request)?;
        Ok(Response::new(by_mail::register(self, &call, request.into_inner()).await?))
    }

    async fn verify_email(&self, request: Request<proto::VerifyEmailRequest>) -> Answer<proto::VerifyEmailResponse> {
        let call = Call::of(&request)?;
        Ok(Response::new(by_mail::verify(self, &call, request.into_inner()).await?))
    }

    async fn complete_mfa(&self, request: Request<proto::CompleteMfaRequest>) -> Answer<proto::CompleteMfaResponse> {
        let call = Call::of(&request)?;
        let (token, typed) = factors::answer(request.into_inner())?;
        let signed_in = self.room.login.complete_mfa(&call, &token, typed).await?;
        Ok(Response::new(factors::completed(signed_in)))
    }

    async fn step_up(&self, request: Request<proto::StepUpRequest>) -> Answer<proto::StepUpResponse> {
        let call = Call::of(&request)?;
        let asked = factors::asked(request.into_inner())?;
        Ok(Response::new(factors::given(self.room.account.step_up(&call, asked).await?)))
    }

    async fn change_password(
        &self,
        request: Request<proto::ChangePasswordRequest>,
    ) -> Answer<proto::ChangePasswordResponse> {
        let call = Call::of(&request)?;
        let (current, new) = password::change(request.into_inner())?;
        let changed = self.room.account.change_password(&call, current, new).await?;
        Ok(Response::new(proto::ChangePasswordResponse {
            tokens: Some(convert::tokens(changed.tokens)),
            sessions_revoked: i32::try_from(changed.sessions_revoked).unwrap_or(i32::MAX),
        }))
    }

    async fn request_password_reset(
        &self,
        request: Request<proto::RequestPasswordResetRequest>,
    ) -> Answer<proto::RequestPasswordResetResponse> {
        let call = Call::of(&request)?;
        Ok(Response::new(by_mail::request_reset(self, &call, request.into_inner()).await?))
    }

    async fn reset_password(
        &self,
        request: Request<proto::ResetPasswordRequest>,
    ) -> Answer<proto::ResetPasswordResponse> {
        let call = Call::of(&request)?;
        Ok(Response::new(by_mail::reset(self, &call, request.into_inner()).await?))
    }

    async fn enroll_totp(&self, request: Request<proto::EnrollTotpRequest>) -> Answer<proto::EnrollTotpResponse> {
        let begun = self.room.account.enroll_totp(&Call::of(&request)?).await?;
        Ok(Response::new(factors::enrolment(begun)))
    }

    async fn confirm_totp(&self, request: Request<proto::ConfirmTotpRequest>) -> Answer<proto::ConfirmTotpResponse> {
        let call = Call::of(&request)?;
        let code = factors::code("totp_code", request.into_inner().totp_code)?;
        let (codes, ended) = self.room.account.confirm_totp(&call, code).await?;
        let (recovery_codes, sessions_revoked) = (factors::codes(codes), factors::count(ended));
        Ok(Response::new(proto::ConfirmTotpResponse { recovery_codes, sessions_revoked }))
    }

    async fn disable_totp(&self, request: Request<proto::DisableTotpRequest>) -> Answer<proto::DisableTotpResponse> {
        let ended = self.room.account.disable_totp(&Call::of(&request)?).await?;
        Ok(Response::new(proto::DisableTotpResponse { sessions_revoked: factors::count(ended) }))
    }

    async fn regenerate_recovery_codes(
        &self,
        request: Request<proto::RegenerateRecoveryCodesRequest>,
    ) -> Answer<proto::RegenerateRecoveryCodesResponse> {
        let codes = self.room.account.regenerate_recovery_codes(&Call::of(&request)?).await?;
        Ok(Response::new(proto::RegenerateRecoveryCodesResponse { recovery_codes: factors::codes(codes) }))
    }

    async fn redeem_invitation(
        &self,
        request: Request<proto::RedeemInvitationRequest>,
    ) -> Answer<proto::RedeemInvitationResponse> {
        let call = Call::of(&request)?;
        let redemption = enrolment::redemption(request.into_inner())?;
        let link = self.room.enrolment.redeem(&call, redemption).await?;
        Ok(Response::new(enrolment::link(&link)))
    }
}

impl Service {
    /// What the access token of the call says, as far as its caller may use it; the edge has let it in already.
    fn presented<T>(&self, call: &Call, request: &Request<T>) -> Result<Verified> {
        let unauthenticated = || Fault::new(Reason::Unauthenticated, "The call needs an access token.");
        let principal = Arc::clone(call.principal.as_ref().ok_or_else(unauthenticated)?);
        let config = &self.room.login.config.tokens;
        let Some(value) = request.metadata().get("authorization") else {
            // Known by a client certificate.
            return Ok(Verified::without_token(principal, config.issuer.clone(), config.audience.clone()));
        };
        let (_, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(unauthenticated)?;
        Ok(self.verify(token.trim(), &config.audience)?.held_by(principal))
    }
}

fn required_audience(audience: &str) -> Result<()> {
    if audience.is_empty() {
        return Err(Fault::field("audience", "must name the audience that the token has to be for"));
    }
    Ok(())
}
