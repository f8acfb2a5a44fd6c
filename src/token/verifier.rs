//! Checks access tokens without any I/O: the signature, or the cached result of having checked it, and then, for every
//! call anew, audience, expiry, the state of the key and the snapshot of revocations.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use quick_cache::sync::Cache;
use sidle_token::{Algorithm, Jwk, Kind, Refusal, Token};
use uuid::Uuid;

use super::keys::Keys;
use super::revocation::Revocations;
use super::role_names::RoleNames;
use crate::access::{Call, Permissions, Principal, PrincipalKind};
use crate::config::TokenConfig;
use crate::context::Clock;
use crate::fault::{Fault, Reason, Result};

pub use sidle_token::MAX_TOKEN_BYTES;

/// Checks access tokens. Clones share keys, cache and snapshot.
#[derive(Clone)]
pub struct Verifier {
    inner: Arc<Inner>,
}

struct Inner {
    keys: Keys,
    revocations: Revocations,
    clock: Clock,
    config: Arc<TokenConfig>,
    leeway: TimeDelta,
    /// By a digest of the whole token: a token that differs in any byte is another one.
    seen: Cache<[u8; 32], Arc<Verified>>,
}

/// A token whose signature and contents were found good. Whether it is good *now* is asked anew every time.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Who presents it, and what that allows.
    pub principal: Arc<Principal>,
    /// `jti`.
    pub token_id: Uuid,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// Roles, by whose they are.
    pub roles: RoleNames,
    /// None for a caller who came without one.
    token: Option<Token>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.inner.keys).finish_non_exhaustive()
    }
}

impl Verified {
    /// The same token in the hands of a caller who has no more rights than these.
    #[must_use]
    pub fn held_by(&self, principal: Arc<Principal>) -> Self {
        Self { principal, ..self.clone() }
    }

    /// What there is to say of a caller who came without a token.
    pub fn without_token(principal: Arc<Principal>, issuer: String, audience: String) -> Self {
        Self { principal, token_id: Uuid::nil(), issuer, audience, roles: RoleNames::default(), token: None }
    }
}

impl Verifier {
    pub fn new(keys: Keys, revocations: Revocations, clock: Clock, config: Arc<TokenConfig>) -> Self {
        let leeway = TimeDelta::from_std(config.leeway).unwrap_or_default();
        let seen = Cache::new(config.cache_size.max(1));
        Self { inner: Arc::new(Inner { keys, revocations, clock, config, leeway, seen }) }
    }

