//! When a certificate ends, read from its DER (RFC 5280, 4.1). What verifies certificates checks that by itself and does not
//! say it, and a stream that a certificate opened must not outlast it.

use chrono::{DateTime, NaiveDateTime, Utc};

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, in which the version stands.
const VERSION: u8 = 0xa0;

/// When the certificate ends; none for bytes that do not say it as a certificate does.
pub(super) fn not_after(certificate: &[u8]) -> Option<DateTime<Utc>> {
    let (mut outer, _) = element(certificate, SEQUENCE)?;
    let mut fields = take(&mut outer, SEQUENCE)?;
    // Left out of certificates of the first version.
    let _ = take(&mut fields, VERSION);
    take(&mut fields, INTEGER)?;
    take(&mut fields, SEQUENCE)?;
    take(&mut fields, SEQUENCE)?;
    let validity = take(&mut fields, SEQUENCE)?;
    let (_, rest) = time(validity)?;
    time(rest).map(|(at, _)| at)
}

/// A time, and what follows it.
fn time(bytes: &[u8]) -> Option<(DateTime<Utc>, &[u8])> {
    let (text, rest) = element(bytes, UTC_TIME).or_else(|| element(bytes, GENERALIZED_TIME))?;
    let text = std::str::from_utf8(text).ok()?;
    // Two digits of a year are of 1950 to 2049.
    let text = match (text.len(), text.get(..2)?) {
        (13, year) => format!("{}{text}", if year < "50" { "20" } else { "19" }),
        _ => text.to_owned(),
    };
    let at = NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok()?;
    Some((at.and_utc(), rest))
}

/// Takes the element of this tag off the front of `bytes`, which stay as they are when another one stands there.
fn take<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (content, rest) = element(bytes, tag)?;
    *bytes = rest;
    Some(content)
}

/// The content of the element of this tag in front, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // So many bytes of length follow; a certificate has no part of more than four gigabytes.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    (first == tag).then(|| rest.split_at_checked(length)).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(year, 2, 3));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_from_it() {
        for year in [2027, 2049, 2050, 2120] {
            let at = not_after(&certificate(year)).unwrap();
            assert_eq!(at.to_rfc3339(), format!("{year}-02-03T00:00:00+00:00"));
        }
    }

    #[test]
    fn a_certificate_that_is_cut_short_says_nothing_and_ends_nothing() {
        let whole = certificate(2027);
        let found: Vec<_> = (0..whole.len()).filter_map(|length| not_after(&whole[..length])).collect();
        assert!(found.is_empty(), "the outer length does not fit");
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = not_after(&bytes);
        }
    }
}
