//! Fuzz targets of this room.

use super::bcrypt_hash::{BcryptHash, Unusable};
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
