//! The service, and what several of its RPCs read from requests.

use std::sync::Arc;

use super::convert;
use crate::access::input;
use crate::authenticate::Authenticate;
use crate::fault::Result;
use crate::proto;
use crate::session::SessionRequest;
use crate::token::Verified;

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
        tenant: &str,
        audience: &str,
        device: Option<proto::Device>,
        persistent: bool,
    ) -> Result<SessionRequest> {
        Ok(SessionRequest {
            tenant_id: input::optional_uuid("tenant_id", tenant)?,
            audience: self.authenticate.login.sessions.issuer.audience(audience)?,
            persistent,
            device: convert::device(device)?,
        })
    }

    pub(super) fn verify(&self, token: &str, audience: &str) -> Result<Arc<Verified>> {
        self.authenticate.login.sessions.verifier.verify(token, audience)
    }
}
