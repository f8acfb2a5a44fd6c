//! Registering. There is no user before the address was confirmed, so that nobody takes an address or a name by asking.

use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac as _};
use serde_json::json;
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::REGISTRATION_PREFIX;
use super::store::{self, Asked};
use crate::access::{Call, names};
use crate::audit::{Event, EventType};
use crate::authenticate::account::Account;
use crate::fault::{Fault, Reason, Result};
use crate::session::hex;
use crate::token::opaque;

/// An account that somebody asks for.
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
        // Which tenants are open is no secret; for a closed one nothing is computed.
        if !store::registration_is_open(&self.db, new.tenant_id).await? {
            return Err(closed());
        }
        let about = [new.email.as_str(), &new.full_name, new.username.as_deref().unwrap_or_default()];
        // Before anything is looked up about the address, and for a repeat as well: the work says nothing.
        let hash = self.hasher.new_password(&charge, &self.policy, "password", &new.password, &about).await?;
        let (digest, secret) = self.registration_secret(&new);
        let now = self.context.now();
        let registration = json!({
            "registration_id": self.context.new_id(),
            "request_id": new.request_id,
            "request_hash": hex(&digest),
            "tenant_id": new.tenant_id,
            "email": new.email,
            "email_key": names::email_key(&new.email),
            "username": new.username,
            "username_key": new.username.as_deref().and_then(names::username_key),
            "full_name": new.full_name,
            "password_hash": hash.hash,
            "password_cost": hash.cost,
            "password_pepper_id": hash.pepper_id,
            "secret_hash": hex(&opaque::digest(&*secret)),
            "expires_at": now + self.config.mail.verification_lifetime,
        });
        let event = Event::new(EventType::UserRegistrationRequested, call)
            .tenant(new.tenant_id)
            .request(new.request_id)
            .personal("email", &new.email)
            .personal("full_name", &new.full_name);
        let event = self.recorder.prepare(event);
        let asked = store::ask_registration(&self.db, &registration, now, &event).await?;
        self.recorder.wake();
        self.asked.notify_one();
        match asked {
            Asked::Until(expires_at) => Ok(Registered { secret, expires_at }),
            Asked::Closed => Err(closed()),
            Asked::Reused => {
                Err(Fault::new(Reason::RequestIdReused, "This request_id was used before for a different request."))
            }
        }
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
