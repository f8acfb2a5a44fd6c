//! What an access token says, as it stands in the token.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::{Uuid, Variant};

use crate::access::{Permissions, PrincipalKind};

/// Media type of access tokens (RFC 9068): nothing else that is signed with the same keys passes for one.
pub(super) const TYPE: &str = "at+jwt";

/// The claims. Required ones are plain fields of one type each, so that a claim of another shape does not parse.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    pub iss: String,
    pub sub: Uuid,
    pub aud: String,
    pub exp: i64,
    pub nbf: i64,
    pub iat: i64,
    pub jti: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<Uuid>,
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub platform_scope: String,
}

/// What `sub` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    User,
    ServiceAccount,
}

impl From<PrincipalKind> for Kind {
    fn from(kind: PrincipalKind) -> Self {
        match kind {
            PrincipalKind::User => Self::User,
            PrincipalKind::ServiceAccount => Self::ServiceAccount,
        }
    }
}

impl From<Kind> for PrincipalKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::User => Self::User,
            Kind::ServiceAccount => Self::ServiceAccount,
        }
    }
}

impl Claims {
    /// When the token was issued, to the millisecond: `iat` has whole seconds, which is too coarse to tell whether a
    /// token came before a change of rights or after it, but `jti` is a UUIDv7.
    pub fn issued_at(&self) -> Option<DateTime<Utc>> {
        issue_time(self.jti)
    }

    /// What the token allows in its tenant.
    pub fn permissions(&self) -> Permissions {
        Permissions::parse(&self.scope)
    }

    /// What the token allows in every tenant.
    pub fn platform_permissions(&self) -> Permissions {
        Permissions::parse(&self.platform_scope)
    }
}

/// The time in the id of a token.
fn issue_time(jti: Uuid) -> Option<DateTime<Utc>> {
    if jti.get_version_num() != 7 || jti.get_variant() != Variant::RFC4122 {
        return None;
    }
    let (seconds, nanos) = jti.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;

    #[test]
    fn the_id_of_a_token_tells_when_it_was_issued() {
        let context = Context::system();
        let before = context.now().timestamp_millis();
        let issued = issue_time(context.new_id()).unwrap().timestamp_millis();
        assert!((before..=context.now().timestamp_millis()).contains(&issued));
        assert_eq!(issue_time(Uuid::nil()), None);
        assert_eq!(issue_time(Uuid::from_u128(u128::MAX)), None);
    }

    #[test]
    fn claims_of_another_shape_do_not_parse() {
        let good = serde_json::json!({
            "iss": "a", "sub": Uuid::nil(), "aud": "b", "exp": 1, "nbf": 1, "iat": 1, "jti": Uuid::nil(), "kind": "user",
        });
        assert!(serde_json::from_value::<Claims>(good.clone()).is_ok());
        for (claim, value) in [
            ("aud", serde_json::json!(["b", "c"])),
            ("exp", serde_json::json!("99999999999")),
            ("exp", serde_json::json!(null)),
            ("nbf", serde_json::json!({})),
            ("nbf", serde_json::json!(1.5)),
            ("kind", serde_json::json!("admin")),
            ("tid", serde_json::json!("everywhere")),
        ] {
            let mut bad = good.clone();
            bad[claim] = value;
            assert!(serde_json::from_value::<Claims>(bad).is_err(), "{claim}");
        }
        for claim in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "kind"] {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(claim);
            assert!(serde_json::from_value::<Claims>(bad).is_err(), "without {claim}");
        }
    }
}
