//! Reading a token: header, key, signature, and only then its claims.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::{Uuid, Variant};

use crate::{Algorithm, Claims, VerifyingKey};

/// Longer tokens are not even parsed.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Media type of access tokens (RFC 9068): nothing else that is signed with the same keys passes for one.
pub const TYPE: &str = "at+jwt";
/// The last second of the year 9999, and the last in which a token may expire: later ones cannot be represented in an
/// answer, and to the latest of them no leeway can be added.
const LAST: i64 = 253_402_300_799;

/// The header. Tokens of Sidle have these three members; one with others, such as `crit`, `jwk`, `jku` or `x5u`, was
/// issued elsewhere.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    #[serde(borrow)]
    alg: &'a str,
    #[serde(borrow)]
    typ: &'a str,
    kid: Uuid,
}

/// A token whose signature and contents were verified. Whether it is valid *now* is checked with [`Token::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its claims.
    pub claims: Claims,
    /// The key that signed it.
    pub kid: Uuid,
    /// The algorithm.
    pub algorithm: Algorithm,
    /// When it was issued, to the millisecond.
    pub issued_at: DateTime<Utc>,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
}

/// Why a token is refused. For the verifier's own use: the presenter only learns that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not a token of Sidle, or was changed.
    Invalid,
    /// It names a key that is not known.
    UnknownKey(Uuid),
    /// It is for another audience.
    Audience,
    /// It has expired.
    Expired,
    /// It is not valid yet.
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

/// The claims of `token` if it was issued by `issuer` and signed by the key that it names, which `find` looks up. No
/// claim is read before the signature is verified.
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
    // The holder of an old client's key can sign any claims, for this one audience.
    if claims.iss != issuer || key.bound_audience().is_some_and(|bound| bound != claims.aud) {
        return Err(Refusal::Invalid);
    }
    let issued_at = issue_time(claims.jti).ok_or(Refusal::Invalid)?;
    let expires_at = DateTime::from_timestamp(claims.exp, 0).filter(|_| claims.exp <= LAST).ok_or(Refusal::Invalid)?;
    Ok(Token { claims, kid: header.kid, algorithm: key.algorithm(), issued_at, expires_at })
}

impl Token {
    /// Whether it is valid for `audience` at `now`, as far as the token itself says; revocation is checked elsewhere.
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

/// The cache key of a token: a digest of all of it, so that one that differs in any byte is another one.
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
    use hmac::{Hmac, Mac as _};
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn the_id_of_a_token_tells_when_it_was_issued() {
        let id = uuid::Builder::from_unix_timestamp_millis(1_700_000_000_123, &[7; 10]).into_uuid();
        assert_eq!(issue_time(id).unwrap().timestamp_millis(), 1_700_000_000_123);
        assert_eq!(issue_time(Uuid::nil()), None);
        assert_eq!(issue_time(Uuid::from_u128(u128::MAX)), None);
    }

