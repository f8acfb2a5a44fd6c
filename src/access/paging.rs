//! Page tokens and cursors: opaque, and bound by a MAC to caller, RPC and filter, so that no caller reads on with
//! another's, or with another filter than they began with.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Call;
use crate::fault::{Fault, Reason, Result};
use crate::seal::Keyring;

const TAG: usize = 16;
const DEFAULT_SIZE: i32 = 50;
const LARGEST: i32 = 1000;

/// Makes and reads page tokens and cursors.
#[derive(Clone)]
pub struct Paging {
    key: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Paging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Paging")
    }
}

/// How many entries a page holds: 50 when not said, 1000 at most.
///
/// # Errors
/// `INVALID_FIELD` for a negative number.
pub fn page_size(requested: i32) -> Result<i64> {
    match requested {
        0 => Ok(i64::from(DEFAULT_SIZE)),
        1.. => Ok(i64::from(requested.min(LARGEST))),
        _ => Err(Fault::field("page_size", format!("must be from 0 to {LARGEST}"))),
    }
}

/// Cuts what was read with one entry too many to a page, and gives the page's last entry if there is another page.
pub(crate) fn cut<T>(entries: &mut Vec<T>, size: i64) -> Option<&T> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let more = entries.len() > size;
    entries.truncate(size);
    entries.last().filter(|_| more)
}

impl Paging {
    /// Tokens under a key derived from the keyring, the same on every replica.
    pub fn new(keyring: &Keyring) -> Self {
        Self { key: keyring.derive("page tokens") }
    }

    /// A token for going on after `position`.
    pub fn encode(&self, call: &Call, method: &str, filter: &impl Serialize, position: &impl Serialize) -> String {
        let body = serde_json::to_vec(position).unwrap_or_default();
        let mut token = self.tag(call, method, filter, &body).to_vec();
        token.extend_from_slice(&body);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The position in `token`; none for the empty token, which means the beginning.
    ///
    /// # Errors
    /// `INVALID_PAGE_TOKEN` for a token made for another caller, RPC or filter.
    pub fn decode<T: DeserializeOwned>(
        &self,
        call: &Call,
        method: &str,
        filter: &impl Serialize,
        token: &str,
    ) -> Result<Option<T>> {
        if token.is_empty() {
            return Ok(None);
        }
        let refused = || Fault::new(Reason::InvalidPageToken, "The page token or cursor does not belong to this call.");
        if token.len() > 2048 {
            return Err(refused());
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| refused())?;
        let (tag, body) = bytes.split_at_checked(TAG).ok_or_else(refused)?;
        let mut mac = self.mac(call, method, filter);
        mac.update(body);
        mac.verify_truncated_left(tag).map_err(|_| refused())?;
        serde_json::from_slice(body).map(Some).map_err(|_| refused())
    }

    fn mac(&self, call: &Call, method: &str, filter: &impl Serialize) -> Hmac<Sha256> {
        // HMAC takes keys of any length, so this cannot fail.
        #[expect(clippy::expect_used, reason = "HMAC accepts keys of every length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.key).expect("HMAC takes any key");
        let principal = call.principal.as_ref();
        mac.update(principal.map_or(Uuid::nil(), |p| p.id).as_bytes());
        mac.update(principal.and_then(|p| p.tenant_id).unwrap_or_default().as_bytes());
        let filter = serde_json::to_vec(filter).unwrap_or_default();
        for part in [method.as_bytes(), &filter] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    fn tag(&self, call: &Call, method: &str, filter: &impl Serialize, body: &[u8]) -> [u8; TAG] {
        let mut mac = self.mac(call, method, filter);
        mac.update(body);
        let mut tag = [0; TAG];
        tag.copy_from_slice(&mac.finalize().into_bytes()[..TAG]);
        tag
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::access::{Permissions, Principal, PrincipalKind};

    fn call(id: u128) -> Call {
        let principal = Principal {
            kind: PrincipalKind::User,
            id: Uuid::from_u128(id),
            session_id: None,
            tenant_id: Some(Uuid::from_u128(1)),
            permissions: Permissions::default(),
            platform_permissions: Permissions::default(),
            key_id: None,
            issued_at: chrono::DateTime::UNIX_EPOCH,
            epoch: sidle_token::Epoch::FIRST,
            expires_at: chrono::DateTime::UNIX_EPOCH,
            credential_expires_at: None,
        };
        Call { principal: Some(Arc::new(principal)), ..Call::internal(Uuid::nil()) }
    }

    fn paging() -> Paging {
        Paging { key: Zeroizing::new([3; 32]) }
    }

    #[test]
    fn a_token_works_for_its_caller_method_and_filter_only() {
        let token = paging().encode(&call(1), "List", &("a", 1), &42);
        assert_eq!(paging().decode::<i32>(&call(1), "List", &("a", 1), &token).unwrap(), Some(42));
        assert!(paging().decode::<i32>(&call(2), "List", &("a", 1), &token).is_err(), "another caller");
        assert!(paging().decode::<i32>(&call(1), "Watch", &("a", 1), &token).is_err(), "another method");
        assert!(paging().decode::<i32>(&call(1), "List", &("a", 2), &token).is_err(), "another filter");
        assert!(Paging { key: Zeroizing::new([4; 32]) }.decode::<i32>(&call(1), "List", &("a", 1), &token).is_err());
        assert_eq!(paging().decode::<i32>(&call(1), "List", &("a", 1), "").unwrap(), None);
    }

    #[test]
    fn a_changed_or_cut_token_is_refused() {
        let token = paging().encode(&call(1), "List", &(), &42);
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let read = paging().decode::<i32>(&call(1), "List", &(), &changed);
            assert!(read.is_err(), "character {at}");
            assert!(at == 0 || paging().decode::<i32>(&call(1), "List", &(), &token[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn page_sizes_are_bounded() {
        assert_eq!(page_size(0).unwrap(), 50);
        assert_eq!(page_size(7).unwrap(), 7);
        assert_eq!(page_size(i32::MAX).unwrap(), 1000);
        assert!(page_size(-1).is_err());
    }
}
