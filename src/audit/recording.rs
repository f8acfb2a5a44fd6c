//! Writing events: into the inbox, in the transaction of the change, personal data sealed. The event becomes durable
//! with the change or not at all; its position follows once both are committed.

use std::sync::Arc;

use crate::db::Connection;
use hmac::{Hmac, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use tokio::sync::Notify;
use uuid::Uuid;

use super::json::canonical;
use super::store::Prepared;
use super::{Event, store};
use crate::context::Context;
use crate::fault::{Fault, Result};
use crate::seal::{Keyring, SealContext};

/// What every writer of events holds.
#[derive(Clone, Debug)]
pub struct Recorder {
    context: Context,
    keyring: Keyring,
    wake: Arc<Notify>,
}

impl Recorder {
    pub fn new(context: Context, keyring: Keyring) -> Self {
        Self { context, keyring, wake: Arc::default() }
    }

    /// Records an event in the transaction that `connection` is in.
    ///
    /// # Errors
    /// When the database fails; the transaction must then not be committed.
    pub async fn record(&self, connection: &mut Connection, event: Event) -> Result<Uuid> {
        let prepared = self.prepare(event);
        store::record(connection, &prepared.event, prepared.personal.as_deref()).await?;
        self.wake();
        Ok(prepared.event_id())
    }

    /// Records several events in their order, in one round trip.
    ///
    /// # Errors
    /// When the database fails; the transaction must then not be committed.
    pub async fn record_all(&self, connection: &mut Connection, events: impl IntoIterator<Item = Event>) -> Result<()> {
        let (events, personal): (Vec<Value>, Vec<Option<Vec<u8>>>) = events
            .into_iter()
            .map(|event| self.prepare(event))
            .map(|prepared| (prepared.event, prepared.personal))
            .unzip();
        if !events.is_empty() {
            store::record_all(connection, &events, &personal).await?;
            self.wake();
        }
        Ok(())
    }

    /// Records an event that was prepared and kept before it was known about which user it is, and that is about this one.
    ///
    /// # Errors
    /// When the database fails; the transaction must then not be committed.
    pub async fn record_kept(
        &self,
        connection: &mut Connection,
        mut event: Value,
        personal: Option<&[u8]>,
        (user, tenant): (Uuid, Uuid),
    ) -> Result<()> {
        let fields = event.as_object_mut().ok_or_else(|| Fault::internal("an event that was kept is no object"))?;
        let known = [("tenant_id", json!(tenant)), ("target_kind", json!("user")), ("target_id", json!(user))];
        fields.extend(known.map(|(name, value)| (name.to_owned(), value)));
        fields.insert("personal_subject".to_owned(), json!(user));
        store::record(connection, &event, personal).await?;
        self.wake();
        Ok(())
    }

    /// Makes an event ready for a database function that records it itself. Such a function may override what only it
    /// knows: outcome, reason, type, tenant, session, actor, target, `personal_subject`, details. Each prepared event
    /// may be recorded once.
    pub fn prepare(&self, event: Event) -> Prepared {
        let event_id = self.context.new_id();
        let has_personal = !(event.origin.is_empty() && event.personal.is_empty());
        let subject = event.known_subject().or_else(|| has_personal.then(|| self.nobody(event_id)));
        let target = event.target.as_ref();
        let fields = json!({
            "event_id": event_id,
            "event_type": event.event_type.as_str(),
            "outcome": event.outcome.as_str(),
            "reason": event.reason,
            "occurred_at": self.context.now(),
            "tenant_id": event.tenant_id,
            "actor_kind": event.actor_kind.as_str(),
            "actor_id": event.actor_id,
            "target_kind": target.map(|(kind, _)| kind),
            "target_id": target.map(|(_, id)| id),
            "session_id": event.session_id,
            "correlation_id": event.correlation_id,
            "request_id": event.request_id,
            "origin_subject": event.actor_id,
            "personal_subject": subject,
            "details": event.details,
        });
        let personal = has_personal.then(|| self.seal(event_id, event.origin, event.personal));
        Prepared { event: fields, personal }
    }

    /// Wakes this replica's sequencer: there is, or is about to be, something to do. Not needed for correctness: it
    /// looks by itself many times a second.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn wakes(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    fn seal(&self, event_id: Uuid, origin: Map<String, Value>, personal: Map<String, Value>) -> Vec<u8> {
        let parts = Map::from_iter([
            ("origin".to_owned(), Value::Object(origin)),
            ("personal".to_owned(), Value::Object(personal)),
        ]);
        self.keyring.seal(&self.context.entropy, waiting_context(event_id), &canonical(&parts))
    }

    /// Stands for every caller without a known account. One for each day, so that anonymous callers take one key a day
    /// however many there were, and can be forgotten by the day; those who have an account have keys of their own.
    fn nobody(&self, event_id: Uuid) -> Uuid {
        let key = self.keyring.derive("audit pseudonyms");
        // HMAC takes keys of any length, so this cannot fail.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&*key) else { return event_id };
        mac.update(format!("nobody {}", self.context.now().date_naive()).as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

/// Where personal data lies, sealed, until its event has a position.
pub(super) fn waiting_context(event_id: Uuid) -> SealContext {
    SealContext { table: "audit_inbox", column: "personal_sealed", row: event_id }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::access::Call;
    use crate::audit::EventType;

    fn recorder() -> Recorder {
        Recorder::new(Context::system(), Keyring::new([(1, Zeroizing::new([7; 32]))]).unwrap())
    }

    fn call() -> Call {
        Call {
            address: Some([203, 0, 113, 7].into()),
            user_agent: Some("grpcurl".to_owned()),
            ..Call::internal(Uuid::nil())
        }
    }

    #[test]
    fn what_is_personal_is_only_in_the_sealed_part() {
        let event =
            Event::new(EventType::UserLoginRefused, &call()).personal("email", "ann@example.com").detail("count", 3);
        let prepared = recorder().prepare(event);
        let open = prepared.event.to_string();
        for secret in ["ann@example.com", "203.0.113.7", "grpcurl"] {
            assert!(!open.contains(secret), "{secret} is in {open}");
        }
        let event_id = prepared.event_id();
        let sealed = prepared.personal.unwrap();
        let opened = recorder().keyring.open(waiting_context(event_id), &sealed).unwrap();
        let opened: Value = serde_json::from_slice(&opened).unwrap();
        assert_eq!(opened["personal"]["email"], "ann@example.com");
        assert_eq!(opened["origin"]["ip_address"], "203.0.113.7");
        assert_eq!(prepared.event["details"]["count"], 3);
    }

    #[test]
    fn strangers_share_one_key_a_day_whatever_they_call_themselves() {
        let recorder = recorder();
        let subject = |email: &str| {
            let event = Event::new(EventType::UserLoginRefused, &call()).personal("email", email);
            recorder.prepare(event).event["personal_subject"].clone()
        };
        let today = subject("ann@example.com");
        assert_eq!(today, subject("bob@example.com"));
        recorder.context.clock.advance(std::time::Duration::from_secs(24 * 3600));
        assert_ne!(today, subject("ann@example.com"));
    }

    #[test]
    fn an_event_without_personal_data_has_nothing_sealed() {
        let prepared = recorder().prepare(Event::by_system(EventType::MigrationCompleted, Uuid::nil()));
        assert_eq!((prepared.personal, &prepared.event["personal_subject"]), (None, &Value::Null));
    }

    #[test]
    fn the_callers_address_belongs_to_the_caller_and_the_change_to_the_changed() {
        let (admin, user) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let event = Event::new(EventType::UserUpdated, &call()).by_user(admin).target("user", user).old_new("a", "b");
        let fields = recorder().prepare(event).event;
        assert_eq!(fields["origin_subject"], admin.to_string());
        assert_eq!(fields["personal_subject"], user.to_string());
    }
}
