//! Going to Kanidm and coming back: begun here, done in the person's browser, completed here by the client that began it.
//! What a completed one is good for is said in `login`, `link` and `proof`.

use chrono::{DateTime, TimeDelta, Utc};
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::KanidmLogin;
use super::link_refusal;
pub(in crate::authenticate) use super::store::Purpose;
use super::store::{self as store, Going, Taken, Taker};
use crate::access::{Call, Principal, PrincipalKind};
use crate::audit::{Event, EventType, Outcome};
use crate::authenticate::login::store::login;
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm::{Authorization, Oidc, SignedIn};
use crate::seal::SealContext;
use crate::session::SessionRequest;
use crate::token::opaque;

/// Prefix of the secret that the client keeps which began a login.
const SECRET_PREFIX: &str = "sidle_ls_";
/// Name of the RPC, as proofs are made for it.
const START: &str = "sidle.v1.AuthenticateService/StartKanidmLogin";

/// What a client asks for.
pub(in crate::authenticate) struct Start {
    pub redirect_uri: String,
    pub session_request: SessionRequest,
    pub purpose: Purpose,
}

/// An attempt that was started: what the client needs to go to Kanidm, and to come back.
#[derive(Debug)]
pub(in crate::authenticate) struct StartedLogin {
    pub authorization_url: String,
    pub state: Zeroizing<String>,
    pub secret: Zeroizing<String>,
    pub expires_at: DateTime<Utc>,
}

/// What came back to the client's redirect address, and what it kept.
pub(in crate::authenticate) struct Return {
    pub state: Zeroizing<String>,
    pub code: Zeroizing<String>,
    pub secret: Zeroizing<String>,
}

/// A login at Kanidm that ended well, whatever it was for.
pub(in crate::authenticate) struct Arrived {
    pub purpose: Purpose,
    pub session_request: SessionRequest,
    pub person: SignedIn,
    /// When the attempt began.
    pub begun_at: DateTime<Utc>,
}

/// The user and the session behind a call; attempts that belong to one are begun and completed by it alone.
#[derive(Clone, Copy, Debug)]
pub(in crate::authenticate) struct Holder {
    pub user_id: Uuid,
    pub session_id: Uuid,
}

impl Holder {
    /// The holder of an access token, where it is a user's with a session.
    pub fn of(principal: &Principal) -> Option<Self> {
        let session_id = principal.session_id.filter(|_| principal.kind == PrincipalKind::User)?;
        Some(Self { user_id: principal.id, session_id })
    }
}

impl KanidmLogin {
    /// Begins a login through Kanidm; one that is to prove or to link belongs to `holder`.
    ///
    /// # Errors
    /// `INVALID_FIELD` for an address that is not in the list, `KANIDM_NOT_CONFIGURED`, `KANIDM_UNAVAILABLE`;
    /// `UNAUTHENTICATED` without a holder; `KANIDM_PROOF_UNAVAILABLE`; `STEP_UP_REQUIRED`, `ALREADY_EXISTS`.
    pub(in crate::authenticate) async fn start_kanidm(
        &self,
        call: &Call,
        start: &Start,
        holder: Option<Holder>,
    ) -> Result<StartedLogin> {
        let kanidm = self.configured_kanidm()?;
        let holder = self.check_start(kanidm, start, holder)?;
        let entropy = &self.context.entropy;
        let [state, nonce, verifier] = [(); 3].map(|()| opaque::mint("", entropy));
        let secret = opaque::mint(SECRET_PREFIX, entropy);
        let (login_id, now) = (self.context.new_id(), self.context.now());
        let expires_at = now + TimeDelta::from_std(self.config.kanidm.login_lifetime).unwrap_or_default();
        let going = Going {
            login_id,
            purpose: start.purpose,
            holder: holder.map(|holder| (holder.user_id, holder.session_id)),
            state: opaque::digest(state.as_bytes()),
            secret: opaque::digest(secret.as_bytes()),
            nonce: opaque::digest(nonce.as_bytes()),
            pkce_verifier: self.keyring.seal(entropy, seal_context(login_id), verifier.as_bytes()),
            redirect_uri: &start.redirect_uri,
            session_request: &start.session_request,
            created_at: now,
            expires_at,
        };
        let about_person = self.go(call, &going, holder).await?;
        let anew = start.purpose == Purpose::StepUp;
        let redirect_uri = &start.redirect_uri;
        let login =
            Authorization { redirect_uri, state: &state, nonce: &nonce, verifier: &verifier, anew, about_person };
        let authorization_url = kanidm.authorization_url(login).await?.to_string();
        Ok(StartedLogin { authorization_url, state, secret, expires_at })
    }

    /// Refuses what cannot be started; gives the holder that the attempt belongs to, none for a login.
    fn check_start(&self, kanidm: &Oidc, start: &Start, holder: Option<Holder>) -> Result<Option<Holder>> {
        // Compared as text: every rule cleverer than that has been got around somewhere.
        if !self.config.kanidm.redirect_uris.contains(&start.redirect_uri) {
            return Err(Fault::field("redirect_uri", "must be exactly one of the configured addresses"));
        }
        let holder = match start.purpose {
            Purpose::Login => None,
            _ => Some(holder.ok_or_else(|| Fault::new(Reason::Unauthenticated, "The call needs a user's session."))?),
        };
        if start.purpose == Purpose::StepUp && !kanidm.tells_auth_time() {
            return Err(unavailable());
        }
        Ok(holder)
    }

