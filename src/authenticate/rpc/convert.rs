//! Between the messages of `authenticate.proto` and the module's own types.

use std::time::Duration;

use uuid::Uuid;

use crate::access::{PrincipalKind, input};
use crate::authenticate::account::store::account::MemberTenant;
use crate::authenticate::account::who::Who;
use crate::authenticate::{Hint, SignedIn, UserView};
use crate::fault::{Fault, Result};
use crate::proto;
use crate::session::{Device, Tokens};
use crate::token::{RoleNames, Verified};

/// A password or another secret as it was typed: bounded, and without NUL, at which implementations of bcrypt disagree.
pub(super) fn secret(field: &'static str, value: &str, max: usize) -> Result<()> {
    if value.is_empty() {
        Err(Fault::field(field, "must not be empty"))
    } else if value.len() > max {
        Err(Fault::field(field, format!("must be at most {max} bytes long")))
    } else if value.contains('\0') {
        Err(Fault::field(field, "must not contain the character NUL"))
    } else {
        Ok(())
    }
}

pub(super) fn hint(hint: &Hint) -> proto::EnrolmentHint {
    proto::EnrolmentHint {
        invitation_token: hint.token.to_string(),
        expires_at: Some(input::to_proto(hint.expires_at)),
        required: false,
    }
}

pub(super) fn device(device: Option<proto::Device>) -> Result<Device> {
    let device = device.unwrap_or_default();
    let kind = match proto::DeviceType::try_from(device.r#type) {
        Ok(proto::DeviceType::Unspecified) => None,
        Ok(proto::DeviceType::Desktop) => Some("desktop"),
        Ok(proto::DeviceType::Phone) => Some("phone"),
        Ok(proto::DeviceType::Tablet) => Some("tablet"),
        Ok(proto::DeviceType::Service) => Some("service"),
        Ok(proto::DeviceType::Other) => Some("other"),
        Err(_) => return Err(Fault::field("device.type", "must be one of the known kinds of device")),
    };
    let text =
        |field, value: &str, max| input::text(field, value, max).map(|text| Some(text).filter(|t| !t.is_empty()));
    Ok(Device {
        id: text("device.device_id", &device.device_id, 128)?,
        kind: kind.map(str::to_owned),
        platform: text("device.platform", &device.platform, 128)?,
        user_agent: text("device.user_agent", &device.user_agent, 512)?,
        location: text("device.location", &device.location, 128)?,
        fingerprint: text("device.fingerprint", &device.fingerprint, 512)?,
    })
}

pub(super) fn tokens(tokens: Tokens) -> proto::TokenPair {
    proto::TokenPair {
        access_token: tokens.access.token,
        access_token_expires_at: Some(input::to_proto(tokens.access.expires_at)),
        refresh_token: tokens.refresh_token.to_string(),
        refresh_token_expires_at: Some(input::to_proto(tokens.refresh_expires_at)),
    }
}

pub(super) fn signed_in(signed_in: SignedIn) -> proto::SignedIn {
    proto::SignedIn {
        tokens: Some(tokens(signed_in.tokens)),
        session_id: signed_in.session_id.to_string(),
        user: Some(user(signed_in.user)),
        tenant_id: id(signed_in.tenant_id),
        must_change_password: signed_in.must_change_password,
        known_device_token: signed_in.known_device_token.map(|token| token.to_string()).unwrap_or_default(),
        enrolment: signed_in.enrolment.as_ref().map(hint),
    }
}

pub(super) fn user(user: UserView) -> proto::SignedInUser {
    let auth_method = match user.auth_method.as_str() {
        "password" => proto::AuthMethod::Password,
        "kanidm" => proto::AuthMethod::Kanidm,
        "dual" => proto::AuthMethod::Dual,
        _ => proto::AuthMethod::Unspecified,
    };
    proto::SignedInUser {
        user_id: user.user_id.to_string(),
        email: user.email,
        username: user.username.unwrap_or_default(),
        full_name: user.full_name,
        auth_method: auth_method.into(),
    }
}

pub(super) fn claims(verified: &Verified, revocation_bound: Duration) -> proto::TokenClaims {
    let principal = &verified.principal;
    let kind = match principal.kind {
        PrincipalKind::User => proto::PrincipalKind::User,
        PrincipalKind::ServiceAccount => proto::PrincipalKind::ServiceAccount,
    };
    proto::TokenClaims {
        subject: principal.id.to_string(),
        kind: kind.into(),
        tenant_id: id(principal.tenant_id),
        session_id: id(principal.session_id),
        token_id: verified.token_id.to_string(),
        issuer: verified.issuer.clone(),
        audience: verified.audience.clone(),
        issued_at: Some(input::to_proto(principal.issued_at)),
        expires_at: Some(input::to_proto(principal.expires_at)),
        roles: verified.roles.shared.clone(),
        tenant_roles: verified.roles.own.clone(),
        platform_roles: verified.roles.platform.clone(),
        permissions: principal.permissions.names(),
        platform_permissions: principal.platform_permissions.names(),
        revocation_bound: duration(revocation_bound),
    }
}

pub(super) fn who(verified: &Verified, bound: Duration, who: Who, tenants: Vec<MemberTenant>) -> proto::WhoAmIResponse {
    let tenant = |tenant: MemberTenant| {
        let roles = RoleNames::read(&tenant.roles);
        proto::MemberTenant {
            tenant_id: tenant.tenant_id.to_string(),
            slug: tenant.slug,
            name: tenant.name,
            roles: roles.shared,
            tenant_roles: roles.own,
            home: tenant.home,
        }
    };
    let mut answer = proto::WhoAmIResponse {
        claims: Some(claims(verified, bound)),
        tenants: tenants.into_iter().map(tenant).collect(),
        ..Default::default()
    };
    match who {
        Who::User(account) => {
            answer.second_factors = second_factors(account.has_totp, account.recovery_codes_left > 0);
            answer.recovery_codes_left = account.recovery_codes_left;
            answer.must_change_password = account.must_change_password;
            answer.principal = Some(proto::who_am_i_response::Principal::User(user(account.user)));
        }
        Who::ServiceAccount(name) => {
            answer.principal = Some(proto::who_am_i_response::Principal::ServiceAccountName(name));
        }
    }
    answer
}

/// What can be shown as a second factor.
pub(super) fn second_factors(totp: bool, recovery_codes: bool) -> Vec<i32> {
    let factors = [(totp, proto::SecondFactor::Totp), (totp && recovery_codes, proto::SecondFactor::RecoveryCode)];
    factors.into_iter().filter(|(there, _)| *there).map(|(_, factor)| factor.into()).collect()
}

pub(super) fn jwk(key: sidle_token::Jwk) -> proto::Jwk {
    proto::Jwk {
        kid: key.kid,
        kty: key.kty,
        alg: key.alg,
        r#use: key.usage,
        crv: key.crv,
        x: key.x,
        y: key.y,
        n: key.n,
        e: key.e,
    }
}

pub(super) fn id(id: Option<Uuid>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

pub(super) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}
