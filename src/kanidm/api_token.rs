//! What an API token of Kanidm says about itself. Not verified, which only Kanidm can: it is for telling an operator about
//! the token that they gave, and for finding it in Kanidm's list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use crate::config::Secret;

/// What a token says about itself, and what Kanidm's list says about it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ApiToken {
    /// uuid of the service account.
    pub account_id: Uuid,
    /// What it is revoked by.
    pub token_id: Uuid,
    /// What its maker called it.
    pub label: String,
    #[serde(default)]
    expiry: Option<i64>,
    #[serde(default)]
    purpose: String,
}

impl ApiToken {
    /// Reads a token; none for a compact one, which says nothing, and for what is no token.
    pub fn read(token: &Secret) -> Option<Self> {
        let payload = token.expose().trim().split('.').nth(1)?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// Whether changes can be made with it.
    pub fn is_read_write(&self) -> bool {
        self.purpose == "readwrite"
    }

    /// When it ends; none for one that does not.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.expiry.and_then(|at| DateTime::from_timestamp(at, 0))
    }

    /// Whether it is over at `now`.
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.expires_at().is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &[u8]) -> Secret {
        Secret::from(format!("e30.{}.c2ln\n", URL_SAFE_NO_PAD.encode(payload)))
    }

    #[test]
    fn a_token_tells_its_account_purpose_and_end() {
        // As 1.7.4 and 1.11.1 make them.
        let read = ApiToken::read(&token(
            br#"{"account_id":"93736a52-678a-4b91-b8e6-fe3fd8dd0584","token_id":"212aaa5e-8997-44b9-9fb6-6f0b79b10b72",
            "label":"sidle","expiry":1900000000,"issued_at":1796027129,"purpose":"readwrite"}"#,
        ))
        .unwrap();
        assert!(read.is_read_write());
        assert_eq!(read.expires_at().unwrap().timestamp(), 1_900_000_000);
        let end = read.expires_at().unwrap();
        assert!(read.is_over(end) && !read.is_over(end - chrono::TimeDelta::seconds(1)));
        let endless = br#"{"account_id":"93736a52-678a-4b91-b8e6-fe3fd8dd0584",
            "token_id":"212aaa5e-8997-44b9-9fb6-6f0b79b10b72","label":"","expiry":null,"purpose":"readonly"}"#;
        let read = ApiToken::read(&token(endless)).unwrap();
        assert!(!read.is_read_write() && read.expires_at().is_none() && !read.is_over(end));
    }

    #[test]
    fn a_compact_token_and_what_is_none_say_nothing() {
        for other in [token(&[7; 16]), Secret::from(String::new()), Secret::from("a.b.c".to_owned())] {
            assert_eq!(ApiToken::read(&other), None);
        }
    }
}
