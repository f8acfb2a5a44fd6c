//! Fuzz target of client certificates. To those that anybody can send come some with a head start: whatever stands in them,
//! a named authority has signed it.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use ed25519_dalek::{Signer as _, SigningKey};
use rustls::pki_types::CertificateDer;

use super::super::Authorities;
use super::super::authorities::fuzzing::authorities;
use crate::fault::{Reason, Result};
use crate::fuzzing::check_refusal;
use crate::server::certificates::CertificateIdentity;

/// Kind of a name that is a URI, as it stands before the name.
const URI: u8 = 0x86;
/// Ed25519.
const ALGORITHM: &[u8] = b"\x30\x05\x06\x03\x2b\x65\x70";
/// `CN=authority`; seeds name it.
const AUTHORITY: &[u8] = b"\x30\x14\x31\x12\x30\x10\x06\x03\x55\x04\x03\x0c\x09authority";
/// From 2020 to 2049.
const VALIDITY: &[u8] = b"\x30\x1e\x17\x0d200101000000Z\x17\x0d491231235959Z";

struct Known {
    one: Authorities,
    /// Two names for the same authority.
    two: Authorities,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let certificate = STANDARD.encode(signed(&contents(AUTHORITY, &[])));
        let pem = format!("-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n");
        let (ours, same) = (("ours", pem.as_bytes()), ("same", pem.as_bytes()));
        let known = |files: &[(&str, &[u8])]| authorities(files).expect("a file with a certificate");
        Known { one: known(&[ours]), two: known(&[ours, same]) }
    })
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// A value as DER has it.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [.., high, low] = content.len().to_be_bytes();
    let mut out = match content.len() {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    out.extend(content);
    out
}

/// What is signed of a certificate that the authority issues.
fn contents(subject: &[u8], extensions: &[u8]) -> Vec<u8> {
    let key = der(0x30, &[ALGORITHM, &der(0x03, &[&[0], key().verifying_key().as_bytes()])]);
    let extensions = der(0xa3, &[&der(0x30, &[extensions])]);
    let (version, serial) = (b"\xa0\x03\x02\x01\x02", b"\x02\x01\x01");
    der(0x30, &[version, serial, ALGORITHM, AUTHORITY, VALIDITY, subject, &key, &extensions])
}

/// A certificate with these contents, whatever they are, and the authority's signature.
fn signed(contents: &[u8]) -> Vec<u8> {
    let signature = der(0x03, &[&[0], &key().sign(contents).to_bytes()]);
    der(0x30, &[contents, ALGORITHM, &signature])
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).expect("a time")
}

/// What a chain of certificates says, twice: a second look finds the same.
fn holder(chain: &[CertificateDer<'_>]) -> Result<Option<CertificateIdentity>> {
    let known = known();
    let first = known.one.holder(chain, now()).inspect_err(|fault| {
        assert_eq!(fault.reason(), Reason::Unauthenticated);
        check_refusal(fault);
    });
    let again = known.one.holder(chain, now());
    assert_eq!(first.as_ref().ok(), again.as_ref().ok(), "one certificate says two things");
    let shared = known.two.holder(chain, now());
    assert!(!matches!(shared, Ok(Some(_))), "of two authorities that verify the certificate one was chosen");
    first
}

/// A letter, then names of a certificate, one a line (N), or all that is signed of one (S), both with the authority's
/// signature; everything else is a certificate as it is, and the file of an authority. A certificate says at most one
/// name, which stands in it as it is said, while it lasts; and nothing that the authority has not signed says any.
pub(crate) fn certificates(data: &[u8]) {
    let data = &data[..data.len().min(4096)];
    match data.split_first() {
        Some((b'N', lines)) => named(lines),
        Some((b'S', contents)) => {
            let certificate = signed(contents);
            if let Ok(Some(holder)) = holder(&[certificate.as_slice().into()]) {
                let uri = der(URI, &[holder.uri.as_bytes()]);
                assert!(certificate.windows(uri.len()).any(|part| part == uri), "it does not say {}", holder.uri);
                assert_eq!(&*holder.authority, "ours");
            }
        }
        _ => {
            let certificate = CertificateDer::from(data);
            assert!(
                holder(std::slice::from_ref(&certificate)).is_ok_and(|holder| holder.is_none()),
                "a forged certificate counts"
            );
            assert!(holder(&[certificate.clone(), certificate]).is_ok_and(|holder| holder.is_none()));
            // An operator's file is one, or it is refused.
            let _ = authorities(&[("theirs", data)]);
        }
    }
}

/// Each line is a letter for the kind of name, then the name.
fn named(lines: &[u8]) {
    let names: Vec<(u8, &[u8])> = lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split_first())
        .map(|(kind, name)| match kind {
            b'U' => (URI, name),
            b'D' => (0x82, name),
            b'M' => (0x81, name),
            b'I' => (0x87, name),
            // One that no certificate has.
            _ => (0x99, name),
        })
        .collect();
    let encoded: Vec<u8> = names.iter().flat_map(|(kind, name)| der(*kind, &[name])).collect();
    let names_extension = der(0x30, &[b"\x06\x03\x55\x1d\x11", &der(0x04, &[&der(0x30, &[&encoded])])]);
    let certificate = CertificateDer::from(signed(&contents(&der(0x30, &[]), &names_extension)));

    // The library reads names until it comes to one that it cannot read, and passes over those that are no text.
    let readable = names.iter().take_while(|(kind, _)| *kind != 0x99);
    let uris: Vec<&str> =
        readable.filter(|(kind, _)| *kind == URI).filter_map(|(_, name)| str::from_utf8(name).ok()).collect();
    let said = holder(std::slice::from_ref(&certificate));
    match &said {
        Ok(Some(holder)) => assert_eq!((&*holder.authority, uris), ("ours", vec![&*holder.uri])),
        Ok(None) => panic!("a certificate of the authority passes for none"),
        Err(_) => assert_ne!(uris.len(), 1, "one name is not enough"),
    }
    // What else the client sends changes nothing, and nothing lasts longer than the certificate.
    let beside = holder(&[certificate.clone(), CertificateDer::from(lines), CertificateDer::from(encoded.as_slice())]);
    assert_eq!(beside.ok(), said.ok());
    let later = DateTime::from_timestamp(2_600_000_000, 0).expect("a time");
    assert!(known().one.holder(&[certificate], later).is_ok_and(|holder| holder.is_none()), "it counts after its end");
}
