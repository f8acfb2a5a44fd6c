//! Signing in through Kanidm: begun here, done in the person's browser, completed here by the client that began it.

use chrono::TimeDelta;
use serde_json::json;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::store::kanidm::{self as store, KanidmFinish, Taken};
use super::store::login::{self, Finished};
use super::{Authenticate, SignedIn, invalid_credentials, tenant_required};
use crate::access::Call;
use crate::audit::{Event, EventType, Outcome};
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::{Authorization, Oidc};
use crate::metrics::{LoginMethod, LoginOutcome};
use crate::seal::Place;
use crate::session::{Wish, hex, no_tenant, opaque};

/// Prefix of the secret that the client keeps which began a login.
const SECRET_PREFIX: &str = "sidle_ls_";

/// A login that was begun.
#[derive(Debug)]
pub(super) struct Begun {
    pub authorization_url: String,
    pub state: Zeroizing<String>,
    pub secret: Zeroizing<String>,
    pub expires_at: chrono::DateTime<chrono::Utc>,
}

/// What came back to the client's redirect address, and what it kept.
pub(super) struct Return {
    pub state: Zeroizing<String>,
    pub code: Zeroizing<String>,
    pub secret: Zeroizing<String>,
}

impl Authenticate {
    /// Begins a login through Kanidm.
    ///
    /// # Errors
    /// `INVALID_FIELD` for an address that is not in the list, `KANIDM_NOT_CONFIGURED`, `KANIDM_UNAVAILABLE`.
    pub(super) async fn start_kanidm(&self, redirect_uri: &str, wish: &Wish) -> Result<Begun> {
        let kanidm = self.configured_kanidm()?;
        // Compared as text: every rule cleverer than that has been got around somewhere.
        if !self.config.kanidm.redirect_uris.iter().any(|known| known == redirect_uri) {
            return Err(Fault::field("redirect_uri", "must be exactly one of the configured addresses"));
        }
        let entropy = &self.context.entropy;
        let [state, nonce, verifier] = [(); 3].map(|()| opaque::mint("", entropy));
        let secret = opaque::mint(SECRET_PREFIX, entropy);
        let login = Authorization { redirect_uri, state: &state, nonce: &nonce, verifier: &verifier };
        let authorization_url = kanidm.authorization_url(login).await?.to_string();
        let (login_id, now) = (self.context.new_id(), self.context.now());
        let expires_at = now + TimeDelta::from_std(self.config.kanidm.login_lifetime).unwrap_or_default();
        let record = json!({
            "login_id": login_id,
            "state_hash": hex(&opaque::digest(state.as_bytes())),
            "secret_hash": hex(&opaque::digest(secret.as_bytes())),
            "nonce_hash": hex(&opaque::digest(nonce.as_bytes())),
            "redirect_uri": redirect_uri,
            "request": wish,
            "created_at": now,
            "expires_at": expires_at,
        });
        let verifier = self.keyring.seal(entropy, place(login_id), verifier.as_bytes());
        store::begin_kanidm(self.db.pool(), &record, &verifier).await?;
        Ok(Begun { authorization_url, state, secret, expires_at })
    }

    /// Completes a login through Kanidm.
    ///
    /// # Errors
    /// `INVALID_LOGIN_ATTEMPT`, `PERSON_NOT_LINKED`, `NO_TENANT`, `TENANT_REQUIRED`, `INVALID_CREDENTIALS`,
    /// `KANIDM_REFUSED`, `KANIDM_UNAVAILABLE`, `KANIDM_NOT_CONFIGURED`.
    pub(super) async fn complete_kanidm(&self, call: &Call, back: Return) -> Result<SignedIn> {
        let kanidm = self.configured_kanidm()?.clone();
        let (room, call) = (self.clone(), call.clone());
        // To its end, also if the caller goes away: what happened is written down.
        let made = tokio::spawn(async move { room.complete(&kanidm, &call, &back).await });
        let answer = made.await.map_err(Fault::internal)?;
        let outcome = match answer.as_ref().map_err(Fault::reason) {
            Ok(_) => LoginOutcome::Success,
            Err(Reason::KanidmUnavailable | Reason::DatabaseUnavailable | Reason::Internal) => LoginOutcome::Failed,
            Err(_) => LoginOutcome::Refused,
        };
        self.metrics.login(LoginMethod::Kanidm, outcome);
        answer
    }

