//! The claims of an access token, as they are in the token.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Epoch;

/// The claims. Required ones are plain fields of one type each, so that a claim of another shape does not parse, and one
/// that comes twice does not either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Its issuer.
    pub iss: String,
    /// The principal.
    pub sub: Uuid,
    /// Its audience: one, never a list.
    pub aud: String,
    /// When it expires, in seconds since 1970.
    pub exp: i64,
    /// Before when it is not valid.
    pub nbf: i64,
    /// When it was issued.
    pub iat: i64,
    /// Its id, a UUIDv7: says to the millisecond when it was issued.
    pub jti: Uuid,
    /// The epoch of `sub` when it was issued: void once there is a later revocation. Absent before the first.
    #[serde(default, skip_serializing_if = "Epoch::is_first")]
    pub epoch: Epoch,
    /// The session it belongs to; service accounts have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<Uuid>,
    /// When the credential ends that a service account exchanged for the token, in seconds since 1970. A stream that the
    /// token opened may outlast the token, but not the credential. Absent for users, whose sessions know their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_exp: Option<i64>,
    /// The tenant that roles and permissions are for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<Uuid>,
    /// What `sub` is.
    pub kind: Kind,
    /// Roles in the tenant that mean the same in every tenant: the built-in ones, and those that the platform's
    /// administrators made for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Roles in the tenant that the tenant `tid` defines itself. Their names are the tenant's choice: they mean nothing
    /// in another tenant, nor on the platform.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenant_roles: Vec<String>,
    /// Roles on the platform, given by its administrators only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platform_roles: Vec<String>,
    /// Permissions in the tenant, separated by blanks. `*` is all but those reserved for the platform.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// Permissions in every tenant, separated by blanks.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub platform_scope: String,
}

/// What `sub` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A user.
    User,
    /// A service account.
    ServiceAccount,
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("exp", serde_json::json!(true)),
            ("exp", serde_json::json!(1e300)),
            ("nbf", serde_json::json!({})),
            ("nbf", serde_json::json!(1.5)),
            ("credential_exp", serde_json::json!("99999999999")),
            ("credential_exp", serde_json::json!(1.5)),
            ("kind", serde_json::json!("admin")),
            ("tid", serde_json::json!("everywhere")),
            ("roles", serde_json::json!("admin")),
            ("tenant_roles", serde_json::json!("admin")),
            ("platform_roles", serde_json::json!({ "admin": true })),
            ("epoch", serde_json::json!("1")),
            ("epoch", serde_json::json!(1.5)),
            ("epoch", serde_json::json!(null)),
            ("scope", serde_json::json!(["*"])),
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
