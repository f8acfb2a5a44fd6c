//! An event with its position, as readers get it.

use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::personal::{Part, SubjectKey, commitment, contents};
use super::{ActorKind, Outcome};
use crate::seal::Keyring;

/// An event of the log.
#[derive(Debug)]
pub struct StoredEvent {
    /// Position in the log, from 1, without gaps.
    pub position: i64,
    /// UUIDv7 of the event.
    pub event_id: Uuid,
    /// What happened. A name, since events of other services and of later releases are read as well.
    pub event_type: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it ended like that.
    pub reason: Option<String>,
    /// When it happened, by the writer's clock.
    pub occurred_at: DateTime<Utc>,
    /// When it got its position, by the database's clock.
    pub recorded_at: DateTime<Utc>,
    /// Tenant that it belongs to.
    pub tenant_id: Option<Uuid>,
    pub actor_kind: ActorKind,
    /// User or service account that did it.
    pub actor_id: Option<Uuid>,
    /// Kind of the resource it was done on.
    pub target_kind: Option<String>,
    /// Id of that resource.
    pub target_id: Option<String>,
    /// Session it was done in or on.
    pub session_id: Option<Uuid>,
    /// Correlation id of the call.
    pub correlation_id: Option<Uuid>,
    /// `request_id` of the call.
    pub request_id: Option<Uuid>,
    /// Service that reported it.
    pub source: Option<String>,
    /// Facts that are not about a person.
    pub details: Map<String, Value>,
    /// The canonical bytes.
    pub leaf: Vec<u8>,
    /// Their hash.
    pub leaf_hash: Vec<u8>,
    pub(super) origin: SealedPart,
    pub(super) personal: SealedPart,
    pub(super) opened: OnceLock<Opened>,
}

/// A piece of personal data as it lies in the database.
#[derive(Debug)]
pub(super) struct SealedPart {
    /// Whether there is or was any.
    pub present: bool,
    pub subject: Option<Uuid>,
    pub sealed: Option<Vec<u8>>,
    pub wrapped_key: Option<Vec<u8>>,
}

/// The personal data of an event, as far as it can be read.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Address and user agent.
    pub origin: Option<OpenedPart>,
    /// The rest.
    pub personal: Option<OpenedPart>,
    /// Whether there was data that can no longer be read.
    pub erased: bool,
}

/// A readable piece of personal data.
#[derive(Clone, Debug)]
pub struct OpenedPart {
    /// Whose it is.
    pub subject: Uuid,
    pub data: Map<String, Value>,
    /// What the leaf's commitment was made from.
    pub opening: Vec<u8>,
}

impl StoredEvent {
    /// The personal data. Decrypted once, however many readers ask.
    pub fn open(&self, keyring: &Keyring) -> &Opened {
        self.opened.get_or_init(|| {
            let origin = self.origin.open(keyring, self.event_id, Part::Origin);
            let personal = self.personal.open(keyring, self.event_id, Part::Personal);
            let erased = (self.origin.present && origin.is_none()) || (self.personal.present && personal.is_none());
            Opened { origin, personal, erased }
        })
    }
}

impl SealedPart {
    fn open(&self, keyring: &Keyring, event_id: Uuid, part: Part) -> Option<OpenedPart> {
        let (subject, sealed, wrapped) = (self.subject?, self.sealed.as_ref()?, self.wrapped_key.as_ref()?);
        let key = SubjectKey::unwrap(keyring, subject, wrapped)
            .inspect_err(|_| tracing::error!(event = "audit_subject_key_unreadable", %subject))
            .ok()?;
        let opening = key.open(event_id, part, sealed)?;
        Some(OpenedPart { subject, data: contents(&opening)?, opening })
    }
}

impl OpenedPart {
    /// The commitment that the leaf must hold for this data.
    pub fn commitment(&self) -> [u8; 32] {
        commitment(&self.opening)
    }
}
