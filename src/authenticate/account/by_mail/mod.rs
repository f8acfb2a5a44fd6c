//! What goes through mail: registering, confirming an address, setting a password that was forgotten.
//!
//! What any caller can ask for is written down with the same work for every address, and answered. Whether the address
//! has an account is looked up afterwards, by a worker, which sends what it leads to: neither answer, work nor time of
//! the call can reveal it.

mod registration;
mod reset;
mod verification;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use zeroize::Zeroizing;

pub(in crate::authenticate) use self::registration::NewAccount;
use super::store::one_time::{self, NewToken};
use crate::access::Call;
use crate::authenticate::account::Account;
use crate::config::MailConfig;
use crate::context::Context;
use crate::credential::{Charge, RateLimitBucket};
use crate::db::Connection;
use crate::fault::{Fault, Reason, Result};
use crate::mail::{Kind, Message, Outbox};
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
    pub fn new(context: Context, outbox: Outbox, config: &MailConfig) -> Self {
        Self { context, outbox, lifetime: config.verification_lifetime }
    }

    /// Asks a user to confirm their present address, in the transaction of the change; older requests are void. Nothing
    /// when there is no mail server.
    ///
    /// # Errors
    /// When the database fails; the transaction must then not be committed.
    pub async fn ask(&self, tx: &mut Connection, user: Uuid) -> Result<()> {
        let letter = Letter::new(&self.context, Kind::VerifyEmail, VERIFY_PREFIX, self.lifetime);
        let mail = self.outbox.prepare(letter.to_user(user));
        one_time::ask_verification(tx, user, &letter.token, self.context.now(), mail.as_ref()).await?;
        self.outbox.wake();
        Ok(())
    }
}

/// A fresh token and the message that brings it.
struct Letter {
    /// What the database keeps of the token.
    token: NewToken,
    secret: Zeroizing<String>,
    kind: Kind,
    lifetime: Duration,
}

impl Letter {
    fn new(context: &Context, kind: Kind, prefix: &str, lifetime: Duration) -> Self {
        let (secret, expires_at) = (opaque::mint(prefix, &context.entropy), context.now() + lifetime);
        let token = NewToken { token_id: context.new_id(), token_hash: opaque::digest(&*secret), expires_at };
        Self { token, secret, kind, lifetime }
    }

    /// The message to a user, at the address that they have now.
    fn to_user(&self, user: Uuid) -> Message {
        self.with_token(Message::to_user(self.kind, user))
    }

    /// The message to an address that no user has yet.
    fn to_address(&self, address: &str) -> Message {
        self.with_token(Message::to_address(self.kind, None, address))
    }

    fn with_token(&self, message: Message) -> Message {
        message.lifetime(self.lifetime).with("token", self.secret.as_str()).with("expires_at", self.token.expires_at)
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
