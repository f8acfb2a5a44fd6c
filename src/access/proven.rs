//! What a fresh proof is bound to: a digest of the request that it is for, without the fields that do not change what the
//! request does.

use prost::Message;
use prost::bytes::Buf as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use sha2::{Digest, Sha256};

/// The digest of a request without a field, and of what is not one message, such as a stream.
pub fn of_nothing() -> [u8; 32] {
    Sha256::digest(b"").into()
}

/// The digest of a request of an RPC by its full name, such as `sidle.v1.DirectoryService/UpdateUser`.
pub fn request_digest(method: &str, request: &impl Message) -> [u8; 32] {
    of(request, super::policy::aside(&format!("/{method}")).unwrap_or_default())
}

/// The digest of a request. `aside` are the numbers of the fields to leave out.
pub(super) fn of(request: &impl Message, aside: &[u32]) -> [u8; 32] {
    // Encoded anew, so that the same request in other bytes, as of another client, is the same.
    let encoded = request.encode_to_vec();
    without(&encoded, aside).map_or_else(|| Sha256::digest(&encoded).into(), |bytes| Sha256::digest(bytes).into())
}

/// An encoded message without these of its fields; none for bytes that are no message.
fn without(encoded: &[u8], aside: &[u32]) -> Option<Vec<u8>> {
    let mut rest = encoded;
    let mut kept = Vec::with_capacity(encoded.len());
    while !rest.is_empty() {
        let field = rest;
        let (number, wire) = decode_key(&mut rest).ok()?;
        let skipped = match wire {
            WireType::Varint => decode_varint(&mut rest).ok().map(|_| 0)?,
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut rest).ok()?).ok()?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        if skipped > rest.len() {
            return None;
        }
        rest.advance(skipped);
        if !aside.contains(&number) {
            kept.extend_from_slice(&field[..field.len() - rest.len()]);
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::policy;
    use crate::proto::{CreateServiceAccountRequest, DisableTotpRequest};

    #[test]
    fn what_changes_what_is_done_changes_the_digest_and_nothing_else_does() {
        let aside = policy::aside("/sidle.v1.DirectoryService/CreateServiceAccount").unwrap();
        let request = CreateServiceAccountRequest { name: "shop".to_owned(), ..Default::default() };
        let repeated =
            CreateServiceAccountRequest { request_id: "x".to_owned(), validate_only: true, ..request.clone() };
        let other = CreateServiceAccountRequest { permissions: vec!["*".to_owned()], ..request.clone() };
        assert_eq!(of(&request, aside), of(&repeated, aside));
        assert_ne!(of(&request, aside), of(&other, aside));
        assert_ne!(of(&request, aside), of_nothing());
        assert_eq!(of(&DisableTotpRequest {}, &[]), of_nothing());
    }

    #[test]
    fn bytes_that_are_no_message_are_none() {
        for bytes in [&[0x0a, 0x05, 1][..], &[0x09, 1], &[0x0b], &[0xff; 11], &[0x08]] {
            assert_eq!(without(bytes, &[]), None, "{bytes:?}");
        }
    }
}
