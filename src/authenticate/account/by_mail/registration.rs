//! Registering. There is no user before the address was confirmed, so that asking reserves no address and no name.
//!
//! Only a user who registered here and has not confirmed yet is sent the token again. An account that is in use
//! under an unconfirmed address has an owner; the owner of the mailbox must not confirm it for them unknowingly.

use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Letter, REGISTRATION_PREFIX, VERIFY_PREFIX};
use crate::access::{Call, names};
use crate::audit::{Event, EventType};
use crate::authenticate::account::Account;
use crate::authenticate::account::store::registrations::{self as store, NewRegistration, State, Unanswered};
use crate::authenticate::account::store::users::UserStatus;
use crate::authenticate::account::store::{one_time, users};
use crate::change::Change;
use crate::credential::StoredHash;
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};
use crate::mail::{Kind, Message};
use crate::token::opaque;

/// An account that is asked for.
pub(in crate::authenticate) struct NewAccount {
    pub request_id: Uuid,
    pub tenant_id: Uuid,
    pub email: String,
    pub username: Option<String>,
    pub full_name: String,
    pub password: Zeroizing<String>,
}

/// What the client gets who asked; the same whether or not the address has an account.
#[derive(Debug)]
pub(in crate::authenticate) struct Registered {
    pub secret: Zeroizing<String>,
    pub expires_at: DateTime<Utc>,
}

impl Account {
    /// Asks for an account.
    ///
    /// # Errors
    /// `INVALID_FIELD`, `REGISTRATION_CLOSED`, `MAIL_NOT_CONFIGURED`, `REQUEST_ID_REUSED`, `THROTTLED`, `OVERLOADED`:
    /// none of them has to do with whether the address has an account.
    pub(in crate::authenticate) async fn register(&self, call: &Call, new: NewAccount) -> Result<Registered> {
        let charge = self.may_send(call).await?;
        self.require_open(new.tenant_id).await?;
        let about = [new.email.as_str(), &new.full_name, new.username.as_deref().unwrap_or_default()];
        // Before anything is looked up about the address, and for a repeat as well: the work says nothing.
        let hash = self.hasher.new_password(&charge, &self.policy, "password", &new.password, &about).await?;
        let (digest, secret) = self.registration_secret(&new);
        let expires_at = self.keep_registration(call, &new, &hash, &digest, &secret).await?;
        Ok(Registered { secret, expires_at })
    }

