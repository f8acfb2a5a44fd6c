//! An event as its writer describes it, before it has an id, a time and a position.

use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::EventType;
use super::json::storable;
use crate::access::{Call, PrincipalKind};

/// How an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was not allowed.
    Refused,
    /// It was allowed and did not work.
    Failed,
}

impl Outcome {
    /// Its name in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The outcome of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Success, Self::Refused, Self::Failed].into_iter().find(|known| known.as_str() == name)
    }
}

/// What kind of actor did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorKind {
    User,
    ServiceAccount,
    /// Sidle itself.
    System,
    /// A caller who is not authenticated.
    Anonymous,
}

impl ActorKind {
    const ALL: [Self; 4] = [Self::User, Self::ServiceAccount, Self::System, Self::Anonymous];

    /// Its name in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ServiceAccount => "service_account",
            Self::System => "system",
            Self::Anonymous => "anonymous",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }
}

/// Something that happened. Facts go into [`Event::detail`]; whatever tells something about a person goes into
/// [`Event::personal`], where it can be forgotten without breaking the log.
#[derive(Clone, Debug)]
#[must_use = "an event is recorded by a Recorder"]
pub struct Event {
    pub(super) event_type: EventType,
    pub(super) outcome: Outcome,
    pub(super) reason: Option<&'static str>,
    pub(super) tenant_id: Option<Uuid>,
    pub(super) actor_kind: ActorKind,
    pub(super) actor_id: Option<Uuid>,
    pub(super) target: Option<(&'static str, String)>,
    /// Whether the personal data is the target's, where that is a user.
    pub(super) is_about_target: bool,
    pub(super) session_id: Option<Uuid>,
    pub(super) correlation_id: Uuid,
    pub(super) request_id: Option<Uuid>,
    pub(super) details: Map<String, Value>,
    pub(super) subject: Option<Uuid>,
    pub(super) origin: Map<String, Value>,
    pub(super) personal: Map<String, Value>,
}

impl Event {
    /// Something that succeeded in `call`: actor, session, tenant, address, user agent and correlation id are the
    /// call's. A call without principal is anonymous; for what Sidle does by itself see [`Event::by_system`].
    pub fn new(event_type: EventType, call: &Call) -> Self {
        let principal = call.principal.as_deref();
        let actor_kind = match principal.map(|principal| principal.kind) {
            Some(PrincipalKind::User) => ActorKind::User,
            Some(PrincipalKind::ServiceAccount) => ActorKind::ServiceAccount,
            None => ActorKind::Anonymous,
        };
        let mut origin = Map::new();
        if let Some(address) = call.address {
            origin.insert("ip_address".to_owned(), Value::String(address.to_string()));
        }
        if let Some(agent) = call.user_agent.as_deref().filter(|agent| !agent.is_empty()) {
            origin.insert("user_agent".to_owned(), Value::String(agent.to_owned()));
        }
        Self {
            event_type,
            outcome: Outcome::Success,
            reason: None,
            tenant_id: principal.and_then(|principal| principal.tenant_id),
            actor_kind,
            actor_id: principal.map(|principal| principal.id),
            target: None,
            is_about_target: true,
            session_id: principal.and_then(|principal| principal.session_id),
            correlation_id: call.correlation_id,
            request_id: None,
            details: Map::new(),
            subject: None,
            origin,
            personal: Map::new(),
        }
    }

    /// Something that Sidle did by itself.
    pub fn by_system(event_type: EventType, correlation_id: Uuid) -> Self {
        Self { actor_kind: ActorKind::System, ..Self::new(event_type, &Call::internal(correlation_id)) }
    }

    /// The user who acted, where the call itself does not say so: a login makes its caller known.
    pub fn by_user(mut self, user_id: Uuid) -> Self {
        self.actor_kind = ActorKind::User;
        self.actor_id = Some(user_id);
        self
    }

    /// The service account that acted, where the call itself does not say so.
    pub fn by_service_account(mut self, service_account_id: Uuid) -> Self {
        self.actor_kind = ActorKind::ServiceAccount;
        self.actor_id = Some(service_account_id);
        self
    }

    /// The tenant it belongs to; none for what concerns the platform.
    pub fn tenant(mut self, tenant_id: impl Into<Option<Uuid>>) -> Self {
        self.tenant_id = tenant_id.into();
        self
    }

    /// What it was done on. A target of kind `user` is also whose the personal data is.
    pub fn target(mut self, kind: &'static str, id: impl ToString) -> Self {
        self.target = Some((kind, id.to_string()));
        self
    }

    /// Leaves the personal data the actor's, or that of no known account, though the target is a user.
    pub fn not_about_target(mut self) -> Self {
        self.is_about_target = false;
        self
    }

    /// The session it was done in or on.
    pub fn session(mut self, session_id: impl Into<Option<Uuid>>) -> Self {
        self.session_id = session_id.into();
        self
    }

    /// How it ended, where it did not succeed.
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// Why it ended like that: one lower case word from a fixed set.
    pub fn reason(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// `request_id` of the call.
    pub fn request(mut self, request_id: impl Into<Option<Uuid>>) -> Self {
        self.request_id = request_id.into();
        self
    }

    /// A fact that is not about a person: an id, a count, a digest, an enumerated value. Never free text.
    pub fn detail(mut self, name: &'static str, value: impl Serialize) -> Self {
        self.details.insert(name.to_owned(), json(value));
        self
    }

    /// Whose the personal data is, where neither target nor actor says so.
    pub fn subject(mut self, subject_id: Uuid) -> Self {
        self.subject = Some(subject_id);
        self
    }

    /// A personal fact, such as `email`.
    pub fn personal(mut self, name: &'static str, value: impl Serialize) -> Self {
        self.personal.insert(name.to_owned(), json(value));
        self
    }

    /// What the changed fields held before and hold now. Taken as personal data, since most fields of people are.
    pub fn old_new(self, old: impl Serialize, new: impl Serialize) -> Self {
        self.personal("old", old).personal("new", new)
    }

    /// Whose the personal data is, as far as the event says.
    pub(super) fn known_subject(&self) -> Option<Uuid> {
        let target = self.target.as_ref().filter(|(kind, _)| *kind == "user" && self.is_about_target);
        self.subject.or_else(|| target.and_then(|(_, id)| Uuid::try_parse(id).ok())).or(self.actor_id)
    }
}

fn json(value: impl Serialize) -> Value {
    // What cannot be JSON, such as a map with odd keys, is a writer's mistake; the event matters more than the detail.
    storable(serde_json::to_value(value).unwrap_or(Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personal_data_belongs_to_the_user_it_is_about() {
        let (admin, user, other) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let event = Event::new(EventType::UserUpdated, &Call::internal(Uuid::nil()));
        assert_eq!(event.known_subject(), None);
        let event = event.by_user(admin);
        assert_eq!(event.known_subject(), Some(admin));
        let event = event.target("user", user);
        assert_eq!(event.known_subject(), Some(user));
        assert_eq!(event.clone().not_about_target().known_subject(), Some(admin));
        assert_eq!(event.subject(other).known_subject(), Some(other));
    }

    #[test]
    fn names_of_outcomes_and_actors_are_read_back() {
        for outcome in [Outcome::Success, Outcome::Refused, Outcome::Failed] {
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
        for kind in ActorKind::ALL {
            assert_eq!(ActorKind::parse(kind.as_str()), Some(kind));
        }
    }
}
