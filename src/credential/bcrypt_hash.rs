//! bcrypt as the old applications wrote it: `$2a$`, `$2b$` and `$2y$`, which are computed alike, and `$2x$`, which an
//! old implementation computed wrongly for characters beyond ASCII. Pure computation.

use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Hashes that would take longer are not computed, wherever they come from.
pub const MAX_COST: u32 = 14;
const MIN_COST: u32 = 4;
/// bcrypt reads no more of a password.
pub const MAX_PASSWORD: usize = 72;

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &BCRYPT,
    // Salt and digest end within a character; what implementations put into the rest differs.
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// A hash that can be computed again.
#[derive(Clone, Debug)]
pub struct BcryptHash {
    sign_extends: bool,
    cost: u32,
    salt: [u8; 16],
    digest: [u8; 23],
}

/// Why a stored hash cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is not a bcrypt hash.
    Malformed,
    /// It would take too long.
    TooCostly,
}

impl BcryptHash {
    /// Reads a stored hash.
    ///
    /// # Errors
    /// When it is malformed, or beyond the cost that is ever computed.
    pub fn parse(text: &str) -> Result<Self, Unusable> {
        let rest =
            text.strip_prefix("$2").filter(|_| text.len() == 60 && text.is_ascii()).ok_or(Unusable::Malformed)?;
        let (version, rest) = rest.split_once('$').ok_or(Unusable::Malformed)?;
        let sign_extends = match version {
            "a" | "b" | "y" => false,
            "x" => true,
            _ => return Err(Unusable::Malformed),
        };
        let (cost, rest) = rest.split_once('$').ok_or(Unusable::Malformed)?;
        let is_number = cost.len() == 2 && cost.bytes().all(|digit| digit.is_ascii_digit());
        let cost: u32 = cost.parse().ok().filter(|_| is_number).ok_or(Unusable::Malformed)?;
        let (salt, digest) = rest.split_at_checked(22).ok_or(Unusable::Malformed)?;
        if !(MIN_COST..=31).contains(&cost) {
            return Err(Unusable::Malformed);
        }
        if cost > MAX_COST {
            return Err(Unusable::TooCostly);
        }
        let salt = decode(salt).ok_or(Unusable::Malformed)?;
        let digest = decode(digest).ok_or(Unusable::Malformed)?;
        Ok(Self { sign_extends, cost, salt, digest })
    }

    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// Whether today one would hash differently.
    pub fn is_weaker_than(&self, cost: u32) -> bool {
        self.sign_extends || self.cost < cost
    }

    /// Whether it is the hash of `password`. Takes the same time for every password, and long: for the hashing threads.
    pub(crate) fn compute_and_compare(&self, password: &[u8]) -> bool {
        let key = if self.sign_extends { sign_extended_key(password) } else { key(password) };
        let computed = bcrypt::bcrypt(self.cost, self.salt, &key);
        bool::from(computed[..23].ct_eq(&self.digest))
    }
}

/// Computes a hash that is compared with nothing, for the time it takes.
pub(super) fn spend(cost: u32) {
    std::hint::black_box(bcrypt::bcrypt(cost, [0x5a; 16], b"nobody\0"));
}

/// A new hash. Passwords that bcrypt would cut are for the caller to refuse.
pub(super) fn hash(password: &[u8], cost: u32, salt: [u8; 16]) -> String {
    let digest = bcrypt::bcrypt(cost, salt, &key(password));
    format!("$2b${cost:02}${}{}", ENGINE.encode(salt), ENGINE.encode(&digest[..23]))
}

/// The password with the NUL that ends it, up to what bcrypt reads.
fn key(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD));
    key.extend(password.iter().take(MAX_PASSWORD));
    if key.len() < MAX_PASSWORD {
        key.push(0);
    }
    key
}

