//! A list of passwords that others know, kept as the first eight bytes of their SHA-1, sorted. With a hundred million of
//! them a password that is not on the list is taken for one that is with a probability of one in 10^11.

use std::io::BufRead;

use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

/// A list of passwords that others know.
pub struct Breached {
    prefixes: Box<[u64]>,
}

impl std::fmt::Debug for Breached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Breached({})", self.len())
    }
}

impl Breached {
    /// Reads a list: one password a line, or its SHA-1 in 40 hexadecimal digits, which `:COUNT` may follow. Need not be
    /// sorted, nor in UTF-8.
    ///
    /// # Errors
    /// When reading fails.
    pub fn read(mut from: impl BufRead) -> std::io::Result<Self> {
        let mut prefixes = Vec::new();
        let mut line = Zeroizing::new(Vec::new());
        while from.read_until(b'\n', &mut line)? > 0 {
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if !text.is_empty() {
                prefixes.push(listed_digest(text).unwrap_or_else(|| prefix(text)));
            }
            line.clear();
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        Ok(Self { prefixes: prefixes.into_boxed_slice() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// Whether a password is on the list.
    pub fn contains(&self, password: &str) -> bool {
        self.prefixes.binary_search(&prefix(password.as_bytes())).is_ok()
    }
}

/// The digest that a line holds in place of a password.
fn listed_digest(line: &[u8]) -> Option<u64> {
    let (digest, rest) = line.split_at_checked(40)?;
    let is_digest = digest.iter().all(u8::is_ascii_hexdigit) && (rest.is_empty() || rest.starts_with(b":"));
    let first = std::str::from_utf8(&digest[..16]).ok().filter(|_| is_digest)?;
    u64::from_str_radix(first, 16).ok()
}

fn prefix(password: &[u8]) -> u64 {
    let digest: [u8; 20] = Sha1::digest(password).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_passwords_and_digests_in_any_order() {
        let list = b"tr0ub4dor&3\r\n\n5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8:9545824\nGr\xfcn\n\
            b1b3773a05c0ed0176787a4f1574ff0075f7521e\ntr0ub4dor&3";
        let breached = Breached::read(&list[..]).unwrap();
        assert_eq!(breached.len(), 4, "one of them is there twice");
        for known in ["tr0ub4dor&3", "password", "qwerty"] {
            assert!(breached.contains(known), "{known}");
        }
        for unknown in ["", "tr0ub4dor&4", "5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8"] {
            assert!(!breached.contains(unknown), "{unknown}");
        }
    }

    #[test]
    fn what_only_looks_like_a_digest_is_a_password() {
        let odd = "5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8x";
        assert!(Breached::read(odd.as_bytes()).unwrap().contains(odd));
        assert!(!Breached::read(odd.as_bytes()).unwrap().contains("password"));
    }
}
