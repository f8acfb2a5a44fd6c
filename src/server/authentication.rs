//! The step at the edge that decides whether a call is admitted: its policy, its token, its permission. Default deny.

use http::{Request, header};
use std::sync::Arc;

use super::certificates::{CertificateIdentity, Certificates, narrowed};
use crate::access::{Call, Policy, Principal, aside, denied, policy_of};
use crate::fault::{Fault, Reason, Result};
use crate::token::Verifier;

/// Where the paths of health checks begin.
pub const HEALTH: &str = "/grpc.health.v1.";
/// Where the path of the stream of health begins, which stays open.
pub const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
/// Where the paths of reflection begin, which is streams as well.
pub const REFLECTION: &str = "/grpc.reflection.";

/// What the step needs.
#[derive(Clone)]
pub struct Gate {
    /// Checks access tokens.
    pub verifier: Verifier,
    /// Knows which accounts client certificates act as.
    pub certificates: Certificates,
    /// The audience of Sidle's own RPCs.
    pub audience: Arc<str>,
    /// Whether reflection answers callers that have not signed in.
    pub open_reflection: bool,
}

/// Notes the principal of `request` in its [`Call`] and admits it, or says why not. `holder` is what the client certificate
/// of its connection says, where one came that says anything.
///
/// # Errors
/// `UNAUTHENTICATED`, `PERMISSION_DENIED`, or `REVOCATIONS_STALE`.
pub async fn admit<B>(
    gate: &Gate,
    request: &mut Request<B>,
    holder: Result<Option<CertificateIdentity>>,
) -> Result<()> {
    let policy = policy(gate, request.uri().path());
    let aside = aside(request.uri().path());
    if let Some(call) = request.extensions_mut().get_mut::<Call>() {
        call.aside = aside;
    }
    if policy == Policy::Public {
        return Ok(());
    }
    let (principal, certificate) = match (holder?, request.headers().contains_key(header::AUTHORIZATION)) {
        (None, _) => (principal(gate, request)?, None),
        (Some(holder), false) => (gate.certificates.principal(&gate.verifier, &holder).await?, None),
        (Some(holder), true) => {
            let token = principal(gate, request)?;
            let certificate = gate.certificates.principal(&gate.verifier, &holder).await?;
            (Arc::new(narrowed(&token, &certificate)), Some(certificate))
        }
    };
    let denial = match policy {
        Policy::Permission(permission) if !principal.may(permission) => Some(denied(permission)),
        _ => None,
    };
    // Also of a call that is refused: a denial is recorded as its caller's.
    if let Some(call) = request.extensions_mut().get_mut::<Call>() {
        call.principal = Some(principal);
        call.certificate = certificate;
    }
    denial.map_or(Ok(()), Err)
}

/// The policy of what lies at `path`.
pub fn policy(gate: &Gate, path: &str) -> Policy {
    match policy_of(path) {
        Some(policy) => policy,
        None if path.starts_with(HEALTH) => Policy::Public,
        None if path.starts_with(REFLECTION) && gate.open_reflection => Policy::Public,
        // Everything else exists only for those who have signed in; the router then says that there is nothing.
        None => Policy::Authenticated,
    }
}

fn principal<B>(gate: &Gate, request: &Request<B>) -> Result<Arc<Principal>> {
    let unauthenticated = || Fault::new(Reason::Unauthenticated, "The call needs an access token.");
    let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or_else(unauthenticated)?;
    if values.next().is_some() {
        return Err(Fault::new(Reason::Unauthenticated, "The call carries more than one authorization header."));
    }
    let text = value.to_str().map_err(|_| unauthenticated())?;
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Err(unauthenticated()),
    };
    gate.verifier.principal(token, &gate.audience).map_err(|fault| match fault.reason() {
        Reason::InvalidToken => Fault::new(Reason::Unauthenticated, "The access token is not accepted."),
        _ => fault,
    })
}
