//! The form of legacy password hashes: what can be verified without harm, and what cannot.

/// The highest cost that is accepted: at 14, checking a password takes about a second.
pub const HIGHEST_COST: u8 = 14;
/// The lowest cost that bcrypt knows.
const LOWEST_COST: u8 = 4;
/// Where the last character of the salt stands in a well-formed hash.
const SALT_END: usize = 28;
const ALPHABET: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Below this a login replaces the hash by a stronger one, and an import says so.
pub const WEAK_BELOW: u8 = 10;

/// A well-formed bcrypt hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HashForm {
    /// Prefix: `$2a$`, `$2b$`, `$2x$` or `$2y$`.
    pub kind: &'static str,
    pub cost: u8,
}

/// Why a hash is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashFault {
    /// It is no well-formed bcrypt hash.
    Broken,
    /// Checking it would keep a processor busy for seconds.
    CostTooHigh,
}

/// Reads the form of a hash: prefix, two digits of cost, 22 characters of salt and 31 of digest in bcrypt's alphabet.
///
/// # Errors
/// What is wrong with it.
pub fn read(hash: &str) -> Result<HashForm, HashFault> {
    let kind =
        ["$2a$", "$2b$", "$2x$", "$2y$"].into_iter().find(|kind| hash.starts_with(kind)).ok_or(HashFault::Broken)?;
    let (cost, rest) = hash[kind.len()..].split_once('$').ok_or(HashFault::Broken)?;
    let is_two_digits = cost.len() == 2 && cost.bytes().all(|b| b.is_ascii_digit());
    let is_payload = rest.len() == 53 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/');
    if !is_two_digits || !is_payload || !has_whole_digest(rest) {
        return Err(HashFault::Broken);
    }
    let cost: u8 = cost.parse().map_err(|_| HashFault::Broken)?;
    match cost {
        LOWEST_COST..=HIGHEST_COST => Ok(HashForm { kind, cost }),
        15..=31 => Err(HashFault::CostTooHigh),
        _ => Err(HashFault::Broken),
    }
}

/// The 31 characters of the digest hold two bits more than its 23 bytes. They are always zero; a digest with other bits
/// was damaged, and nothing can match it.
fn has_whole_digest(payload: &str) -> bool {
    payload.bytes().last().and_then(value).is_some_and(|value| value % 4 == 0)
}

/// The hash as today's implementations write it. The 22 characters of the salt hold four bits more than its 16 bytes,
/// and some old programs left something there; those bits are no part of the salt, but strict readers refuse them.
pub fn canonical(hash: &str) -> String {
    let mut bytes = hash.as_bytes().to_vec();
    if let Some(end) = bytes.get_mut(SALT_END)
        && let Some(value) = value(*end)
    {
        *end = ALPHABET[value & 0b11_0000];
    }
    // Only ASCII was put where ASCII was.
    String::from_utf8(bytes).unwrap_or_else(|_| hash.to_owned())
}

fn value(character: u8) -> Option<usize> {
    ALPHABET.iter().position(|known| *known == character)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "$2b$10$kOPwQU8yz8wyPz4QFo1mYOtabGbRJL08UGLh6q2X2oK2SQkNFd8wy";

    #[test]
    fn four_kinds_are_accepted() {
        for kind in ["$2a$", "$2b$", "$2x$", "$2y$"] {
            assert_eq!(read(&GOOD.replace("$2b$", kind)), Ok(HashForm { kind, cost: 10 }));
        }
    }

    #[test]
    fn hostile_costs_and_broken_forms_are_refused() {
        for cost in ["15", "16", "20", "31"] {
            assert_eq!(read(&GOOD.replace("$10$", &format!("${cost}$"))), Err(HashFault::CostTooHigh), "{cost}");
        }
        for cost in ["03", "00", "32", "99", "1", "010", "+4", ""] {
            assert_eq!(read(&GOOD.replace("$10$", &format!("${cost}$"))), Err(HashFault::Broken), "{cost}");
        }
        for broken in [
            "",
            "$2b$",
            "hunter2",
            "$1$x$y",
            "$argon2id$v=19$m=1",
            &GOOD[..59],
            &format!("{GOOD}x"),
            &format!("{GOOD}\0"),
        ] {
            assert_eq!(read(broken), Err(HashFault::Broken), "{broken}");
        }
        assert_eq!(read(&GOOD.replace("$2b$", "$2c$")), Err(HashFault::Broken));
        assert_eq!(read(&GOOD.replace("kOP", "k!P")), Err(HashFault::Broken));
    }

    #[test]
    fn a_digest_that_nothing_can_match_is_broken() {
        assert_eq!(read(&format!("{}z", &GOOD[..59])), Err(HashFault::Broken));
    }

    #[test]
    fn spare_bits_in_the_salt_do_not_lock_anybody_out() {
        let hash = bcrypt::hash_with_salt("secret", 4, [7; 16]).unwrap().format_for_version(bcrypt::Version::TwoB);
        let salt_end = ALPHABET.iter().position(|c| *c == hash.as_bytes()[SALT_END]).unwrap();
        for spare in 0..16 {
            let mut other = hash.clone().into_bytes();
            other[SALT_END] = ALPHABET[salt_end + spare];
            let other = String::from_utf8(other).unwrap();
            assert!(read(&other).is_ok());
            assert_eq!(canonical(&other), hash);
            assert!(bcrypt::verify("secret", &canonical(&other)).unwrap());
        }
    }

    proptest! {
        #[test]
        fn real_hashes_are_accepted(password in "\\PC{1,20}", salt: [u8; 16]) {
            let parts = bcrypt::hash_with_salt(password, 4, salt).unwrap();
            for version in [bcrypt::Version::TwoA, bcrypt::Version::TwoB, bcrypt::Version::TwoX, bcrypt::Version::TwoY] {
                prop_assert!(read(&parts.format_for_version(version)).is_ok());
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*|\\$2[abxy]\\$[0-9$]{0,6}.{0,60}") {
            let _ = read(&text);
            let _ = canonical(&text);
        }
    }
}
