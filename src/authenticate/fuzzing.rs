//! Fuzz targets of this room.

use std::sync::OnceLock;

use super::bcrypt_hash::{BcryptHash, Unusable};
use super::breached::Breached;
use super::policy::Policy;
use crate::config::Config;
use crate::fuzzing::{Input, check_refusal};
use crate::migration::hash_form::{self, HashFault};

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
        assert!((4..=super::MAX_COST).contains(&hash.cost()), "a hash that nobody should compute");
        // Cheap ones only: the computation itself reads nothing from outside but salt and password.
        if hash.cost() == 4 && data.last().is_some_and(|last| last % 16 == 0) {
            hash.matches(data);
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
    match policy.check("password", &password, &about) {
        Ok(()) => {
            assert!(password.chars().count() >= 8 && password.len() <= super::MAX_PASSWORD && !password.contains('\0'));
            assert!(!about.contains(&password.as_ref()), "a password that is the user's own name");
        }
        Err(fault) => check_refusal(&fault),
    }
}
