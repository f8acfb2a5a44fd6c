//! The fuzz target of this crate: Sidle's answers, and the tokens of callers. It is in Sidle's own list of targets, and
//! behind a feature, since no service has a use for it.

use http::{HeaderMap, HeaderValue, header};
use prost::Message as _;
use uuid::Uuid;

use crate::proto::token_verdict::Verdict;
use crate::proto::{AuthenticateServiceAccountResponse, GetJwksResponse, TokenClaims, VerifyTokensResponse};
use crate::{Caller, Clock, Refused, keys, layer, link, revocations, verifier};

/// A letter, then what it stands for: keys (K), an access token of one's own (A), the verdict on a token (V) or
/// revocations (R), as they come over the wire. Everything else are the `authorization` headers of a request, one a line.
pub fn client_crate(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind {
        b'K' => published_keys(rest),
        b'A' => own_token(rest),
        b'V' => verdicts(rest),
        b'R' => revocations::fuzzing::stream(rest),
        _ => headers(rest),
    }
}

/// Only a published signature key is accepted as one, under its id and for its algorithm; and an answer is neither
/// requested all the time nor kept for ever.
fn published_keys(data: &[u8]) {
    let Ok(answer) = GetJwksResponse::decode(data) else { return };
    let published = answer.keys.clone();
    let (keys, life) = keys::usable(answer);
    assert!((5..=3600).contains(&life.as_secs()), "{life:?}");
    assert!(keys.len() <= published.len());
    for (kid, key) in &keys {
        let is_that = |jwk: &crate::proto::Jwk| {
            Uuid::try_parse(&jwk.kid).ok() == Some(*kid) && jwk.alg == key.algorithm().as_str() && jwk.r#use == "sig"
        };
        assert!(key.kid() == *kid && published.iter().any(is_that), "a key that nobody published: {key:?}");
        assert!(key.bound_audience().is_none(), "whoever can verify with a published key can sign with it: {key:?}");
        // Its methods work for any numbers.
        key.verify(data, &[1; 64]);
        key.verify(data, &[1; 256]);
    }
}

/// The token is sent unchanged, is kept out of logs, and is used for a while.
fn own_token(data: &[u8]) {
    let Ok(answer) = AuthenticateServiceAccountResponse::decode(data) else { return };
    let instant = Clock::default().instant();
    let Ok(access) = link::access(&answer, Clock::default().now(), instant) else {
        let breaks = |c: char| c.is_control() && c != '\t';
        assert!(answer.access_token.contains(breaks), "a token that can be sent is refused");
        return;
    };
    assert_eq!(access.value.as_encoded_bytes(), format!("Bearer {}", answer.access_token).as_bytes());
    assert!(access.value.is_sensitive(), "the token would stand in logs");
    assert!(access.renew_at > instant, "every call would fetch another token");
}

/// No caller is accepted whom Sidle does not name, nor with rights that it did not state.
fn verdicts(data: &[u8]) {
    let Ok(answer) = VerifyTokensResponse::decode(data) else { return };
    let said = answer.verdicts.last().and_then(|verdict| verdict.verdict.clone());
    match (verifier::verdict(answer), said) {
        (Ok(caller), Some(Verdict::Claims(claims))) => check(&caller, &claims),
        (Ok(caller), said) => panic!("{said:?} lets in {caller:?}"),
        (Err(Refused::Token), said) => assert!(matches!(said, Some(Verdict::Refused(_))), "{said:?} refuses a token"),
        (Err(Refused::Unavailable), _) => {}
    }
}

fn check(caller: &Caller, claims: &TokenClaims) {
    assert_eq!(Uuid::try_parse(&claims.subject).ok(), Some(caller.subject()));
    let tenant = (!claims.tenant_id.is_empty()).then(|| Uuid::try_parse(&claims.tenant_id).ok()).flatten();
    assert_eq!(caller.tenant(), tenant);
    let elsewhere = Uuid::from_u128(!caller.tenant().unwrap_or_default().as_u128());
    let names = |names: &[String], name: &str| names.iter().any(|known| known == name);
    let is_reserved = |name: &str| sidle_token::PLATFORM_RESERVED.contains(&name);
    let has = |all: &[String], name: &str| names(all, name) || names(all, "*");
    let has_here = |all: &[String], name: &str| names(all, name) || (names(all, "*") && !is_reserved(name));
    for name in claims.permissions.iter().chain(&claims.platform_permissions).filter(|name| !name.is_empty()) {
        let everywhere = has(&claims.platform_permissions, name);
        let here = everywhere || (tenant.is_some() && has_here(&claims.permissions, name));
        assert_eq!(caller.require(name).is_ok(), here, "{name}");
        assert_eq!(caller.require_in(elsewhere, name).is_ok(), everywhere, "{name} counts in another tenant");
        assert_eq!(tenant.is_some_and(|tenant| caller.require_in(tenant, name).is_ok()), here && tenant.is_some());
    }
}

/// A token is taken from the only header there is, unchanged; without a key it belongs to no caller.
fn headers(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(8) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::AUTHORIZATION, value);
        }
    }
    let Some(token) = layer::bearer(&headers) else { return };
    assert_eq!(headers.len(), 1, "one of several headers was chosen");
    let value = headers[header::AUTHORIZATION].as_bytes();
    assert!(value[..6].eq_ignore_ascii_case(b"bearer") && value.trim_ascii_end().ends_with(token.as_bytes()));
    let read = sidle_token::read(token, "issuer", |_| None::<std::sync::Arc<sidle_token::VerifyingKey>>);
    assert!(read.is_err(), "a token that nobody signed was accepted");
}
