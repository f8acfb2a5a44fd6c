//! The canonical bytes of an event, which the log commits to. docs/audit-leaf.md describes them for authors of a
//! verifier; they must never change for events that exist.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::json::canonical;

/// What every leaf begins with. Another layout gets another number.
pub(super) const MAGIC: &[u8] = b"sidle audit leaf 1\n";

/// What the leaf says about a piece of personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commitment {
    /// The event has none.
    None,
    /// SHA-256 over a nonce and the data.
    To([u8; 32]),
    /// It could not be opened when the event got its position.
    Lost,
    /// Its subject had been erased before the event got its position.
    Erased,
}

/// Everything the log commits to.
#[derive(Clone, Debug)]
pub(super) struct Leaf<'a> {
    pub position: i64,
    pub event_id: Uuid,
    pub event_type: &'a str,
    pub outcome: &'a str,
    pub reason: Option<&'a str>,
    pub occurred_at_micros: i64,
    pub recorded_at_micros: i64,
    pub tenant_id: Option<Uuid>,
    pub actor_kind: &'a str,
    pub actor_id: Option<Uuid>,
    pub target_kind: Option<&'a str>,
    pub target_id: Option<&'a str>,
    pub session_id: Option<Uuid>,
    pub correlation_id: Option<Uuid>,
    pub request_id: Option<Uuid>,
    pub source: Option<&'a str>,
    pub details: &'a Map<String, Value>,
    pub origin: Commitment,
    pub personal: Commitment,
}

impl Leaf<'_> {
    /// The canonical bytes: fields in ascending order of their tags, each with its length; absent ones left out.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Fields(Vec::with_capacity(320));
        out.0.extend_from_slice(MAGIC);
        out.bytes(1, &self.position.to_be_bytes());
        out.bytes(2, self.event_id.as_bytes());
        out.bytes(3, self.event_type.as_bytes());
        out.bytes(4, self.outcome.as_bytes());
        out.text(5, self.reason);
        out.bytes(6, &self.occurred_at_micros.to_be_bytes());
        out.bytes(7, &self.recorded_at_micros.to_be_bytes());
        out.id(8, self.tenant_id);
        out.bytes(9, self.actor_kind.as_bytes());
        out.id(10, self.actor_id);
        out.text(11, self.target_kind);
        out.text(12, self.target_id);
        out.id(13, self.session_id);
        out.id(14, self.correlation_id);
        out.id(15, self.request_id);
        out.text(16, self.source);
        out.bytes(17, &canonical(self.details));
        out.commitment(18, self.origin);
        out.commitment(20, self.personal);
        out.0
    }
}

/// The hash of a leaf, as RFC 6962 hashes leaves.
pub(super) fn hash(leaf: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(leaf).finalize().into()
}

struct Fields(Vec<u8>);

impl Fields {
    fn bytes(&mut self, tag: u8, value: &[u8]) {
        self.0.push(tag);
        // Nothing in an event comes near 4 GiB: the inbox limits every column.
        self.0.extend_from_slice(&(value.len() as u32).to_be_bytes());
        self.0.extend_from_slice(value);
    }

    fn text(&mut self, tag: u8, value: Option<&str>) {
        if let Some(value) = value {
            self.bytes(tag, value.as_bytes());
        }
    }

    fn id(&mut self, tag: u8, value: Option<Uuid>) {
        if let Some(value) = value {
            self.bytes(tag, value.as_bytes());
        }
    }

    /// The commitment under `tag`, or under the next one why there is none although there was data.
    fn commitment(&mut self, tag: u8, value: Commitment) {
        match value {
            Commitment::None => {}
            Commitment::To(digest) => self.bytes(tag, &digest),
            Commitment::Lost => self.bytes(tag + 1, b"lost"),
            Commitment::Erased => self.bytes(tag + 1, b"erased"),
        }
    }
}

#[cfg(test)]
#[path = "leaf_tests.rs"]
mod tests;
