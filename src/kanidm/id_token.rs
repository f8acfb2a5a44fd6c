//! Whether an ID token or an access token is Kanidm's, for us, and of now. Pure: keys and time are passed in.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::error::{KanidmError, Result};

const LONGEST: usize = 64 * 1024;
/// The last second of the year 9999, and the last in which an access token may end: to the latest of all times no leeway
/// can be added.
const LAST: i64 = 253_402_300_799;

/// The keys of our client at Kanidm, those for ES256 only: what a token says about its algorithm decides nothing.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<(String, DecodingKey)>,
}

/// What a token must say.
pub struct Expected<'a> {
    /// Who issued it.
    pub issuer: &'a str,
    /// Whom it is for.
    pub client: &'a str,
    pub now: DateTime<Utc>,
    /// Difference between the clocks that is tolerated.
    pub leeway: TimeDelta,
}

/// What an ID token says, as far as it is used here.
#[derive(Debug, Deserialize)]
pub struct Claims {
    iss: String,
    /// uuid of the person.
    pub sub: Uuid,
    aud: Audience,
    exp: i64,
    iat: i64,
    #[serde(default)]
    azp: Option<String>,
    /// Repeats what the login began with.
    #[serde(default)]
    pub nonce: Option<String>,
    /// When the person authenticated, from release 1.11 on.
    #[serde(default)]
    pub auth_time: Option<i64>,
    /// Address, where it was asked for.
    #[serde(default)]
    pub email: Option<String>,
    /// Name shown to people, where it was asked for.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// What an access token says, as far as it is used here.
#[derive(Clone, Debug, Deserialize)]
pub struct AccessClaims {
    iss: String,
    /// uuid of the person.
    pub sub: Uuid,
    aud: Audience,
    /// When it ends, in seconds.
    pub exp: i64,
    /// When it was issued, in seconds.
    pub iat: i64,
    nbf: i64,
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default)]
    azp: Option<String>,
    /// Its id, from release 1.10 on.
    #[serde(default)]
    pub jti: Option<String>,
    /// Kanidm's session.
    #[serde(default)]
    pub session_id: Option<Uuid>,
}

impl Audience {
    fn is(&self, client: &str) -> bool {
        match self {
            Self::One(audience) => audience == client,
            Self::Many(audiences) => audiences.len() == 1 && audiences[0] == client,
        }
    }
}

impl KeySet {
    /// The usable keys of a published set.
    pub fn new(set: JwkSet) -> Self {
        let usable = |jwk: &Jwk| {
            let AlgorithmParameters::EllipticCurve(key) = &jwk.algorithm else { return None };
            let kid = jwk.common.key_id.clone().filter(|_| key.curve == EllipticCurve::P256)?;
            Some((kid, DecodingKey::from_jwk(jwk).ok()?))
        };
        Self { keys: set.keys.iter().filter_map(usable).collect() }
    }

    /// Whether there is a key of this id.
    pub fn has(&self, kid: &str) -> bool {
        self.find(kid).is_some()
    }

    fn find(&self, kid: &str) -> Option<&DecodingKey> {
        self.keys.iter().find(|(known, _)| known == kid).map(|(_, key)| key)
    }
}