    async fn complete(&self, kanidm: &Oidc, call: &Call, back: &Return) -> Result<SignedIn> {
        let (state, secret) = (opaque::digest(back.state.as_bytes()), opaque::digest(back.secret.as_bytes()));
        let taken = store::take_kanidm(self.db.pool(), &state, &secret, self.context.now()).await?;
        let Some(taken) = taken.filter(|taken| taken.live) else {
            self.refuse_kanidm(call, "unknown_attempt").await?;
            return Err(invalid_attempt());
        };
        let signed_in = match self.exchange_code(kanidm, &taken, &back.code).await {
            Ok(signed_in) => signed_in,
            Err(fault) => {
                let reason = match fault.reason() {
                    Reason::KanidmUnavailable => "kanidm_unavailable",
                    _ => "kanidm_refused",
                };
                self.refuse_kanidm(call, reason).await?;
                return Err(fault);
            }
        };
        // The code came from another login than the one that this client began.
        let nonce = opaque::digest(signed_in.nonce.as_deref().unwrap_or_default());
        if !bool::from(nonce.ct_eq(&taken.nonce_hash)) {
            self.refuse_kanidm(call, "nonce_mismatch").await?;
            return Err(invalid_attempt());
        }
        self.sign_in_person(call, &taken.wish, &signed_in).await
    }

    async fn exchange_code(&self, kanidm: &Oidc, taken: &Taken, code: &str) -> Result<crate::kanidm::SignedIn> {
        let verifier = self.keyring.open(place(taken.login_id), &taken.pkce_verifier)?;
        let verifier = Zeroizing::new(String::from_utf8_lossy(&verifier).into_owned());
        Ok(kanidm.exchange(code, &taken.redirect_uri, &verifier).await?)
    }

    /// Signs in whoever is linked to the person, with the memberships that the person's groups give.
    async fn sign_in_person(&self, call: &Call, wish: &Wish, person: &crate::kanidm::SignedIn) -> Result<SignedIn> {
        let mut opening = self.sessions.opener.open(call, wish);
        self.sessions.opener.with_kanidm(&mut opening, person.session, &person.refresh_token);
        let session_id = opening.session_id;
        let prepare = |event: Event| self.recorder.prepare(event);
        let by_system = |event_type| Event::by_system(event_type, call.correlation_id).session(session_id);
        let finish = KanidmFinish {
            person: person.person,
            groups: &person.groups,
            tenant_id: wish.tenant_id,
            now: self.context.now(),
            session: opening.record(),
            event: prepare(Event::new(EventType::UserAuthenticated, call).detail("method", "kanidm")),
            refused: prepare(refused(call).detail("person", person.person)),
            groups_changed: prepare(by_system(EventType::MembershipSynced)),
            migrated: prepare(by_system(EventType::UserMigrated)),
        };
        let finished = store::finish_kanidm(self.db.pool(), &finish).await?;
        self.recorder.nudge();
        let (rights, user) = match finished {
            Some(Finished::SignedIn { rights, user, .. }) => (rights, user),
            Some(Finished::Refused | Finished::MfaRequired { .. }) => return Err(invalid_credentials()),
            Some(Finished::NoTenant) => return Err(no_tenant()),
            Some(Finished::TenantRequired(choices)) => return Err(tenant_required(&choices)),
            None => {
                return Err(Fault::new(Reason::PersonNotLinked, "No user is linked to this Kanidm person."));
            }
        };
        self.sessions.note(user.user_id, &rights);
        let tokens = self.sessions.opener.tokens(opening, user.user_id, &rights)?;
        tracing::info!(event = "user_authenticated", method = "kanidm", user_id = %user.user_id, %session_id);
        let (tenant_id, must_change_password) = (rights.tenant_id, rights.must_change_password);
        Ok(SignedIn { tokens, session_id, tenant_id, user, must_change_password, known_device_token: None })
    }

    async fn refuse_kanidm(&self, call: &Call, reason: &'static str) -> Result<()> {
        let event = self.recorder.prepare(refused(call).reason(reason));
        login::login_refuse(self.db.pool(), &event, None).await?;
        self.recorder.nudge();
        tracing::info!(event = "user_login_refused", method = "kanidm", reason);
        Ok(())
    }

    fn configured_kanidm(&self) -> Result<&Oidc> {
        self.kanidm.as_ref().ok_or_else(|| Fault::new(Reason::KanidmNotConfigured, "No Kanidm is configured."))
    }
}

fn refused(call: &Call) -> Event {
    Event::new(EventType::UserLoginRefused, call).outcome(Outcome::Refused).detail("method", "kanidm")
}

fn invalid_attempt() -> Fault {
    Fault::new(Reason::InvalidLoginAttempt, "There is no such login attempt of this client.")
}

fn place(login_id: Uuid) -> Place {
    Place { table: "kanidm_logins", column: "pkce_verifier", row: login_id }
}
