//! Which events a reader wants.

use serde::Serialize;
use uuid::Uuid;

use super::{EventType, Outcome, StoredEvent};
use crate::db::Scope;

/// Conditions that events must meet, all of them; within the scope of the reader.
#[derive(Clone, Debug)]
pub struct Filter {
    pub(super) scope: Scope,
    pub(super) wanted: Wanted,
}

/// The part of a filter that the reader chooses. Serialised into what a cursor is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Names of types; all when empty.
    pub types: Vec<String>,
    /// Who did it.
    pub actor_id: Option<Uuid>,
    /// Kind of what it was done on.
    pub target_kind: Option<String>,
    /// Id of what it was done on.
    pub target_id: Option<String>,
    /// Session it was done in.
    pub session_id: Option<Uuid>,
    /// Call it was done by.
    pub correlation_id: Option<Uuid>,
    /// Name of the outcome.
    pub outcome: Option<&'static str>,
}

impl Filter {
    /// Everything in `scope`.
    pub fn new(scope: Scope) -> Self {
        Self { scope, wanted: Wanted::default() }
    }

    /// What is wanted, in `scope`.
    pub fn wanting(scope: Scope, wanted: Wanted) -> Self {
        Self { scope, wanted }
    }

    /// Only these types.
    #[must_use]
    pub fn types(mut self, types: &[EventType]) -> Self {
        self.wanted.types = types.iter().map(|known| known.as_str().to_owned()).collect();
        self
    }

    /// Only what was done on this resource.
    #[must_use]
    pub fn target(mut self, kind: &str, id: impl ToString) -> Self {
        self.wanted.target_kind = Some(kind.to_owned());
        self.wanted.target_id = Some(id.to_string());
        self
    }

    /// Only what ended like this.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.wanted.outcome = Some(outcome.as_str());
        self
    }

    /// Whether `event` is wanted: in memory what `audit_read` is in the database.
    pub fn matches(&self, event: &StoredEvent) -> bool {
        fn meets<T: PartialEq>(wanted: Option<T>, has: Option<T>) -> bool {
            wanted.is_none() || wanted == has
        }
        let wanted = &self.wanted;
        meets(self.scope.tenant(), event.tenant_id)
            && (wanted.types.is_empty() || wanted.types.contains(&event.event_type))
            && meets(wanted.actor_id, event.actor_id)
            && meets(wanted.target_kind.as_deref(), event.target_kind.as_deref())
            && meets(wanted.target_id.as_deref(), event.target_id.as_deref())
            && meets(wanted.session_id, event.session_id)
            && meets(wanted.correlation_id, event.correlation_id)
            && meets(wanted.outcome, Some(event.outcome.as_str()))
    }
}