    /// Refuses a tenant that is not open. Which ones are is no secret; for a closed one nothing is computed.
    async fn require_open(&self, tenant: Uuid) -> Result<()> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let is_open = store::is_open(&mut tx, tenant, None).await?;
        tx.commit().await?;
        if is_open { Ok(()) } else { Err(closed()) }
    }

    /// Stores a registration for the worker to answer, unless its request is repeated; says how long it can be confirmed.
    async fn keep_registration(
        &self,
        call: &Call,
        new: &NewAccount,
        password: &StoredHash,
        request_hash: &[u8; 32],
        secret: &str,
    ) -> Result<DateTime<Utc>> {
        let mut change = self.changes.begin(Scope::Platform).await?;
        let email_key = names::email_key(&new.email);
        let username_key = new.username.as_deref().and_then(names::username_key);
        // Once more: much may have changed while the password was hashed.
        if !store::is_open(&mut change.tx, new.tenant_id, Some(&email_key)).await? {
            return Err(closed());
        }
        let expires_at = change.now + self.config.mail.verification_lifetime;
        let registration = NewRegistration {
            registration_id: self.context.new_id(),
            request_id: new.request_id,
            request_hash,
            tenant_id: new.tenant_id,
            email: &new.email,
            email_key: &email_key,
            username: new.username.as_deref(),
            username_key: username_key.as_deref(),
            full_name: &new.full_name,
            password,
            secret_hash: &opaque::digest(secret),
            now: change.now,
            expires_at,
        };
        // Without a look whether the address has an account.
        if store::insert(&mut change.tx, &registration).await? {
            let event = Event::new(EventType::UserRegistrationRequested, call)
                .tenant(new.tenant_id)
                .request(new.request_id)
                .personal("email", &new.email)
                .personal("full_name", &new.full_name);
            change.record(event).await?;
            change.commit().await?;
            self.asked.notify_one();
            return Ok(expires_at);
        }
        match store::of_request(&mut change.tx, new.request_id).await? {
            Some(earlier) if earlier.request_hash == request_hash => Ok(earlier.expires_at),
            _ => Err(Fault::new(Reason::RequestIdReused, "This request_id was used before for a different request.")),
        }
    }

    /// Sends what the oldest registration without an answer leads to, and says what; none when there is none.
    pub(super) async fn answer_registration(&self) -> Result<Option<&'static str>> {
        let mut change = self.changes.begin(Scope::Platform).await?;
        let Some(asked) = store::lock_oldest(&mut change.tx).await? else { return Ok(None) };
        let answer = self.answer_asked(&mut change, &asked).await?;
        change.commit().await?;
        Ok(Some(answer))
    }

    async fn answer_asked(&self, change: &mut Change, asked: &Unanswered) -> Result<&'static str> {
        let (id, key) = (asked.registration_id, asked.email_key.as_str());
        let is_open = store::is_open(&mut change.tx, asked.tenant_id, Some(key)).await?;
        if asked.expires_at <= change.now || !is_open {
            store::close(&mut change.tx, &[id], State::Dropped).await?;
            return Ok("lapsed");
        }
        // The user before the count of the address, as a change of the user does.
        let user = users::lock_by_email(&mut change.tx, key).await?;
        let is_capped = self.outbox.is_rate_limited(&mut change.tx, key, Kind::VerifyEmail).await?;
        let lifetime = self.config.mail.verification_lifetime;
        let letter = Letter::new(&self.context, Kind::VerifyEmail, VERIFY_PREFIX, lifetime);
        let answer = match user {
            _ if is_capped => "capped",
            None => {
                // The rows of registrations last: a call with the same request_id waits for the end of their change, and how
                // long that takes must not tell it anything.
                change.notify(letter.to_address(&asked.email)).await?;
                let older = store::lock_sent(&mut change.tx, key, asked.tenant_id).await?;
                store::close(&mut change.tx, &older, State::Superseded).await?;
                store::send(&mut change.tx, id, &letter.token.token_hash).await?;
                return Ok("verification_sent");
            }
            // A user whose address is not confirmed yet is sent the token to do so.
            Some(user) if user.status == UserStatus::PendingVerification => {
                let mail = self.outbox.prepare(letter.to_user(user.user_id));
                let (token, now) = (&letter.token, change.now);
                one_time::ask_verification(&mut change.tx, user.user_id, token, now, mail.as_ref()).await?;
                "verification_repeated"
            }
            Some(user) => {
                change.notify(Message::to_user(Kind::RegistrationAttempt, user.user_id)).await?;
                "owner_told"
            }
        };
        store::close(&mut change.tx, &[id], State::Dropped).await?;
        Ok(answer)
    }

    /// What recognises the request, and the secret that goes with it: derived, so that a repeat yields the same one
    /// and nothing secret is stored. Who knows neither id nor body of the request, password included, cannot get it.
    fn registration_secret(&self, new: &NewAccount) -> ([u8; 32], Zeroizing<String>) {
        let key = self.keyring.derive("registration secrets");
        let mac = |purpose: &[u8]| -> [u8; 32] {
            // A key of 32 bytes is never refused.
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&*key) else { return [0; 32] };
            let username = new.username.as_deref().unwrap_or_default();
            let texts = [new.email.as_str(), username, &new.full_name, &new.password];
            mac.update(purpose);
            mac.update(new.request_id.as_bytes());
            mac.update(new.tenant_id.as_bytes());
            for text in texts {
                // Lengths keep ("ab", "c") apart from ("a", "bc").
                mac.update(&(text.len() as u64).to_be_bytes());
                mac.update(text.as_bytes());
            }
            mac.finalize().into_bytes().into()
        };
        let bytes = Zeroizing::new(mac(b"secret"));
        (mac(b"request"), opaque::with_bytes(REGISTRATION_PREFIX, &bytes))
    }
}

fn closed() -> Fault {
    Fault::new(Reason::RegistrationClosed, "Nobody can register in this tenant by themselves.")
}
