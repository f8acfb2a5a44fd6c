//! Room of session.

use std::sync::Arc;
use std::time::Duration;

use crate::access::Principal;
use crate::fault::{Fault, Reason, Result};

/// Checks access tokens.
#[derive(Clone, Debug, Default)]
pub struct Verifier;

impl Verifier {
    /// The principal behind `token`.
    pub fn principal(&self, _token: &str, _audience: &str) -> Result<Arc<Principal>> {
        Err(Fault::new(Reason::InvalidToken, "The token is not accepted."))
    }

    /// Whether a principal from earlier is still welcome: its token neither expired nor revoked since.
    pub fn recheck(&self, _principal: &Principal) -> Result<()> {
        Err(Fault::new(Reason::Unauthenticated, "The access token is not accepted."))
    }

    /// Age of the picture of revocations.
    pub fn revocation_age(&self) -> Option<Duration> {
        None
    }

    /// The published keys.
    pub fn jwks(&self) -> serde_json::Value {
        serde_json::json!({ "keys": [] })
    }
}
