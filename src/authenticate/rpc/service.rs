//! The service, and what several of its RPCs read from requests.

use std::sync::Arc;

use super::convert;
use crate::access::input;
use crate::authenticate::Authenticate;
use crate::fault::{Fault, Result};
use crate::proto;
use crate::session::SessionRequest;
use crate::token::Verified;

/// Characters of a tenant's slug at most.
const LONGEST_SLUG: usize = 48;

#[derive(Clone, Debug)]
pub struct Service {
    pub(super) authenticate: Authenticate,
}

impl Service {
    pub fn new(authenticate: Authenticate) -> Self {
        Self { authenticate }
    }

    pub(super) fn session_request(
        &self,
        (tenant_id, tenant_slug): (&str, &str),
        audience: &str,
        device: Option<proto::Device>,
        persistent: bool,
    ) -> Result<SessionRequest> {
        if !tenant_id.is_empty() && !tenant_slug.is_empty() {
            return Err(Fault::field("tenant_slug", "must be empty where tenant_id is not"));
        }
        let tenant_slug = input::text("tenant_slug", tenant_slug, LONGEST_SLUG)?;
        Ok(SessionRequest {
            tenant_id: input::optional_uuid("tenant_id", tenant_id)?,
            tenant_slug: Some(tenant_slug).filter(|slug| !slug.is_empty()),
            audience: self.authenticate.login.sessions.issuer.audience(audience)?,
            persistent,
            device: convert::device(device)?,
        })
    }

    pub(super) fn verify(&self, token: &str, audience: &str) -> Result<Arc<Verified>> {
        self.authenticate.login.sessions.verifier.verify(token, audience)
    }
}
