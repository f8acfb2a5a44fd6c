//! Logins through Kanidm on the wire.

use std::sync::Arc;

use tonic::Request;
use zeroize::Zeroizing;

use super::{Service, convert};
use crate::access::{Call, Principal, input};
use crate::authenticate::kanidm::attempt::{Holder, Purpose, Return, Start};
use crate::authenticate::kanidm::login::Completed;
use crate::credential::RateLimitBucket;
use crate::fault::{Fault, Reason, Result};
use crate::proto;
use crate::token::{KanidmVerified, RoleNames};

pub(super) async fn start(
    service: &Service,
    request: Request<proto::StartKanidmLoginRequest>,
) -> Result<proto::StartKanidmLoginResponse> {
    let purpose = match proto::KanidmLoginPurpose::try_from(request.get_ref().purpose) {
        Ok(proto::KanidmLoginPurpose::Unspecified | proto::KanidmLoginPurpose::Login) => Purpose::Login,
        Ok(proto::KanidmLoginPurpose::StepUp) => Purpose::StepUp,
        Ok(proto::KanidmLoginPurpose::Link) => Purpose::Link,
        Err(_) => return Err(Fault::field("purpose", "must be one of the known purposes")),
    };
    let mut call = Call::of(&request)?;
    let holder = match purpose {
        Purpose::Login => None,
        _ => {
            // Any caller may begin a login, so that the edge has not authenticated this one.
            call.principal = Some(principal(service, &request)?);
            call.principal.as_deref().and_then(Holder::of)
        }
    };
    service.authenticate.login.throttle(&call, RateLimitBucket::Kanidm).await?;
    let request = request.into_inner();
    let tenant = (request.tenant_id.as_str(), request.tenant_slug.as_str());
    let session_request = service.session_request(tenant, &request.audience, request.device, request.persistent)?;
    let start = Start { redirect_uri: request.redirect_uri, session_request, purpose };
    let begun = service.authenticate.kanidm.start_kanidm(&call, &start, holder).await?;
    Ok(proto::StartKanidmLoginResponse {
        authorization_url: begun.authorization_url,
        state: begun.state.to_string(),
        login_secret: begun.secret.to_string(),
        expires_at: Some(input::to_proto(begun.expires_at)),
    })
}

pub(super) async fn complete(
    service: &Service,
    request: Request<proto::CompleteKanidmLoginRequest>,
) -> Result<proto::CompleteKanidmLoginResponse> {
    let call = Call::of(&request)?;
    service.authenticate.login.throttle(&call, RateLimitBucket::Kanidm).await?;
    // Signing in needs no token, so a stale one that comes along does not matter.
    let holder = principal(service, &request).ok().as_deref().and_then(Holder::of);
    let request = request.into_inner();
    let back = returned(request.state, request.code, request.login_secret)?;
    Ok(match service.authenticate.kanidm.complete_kanidm(&call, back, holder).await? {
        Completed::SignedIn(signed_in) => {
            proto::CompleteKanidmLoginResponse { signed_in: Some(convert::signed_in(*signed_in)), linked: None }
        }
        Completed::Linked(person, ended) => {
            let linked = proto::KanidmLink {
                user_id: holder.map(|holder| holder.user_id.to_string()).unwrap_or_default(),
                kanidm_user_id: person.to_string(),
                sessions_revoked: i32::try_from(ended).unwrap_or(i32::MAX),
            };
            proto::CompleteKanidmLoginResponse { signed_in: None, linked: Some(linked) }
        }
    })
}

/// What came back from Kanidm, and what the client kept.
pub(super) fn returned(state: String, code: String, secret: String) -> Result<Return> {
    let (state, code, secret) = (Zeroizing::new(state), Zeroizing::new(code), Zeroizing::new(secret));
    convert::secret("state", &state, 256)?;
    convert::secret("code", &code, 4096)?;
    convert::secret("login_secret", &secret, 256)?;
    Ok(Return { state, code, secret })
}

/// What a token of Kanidm's own says, and Sidle of whom it stands for.
pub(super) fn claims(verified: KanidmVerified, audience: &str) -> proto::TokenClaims {
    let lifetime = (verified.expires_at - verified.issued_at).to_std().unwrap_or_default();
    let user = verified.user;
    let roles = RoleNames::read(&user.roles);
    proto::TokenClaims {
        subject: user.user_id.to_string(),
        kind: proto::PrincipalKind::User.into(),
        tenant_id: convert::id(user.tenant_id),
        session_id: String::new(),
        token_id: verified.token_id,
        issuer: verified.issuer,
        audience: audience.to_owned(),
        issued_at: Some(input::to_proto(verified.issued_at)),
        expires_at: Some(input::to_proto(verified.expires_at)),
        roles: roles.shared,
        tenant_roles: roles.own,
        platform_roles: roles.platform,
        permissions: user.permissions,
        platform_permissions: user.platform_permissions,
        // Kanidm does not report that it revoked one.
        revocation_bound: convert::duration(lifetime),
    }
}

/// Whose token comes with the call. Both RPCs are public, so that the edge has not looked at it.
fn principal<T>(service: &Service, request: &Request<T>) -> Result<Arc<Principal>> {
    let unauthenticated = || Fault::new(Reason::Unauthenticated, "The call needs an access token.");
    let mut values = request.metadata().get_all("authorization").iter();
    let (value, more) = (values.next().ok_or_else(unauthenticated)?, values.next());
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(unauthenticated)?;
    if more.is_some() || !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthenticated());
    }
    let verified = service.verify(token.trim(), &service.authenticate.login.config.tokens.audience);
    let verified = verified.map_err(|fault| match fault.reason() {
        Reason::InvalidToken => Fault::new(Reason::Unauthenticated, "The access token is not accepted."),
        _ => fault,
    })?;
    Ok(Arc::clone(&verified.principal))
}
