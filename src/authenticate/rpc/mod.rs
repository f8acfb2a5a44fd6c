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

use tonic::Request;
use zeroize::Zeroizing;

pub use self::service::Service;
use crate::access::rpcs::rpcs;
use crate::access::{Call, input};
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};
use crate::proto::authenticate_service_server::AuthenticateService;
use crate::proto::*;
use crate::session::Refresh;
use crate::token::Verified;

/// What a caller needs who asks about tokens.
const VERIFY: &str = "tokens.verify";
/// Tokens that `VerifyTokens` takes in one call.
const MOST_TOKENS: usize = 256;
/// Seconds for which the published keys may be kept.
const JWKS_MAX_AGE: i64 = 60;

impl Service {
    /// What a token says that is good now: one of Sidle's, or of Kanidm's own, which is looked at only after it was
    /// found not to be one of Sidle's. A caller with the permission in one tenant learns of that tenant's tokens only:
    /// of any other they learn no more than of a bad one.
    async fn token_claims(&self, scope: Scope, token: &str, audience: &str) -> Result<TokenClaims> {
        let claims = self.any_claims(token, audience).await?;
        match scope {
            Scope::Tenant(own) if claims.tenant_id != own.to_string() => {
                Err(Fault::new(Reason::InvalidToken, "The token is not accepted."))
            }
            _ => Ok(claims),
        }
    }

    async fn any_claims(&self, token: &str, audience: &str) -> Result<TokenClaims> {
        match (self.verify(token, audience), &self.authenticate.login.sessions.kanidm_tokens) {
            (Ok(verified), _) => Ok(self.claims(&verified)),
            (Err(fault), Some(theirs)) if fault.reason() == Reason::InvalidToken && theirs.claims_to_be(token) => {
                Ok(kanidm::claims(theirs.verify(token, audience).await?, audience))
            }
            (Err(fault), _) => Err(fault),
        }
    }

    fn claims(&self, verified: &Verified) -> TokenClaims {
        convert::claims(verified, self.authenticate.login.sessions.verifier.revocation_bound())
    }

    fn revocations_age(&self) -> Option<prost_types::Duration> {
        self.authenticate.login.sessions.verifier.revocation_age().and_then(convert::duration)
    }
}

rpcs! { AuthenticateService for Service {
    unary {
        authenticate_password(AuthenticatePasswordRequest) -> AuthenticatePasswordResponse = password::authenticate;
        authenticate_service_account(AuthenticateServiceAccountRequest) -> AuthenticateServiceAccountResponse =
            service_account::authenticate;
        refresh_token(RefreshTokenRequest) -> RefreshTokenResponse = Service::refresh;
        verify_token(VerifyTokenRequest) -> VerifyTokenResponse = Service::verify_one;
        verify_tokens(VerifyTokensRequest) -> VerifyTokensResponse = Service::verify_many;
        register(RegisterRequest) -> RegisterResponse = by_mail::register;
        verify_email(VerifyEmailRequest) -> VerifyEmailResponse = by_mail::verify;
        complete_mfa(CompleteMfaRequest) -> CompleteMfaResponse = factors::complete;
        step_up(StepUpRequest) -> StepUpResponse = factors::step_up;
        change_password(ChangePasswordRequest) -> ChangePasswordResponse = password::change;
        request_password_reset(RequestPasswordResetRequest) -> RequestPasswordResetResponse = by_mail::request_reset;
        reset_password(ResetPasswordRequest) -> ResetPasswordResponse = by_mail::reset;
        enroll_totp(EnrollTotpRequest) -> EnrollTotpResponse = factors::enroll;
        confirm_totp(ConfirmTotpRequest) -> ConfirmTotpResponse = factors::confirm;
        disable_totp(DisableTotpRequest) -> DisableTotpResponse = factors::disable;
        regenerate_recovery_codes(RegenerateRecoveryCodesRequest) -> RegenerateRecoveryCodesResponse =
            factors::regenerate_codes;
        redeem_invitation(RedeemInvitationRequest) -> RedeemInvitationResponse = enrolment::redeem;
    }
    with_metadata {
        start_kanidm_login(StartKanidmLoginRequest) -> StartKanidmLoginResponse = kanidm::start;
        complete_kanidm_login(CompleteKanidmLoginRequest) -> CompleteKanidmLoginResponse = kanidm::complete;
        who_am_i(WhoAmIRequest) -> WhoAmIResponse = Service::who_am_i;
        get_jwks(GetJwksRequest) -> GetJwksResponse = Service::published_keys;
    }
}}