    /// What `token` says, if it is good for `audience` now.
    ///
    /// # Errors
    /// `INVALID_TOKEN`, or `REVOCATIONS_STALE` when no token can be verified.
    pub fn verify(&self, token: &str, audience: &str) -> Result<Arc<Verified>> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(refused());
        }
        let digest = sidle_token::digest(token);
        let (verified, is_new) = match self.inner.seen.get(&digest) {
            Some(verified) => (verified, false),
            None => (Arc::new(self.read(token)?), true),
        };
        self.check_now(&verified, audience)?;
        if is_new {
            self.inner.seen.insert(digest, Arc::clone(&verified));
        }
        Ok(verified)
    }

    /// The principal behind `token`, if it is good for `audience` now.
    ///
    /// # Errors
    /// As [`Verifier::verify`].
    pub fn principal(&self, token: &str, audience: &str) -> Result<Arc<Principal>> {
        let verified = self.verify(token, audience)?;
        // An old client can sign such a token with its key: whatever it says, it authorises nothing here (S12).
        if verified.token.as_ref().is_none_or(|token| token.algorithm == Algorithm::Hs256) {
            return Err(refused());
        }
        Ok(Arc::clone(&verified.principal))
    }

    /// Whether a principal from earlier is still authorised: its token neither expired nor revoked since.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`, or `REVOCATIONS_STALE` when no token can be verified.
    pub fn recheck(&self, principal: &Principal) -> Result<()> {
        self.check_principal(principal).map_err(no_longer)
    }

    /// Whether the caller of an open stream is still authorised as far as is known here: both of them, where a certificate
    /// came with a token. Says when the token expired of a caller whose session or credential may outlast it: whether that
    /// is still good the snapshot cannot tell.
    ///
    /// # Errors
    /// As [`Self::recheck`].
    pub fn recheck_stream(&self, call: &Call) -> Result<Option<DateTime<Utc>>> {
        let certificate = call.certificate.as_deref().map_or(Ok(None), |certificate| self.recheck_open(certificate))?;
        Ok(self.recheck_open(call.principal()?)?.into_iter().chain(certificate).min())
    }

    fn recheck_open(&self, principal: &Principal) -> Result<Option<DateTime<Utc>>> {
        let now = self.inner.clock.now();
        let has_expired = now >= principal.expires_at + self.inner.leeway;
        let outlasts = principal.session_id.is_some() || principal.credential_expires_at.is_some_and(|end| now < end);
        if !has_expired || !outlasts {
            return self.recheck(principal).map(|()| None);
        }
        // The key that signed the token may have been retired meanwhile, which ends tokens and nothing else.
        self.check_revoked(principal, None).map_err(no_longer)?;
        Ok(Some(principal.expires_at))
    }

    /// Age of the snapshot of revocations; none before it was loaded.
    pub fn revocation_age(&self) -> Option<Duration> {
        self.inner.revocations.age()
    }

    /// The most that age may be.
    pub fn revocation_bound(&self) -> Duration {
        self.inner.config.max_revocation_age
    }

    /// The published halves of the keys.
    pub fn published_keys(&self) -> Vec<Jwk> {
        self.inner.keys.published()
    }

    /// The published keys as a JSON Web Key Set.
    pub fn jwks(&self) -> serde_json::Value {
        serde_json::json!({ "keys": self.published_keys() })
    }

    /// Signature and contents: everything about a token that does not change.
    fn read(&self, token: &str) -> Result<Verified> {
        let inner = &*self.inner;
        let token = sidle_token::read(token, &inner.config.issuer, |kid| inner.keys.find(kid)).map_err(|refusal| {
            match refusal {
                // It may be the key that was just made, which is on its way here.
                Refusal::UnknownKey(_) if inner.keys.is_behind() => stale(),
                _ => refused(),
            }
        })?;
        let claims = &token.claims;
        let principal = Principal {
            kind: match claims.kind {
                Kind::User => PrincipalKind::User,
                Kind::ServiceAccount => PrincipalKind::ServiceAccount,
            },
            id: claims.sub,
            session_id: claims.sid,
            tenant_id: claims.tid,
            permissions: Permissions::parse(&claims.scope),
            platform_permissions: Permissions::parse(&claims.platform_scope).on_platform(),
            key_id: Some(token.kid),
            issued_at: token.issued_at,
            epoch: claims.epoch,
            expires_at: token.expires_at,
            credential_expires_at: claims.credential_exp.and_then(|end| DateTime::from_timestamp(end, 0)),
        };
        Ok(Verified {
            principal: Arc::new(principal),
            token_id: claims.jti,
            issuer: claims.iss.clone(),
            audience: claims.aud.clone(),
            roles: RoleNames {
                shared: claims.roles.clone(),
                own: claims.tenant_roles.clone(),
                platform: claims.platform_roles.clone(),
            },
            token: Some(token),
        })
    }

    /// Whether a token that was good is good now, for this audience.
    fn check_now(&self, verified: &Verified, audience: &str) -> Result<()> {
        let inner = &*self.inner;
        let token = verified.token.as_ref().ok_or_else(refused)?;
        token.check(audience, inner.clock.now(), inner.leeway).map_err(|_| refused())?;
        if inner.keys.find(token.kid).is_none() {
            return Err(refused());
        }
        self.check_principal(&verified.principal)
    }

    /// Whether the token is neither expired nor revoked that made this principal.
    fn check_principal(&self, principal: &Principal) -> Result<()> {
        let inner = &*self.inner;
        if inner.clock.now() >= principal.expires_at + inner.leeway {
            return Err(refused());
        }
        self.check_revoked(principal, principal.key_id)
    }

    /// Whether the token was revoked that made this principal, or the key `signed_by`, if that is known well enough.
    fn check_revoked(&self, principal: &Principal, signed_by: Option<Uuid>) -> Result<()> {
        let inner = &*self.inner;
        if inner.revocations.age().is_none_or(|age| age > inner.config.max_revocation_age) {
            return Err(stale());
        }
        if inner.revocations.refuses(principal, signed_by) {
            return Err(refused());
        }
        Ok(())
    }
}

