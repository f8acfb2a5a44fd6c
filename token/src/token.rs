//! Reading a token: header, key, signature, and only then what it says.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::{Uuid, Variant};

use crate::{Algorithm, Claims, VerifyingKey};

/// Longer tokens are not even looked at.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Media type of access tokens (RFC 9068): nothing else that is signed with the same keys passes for one.
pub const TYPE: &str = "at+jwt";

/// The header. Tokens of Sidle have these three members; one with others, such as `crit`, `jwk`, `jku` or `x5u`, comes
/// from somebody else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    #[serde(borrow)]
    alg: &'a str,
    #[serde(borrow)]
    typ: &'a str,
    kid: Uuid,
}

/// A token whose signature and contents were found good. Whether it is good *now* is asked with [`Token::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it says.
    pub claims: Claims,
    /// The key that signed it.
    pub kid: Uuid,
    /// How.
    pub algorithm: Algorithm,
    /// When it was issued, to the millisecond.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// Why a token is refused. For the verifier's own use: the presenter is told only that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not a token of Sidle, or was changed.
    Invalid,
    /// It names a key that is not known.
    UnknownKey(Uuid),
    /// It is for another audience.
    Audience,
    /// It is over.
    Expired,
    /// It has not begun.
    NotYet,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid => f.write_str("the token is not valid"),
            Self::UnknownKey(kid) => write!(f, "the token names the unknown key {kid}"),
            Self::Audience => f.write_str("the token is for another audience"),
            Self::Expired => f.write_str("the token has expired"),
            Self::NotYet => f.write_str("the token is not valid yet"),
        }
    }
}

impl std::error::Error for Refusal {}

/// What `token` says if it was issued by `issuer` and signed by the key that it names, which `find` looks up. Nothing of
/// what it says is looked at before the signature is found good.
///
/// # Errors
/// [`Refusal::UnknownKey`] or [`Refusal::Invalid`].
pub fn read<K: AsRef<VerifyingKey>>(
    token: &str,
    issuer: &str,
    find: impl FnOnce(Uuid) -> Option<K>,
) -> Result<Token, Refusal> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::Invalid);
    }
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Invalid);
    let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Invalid)?;
    let (header, claims) = message.split_once('.').ok_or(Refusal::Invalid)?;
    let header = decode(header)?;
    let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| Refusal::Invalid)?;
    if header.typ != TYPE {
        return Err(Refusal::Invalid);
    }
    let key = find(header.kid).ok_or(Refusal::UnknownKey(header.kid))?;
    let key = key.as_ref();
    // The key says how it is used; what the token says about that must agree and decides nothing.
    if header.alg != key.algorithm().as_str() || !key.verify(message.as_bytes(), &decode(signature)?) {
        return Err(Refusal::Invalid);
    }
    let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| Refusal::Invalid)?;
    // Whoever holds an old client's key can sign whatever they like, for this one audience.
    if claims.iss != issuer || key.bound_audience().is_some_and(|bound| bound != claims.aud) {
        return Err(Refusal::Invalid);
    }
    let issued_at = issue_time(claims.jti).ok_or(Refusal::Invalid)?;
    let expires_at = DateTime::from_timestamp(claims.exp, 0).ok_or(Refusal::Invalid)?;
    Ok(Token { claims, kid: header.kid, algorithm: key.algorithm(), issued_at, expires_at })
}

impl Token {
    /// Whether it is good for `audience` at `now`, as far as the token itself tells: revocation is another matter.
    ///
    /// # Errors
    /// [`Refusal::Audience`], [`Refusal::Expired`] or [`Refusal::NotYet`].
    pub fn check(&self, audience: &str, now: DateTime<Utc>, leeway: TimeDelta) -> Result<(), Refusal> {
        if self.claims.aud != audience {
            return Err(Refusal::Audience);
        }
        if now >= self.expires_at + leeway {
            return Err(Refusal::Expired);
        }
        if (now + leeway).timestamp() < self.claims.nbf {
            return Err(Refusal::NotYet);
        }
        Ok(())
    }
}

/// What a token is remembered by: a digest of all of it, so that one that differs in any byte is another one.
pub fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The time in the id of a token: `iat` has whole seconds, which is too coarse to tell whether a token came before a
/// change of rights or after it, but `jti` is a UUIDv7.
pub fn issue_time(jti: Uuid) -> Option<DateTime<Utc>> {
    if jti.get_version_num() != 7 || jti.get_variant() != Variant::RFC4122 {
        return None;
    }
    let (seconds, nanos) = jti.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_token_tells_when_it_was_issued() {
        let id = uuid::Builder::from_unix_timestamp_millis(1_700_000_000_123, &[7; 10]).into_uuid();
        assert_eq!(issue_time(id).unwrap().timestamp_millis(), 1_700_000_000_123);
        assert_eq!(issue_time(Uuid::nil()), None);
        assert_eq!(issue_time(Uuid::from_u128(u128::MAX)), None);
    }

    #[test]
    fn a_key_is_looked_up_only_for_a_header_of_ours() {
        let token = |header: &str| format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header));
        let kid = Uuid::from_u128(1);
        let asked = |header: &str| {
            let mut asked = false;
            let refusal = read::<std::sync::Arc<VerifyingKey>>(&token(header), "issuer", |_| {
                asked = true;
                None
            });
            (asked, refusal.unwrap_err())
        };
        let good = format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}"}}"#);
        assert_eq!(asked(&good), (true, Refusal::UnknownKey(kid)));
        for bad in [
            format!(r#"{{"alg":"EdDSA","typ":"JWT","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}","crit":[]}}"#),
            format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}","jku":"https://evil.example/keys"}}"#),
            format!(r#"{{"alg":"EdDSA","alg":"none","typ":"at+jwt","kid":"{kid}"}}"#),
            format!(r#"{{"alg":["EdDSA"],"typ":"at+jwt","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"../../{kid}"}}"#),
            r#"{"alg":"EdDSA","typ":"at+jwt"}"#.to_owned(),
            format!("{}1{}", r#"{"a":"#.repeat(900), "}".repeat(900)),
            "[".repeat(5000),
            "null".to_owned(),
            String::new(),
        ] {
            assert_eq!(asked(&bad), (false, Refusal::Invalid), "{bad}");
        }
    }
}