impl Service {
    async fn refresh(&self, call: &Call, request: RefreshTokenRequest) -> Result<RefreshTokenResponse> {
        let token = Zeroizing::new(request.refresh_token);
        convert::secret("refresh_token", &token, 256)?;
        let audience = match request.audience.as_str() {
            "" => None,
            asked => Some(self.authenticate.login.sessions.issuer.audience(asked)?),
        };
        let request_id = input::optional_uuid("request_id", &request.request_id)?;
        let tenant_id = input::optional_uuid("tenant_id", &request.tenant_id)?;
        let refresh = Refresh { token, request_id, tenant_id, audience };
        let refreshed = self.authenticate.login.refresh(call, &refresh).await?;
        Ok(RefreshTokenResponse {
            tokens: Some(convert::tokens(refreshed.tokens)),
            session_id: refreshed.session_id.to_string(),
            tenant_id: convert::id(refreshed.tenant_id),
            must_change_password: refreshed.must_change_password,
        })
    }

    async fn verify_one(&self, call: &Call, request: VerifyTokenRequest) -> Result<VerifyTokenResponse> {
        let scope = call.principal()?.authorize(VERIFY, None)?;
        required_audience(&request.audience)?;
        let claims = Some(self.token_claims(scope, &request.token, &request.audience).await?);
        Ok(VerifyTokenResponse { claims, revocations_age: self.revocations_age() })
    }

    async fn verify_many(&self, call: &Call, request: VerifyTokensRequest) -> Result<VerifyTokensResponse> {
        let scope = call.principal()?.authorize(VERIFY, None)?;
        required_audience(&request.audience)?;
        if request.tokens.is_empty() || request.tokens.len() > MOST_TOKENS {
            return Err(Fault::field("tokens", format!("must hold from 1 to {MOST_TOKENS} tokens")));
        }
        let mut verdicts = Vec::with_capacity(request.tokens.len());
        for token in &request.tokens {
            let verdict = match self.token_claims(scope, token, &request.audience).await {
                Ok(claims) => token_verdict::Verdict::Claims(claims),
                Err(fault) if matches!(fault.reason(), Reason::InvalidToken | Reason::KanidmUnavailable) => {
                    token_verdict::Verdict::Refused(fault.reason().into())
                }
                Err(fault) => return Err(fault),
            };
            verdicts.push(TokenVerdict { verdict: Some(verdict) });
        }
        Ok(VerifyTokensResponse { verdicts, revocations_age: self.revocations_age() })
    }

    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<WhoAmIResponse> {
        let call = Call::of(&request)?;
        let verified = self.presented(&call, &request)?;
        let (who, tenants) = self.authenticate.account.who_am_i(&call).await?;
        let bound = self.authenticate.login.sessions.verifier.revocation_bound();
        Ok(convert::who(&verified, bound, who, tenants))
    }

    async fn published_keys(&self, _: Request<GetJwksRequest>) -> Result<GetJwksResponse> {
        let keys = self.authenticate.login.sessions.verifier.published_keys().into_iter().map(convert::jwk).collect();
        let max_age = Some(prost_types::Duration { seconds: JWKS_MAX_AGE, nanos: 0 });
        Ok(GetJwksResponse { keys, max_age })
    }
}

impl Service {
    /// What the access token of the call says, as far as its caller may use it; the edge has accepted it already.
    fn presented<T>(&self, call: &Call, request: &Request<T>) -> Result<Verified> {
        let unauthenticated = || Fault::new(Reason::Unauthenticated, "The call needs an access token.");
        let principal = Arc::clone(call.principal.as_ref().ok_or_else(unauthenticated)?);
        let config = &self.authenticate.login.config.tokens;
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
