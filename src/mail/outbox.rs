//! Where messages are written: in the transaction of the change, so that there is neither without the other.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use uuid::Uuid;

use super::store::NewMessage;
use super::{Kind, Message, store};
use crate::access::names::email_key;
use crate::config::MailConfig;
use crate::context::Context;
use crate::db::{Connection, interval};
use crate::fault::Result;
use crate::seal::{Keyring, SealContext};

/// Takes messages. Without a mail server it takes none, and none is waited for.
#[derive(Clone, Debug)]
pub struct Outbox {
    context: Context,
    keyring: Keyring,
    is_configured: bool,
    give_up_after: Duration,
    per_address_and_hour: u32,
    wake: Arc<Notify>,
}

impl Outbox {
    pub fn new(context: Context, keyring: Keyring, config: &MailConfig) -> Self {
        Self {
            context,
            keyring,
            is_configured: config.is_configured(),
            give_up_after: config.give_up_after,
            per_address_and_hour: config.per_address_and_hour,
            wake: Arc::default(),
        }
    }

    /// Whether there is a mail server.
    pub fn is_configured(&self) -> bool {
        self.is_configured
    }

    /// Writes a message in the transaction that `tx` is in; nothing when there is no mail server, or when the user has
    /// gone.
    ///
    /// # Errors
    /// When the database fails; the transaction must then not be committed.
    pub async fn enqueue(&self, tx: &mut Connection, message: Message) -> Result<()> {
        if let Some(message) = self.prepare(message) {
            store::enqueue(tx, &message).await?;
            self.wake();
        }
        Ok(())
    }

    /// Whether an address, by its key, has had its share of messages of a kind in the last hour, so that none would be
    /// written to it. Of kinds that anybody can request, concurrent calls for the same address wait until the transaction
    /// ends, which must be one of the platform.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_rate_limited(&self, tx: &mut Connection, address_key: &str, kind: Kind) -> Result<bool> {
        store::is_rate_limited(tx, address_key, kind.as_str(), self.per_address_and_hour).await
    }

    /// Makes a message ready for database functions that write it themselves; none, which they take as well, when there is
    /// no mail server. Each prepared message may be written once; then call [`Outbox::wake`].
    pub fn prepare(&self, message: Message) -> Option<NewMessage> {
        if !self.is_configured {
            return None;
        }
        let mail_id = self.context.new_id();
        let lifetime = message.lifetime.unwrap_or(self.give_up_after).min(self.give_up_after);
        let parameters = Value::Object(message.parameters).to_string();
        let sealed = self.keyring.seal(&self.context.entropy, seal_context(mail_id), parameters.as_bytes());
        Some(NewMessage {
            mail_id,
            kind: message.kind.as_str().to_owned(),
            user_id: message.user,
            recipient_key: message.address.as_deref().map(email_key),
            recipient: message.address,
            parameters: sealed,
            lifetime: interval(lifetime),
            per_address_and_hour: i32::try_from(self.per_address_and_hour).unwrap_or(i32::MAX),
        })
    }

    /// Wakes this replica's worker, since there is, or is about to be, something to send. Not needed for correctness.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn wakes(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }
}

/// Where the parameters of a message lie.
pub(super) fn seal_context(mail_id: Uuid) -> SealContext {
    SealContext { table: "mail_outbox", column: "parameters", row: mail_id }
}