/// The key for which the right computation gives what the wrong one gave for `password`: the wrong one read each byte
/// as a signed number, so that one over 0x7f overwrote those before it in its word. The words repeat over the password
/// and its NUL; 18 of them are all that is read.
fn sign_extended_key(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = password.iter().copied().chain([0]).cycle();
    let mut key = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD));
    for _ in 0..MAX_PASSWORD / 4 {
        let word = (0..4).fold(0u32, |word, _| {
            let byte = bytes.next().unwrap_or_default();
            (word << 8) | i32::from(byte.cast_signed()).cast_unsigned()
        });
        key.extend(word.to_be_bytes());
    }
    key
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    ENGINE.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made with crypt_blowfish as Debian's libxcrypt has it.
    const VECTORS: &[(&str, &[u8])] = &[
        ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", b"U*U"),
        ("$2x$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e", b"\xa3"),
        ("$2x$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e", b"\xff\xff\xa3"),
        ("$2y$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e", b"\xff\xff\xa3"),
        ("$2x$05$/OK.fbVrR/bpIqNJ5ianF.o./n25XVfn6oAPaUvHe.Csk4zRfsYPi", b"\xff\xa334\xff\xff\xff\xa3345"),
        ("$2y$05$/OK.fbVrR/bpIqNJ5ianF.o./n25XVfn6oAPaUvHe.Csk4zRfsYPi", b"\xff\xa334\xff\xff\xff\xa3345"),
        ("$2x$05$abcdefghijklmnopqrstuurB3dV.fJGdSihNlP0vo5PemoaZRp6LS", &[0xaa; 80]),
        ("$2x$05$abcdefghijklmnopqrstuuYZ.mRQSBtUiayzORceQSb5BVOX7p5lO", "Grün".as_bytes()),
        ("$2y$05$abcdefghijklmnopqrstuu9e8nLPmmFoAJChRsFWf8OPekU0X1g4y", "Grün".as_bytes()),
        ("$2x$05$abcdefghijklmnopqrstuu0oImNDIy4flhldV9YqunRgBAePKmw7m", b""),
        ("$2x$05$abcdefghijklmnopqrstuucaGU5ROXj4M8Tgsx3s/D5BQIuhazIWa", b"1\xa3345"),
    ];

    #[test]
    fn hashes_of_other_implementations_match_their_passwords_only() {
        for (text, password) in VECTORS {
            let hash = BcryptHash::parse(text).unwrap();
            assert!(hash.compute_and_compare(password), "{text}");
            assert!(!hash.compute_and_compare(b"another"), "{text}");
        }
        // The two computations differ where a byte over 0x7f stands after others in its word.
        let wrong = BcryptHash::parse("$2x$05$abcdefghijklmnopqrstuu9e8nLPmmFoAJChRsFWf8OPekU0X1g4y").unwrap();
        assert!(!wrong.compute_and_compare("Grün".as_bytes()));
    }

    #[test]
    fn a_new_hash_is_read_back() {
        let text = hash(b"correct horse", 4, [7; 16]);
        let parsed = BcryptHash::parse(&text).unwrap();
        assert!(parsed.compute_and_compare(b"correct horse") && !parsed.compute_and_compare(b"correct horsf"));
        assert!(bcrypt::verify("correct horse", &text).unwrap(), "other implementations read it as well");
        assert!(parsed.is_weaker_than(5) && !parsed.is_weaker_than(4));
    }

    #[test]
    fn what_is_hostile_or_no_hash_is_never_computed() {
        let good = "$2b$05$abcdefghijklmnopqrstuu9e8nLPmmFoAJChRsFWf8OPekU0X1g4y";
        assert!(BcryptHash::parse(good).is_ok());
        for (bad, why) in [
            (good.replace("$05$", "$15$"), Unusable::TooCostly),
            (good.replace("$05$", "$31$"), Unusable::TooCostly),
            (good.replace("$05$", "$32$"), Unusable::Malformed),
            (good.replace("$05$", "$03$"), Unusable::Malformed),
            (good.replace("$05$", "$+5$"), Unusable::Malformed),
            (good.replace("$2b$", "$2z$"), Unusable::Malformed),
            (good.replace("$2b$", "$1b$"), Unusable::Malformed),
            (good.replace("qrst", "q\u{e9}st"), Unusable::Malformed),
            (good.replace('i', "!"), Unusable::Malformed),
            (good[..59].to_owned(), Unusable::Malformed),
            (format!("{good}a"), Unusable::Malformed),
            (String::new(), Unusable::Malformed),
        ] {
            assert_eq!(BcryptHash::parse(&bad).unwrap_err(), why, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\$2[abxy]\\$[0-9]{2}\\$[./A-Za-z0-9$é]{0,60}|.{0,80}") {
            let _ = BcryptHash::parse(&text);
        }
    }
}
