//! Between the log's own types and the messages of the contract.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::access::input;
use crate::audit::{ActorKind, EventType, OpenedPart, Outcome, StoredEvent, Wanted};
use crate::fault::{Fault, Result};
use crate::proto::*;
use crate::seal::Keyring;

const MOST_TYPES: usize = 100;

/// What a filter wants, apart from the tenant.
pub(super) fn wanted(filter: &AuditFilter) -> Result<Wanted> {
    let optional = |field, value: &str, max| -> Result<Option<String>> {
        let text = input::text(field, value, max)?;
        Ok((!text.is_empty()).then_some(text))
    };
    let outcome = AuditOutcome::try_from(filter.outcome)
        .map_err(|_| Fault::field("filter.outcome", "must be a value of AuditOutcome"))?;
    Ok(Wanted {
        types: types(&filter.types)?,
        actor_id: input::optional_uuid("filter.actor_id", &filter.actor_id)?,
        target_kind: optional("filter.target_kind", &filter.target_kind, 64)?,
        target_id: optional("filter.target_id", &filter.target_id, 200)?,
        session_id: input::optional_uuid("filter.session_id", &filter.session_id)?,
        correlation_id: input::optional_uuid("filter.correlation_id", &filter.correlation_id)?,
        outcome: match outcome {
            AuditOutcome::Unspecified => None,
            AuditOutcome::Success => Some(Outcome::Success.as_str()),
            AuditOutcome::Refused => Some(Outcome::Refused.as_str()),
            AuditOutcome::Failed => Some(Outcome::Failed.as_str()),
        },
    })
}

/// Full names of types; a domain such as `session.*` becomes its types. Sorted, so that the order in which a client
/// names them does not matter to its cursor.
fn types(names: &[String]) -> Result<Vec<String>> {
    let refused = |name: &str| {
        let problem = "must be names of event types such as session.revoked, or domains such as session.*";
        Fault::field("filter.types", problem).with("type", name.chars().take(100).collect::<String>())
    };
    if names.len() > MOST_TYPES {
        return Err(Fault::field("filter.types", format!("must be at most {MOST_TYPES} names")));
    }
    let mut types = Vec::with_capacity(names.len());
    for name in names {
        let before = types.len();
        if let Some(domain) = name.strip_suffix(".*") {
            types.extend(EventType::of_domain(domain).map(|known| known.as_str().to_owned()));
        } else if EventType::parse(name).is_some() || is_external(name) {
            types.push(name.clone());
        }
        if types.len() == before {
            return Err(refused(name));
        }
    }
    types.sort_unstable();
    types.dedup();
    Ok(types)
}

fn is_external(name: &str) -> bool {
    let word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    name.len() <= 100
        && name.strip_prefix("ext.").is_some_and(|rest| rest.split('.').count() <= 3 && rest.split('.').all(word))
}

/// Whether a list begins with the newest.
pub(super) fn newest_first(order: i32) -> Result<bool> {
    match AuditOrder::try_from(order) {
        Ok(AuditOrder::Unspecified | AuditOrder::NewestFirst) => Ok(true),
        Ok(AuditOrder::OldestFirst) => Ok(false),
        Err(_) => Err(Fault::field("order", "must be a value of AuditOrder")),
    }
}

/// An event as its readers get it.
pub(super) fn event(event: &StoredEvent, keyring: &Keyring) -> AuditEvent {
    let opened = event.open(keyring);
    let id = |id: Option<Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
    let target = event.target_kind.clone().zip(event.target_id.clone());
    AuditEvent {
        position: event.position,
        event_id: event.event_id.to_string(),
        r#type: event.event_type.clone(),
        description: EventType::parse(&event.event_type).map(|known| known.meaning().to_owned()).unwrap_or_default(),
        outcome: outcome(event.outcome).into(),
        reason: event.reason.clone().unwrap_or_default(),
        occurred_at: Some(input::to_proto(event.occurred_at)),
        recorded_at: Some(input::to_proto(event.recorded_at)),
        tenant_id: id(event.tenant_id),
        actor: Some(AuditActor { kind: actor_kind(event.actor_kind).into(), id: id(event.actor_id) }),
        target: target.map(|(kind, id)| AuditTarget { kind, id }),
        session_id: id(event.session_id),
        correlation_id: id(event.correlation_id),
        request_id: id(event.request_id),
        details: Some(structure(&event.details)),
        origin: opened.origin.as_ref().map(origin),
        personal: opened.personal.as_ref().map(personal),
        personal_erased: opened.erased,
        source: event.source.clone().unwrap_or_default(),
        leaf_hash: event.leaf_hash.clone(),
    }
}

fn outcome(outcome: Outcome) -> AuditOutcome {
    match outcome {
        Outcome::Success => AuditOutcome::Success,
        Outcome::Refused => AuditOutcome::Refused,
        Outcome::Failed => AuditOutcome::Failed,
    }
}

fn actor_kind(kind: ActorKind) -> AuditActorKind {
    match kind {
        ActorKind::User => AuditActorKind::User,
        ActorKind::ServiceAccount => AuditActorKind::ServiceAccount,
        ActorKind::System => AuditActorKind::System,
        ActorKind::Anonymous => AuditActorKind::Anonymous,
    }
}

fn text(data: &Map<String, Value>, name: &str) -> String {
    data.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn origin(part: &OpenedPart) -> AuditOrigin {
    AuditOrigin {
        subject_id: part.subject.to_string(),
        ip_address: text(&part.data, "ip_address"),
        user_agent: text(&part.data, "user_agent"),
    }
}

fn personal(part: &OpenedPart) -> AuditPersonalData {
    let values = |name| part.data.get(name).and_then(Value::as_object).map(structure);
    // `old` and `new` that are no objects have no field of their own.
    let is_shown = |name: &str, value: &Value| name == "email" || (["old", "new"].contains(&name) && value.is_object());
    let other: Map<String, Value> = part
        .data
        .iter()
        .filter(|(name, value)| !is_shown(name, value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    AuditPersonalData {
        subject_id: part.subject.to_string(),
        email: text(&part.data, "email"),
        old_values: values("old"),
        new_values: values("new"),
        other: (!other.is_empty()).then(|| structure(&other)),
    }
}

fn structure(object: &Map<String, Value>) -> Struct {
    Struct { fields: object.iter().map(|(name, value)| (name.clone(), json(value))).collect() }
}

fn json(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        // Exact: the recorder writes larger numbers as text.
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(json).collect() }),
        Value::Object(object) => Kind::StructValue(structure(object)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Result<Vec<String>> {
        types(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_domain_stands_for_its_types_and_what_does_not_exist_is_refused() {
        let sessions = names(&["session.*"]).unwrap();
        assert!(
            sessions.contains(&"session.revoked".to_owned())
                && sessions.iter().all(|name| name.starts_with("session."))
        );
        assert_eq!(
            names(&["user.locked", "ext.order.cancelled", "user.locked"]).unwrap(),
            ["ext.order.cancelled", "user.locked"]
        );
        for unknown in
            ["", "*", ".*", "user", "user.", "user.lockd", "ext.", "ext.*", "ext.A", "ext.a.b.c.d", "nothing.*"]
        {
            assert!(names(&[unknown]).is_err(), "{unknown}");
        }
        assert!(names(&["user.locked"; 101]).is_err());
    }
}
