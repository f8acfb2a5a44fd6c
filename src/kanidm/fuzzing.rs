//! Fuzz targets of this module.

use std::sync::OnceLock;

use chrono::{DateTime, TimeDelta};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::Value;
use uuid::Uuid;

use super::client::Answer;
use super::error::KanidmError;
use super::id_token::{self, Expected, KeySet};
use super::{oidc, persons};
use crate::fault::Fault;
use crate::fuzzing::{Input, check_refusal};

/// What stands before the 32 bytes of a P-256 key in PKCS#8 without its public half.
const PREFIX: [u8; 35] = [
    0x30, 0x41, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x27, 0x30, 0x25, 0x02, 0x01, 0x01, 0x04, 0x20,
];
const ISSUER: &str = "https://idm.example/oauth2/openid/sidle";
const NOW: i64 = 1_800_000_000;

struct Provider {
    signs: EncodingKey,
    keys: KeySet,
}

fn provider() -> &'static Provider {
    static PROVIDER: OnceLock<Provider> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let signs = EncodingKey::from_ec_der(&[PREFIX.as_slice(), &[7; 32]].concat());
        let mut jwk = Jwk::from_encoding_key(&signs, Algorithm::ES256).expect("a P-256 key");
        jwk.common.key_id = Some("k1".to_owned());
        Provider { signs, keys: KeySet::new(JwkSet { keys: vec![jwk] }) }
    })
}

/// A failure of Kanidm is answered as such, briefly, whatever Kanidm said.
fn check(error: KanidmError) {
    assert!(error.to_string().len() < 1024, "an error repeats what Kanidm sent");
    check_refusal(&Fault::from(error));
}

/// No bytes pass for a token that Kanidm did not sign; of those signed, only what is for us and of now.
pub(crate) fn id_token(data: &[u8]) {
    let provider = provider();
    let now = DateTime::from_timestamp(NOW, 0).expect("a time");
    let expected = Expected { issuer: ISSUER, client: "sidle", now, leeway: TimeDelta::seconds(30) };
    let text = String::from_utf8_lossy(data);
    match id_token::verify(&text, &provider.keys, &expected) {
        Ok(_) => panic!("a forged ID token was accepted"),
        Err(error) => check(error),
    }
    match id_token::verify_access(&text, &provider.keys, &expected) {
        Ok(_) => panic!("a forged access token was accepted"),
        Err(error) => check(error),
    }
    // What decides where a token is verified, before it is known to be good.
    let _ = id_token::issuer(&text);
    id_token::key_id(&text).err().into_iter().for_each(check);

    // With a good signature: a line of header, then claims.
    let mut input = Input::new(data);
    let header = serde_json::from_slice::<Header>(input.line());
    let claims = serde_json::from_slice::<Value>(input.rest());
    let (Ok(mut header), Ok(claims)) = (header, claims) else { return };
    header.alg = Algorithm::ES256;
    let Ok(token) = jsonwebtoken::encode(&header, &claims, &provider.signs) else { return };
    check_id_token(&header, &claims, id_token::verify(&token, &provider.keys, &expected));
    check_access_token(&token, &header, &claims, id_token::verify_access(&token, &provider.keys, &expected));
}

/// What must hold for the audience and the time of a token that was accepted.
fn check_claims(claims: &Value) {
    assert_eq!(claims["iss"], ISSUER);
    assert!(claims["aud"] == "sidle" || claims["aud"] == serde_json::json!(["sidle"]));
    assert!(claims["exp"].as_i64().is_some_and(|exp| exp > NOW - 60), "an expired token was accepted");
}

fn check_id_token(header: &Header, claims: &Value, verified: Result<id_token::Claims, KanidmError>) {
    let verified = match verified {
        Ok(verified) => verified,
        Err(error) => return check(error),
    };
    assert!(header.crit.is_none() && matches!(header.typ.as_deref(), None | Some("JWT")));
    check_claims(claims);
    let groups = verified.groups();
    assert!(groups.windows(2).all(|pair| pair[0] < pair[1]), "groups are listed once each");
}

fn check_access_token(
    token: &str,
    header: &Header,
    claims: &Value,
    verified: Result<id_token::AccessClaims, KanidmError>,
) {
    let verified = match verified {
        Ok(verified) => verified,
        Err(error) => return check(error),
    };
    assert_eq!(header.typ.as_deref(), Some("at+jwt"), "an ID token passed for an access token");
    assert!(header.crit.is_none());
    check_claims(claims);
    let is_ours = |claim: &str| claims[claim].is_null() || claims[claim] == "sidle";
    assert!(is_ours("azp") && is_ours("client_id"), "a token that another client asked for was accepted");
    let has_begun = |claim: &str| claims[claim].as_i64().is_some_and(|at| at < NOW + 60);
    assert!(has_begun("nbf") && has_begun("iat"), "a token was accepted before its time");
    assert_eq!(claims["sub"].as_str().and_then(|sub| Uuid::try_parse(sub).ok()), Some(verified.sub));
    assert_eq!((claims["exp"].as_i64(), claims["iat"].as_i64()), (Some(verified.exp), Some(verified.iat)));
    let ends = DateTime::from_timestamp(verified.exp, 0);
    assert!(ends.is_some_and(|ends| ends.checked_add_signed(TimeDelta::days(1)).is_some()), "it never ends");
    assert_eq!(id_token::issuer(token).as_deref(), Some(ISSUER), "it is not asked about as one of Kanidm's");
}

/// Any key set can be read; keys of other kinds than ours are passed over.
pub(crate) fn keys(data: &[u8]) {
    let Ok(set) = serde_json::from_slice::<JwkSet>(data) else { return };
    let ids: Vec<Option<String>> = set.keys.iter().map(|key| key.common.key_id.clone()).collect();
    let keys = KeySet::new(set);
    assert!(!keys.has("a key id that nobody has"));
    for id in ids.into_iter().flatten() {
        keys.has(&id);
    }
}

/// Two bytes of status and kind, then the body.
pub(crate) fn answers(data: &[u8]) {
    let mut input = Input::new(data);
    let status = u16::from(input.byte()) * 2 + 100;
    let body = input.rest().to_vec();
    check(KanidmError::read(status, &body));
    let answer = Answer { status, body, version: None, date: None, sign_in: None };
    oidc::fuzzing::answers(&answer).into_iter().for_each(check);
    persons::fuzzing::answers(&answer).into_iter().for_each(check);
}
