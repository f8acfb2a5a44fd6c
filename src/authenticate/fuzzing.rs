//! Fuzz targets of this module.

use std::sync::OnceLock;

use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Factor;
use super::login::second_factor::Typed;
use crate::config::Config;
use crate::context::Entropy;
use crate::credential::bcrypt_hash::{BcryptHash, Unusable};
use crate::credential::breached::Breached;
use crate::credential::hash_form::{self, HashFault};
use crate::credential::policy::Policy;
use crate::credential::recovery_codes;
use crate::credential::strength;
use crate::credential::totp::{Code, Totp};
use crate::fuzzing::{Input, check_refusal};
use crate::seal::Keyring;

/// What an import takes can be verified at login; what it does not take for its cost is not computed there either.
pub(crate) fn bcrypt_hash(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = BcryptHash::parse(&text);
    match hash_form::read(&text) {
        Ok(form) => {
            let canonical = hash_form::canonical(&text);
            assert_eq!(hash_form::read(&canonical), Ok(form));
            assert_eq!(hash_form::canonical(&canonical), canonical, "a canonical hash has another canonical form");
            let hash = BcryptHash::parse(&canonical).expect("an imported hash can be verified");
            assert_eq!(hash.cost(), u32::from(form.cost));
            assert_eq!(parsed.as_ref().map(BcryptHash::cost), Ok(u32::from(form.cost)));
        }
        Err(HashFault::CostTooHigh) => assert_eq!(parsed.err(), Some(Unusable::TooCostly)),
        // The reader at login is laxer about the last bits, which decide nothing.
        Err(HashFault::Broken) => {}
    }
    if let Ok(hash) = BcryptHash::parse(&text) {
        assert!((4..=crate::credential::MAX_COST).contains(&hash.cost()), "a hash that nobody should compute");
        // Cheap ones only: the computation itself reads nothing from outside but salt and password.
        if hash.cost() == 4 && data.last().is_some_and(|last| last % 16 == 0) {
            hash.compute_and_compare(data);
        }
    }
}

/// Any file can be read as a list of breached passwords; every line of it is found.
pub(crate) fn breached_passwords(data: &[u8]) {
    let list = Breached::read(data).expect("bytes in memory can be read");
    assert!(list.len() <= data.split(|byte| *byte == b'\n').count());
    for line in data.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_digest = line.len() >= 40 && line[..40].iter().all(u8::is_ascii_hexdigit);
        if let Ok(password) = str::from_utf8(line)
            && !is_digest
            && !line.is_empty()
        {
            assert!(list.contains(password), "{password:?} stands there and is not found");
        }
    }
}

/// A password and what others know of its user. What is accepted is neither short nor cut by bcrypt.
pub(crate) fn new_passwords(data: &[u8]) {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        let config = Config::load(None, []).expect("the defaults can be read");
        Policy::new(&config.passwords).expect("the defaults name no files")
    });
    let mut input = Input::new(data);
    let (password, about) = (input.text(), input.rest_as_text());
    let about: Vec<&str> = about.lines().take(8).collect();
    let strength = strength::score(&password, &strength::words(&about));
    match policy.check_form("password", &password) {
        Ok(()) if strength < policy.min_strength() => {}
        Ok(()) => {
            assert!(
                password.chars().count() >= 8
                    && password.len() <= crate::credential::MAX_PASSWORD
                    && !password.contains('\0')
            );
            assert!(!about.contains(&password.as_ref()), "a password that is the user's own name");
        }
        Err(fault) => check_refusal(&fault),
    }
}

/// A time, a byte that chooses a step near it, a line of secret, then what was typed. It is a code of one kind at most;
/// a code of an application counts for the newest of three steps that has it and for no other, and a recovery code for
/// itself alone, however it is typed.
pub(crate) fn second_factors(data: &[u8]) {
    let mut input = Input::new(data);
    let (seconds, near) = (input.number(), i64::from(input.byte() % 7) - 3);
    let (secret, typed) = (input.line(), input.rest_as_text());

    let digits = typed.replace(' ', "");
    let is_totp = digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
    assert_eq!(Code::parse(&typed).is_some(), is_totp);
    assert_eq!(Typed::of_either_kind(typed.to_string().into()).factor() == Factor::Totp, is_totp);
    let (totp, now) = (Totp::from_secret(Zeroizing::new(secret.to_vec())), Totp::step(seconds));
    let real = hotp(secret, now + near);
    let shown = format!("{} {} ", &real[..3], &real[3..]);
    for text in [&*typed, real.as_str(), shown.as_str()] {
        let Some(code) = Code::parse(text) else { continue };
        let newest = (now - 1..=now + 1).rev().find(|step| hotp(secret, *step) == text.replace(' ', ""));
        assert_eq!(totp.matching_step(code, seconds), newest, "{text:?}");
    }
    assert_eq!(totp.base32().len(), (secret.len() * 8).div_ceil(5));
    let uri = totp.uri("Sidle & Sons", &typed);
    let is_plain = uri.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~@%:/?=&".contains(&byte));
    assert!(is_plain && uri.matches('?').count() == 1 && uri.matches('&').count() == 4, "{}", *uri);

    recovery_code(&typed, is_totp);
}

fn recovery_code(typed: &str, is_totp: bool) {
    let ring = Keyring::new([(2, Zeroizing::new([2; 32])), (1, Zeroizing::new([1; 32]))]).expect("two keys");
    let (user, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
    let bare: String = typed.split(|c: char| c == '-' || c.is_whitespace()).collect();
    let bare = bare.to_ascii_lowercase().replace('o', "0").replace(['i', 'l'], "1");
    let is_code = bare.len() == 16 && bare.bytes().all(|byte| b"0123456789abcdefghjkmnpqrstvwxyz".contains(&byte));
    let kept = recovery_codes::digest(&ring, user, typed);
    assert_eq!(kept.is_some(), is_code);
    assert_eq!(recovery_codes::digest(&ring, user, &bare), kept, "a code of a code is another code");
    let found = recovery_codes::candidates(&ring, user, typed);
    assert_eq!(found.is_some(), is_code);
    if let (Some(kept), Some(found)) = (kept, found) {
        assert!(!is_totp, "a code of both kinds");
        assert!(found.len() == 2 && found[0] == kept && found[1] != kept);
        assert_ne!(recovery_codes::digest(&ring, other, typed), Some(kept.clone()), "it opens somebody else's account");
        let changed = format!("{}{}", if bare.starts_with('0') { '1' } else { '0' }, &bare[1..]);
        assert_ne!(recovery_codes::digest(&ring, user, &changed), Some(kept), "another code opens the account");
    }
    let fresh = recovery_codes::generate(&Entropy::system());
    let kept = recovery_codes::digest(&ring, user, &fresh);
    assert!(kept.is_some() && recovery_codes::digest(&ring, user, &fresh.to_uppercase().replace('-', " ")) == kept);
}

/// The code of a step as RFC 4226 has it, written apart from what it checks.
fn hotp(secret: &[u8], step: i64) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes any key");
    mac.update(&step.to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let at = usize::from(digest[19] % 16);
    let number = digest[at..at + 4].iter().fold(0_u64, |number, byte| number * 256 + u64::from(*byte));
    format!("{:06}", number % (1 << 31) % 1_000_000)
}
