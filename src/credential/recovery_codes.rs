//! Codes that stand in for a lost authenticator application: made, written so that they can be read aloud, read as
//! people type them. Only a keyed digest of each is kept, so that the database alone does not allow trying them out.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::context::Entropy;
use crate::seal::Keyring;

/// How many a user gets.
pub(crate) const COUNT: usize = 10;
/// Characters of a code: five random bits each, 80 together.
const LENGTH: usize = 16;
/// Characters between hyphens.
const GROUP: usize = 4;
/// Without those that look like others.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PURPOSE: &str = "recovery codes";

/// A fresh code, as it is shown.
pub(crate) fn generate(entropy: &Entropy) -> Zeroizing<String> {
    let bytes = Zeroizing::new(entropy.array::<LENGTH>());
    let mut code = Zeroizing::new(String::with_capacity(LENGTH + LENGTH / GROUP));
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 && at % GROUP == 0 {
            code.push('-');
        }
        code.push(char::from(ALPHABET[usize::from(byte & 31)]));
    }
    code
}

/// A code as it is digested, from what was typed: any case, any grouping, and `o`, `i`, `l` for the digits that they
/// look like. None for what cannot be a code.
fn normalise(typed: &str) -> Option<Zeroizing<String>> {
    let mut code = Zeroizing::new(String::with_capacity(LENGTH));
    for c in typed.chars().filter(|c| *c != '-' && !c.is_whitespace()) {
        let c = match c.to_ascii_lowercase() {
            'o' => '0',
            'i' | 'l' => '1',
            c => c,
        };
        if code.len() == LENGTH || !c.is_ascii() || !ALPHABET.contains(&(c as u8)) {
            return None;
        }
        code.push(c);
    }
    (code.len() == LENGTH).then_some(code)
}

/// What is kept of a fresh code.
pub(crate) fn digest(keyring: &Keyring, user: Uuid, code: &str) -> Option<Vec<u8>> {
    keyed(&keyring.derive(PURPOSE), user, &normalise(code)?)
}

/// What may be kept of a code that was typed: one digest for every key that was ever in use. None when it cannot be a
/// code.
pub(crate) fn candidates(keyring: &Keyring, user: Uuid, typed: &str) -> Option<Vec<Vec<u8>>> {
    let code = normalise(typed)?;
    keyring.derive_all(PURPOSE).iter().map(|key| keyed(key, user, &code)).collect()
}

fn keyed(key: &[u8; 32], user: Uuid, code: &str) -> Option<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(user.as_bytes());
    mac.update(code.as_bytes());
    Some(mac.finalize().into_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(keys: &[(u32, u8)]) -> Keyring {
        Keyring::new(keys.iter().map(|(id, byte)| (*id, Zeroizing::new([*byte; 32])))).unwrap()
    }

    #[test]
    fn a_code_has_eighty_bits_and_is_shown_in_groups() {
        let code = generate(&Entropy::system());
        assert_eq!(code.len(), 19);
        assert!(code.split('-').all(|group| group.len() == 4), "{}", *code);
        assert_eq!(LENGTH * ALPHABET.len().trailing_zeros() as usize, 80);
        assert_ne!(*code, *generate(&Entropy::system()));
    }

    #[test]
    fn a_code_is_found_however_it_is_typed() {
        for typed in [
            "0123-4567-89ab-cdef",
            "0123456789ABCDEF",
            " o1234567\t89abcdef",
            "OI23-4567-89AB-CDEF",
            "0l23 4567 89ab cdef",
        ] {
            assert_eq!(normalise(typed).as_deref().map(String::as_str), Some("0123456789abcdef"), "{typed}");
        }
        for wrong in
            ["", "0123-4567-89ab-cde", "0123-4567-89ab-cdeff", "0123-4567-89ab-cdeu", "0123-4567-89ab-cdeé", "123456"]
        {
            assert!(normalise(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_code_is_its_users_and_outlives_a_rotation_of_the_keys() {
        let (user, code) = (Uuid::from_u128(7), generate(&Entropy::system()));
        let kept = digest(&ring(&[(1, 9)]), user, &code).unwrap();
        assert_eq!(kept.len(), 32);
        assert!(candidates(&ring(&[(2, 5), (1, 9)]), user, &code.to_uppercase()).unwrap().contains(&kept));
        assert!(!candidates(&ring(&[(2, 5)]), user, &code).unwrap().contains(&kept), "nothing without the key");
        assert!(
            !candidates(&ring(&[(1, 9)]), Uuid::from_u128(8), &code).unwrap().contains(&kept),
            "nothing for another"
        );
    }

    proptest! {
        #[test]
        fn no_input_breaks_the_reader(typed in "\\PC{0,40}") {
            if let Some(code) = normalise(&typed) {
                prop_assert_eq!(code.len(), LENGTH);
            }
        }

        #[test]
        fn every_code_is_read_back(seed in any::<[u8; 16]>()) {
            let code: String = seed.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect();
            prop_assert_eq!(&*normalise(&code.to_uppercase()).unwrap(), &code);
        }
    }
}
