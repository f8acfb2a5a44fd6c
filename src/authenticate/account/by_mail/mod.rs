//! Ways in that go through mail: registering, confirming an address, setting a password that was forgotten.
//!
//! What anybody can ask for is written down with the same work for every address, and answered. Whether the address has
//! an account is looked up afterwards, by a worker, who sends what it leads to: neither answer, work nor time of the call
//! can tell.

mod registration;
mod reset;
mod verification;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use crate::db::Connection;
use serde_json::{Value, json};
use uuid::Uuid;

pub(in crate::authenticate) use self::registration::NewAccount;
use super::store::by_mail as store;
use crate::access::Call;
use crate::authenticate::account::Account;
use crate::config::MailConfig;
use crate::context::Context;
use crate::credential::{Charge, RateLimitBucket};
use crate::fault::{Fault, Reason, Result};
use crate::mail::{Kind, Message, Outbox};
use crate::session::hex;
use crate::token::opaque;

/// Prefix of tokens that confirm an address.
pub(in crate::authenticate) const VERIFY_PREFIX: &str = "sidle_ev_";
/// Prefix of tokens that set a password.
pub(in crate::authenticate) const RESET_PREFIX: &str = "sidle_pr_";
/// Prefix of the secrets that clients get who register.
pub(in crate::authenticate) const REGISTRATION_PREFIX: &str = "sidle_rs_";

/// Sends users the way to confirm an address that an administrator gave them.
#[derive(Clone, Debug)]
pub struct Verifications {
    context: Context,
    outbox: Outbox,
    lifetime: Duration,
}

impl Verifications {
    /// Over this outbox.
    pub fn new(context: Context, outbox: Outbox, config: &MailConfig) -> Self {
        Self { context, outbox, lifetime: config.verification_lifetime }
    }

    /// Asks a user to confirm their present address, in the transaction of the change; older requests are void. Nothing
    /// when there is no mail server.
    ///
    /// # Errors
    /// When the database fails; the transaction must then not be committed.
    pub async fn ask(&self, tx: &mut Connection, user: Uuid) -> Result<()> {
        let letter = Letter::new(&self.context, &self.outbox, Kind::VerifyEmail, VERIFY_PREFIX, self.lifetime);
        store::ask_verification(tx, user, &letter.token, self.context.now(), letter.mail.as_ref()).await?;
        self.outbox.wake();
        Ok(())
    }
}

/// A fresh token and the message that brings it.
struct Letter {
    /// What the database keeps of the token.
    token: Value,
    /// The message; none without a mail server.
    mail: Option<Value>,
}

impl Letter {
    fn new(context: &Context, outbox: &Outbox, kind: Kind, prefix: &str, lifetime: Duration) -> Self {
        let (secret, expires_at) = (opaque::mint(prefix, &context.entropy), context.now() + lifetime);
        let message = Message::to_address(kind, None, "")
            .lifetime(lifetime)
            .with("token", secret.as_str())
            .with("expires_at", expires_at);
        let token = json!({
            "token_id": context.new_id(),
            "token_hash": hex(&opaque::digest(&*secret)),
            "expires_at": expires_at,
        });
        Self { token, mail: outbox.prepare(message) }
    }
}

impl Account {
    /// Takes the call out of what its address may ask for, and refuses it when nothing could be sent. Both are the same
    /// for every address of mail.
    async fn may_send(&self, call: &Call) -> Result<Arc<Charge>> {
        let charge = self.login.throttle(call, RateLimitBucket::Mail).await?;
        if self.outbox.is_configured() {
            return Ok(charge);
        }
        Err(Fault::new(Reason::MailNotConfigured, "The service has no mail server to send the message through."))
    }

    /// A handle for those who give addresses to users.
    pub fn verifications(&self) -> Verifications {
        Verifications::new(self.context.clone(), self.outbox.clone(), &self.config.mail)
    }
}