    /// The holder of an old client's key chooses the expiry.
    #[test]
    fn an_expiry_to_which_nothing_can_be_added_is_none() {
        let secret = Zeroizing::new(vec![7; 32]);
        let kid = Uuid::from_u128(1);
        let jti = uuid::Builder::from_unix_timestamp_millis(1_700_000_000_123, &[7; 10]).into_uuid();
        let token = |exp: i64| {
            let header = format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{kid}"}}"#);
            let claims = format!(
                r#"{{"iss":"i","sub":"{kid}","aud":"old","exp":{exp},"nbf":1,"iat":1,"jti":"{jti}","kind":"user"}}"#
            );
            let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
            let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
            mac.update(message.as_bytes());
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
        };
        let read = |exp| {
            let key = std::sync::Arc::new(VerifyingKey::hs256(kid, secret.clone(), "old"));
            super::read(&token(exp), "i", |_| Some(key))
        };
        let (now, leeway) = (DateTime::from_timestamp(1_800_000_000, 0).unwrap(), TimeDelta::minutes(1));
        assert_eq!(read(LAST).unwrap().check("old", now, leeway), Ok(()));
        for exp in [LAST + 1, DateTime::<Utc>::MAX_UTC.timestamp(), i64::MAX] {
            assert_eq!(read(exp), Err(Refusal::Invalid), "{exp}");
        }
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

    const KID: Uuid = Uuid::from_u128(1);

    /// A token of exactly these texts, with a valid signature of the key that [`find`] knows.
    fn signed(header: &str, claims: &str) -> String {
        use ed25519_dalek::Signer as _;
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    fn find(kid: Uuid) -> Option<std::sync::Arc<VerifyingKey>> {
        let public = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let jwk = crate::Jwk {
            kid: KID.to_string(),
            kty: "OKP".to_owned(),
            alg: "EdDSA".to_owned(),
            usage: "sig".to_owned(),
            crv: "Ed25519".to_owned(),
            x: URL_SAFE_NO_PAD.encode(public.as_bytes()),
            ..crate::Jwk::default()
        };
        VerifyingKey::from_jwk(&jwk).filter(|key| key.kid() == kid).map(std::sync::Arc::new)
    }

    fn header() -> String {
        format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{KID}"}}"#)
    }

    /// Valid claims that end with `more`.
    fn claims(more: &str) -> String {
        let id = uuid::Builder::from_unix_timestamp_millis(1_700_000_000_123, &[7; 10]).into_uuid();
        let times = r#""exp":1700000900,"nbf":1700000000,"iat":1700000000"#;
        format!(r#"{{"iss":"issuer","sub":"{id}","aud":"shop",{times},"jti":"{id}","kind":"user"{more}}}"#)
    }

    #[test]
    fn a_token_over_the_limit_is_refused_before_its_key_is_looked_up() {
        let padded = |bytes: usize| signed(&header(), &claims(&format!(r#","roles":["{}"]"#, "x".repeat(bytes))));
        let sizes: Vec<usize> = (0..MAX_TOKEN_BYTES).collect();
        let longest = sizes.partition_point(|bytes| padded(*bytes).len() <= MAX_TOKEN_BYTES) - 1;
        assert!(read(&padded(longest), "issuer", find).is_ok());
        let unread = |token: &str| {
            let find = |_: Uuid| -> Option<std::sync::Arc<VerifyingKey>> { panic!("it is looked at") };
            read(token, "issuer", find)
        };
        assert_eq!(unread(&padded(longest + 1)), Err(Refusal::Invalid));
        assert_eq!(unread(&padded(3_000_000)), Err(Refusal::Invalid));
    }

    /// On a stack that holds a few calls and no chain of them; a stack that overflows ends the process.
    #[test]
    fn reading_a_hostile_token_costs_no_stack() {
        let small = std::thread::Builder::new().stack_size(64 * 1024);
        let reading = small.spawn(|| {
            assert!(read(&signed(&header(), &claims("")), "issuer", find).is_ok(), "there is room for a good one");
            for bytes in [1_000, 5_000, 3_000_000] {
                for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
                    let depth = bytes / (open.len() + close.len());
                    let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                    let within = header().replace(&format!("\"{KID}\""), &nested);
                    let beside = header().replace('}', &format!(",\"x\":{nested}}}"));
                    for header in [&nested, &within, &beside] {
                        assert_eq!(read(&signed(header, &claims("")), "issuer", find), Err(Refusal::Invalid));
                    }
                    for claims in [&nested, &claims(&format!(",\"roles\":{nested}")), &open.repeat(depth)] {
                        assert_eq!(read(&signed(&header(), claims), "issuer", find), Err(Refusal::Invalid));
                    }
                    // An unknown claim is skipped, at any depth.
                    let skipped = signed(&header(), &claims(&format!(",\"x\":{nested}")));
                    assert_eq!(read(&skipped, "issuer", find).is_ok(), skipped.len() <= MAX_TOKEN_BYTES);
                }
                for long in ["A".repeat(bytes), ".".repeat(bytes), format!("{}.{0}.{0}", "A".repeat(bytes))] {
                    assert_eq!(read(&long, "issuer", find), Err(Refusal::Invalid));
                }
            }
        });
        reading.unwrap().join().unwrap();
    }
}