/// One text for every cause: a forger learns nothing from it.
fn refused() -> Fault {
    Fault::new(Reason::InvalidToken, "The token is not accepted.")
}

/// The refusal of an open stream.
fn no_longer(fault: Fault) -> Fault {
    match fault.reason() {
        Reason::InvalidToken => Fault::new(Reason::Unauthenticated, "The access token is not accepted any more."),
        _ => fault,
    }
}

fn stale() -> Fault {
    Fault::new(Reason::RevocationsStale, "Revocations are not known well enough to verify a token.")
        .retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use sidle_token::{Epoch, TYPE};

    use super::*;
    use crate::access::{Permissions, PrincipalKind};
    use crate::context::{Context, Entropy};
    use crate::token::issuer::{Grant, Issuer};
    use crate::token::keys::KeyState;
    use crate::token::keys::tests::key;
    use crate::token::signing::PrivateKey;

    struct Fixture {
        context: Context,
        keys: Keys,
        revocations: Revocations,
        verifier: Verifier,
        issuer: Issuer,
    }

    fn config() -> TokenConfig {
        TokenConfig {
            issuer: "https://sidle.example".to_owned(),
            audience: "sidle".to_owned(),
            audiences: vec!["shop".to_owned()],
            access_lifetime: Duration::from_secs(900),
            refresh_lifetime: Duration::from_secs(3600),
            leeway: Duration::from_secs(5),
            refresh_leeway: Duration::from_secs(10),
            cache_size: 100,
            max_revocation_age: Duration::from_secs(10),
            revocation_heartbeat: Duration::from_secs(1),
            algorithm: Algorithm::EdDsa,
            rsa_bits: 2048,
            rotate_after: None,
            rotation_lead: Duration::from_secs(600),
            hs256_clients: Vec::new(),
        }
    }

    fn fixture() -> Fixture {
        let (context, config) = (Context::system(), Arc::new(config()));
        let (keys, revocations) = (Keys::default(), Revocations::new(context.clone(), config.access_lifetime));
        keys.replace(vec![key(1, KeyState::Active, 1)]);
        revocations.confirm_now();
        let verifier = Verifier::new(keys.clone(), revocations.clone(), context.clock.clone(), Arc::clone(&config));
        let issuer = Issuer::new(keys.clone(), context.clone(), config);
        Fixture { context, keys, revocations, verifier, issuer }
    }

    fn grant() -> Grant {
        Grant {
            kind: PrincipalKind::User,
            subject: Uuid::from_u128(7),
            session_id: Some(Uuid::from_u128(8)),
            tenant_id: Some(Uuid::from_u128(9)),
            audience: "shop".to_owned(),
            roles: RoleNames { shared: vec!["admin".to_owned()], ..RoleNames::default() },
            permissions: Permissions::parse("users.read"),
            platform_permissions: Permissions::default(),
            epoch: Epoch::FIRST,
            not_after: None,
        }
    }

    impl Fixture {
        fn token(&self) -> String {
            self.issuer.issue(self.context.new_id(), &grant()).unwrap().token
        }

        fn reason(&self, token: &str) -> Option<Reason> {
            self.verifier.verify(token, "shop").err().map(|fault| fault.reason())
        }
    }

    /// A token with header and claims changed, signed anew by `signs`.
    fn forge(
        token: &str,
        header: impl FnOnce(&mut Value),
        claims: impl FnOnce(&mut Value),
        signs: &PrivateKey,
    ) -> String {
        let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
        let mut read = || serde_json::from_slice::<Value>(&parts.next().unwrap()).unwrap();
        let (mut head, mut body) = (read(), read());
        header(&mut head);
        claims(&mut body);
        let message = [head, body].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = signs.sign(&Entropy::system(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn a_good_token_says_what_was_granted() {
        let fixture = fixture();
        let verified = fixture.verifier.verify(&fixture.token(), "shop").unwrap();
        assert_eq!(verified.principal.id, Uuid::from_u128(7));
        assert_eq!(verified.principal.session_id, Some(Uuid::from_u128(8)));
        assert_eq!(verified.principal.tenant_id, Some(Uuid::from_u128(9)));
        assert!(verified.principal.permissions.has("users.read"));
        assert_eq!(verified.roles.shared, ["admin"]);
    }

    #[test]
    fn forged_headers_and_claims_are_refused() {
        let fixture = fixture();
        let good = fixture.token();
        let ours = &fixture.keys.active().unwrap().signs;
        let foreign = key(1, KeyState::Active, 2).signs;
        let keep = |_: &mut Value| {};
        let set = |name: &'static str, value: Value| move |part: &mut Value| part[name] = value.clone();
        assert_eq!(fixture.reason(&forge(&good, keep, keep, ours)), None, "the forger's tools work");
        let cases = [
            ("another key under our id", forge(&good, keep, keep, &foreign)),
            ("an unknown key", forge(&good, set("kid", json!(Uuid::from_u128(2))), keep, &foreign)),
            ("no key id", forge(&good, |h| _ = h.as_object_mut().unwrap().remove("kid"), keep, ours)),
            ("a key id that is none", forge(&good, set("kid", json!("../../1")), keep, ours)),
            ("another type", forge(&good, set("typ", json!("JWT")), keep, ours)),
            ("no type", forge(&good, |h| _ = h.as_object_mut().unwrap().remove("typ"), keep, ours)),
            ("another algorithm", forge(&good, set("alg", json!("ES256")), keep, ours)),
            ("a critical header", forge(&good, set("crit", json!(["exp"])), keep, ours)),
            ("another issuer", forge(&good, keep, set("iss", json!("https://evil.example")), ours)),
            ("another audience", forge(&good, keep, set("aud", json!("sidle")), ours)),
            ("two audiences", forge(&good, keep, set("aud", json!(["shop", "sidle"])), ours)),
            ("expired", forge(&good, keep, set("exp", json!(1)), ours)),
            ("no expiry", forge(&good, keep, |c| _ = c.as_object_mut().unwrap().remove("exp"), ours)),
            ("an expiry of another type", forge(&good, keep, set("exp", json!("9999999999")), ours)),
            ("not yet good", forge(&good, keep, set("nbf", json!(9_999_999_999_i64)), ours)),
            ("no start", forge(&good, keep, |c| _ = c.as_object_mut().unwrap().remove("nbf"), ours)),
            ("an id without a time", forge(&good, keep, set("jti", json!(Uuid::nil())), ours)),
        ];
        for (what, token) in cases {
            assert_eq!(fixture.reason(&token), Some(Reason::InvalidToken), "{what}");
        }
    }

    #[test]
    fn no_signature_and_a_signature_with_the_public_key_are_refused() {
        let fixture = fixture();
        let good = fixture.token();
        let message = |alg: &str| {
            let head = json!({ "alg": alg, "typ": TYPE, "kid": Uuid::from_u128(1) });
            format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), good.split('.').nth(1).unwrap())
        };
        let public = fixture.verifier.published_keys()[0].x.clone();
        let raw = URL_SAFE_NO_PAD.decode(&public).unwrap();
        for secret in [public.into_bytes(), raw] {
            let message = message("HS256");
            let signature = PrivateKey::Hs256(secret.into()).sign(&Entropy::system(), message.as_bytes()).unwrap();
            let signature = URL_SAFE_NO_PAD.encode(signature);
            assert_eq!(fixture.reason(&format!("{message}.{signature}")), Some(Reason::InvalidToken));
        }
        for alg in ["none", "None", "EdDSA", ""] {
            assert_eq!(fixture.reason(&format!("{}.", message(alg))), Some(Reason::InvalidToken), "{alg}");
            assert_eq!(fixture.reason(&message(alg)), Some(Reason::InvalidToken), "{alg}, two parts");
        }
        let long = format!("{good}{}", "A".repeat(MAX_TOKEN_BYTES));
        assert_eq!(fixture.reason(&long), Some(Reason::InvalidToken));
    }

    #[test]
    fn a_token_that_is_remembered_is_checked_again_each_time() {
        let fixture = fixture();
        let token = fixture.token();
        assert_eq!(fixture.reason(&token), None);
        assert!(fixture.verifier.verify(&token, "sidle").is_err(), "for another audience");
        let mut other = token.clone();
        let last = other.pop().unwrap();
        other.push(if last == 'A' { 'B' } else { 'A' });
        assert_eq!(fixture.reason(&other), Some(Reason::InvalidToken), "one character differs");

        let principal = fixture.verifier.principal(&token, "shop").unwrap();
        assert!(fixture.verifier.recheck(&principal).is_ok());
        fixture.revocations.end_session(Uuid::from_u128(8));
        assert_eq!(fixture.reason(&token), Some(Reason::InvalidToken), "its session was revoked");
        assert_eq!(fixture.verifier.recheck(&principal).unwrap_err().reason(), Reason::Unauthenticated);
    }

    #[test]
    fn a_remembered_token_dies_with_its_key_and_with_time() {
        let fixture = fixture();
        let token = fixture.token();
        assert_eq!(fixture.reason(&token), None);
        fixture.keys.replace(vec![key(2, KeyState::Active, 2)]);
        assert_eq!(fixture.reason(&token), Some(Reason::InvalidToken), "its key was retired");
        fixture.keys.replace(vec![key(2, KeyState::Active, 2), key(1, KeyState::Retiring, 1)]);
        assert_eq!(fixture.reason(&token), None);
        fixture.context.clock.advance(Duration::from_secs(900 + 4));
        fixture.revocations.confirm_now();
        assert_eq!(fixture.reason(&token), None, "within the leeway");
        fixture.context.clock.advance(Duration::from_secs(2));
        assert_eq!(fixture.reason(&token), Some(Reason::InvalidToken), "expired");
    }

    #[test]
    fn rights_that_changed_end_older_tokens_and_no_newer_one() {
        let fixture = fixture();
        let old = fixture.token();
        let change = fixture.context.now();
        // By a replica whose clock is ahead: issued before the change, and it says after.
        let at = |ahead: i64| {
            let millis = (change.timestamp_millis() + ahead) as u64;
            uuid::Builder::from_unix_timestamp_millis(millis, &[1; 10]).into_uuid()
        };
        let ahead = fixture.issuer.issue(at(4_000), &grant()).unwrap().token;
        assert_eq!(fixture.reason(&ahead), None);
        let epoch = Epoch::of(Some(change));
        fixture.revocations.end_tokens(Uuid::from_u128(7), epoch);
        assert_eq!(fixture.reason(&old), Some(Reason::InvalidToken));
        assert_eq!(fixture.reason(&ahead), Some(Reason::InvalidToken), "no clock makes it good");
        // By one whose clock is behind: issued after the change, and it says before.
        let new = fixture.issuer.issue(at(-4_000), &Grant { epoch, ..grant() }).unwrap();
        assert_eq!(fixture.reason(&new.token), None);
    }

    #[test]
    fn without_a_current_snapshot_no_token_is_verified() {
        let context = Context::system();
        let config = Arc::new(config());
        let keys = Keys::default();
        keys.replace(vec![key(1, KeyState::Active, 1)]);
        let revocations = Revocations::new(context.clone(), config.access_lifetime);
        let verifier = Verifier::new(keys.clone(), revocations, context.clock.clone(), Arc::clone(&config));
        let token = Issuer::new(keys, context.clone(), config).issue(context.new_id(), &grant()).unwrap().token;
        assert_eq!(verifier.verify(&token, "shop").unwrap_err().reason(), Reason::RevocationsStale);
        assert_eq!(verifier.verify("nonsense", "shop").unwrap_err().reason(), Reason::InvalidToken);
    }

    #[test]
    fn a_session_that_ends_soon_shortens_its_tokens() {
        let fixture = fixture();
        let end = fixture.context.now() + TimeDelta::seconds(60);
        let grant = Grant { not_after: Some(end), ..grant() };
        assert!(fixture.issuer.issue(fixture.context.new_id(), &grant).unwrap().expires_at <= end);
        assert!(fixture.issuer.audience("elsewhere").is_err());
        assert_eq!(fixture.issuer.audience("").unwrap(), "sidle");
    }

    proptest! {
        #[test]
        fn no_text_is_a_token_or_a_panic(text in ".{0,300}|[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}") {
            prop_assert_eq!(fixture().reason(&text), Some(Reason::InvalidToken));
        }

        #[test]
        fn no_changed_byte_goes_unnoticed(at in 0usize..400, with in "[A-Za-z0-9_-]") {
            let fixture = fixture();
            let token = fixture.token();
            let at = at % token.len();
            let mut changed = token.clone();
            changed.replace_range(at..=at, &with);
            // The last character of a part may have bits that mean nothing; base64 refuses those as well.
            prop_assume!(changed != token);
            prop_assert_eq!(fixture.reason(&changed), Some(Reason::InvalidToken));
        }
    }
}
