//! Fuzz targets of this fixture.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::Value;
use uuid::Uuid;

use super::Sessions;
use crate::config::Config;
use crate::context::{Context, Entropy};
use crate::fault::Reason;
use crate::fuzzing::{Input, check_refusal};
use crate::token::keys::{KeyState, Keys, SigningKey};
use crate::token::{Revocations, Verifier, opaque};

/// What stands before the 32 bytes of an Ed25519 key in PKCS#8.
const PREFIX: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// Id of the one key; seeds name it.
const KID: Uuid = Uuid::from_u128(1);
const AUDIENCE: &str = "sidle";

fn private_key() -> Vec<u8> {
    [PREFIX.as_slice(), &[7; 32]].concat()
}

fn key() -> SigningKey {
    SigningKey::new(KID, KeyState::Active, "EdDSA", &private_key()).expect("a key of 32 bytes")
}

/// Gives it a key to sign with and a snapshot of revocations, as a database would.
pub(crate) fn make_ready(sessions: &Sessions) {
    sessions.keys.keys.replace(vec![key()]);
    sessions.revocations.confirm_now();
}

struct Fixture {
    verifier: Verifier,
    context: Context,
    issuer: String,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let mut tokens = Config::load(None, []).expect("the defaults can be read").tokens;
        // The snapshot is confirmed once.
        tokens.max_revocation_age = Duration::from_secs(365 * 24 * 3600);
        let (context, keys, issuer) = (Context::system(), Keys::default(), tokens.issuer.clone());
        keys.replace(vec![key()]);
        let revocations = Revocations::new(context.clone(), tokens.access_lifetime);
        revocations.confirm_now();
        let verifier = Verifier::new(keys, revocations, context.clock.clone(), Arc::new(tokens));
        Fixture { verifier, context, issuer }
    })
}

/// No bytes pass for a token that Sidle did not sign; and of those signed, only what is whole, ours and of now.
pub(crate) fn access_token(data: &[u8]) {
    let fixture = fixture();
    let text = String::from_utf8_lossy(data);
    match fixture.verifier.verify(&text, AUDIENCE) {
        Ok(_) => panic!("a forged token was accepted"),
        Err(fault) => {
            assert_eq!(fault.reason(), Reason::InvalidToken);
            check_refusal(&fault);
        }
    }

    // With a good signature: a line of header, then claims.
    let mut input = Input::new(data);
    let header = serde_json::from_slice::<Header>(input.line());
    let claims = serde_json::from_slice::<Value>(input.rest());
    let (Ok(mut header), Ok(claims)) = (header, claims) else { return };
    header.alg = Algorithm::EdDSA;
    let signs = EncodingKey::from_ed_der(&private_key());
    let Ok(token) = jsonwebtoken::encode(&header, &claims, &signs) else { return };
    match fixture.verifier.verify(&token, AUDIENCE) {
        Ok(verified) => {
            let now = fixture.context.now().timestamp();
            let is_kind = header.typ.as_deref() == Some("at+jwt") && header.kid.as_deref().is_some_and(is_kid);
            assert!(is_kind && header.crit.is_none(), "another kind of token was accepted");
            assert_eq!(claims["aud"], AUDIENCE);
            assert_eq!(claims["iss"], fixture.issuer.as_str());
            assert!(claims["exp"].as_i64().is_some_and(|exp| exp + 10 > now), "an expired token was accepted");
            assert!(claims["nbf"].as_i64().is_some_and(|nbf| nbf - 10 < now), "a token was accepted before its time");
            assert!(claims["sub"].as_str().is_some_and(|sub| Uuid::try_parse(sub).ok() == Some(verified.principal.id)));
        }
        Err(fault) => {
            assert_eq!(fault.reason(), Reason::InvalidToken);
            check_refusal(&fault);
        }
    }
}

fn is_kid(text: &str) -> bool {
    Uuid::try_parse(text).ok() == Some(KID)
}

/// What is looked up is one text of one length; every secret that was minted is among it.
pub(crate) fn opaque_secrets(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for prefix in ["sidle_rt_", "sidle_ak_", ""] {
        if opaque::is_plausible(prefix, &text) {
            assert_eq!(text.len(), prefix.len() + 43);
            assert!(text.is_ascii() && text.starts_with(prefix));
        }
        assert!(opaque::is_plausible(prefix, &opaque::mint(prefix, &Entropy::system())));
    }
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
    let secret = opaque::with_bytes("sidle_rt_", &bytes);
    assert!(opaque::is_plausible("sidle_rt_", &secret));
    assert!(!opaque::is_plausible("sidle_ak_", &secret), "a secret of one kind passes for another");
}
