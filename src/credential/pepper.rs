//! Peppers: secret keys mixed into a password before it is hashed, so that hashes alone, stolen with the database, are
//! worth nothing. What bcrypt then gets is base64 of an HMAC: 44 characters, whatever was typed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The configured peppers, the current one first.
#[derive(Clone, Default)]
pub struct Peppers {
    keys: Arc<[(i16, Zeroizing<[u8; 32]>)]>,
    is_for_new: bool,
    reported: Arc<Mutex<HashSet<i16>>>,
}

impl Peppers {
    /// These peppers, the first of which new hashes get, if they get one.
    pub fn new(keys: impl IntoIterator<Item = (i16, Zeroizing<[u8; 32]>)>, is_for_new: bool) -> Self {
        Self { keys: keys.into_iter().collect(), is_for_new, reported: Arc::default() }
    }

    /// The one for new hashes; none when they are made without.
    pub fn current(&self) -> Option<i16> {
        self.keys.first().filter(|_| self.is_for_new).map(|(id, _)| *id)
    }

    /// What bcrypt is to get for a password; none when this pepper is not configured (any more), which is logged once
    /// for each.
    pub fn mix(&self, id: Option<i16>, password: &Zeroizing<String>) -> Option<Zeroizing<String>> {
        let Some(id) = id else { return Some(password.clone()) };
        let Some((_, key)) = self.keys.iter().find(|(known, _)| *known == id) else {
            self.report(id);
            return None;
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(&**key).ok()?;
        mac.update(password.as_bytes());
        let digest = Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()));
        Some(Zeroizing::new(STANDARD.encode(*digest)))
    }

    fn report(&self, id: i16) {
        if self.reported.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            tracing::error!(
                event = "pepper_missing",
                pepper_id = id,
                "passwords were hashed with a pepper that is not in passwords.peppers: their users cannot sign in \
                 until it is put back (behind the current one)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[test]
    fn every_byte_of_a_long_password_counts() {
        let peppers = Peppers::new([(2, Zeroizing::new([2; 32])), (1, Zeroizing::new([1; 32]))], true);
        let mixed = |id, text: &str| peppers.mix(id, &password(text)).unwrap();
        let (long, other) = ("x".repeat(100), format!("{}y", "x".repeat(99)));
        assert_eq!(mixed(Some(1), &long).len(), 44);
        assert_ne!(*mixed(Some(1), &long), *mixed(Some(1), &other));
        assert_ne!(*mixed(Some(1), &long), *mixed(Some(2), &long));
        assert_eq!(*mixed(None, &long), long);
        assert_eq!(peppers.current(), Some(2));
    }

    #[test]
    fn a_missing_pepper_is_reported_once() {
        let peppers = Peppers::default();
        assert!(peppers.mix(Some(7), &password("a")).is_none() && peppers.mix(Some(7), &password("b")).is_none());
        assert_eq!(peppers.reported.lock().unwrap().len(), 1);
        assert_eq!((peppers.current(), peppers.mix(None, &password("a")).map(|p| p.len())), (None, Some(1)));
    }
}