    /// Remembers a login that goes to Kanidm, unless its purpose is not open to the user; returns whether a person may
    /// become a user by it.
    async fn go(&self, call: &Call, going: &Going<'_>, holder: Option<Holder>) -> Result<bool> {
        let mut tx = self.db.begin(Scope::Platform).await?;
        let mut about_person = false;
        match holder {
            None => about_person = store::makes_users(&mut tx, going.session_request.tenant_id).await?,
            Some(holder) if going.purpose == Purpose::Link => {
                // First what locks the user: a change of the user's credentials voids their proofs in this order.
                if let (_, Some(refusal)) = link_refusal::hold(&mut tx, holder.user_id, holder.session_id).await? {
                    return Err(refusal.into());
                }
            }
            Some(holder) => {
                store::linked_person(&mut tx, holder.user_id).await?.ok_or_else(unavailable)?;
            }
        }
        store::insert(&mut tx, going).await?;
        if going.purpose == Purpose::Link {
            // With a fresh proof by a factor that the account has: a session alone may be a stolen one, however young, and
            // the link would outlast it.
            self.step_ups.require(&mut tx, call, START, None).await?;
        }
        tx.commit().await?;
        Ok(about_person)
    }

    /// Takes the attempt that a person comes back from, for one of `purposes`, and has Kanidm say who it is. Whatever
    /// comes of it, the attempt is spent.
    pub(in crate::authenticate) async fn arrive(
        &self,
        call: &Call,
        back: &Return,
        purposes: &[Purpose],
        holder: Option<Holder>,
    ) -> Result<Arrived> {
        let kanidm = self.configured_kanidm()?;
        let taken = self.take(call, back, purposes, holder).await?;
        let person = match self.exchange_code(kanidm, &taken, &back.code).await {
            Ok(person) => person,
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
        let nonce = opaque::digest(person.nonce.as_deref().unwrap_or_default());
        if !bool::from(nonce.ct_eq(&taken.nonce_hash)) {
            self.refuse_kanidm(call, "nonce_mismatch").await?;
            return Err(invalid_attempt());
        }
        let begun_at = begun_at(taken.login_id)?;
        Ok(Arrived { purpose: taken.purpose, session_request: taken.session_request, person, begun_at })
    }

    /// Spends the attempt, if there is such a one of this client that has not expired.
    async fn take(&self, call: &Call, back: &Return, purposes: &[Purpose], holder: Option<Holder>) -> Result<Taken> {
        let purposes: Vec<String> = purposes.iter().map(|purpose| purpose.as_str().to_owned()).collect();
        let taker = Taker {
            state: opaque::digest(back.state.as_bytes()),
            secret: opaque::digest(back.secret.as_bytes()),
            purposes: &purposes,
            user_id: holder.map(|holder| holder.user_id),
            session_id: holder.map(|holder| holder.session_id),
            now: self.context.now(),
        };
        let mut tx = self.db.begin(Scope::Platform).await?;
        let taken = store::take(&mut tx, taker).await?;
        // Before Kanidm is asked: whatever it says, the attempt is spent.
        tx.commit().await?;
        let Some(taken) = taken.filter(|taken| taken.live) else {
            // Any caller can make up attempts, so these are counted and only a sample is written down.
            if let Some(left_out) = self.sampled.sample(self.context.now().timestamp()) {
                let event = refused(call).reason("unknown_attempt").detail("left_out", left_out);
                login::login_refuse(&self.db, &self.recorder.prepare(event), None).await?;
                self.recorder.wake();
            }
            return Err(invalid_attempt());
        };
        Ok(taken)
    }

    async fn exchange_code(&self, kanidm: &Oidc, taken: &Taken, code: &str) -> Result<SignedIn> {
        let verifier = self.keyring.open(seal_context(taken.login_id), &taken.pkce_verifier)?;
        let verifier = Zeroizing::new(String::from_utf8_lossy(&verifier).into_owned());
        Ok(kanidm.exchange(code, &taken.redirect_uri, &verifier).await?)
    }

    pub(in crate::authenticate) async fn refuse_kanidm(&self, call: &Call, reason: &'static str) -> Result<()> {
        let event = self.recorder.prepare(refused(call).reason(reason));
        login::login_refuse(&self.db, &event, None).await?;
        self.recorder.wake();
        let address = call.address.map(tracing::field::display);
        tracing::info!(event = "user_login_refused", method = "kanidm", reason, address);
        Ok(())
    }

    pub(in crate::authenticate) fn configured_kanidm(&self) -> Result<&Oidc> {
        self.kanidm.as_ref().ok_or_else(|| Fault::new(Reason::KanidmNotConfigured, "No Kanidm is configured."))
    }
}

/// The event of a refusal.
pub(in crate::authenticate) fn refused(call: &Call) -> Event {
    Event::new(EventType::UserLoginRefused, call).outcome(Outcome::Refused).detail("method", "kanidm")
}

fn invalid_attempt() -> Fault {
    Fault::new(Reason::InvalidLoginAttempt, "There is no such login attempt of this client.")
}

/// When an attempt was begun, which its id says.
///
/// # Errors
/// `INTERNAL` for an id that says no time: none of ours.
fn begun_at(login_id: Uuid) -> Result<DateTime<Utc>> {
    let begun = login_id.get_timestamp().map(|at| at.to_unix());
    let begun = begun.and_then(|(seconds, nanos)| DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos));
    begun.ok_or_else(|| Fault::internal(format!("the id {login_id} of a login says no time")))
}

fn seal_context(login_id: Uuid) -> SealContext {
    SealContext { table: "kanidm_logins", column: "pkce_verifier", row: login_id }
}

/// The refusal where Kanidm cannot prove that the person is there now.
pub(in crate::authenticate) fn unavailable() -> Fault {
    Fault::new(Reason::KanidmProofUnavailable, "Kanidm cannot prove for this user that they are there now.")
}
