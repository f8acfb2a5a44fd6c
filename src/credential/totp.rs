//! Codes of authenticator applications (RFC 6238): HMAC-SHA-1, six digits, thirty seconds, which is what every
//! application understands. Pure: the time is passed in, and nothing is remembered here.

use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::Sha1;
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use zeroize::Zeroizing;

use crate::context::Entropy;

/// What has to be escaped in a URI's path and query (RFC 3986): everything but the unreserved characters and `@`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@');
/// Seconds for which a code is shown.
const PERIOD: i64 = 30;
/// A code is six digits.
const MODULUS: u32 = 1_000_000;
/// Clocks of telephones go wrong: a code counts for this many steps around its own.
const WINDOW: i64 = 1;
/// As long as the hash, as RFC 4226 advises.
pub(crate) const SECRET: usize = 20;

/// A secret that an application and this service share.
pub(crate) struct Totp {
    secret: Zeroizing<Vec<u8>>,
}

impl Totp {
    /// A fresh secret.
    pub fn generate(entropy: &Entropy) -> Self {
        let mut secret = Zeroizing::new(vec![0; SECRET]);
        entropy.fill(&mut secret);
        Self { secret }
    }

    /// A secret from where it is kept.
    pub fn from_secret(secret: Zeroizing<Vec<u8>>) -> Self {
        Self { secret }
    }

    /// The secret as it is kept.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// The secret as a person can type it: base32 without padding.
    pub fn base32(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE32_NOPAD.encode(&self.secret))
    }

    /// What goes into a QR code.
    pub fn uri(&self, issuer: &str, account: &str) -> Zeroizing<String> {
        let escape = |text| utf8_percent_encode(text, RESERVED);
        let (issuer, account, secret) = (escape(issuer), escape(account), self.base32());
        Zeroizing::new(format!(
            "otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}&algorithm=SHA1&digits=6&period={PERIOD}",
            *secret
        ))
    }

    /// The step of this Unix time.
    pub fn step(seconds: i64) -> i64 {
        seconds.div_euclid(PERIOD)
    }

    /// The step that `code` is for, if it is for one around `now`: the newest, so that accepting it refuses them all.
    /// Takes as long for every code.
    pub fn matching_step(&self, code: Code, seconds: i64) -> Option<i64> {
        let now = Self::step(seconds);
        let mut found = i64::MIN;
        for step in now - WINDOW..=now + WINDOW {
            found.conditional_assign(&step, self.code(step).ct_eq(&code.0));
        }
        (found != i64::MIN).then_some(found)
    }

    fn code(&self, step: i64) -> u32 {
        // HMAC takes keys of every length.
        let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(&self.secret) else { return MODULUS };
        mac.update(&step.to_be_bytes());
        let digest = mac.finalize().into_bytes();
        let at = usize::from(digest[19] & 15);
        let part: [u8; 4] = std::array::from_fn(|byte| digest[at + byte]);
        (u32::from_be_bytes(part) & 0x7fff_ffff) % MODULUS
    }
}

/// Six digits as they were typed.
#[derive(Clone, Copy)]
pub(crate) struct Code(u32);

impl Code {
    /// Reads six digits; blanks between them are how applications show them.
    pub fn parse(text: &str) -> Option<Self> {
        let mut value = 0;
        let mut digits = 0;
        for byte in text.bytes().filter(|byte| *byte != b' ') {
            if !byte.is_ascii_digit() || digits == 6 {
                return None;
            }
            value = value * 10 + u32::from(byte - b'0');
            digits += 1;
        }
        (digits == 6).then_some(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rfc() -> Totp {
        Totp::from_secret(Zeroizing::new(b"12345678901234567890".to_vec()))
    }

    /// RFC 6238, appendix B, of whose eight digits six are the last six; RFC 4226, appendix D.
    #[test]
    fn the_codes_are_those_of_the_rfcs() {
        for (seconds, code) in [
            (59, 94_287_082),
            (1_111_111_109, 7_081_804),
            (1_111_111_111, 14_050_471),
            (1_234_567_890, 89_005_924),
            (2_000_000_000, 69_279_037),
            (20_000_000_000, 65_353_130),
        ] {
            assert_eq!(rfc().code(Totp::step(seconds)), code % MODULUS, "{seconds}");
        }
        let hotp = [755_224, 287_082, 359_152, 969_429, 338_314, 254_676, 287_922, 162_583, 399_871, 520_489];
        for (step, code) in (0..).zip(hotp) {
            assert_eq!(rfc().code(step), code, "{step}");
        }
    }

    #[test]
    fn a_code_counts_one_step_before_and_after_its_own() {
        let totp = rfc();
        let code = Code(totp.code(1_000));
        for (step, counts) in [(998, false), (999, true), (1_000, true), (1_001, true), (1_002, false)] {
            assert_eq!(totp.matching_step(code, step * PERIOD), counts.then_some(1_000), "{step}");
            assert_eq!(totp.matching_step(code, step * PERIOD + 29), counts.then_some(1_000), "{step}");
        }
    }

    #[test]
    fn codes_are_read_as_people_type_them() {
        assert_eq!(Code::parse("123456").map(|code| code.0), Some(123_456));
        assert_eq!(Code::parse(" 012 345 ").map(|code| code.0), Some(12_345));
        for wrong in ["", "12345", "1234567", "12345a", "-12345", "+12345", "１２３４５６", "12345678901234567890"]
        {
            assert!(Code::parse(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn applications_get_what_they_understand() {
        assert_eq!(*rfc().base32(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert_eq!(*Totp::from_secret(Zeroizing::new(b"foob".to_vec())).base32(), "MZXW6YQ");
        let uri = rfc().uri("Example & Sons", "ann+b:c@example.com");
        assert_eq!(
            *uri,
            "otpauth://totp/Example%20%26%20Sons:ann%2Bb%3Ac@example.com?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\
             &issuer=Example%20%26%20Sons&algorithm=SHA1&digits=6&period=30"
        );
        let (one, other) = (Totp::generate(&Entropy::system()), Totp::generate(&Entropy::system()));
        assert!(one.secret().len() == SECRET && one.secret() != other.secret());
    }

    proptest! {
        #[test]
        fn no_input_is_taken_for_a_code_that_it_is_not(text in "\\PC{0,12}") {
            let digits: String = text.chars().filter(|c| *c != ' ').collect();
            let is_code = digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
            prop_assert_eq!(Code::parse(&text).map(|code| code.0), is_code.then(|| digits.parse().unwrap()));
        }
    }
}