impl Claims {
    /// uuids of the person's groups. Names and spns stand in the same list and are passed over: anybody can take a name.
    pub fn groups(&self) -> Vec<Uuid> {
        let mut groups: Vec<Uuid> = self.groups.iter().filter_map(|group| Uuid::try_parse(group).ok()).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

/// Who issued a token, as it says itself.
pub fn issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    Some(serde_json::from_slice::<Issuer>(&claims).ok()?.iss)
}

/// Id of the key that a token says it was signed with.
pub fn key_id(token: &str) -> Result<String> {
    if token.len() > LONGEST {
        return Err(nonsense("a token that is too long"));
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| nonsense("a token that is none"))?;
    header.kid.ok_or_else(|| nonsense("a token without a key id"))
}

/// What an ID token says, if it is what is expected.
///
/// # Errors
/// `Nonsense` with what is wrong, never with what it says.
pub fn verify(token: &str, keys: &KeySet, expected: &Expected<'_>) -> Result<Claims> {
    // An access token is signed with the same key; it must not pass for an ID token.
    let claims: Claims = signed(token, keys, |typ| matches!(typ, None | Some("JWT")))?;
    let (now, leeway) = (expected.now.timestamp(), expected.leeway.num_seconds());
    if claims.iss != expected.issuer {
        Err(nonsense("an ID token of another issuer"))
    } else if !claims.aud.is(expected.client) || claims.azp.as_deref().is_some_and(|azp| azp != expected.client) {
        Err(nonsense("an ID token for another client"))
    } else if claims.exp.saturating_add(leeway) <= now || claims.iat.saturating_sub(leeway) > now {
        Err(nonsense("an ID token of another time"))
    } else {
        Ok(claims)
    }
}

/// What an access token says, if it is what is expected.
///
/// # Errors
/// `Nonsense` with what is wrong, never with what it says.
pub fn verify_access(token: &str, keys: &KeySet, expected: &Expected<'_>) -> Result<AccessClaims> {
    // An ID token is signed with the same key; it identifies a person to our client only, and authorises nothing.
    let claims: AccessClaims = signed(token, keys, |typ| typ == Some("at+jwt"))?;
    let (now, leeway) = (expected.now.timestamp(), expected.leeway.num_seconds());
    let others = [&claims.client_id, &claims.azp].into_iter().flatten().any(|client| client != expected.client);
    if claims.iss != expected.issuer {
        Err(nonsense("an access token of another issuer"))
    } else if !claims.aud.is(expected.client) || others {
        Err(nonsense("an access token for another client"))
    } else if claims.exp > LAST
        || claims.exp.saturating_add(leeway) <= now
        || claims.iat.max(claims.nbf).saturating_sub(leeway) > now
    {
        Err(nonsense("an access token of another time"))
    } else {
        Ok(claims)
    }
}

fn signed<T: DeserializeOwned>(token: &str, keys: &KeySet, is_type: impl Fn(Option<&str>) -> bool) -> Result<T> {
    let kid = key_id(token)?;
    let header = jsonwebtoken::decode_header(token).map_err(|_| nonsense("a token that is none"))?;
    if !is_type(header.typ.as_deref()) || header.crit.is_some() {
        return Err(nonsense("a token of another type"));
    }
    let key = keys.find(&kid).ok_or_else(|| nonsense("a token signed with an unknown key"))?;
    // The claims are checked by the caller, by the clock that was passed in.
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let data = jsonwebtoken::decode::<T>(token, key, &validation);
    Ok(data.map_err(|_| nonsense("a token whose signature or claims are not right"))?.claims)
}

fn nonsense(what: &str) -> KanidmError {
    KanidmError::Nonsense(what.to_owned())
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://idm.example/oauth2/openid/sidle";

    struct Provider {
        signs: EncodingKey,
        keys: KeySet,
    }

    fn provider() -> Provider {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let signs = EncodingKey::from_ec_der(&pair.serialize_der());
        let mut jwk = Jwk::from_encoding_key(&signs, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some("k1".to_owned());
        Provider { signs, keys: KeySet::new(JwkSet { keys: vec![jwk] }) }
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    const LEEWAY: i64 = 30;

    fn expected() -> Expected<'static> {
        Expected { issuer: ISSUER, client: "sidle", now: now(), leeway: TimeDelta::seconds(LEEWAY) }
    }

    fn good() -> Value {
        json!({
            "iss": ISSUER, "sub": Uuid::from_u128(7), "aud": "sidle", "azp": "sidle", "nonce": "n",
            "iat": now().timestamp(), "exp": now().timestamp() + 900,
            "groups": [Uuid::from_u128(2), "tenant_a_users@idm.example", Uuid::from_u128(1), Uuid::from_u128(2)],
        })
    }

    impl Provider {
        fn token(&self, kid: Option<&str>, typ: Option<&str>, claims: &Value) -> String {
            let mut header = Header::new(Algorithm::ES256);
            header.kid = kid.map(str::to_owned);
            header.typ = typ.map(str::to_owned);
            encode(&header, claims, &self.signs).unwrap()
        }

        fn verify(&self, token: &str) -> Result<Claims> {
            verify(token, &self.keys, &expected())
        }
    }

    #[test]
    fn a_good_token_names_the_person_and_the_groups_by_uuid() {
        let provider = provider();
        let claims = provider.verify(&provider.token(Some("k1"), None, &good())).unwrap();
        assert_eq!(claims.sub, Uuid::from_u128(7));
        assert_eq!(claims.groups(), [Uuid::from_u128(1), Uuid::from_u128(2)]);
        assert_eq!(claims.nonce.as_deref(), Some("n"));
        assert!(provider.verify(&provider.token(Some("k1"), Some("JWT"), &good())).is_ok());
    }

    #[test]
    fn tokens_of_others_for_others_and_of_other_times_are_refused() {
        let provider = provider();
        let changed = |claim: &str, value: Value| {
            let mut claims = good();
            claims[claim] = value;
            provider.token(Some("k1"), None, &claims)
        };
        let stranger = self::provider();
        for (what, token) in [
            ("another issuer", changed("iss", json!("https://evil.example/oauth2/openid/sidle"))),
            ("another client", changed("aud", json!("shop"))),
            ("us and another client", changed("aud", json!(["sidle", "shop"]))),
            ("handed on by another client", changed("azp", json!("shop"))),
            ("expired", changed("exp", json!(now().timestamp() - LEEWAY))),
            ("from the future", changed("iat", json!(now().timestamp() + LEEWAY + 1))),
            ("a time that overflows", changed("exp", json!(i64::MIN))),
            ("nobody", changed("sub", json!("alice@idm.example"))),
            ("an access token", provider.token(Some("k1"), Some("at+jwt"), &good())),
            ("no key id", provider.token(None, None, &good())),
            ("an unknown key", provider.token(Some("k2"), None, &good())),
            ("another's signature", stranger.token(Some("k1"), None, &good())),
        ] {
            assert!(matches!(provider.verify(&token), Err(KanidmError::Nonsense(_))), "{what}");
        }
    }

    #[test]
    fn the_public_key_is_no_shared_secret() {
        let provider = provider();
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("k1".to_owned());
        header.typ = None;
        let token = encode(&header, &good(), &EncodingKey::from_secret(b"public")).unwrap();
        assert!(provider.verify(&token).is_err());
    }

    #[test]
    fn clocks_may_differ_by_the_leeway_either_way() {
        let provider = provider();
        let at = |exp: i64, iat: i64| {
            let mut claims = good();
            claims["exp"] = json!(now().timestamp() + exp);
            claims["iat"] = json!(now().timestamp() + iat);
            claims["nbf"] = claims["iat"].clone();
            let id = provider.verify(&provider.token(Some("k1"), None, &claims)).is_ok();
            let access = provider.token(Some("k1"), Some("at+jwt"), &claims);
            let access = verify_access(&access, &provider.keys, &expected()).is_ok();
            assert_eq!(id, access);
            id
        };
        assert!(at(1 - LEEWAY, -900), "Kanidm's clock is behind");
        assert!(!at(-LEEWAY, -900));
        assert!(at(900 + LEEWAY, LEEWAY), "Kanidm's clock is ahead");
        assert!(!at(900 + LEEWAY, LEEWAY + 1));
    }

    fn good_access() -> Value {
        json!({
            "iss": ISSUER, "sub": Uuid::from_u128(7), "aud": "sidle", "client_id": "sidle", "iat": now().timestamp(),
            "nbf": now().timestamp(), "exp": now().timestamp() + 900, "session_id": Uuid::from_u128(5),
        })
    }

    #[test]
    fn access_tokens_of_others_for_others_and_of_other_kinds_are_refused() {
        let (provider, stranger) = (provider(), self::provider());
        let read = |token: &str| verify_access(token, &provider.keys, &expected());
        let good = provider.token(Some("k1"), Some("at+jwt"), &good_access());
        assert_eq!(read(&good).unwrap().session_id, Some(Uuid::from_u128(5)));
        let changed = |claim: &str, value: Value| {
            let mut claims = good_access();
            claims[claim] = value;
            provider.token(Some("k1"), Some("at+jwt"), &claims)
        };
        for (what, token) in [
            ("an ID token", provider.token(Some("k1"), None, &good_access())),
            ("an ID token that says so", provider.token(Some("k1"), Some("JWT"), &good_access())),
            ("another issuer", changed("iss", json!("https://idm.example/oauth2/openid/shop"))),
            ("another client's", changed("aud", json!("shop"))),
            ("ours and another client's", changed("aud", json!(["sidle", "shop"]))),
            ("given to another client", changed("client_id", json!("shop"))),
            ("used by another client", changed("azp", json!("shop"))),
            ("expired", changed("exp", json!(now().timestamp() - LEEWAY))),
            ("not yet good", changed("nbf", json!(now().timestamp() + LEEWAY + 1))),
            ("an expiry of another type", changed("exp", json!("9999999999"))),
            ("no expiry", changed("exp", Value::Null)),
            ("a subject of another type", changed("sub", json!(["018f2f6e-7c1b-7c3a-9d5e-0a1b2c3d4e5f"]))),
            ("another's signature", stranger.token(Some("k1"), Some("at+jwt"), &good_access())),
        ] {
            assert!(matches!(read(&token), Err(KanidmError::Nonsense(_))), "{what}");
        }
        let mut header = Header::new(Algorithm::HS256);
        (header.kid, header.typ) = (Some("k1".to_owned()), Some("at+jwt".to_owned()));
        let confused = encode(&header, &good_access(), &EncodingKey::from_secret(b"public")).unwrap();
        assert!(read(&confused).is_err());
        let parts: Vec<&str> = good.split('.').collect();
        assert!(read(&format!("{}.{}.", parts[0], parts[1])).is_err(), "no signature");
    }
}
