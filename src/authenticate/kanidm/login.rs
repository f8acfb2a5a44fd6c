//! Completing a login through Kanidm: a session for whoever is linked to the person, or a link to the caller's account,
//! as the attempt was begun for.

use serde_json::{Value, json};
use uuid::Uuid;

use super::KanidmLogin;
use super::attempt::{Holder, Purpose, Return, refused};
use super::store::{self as store, KanidmFinish};
use crate::access::{Call, input, names};
use crate::audit::{Event, EventType};
use crate::authenticate::login::store::login::Finished;
use crate::authenticate::{SignedIn, invalid_credentials, tenant_required};
use crate::correlation;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm;
use crate::metrics::{LoginMethod, LoginOutcome};
use crate::session::{SessionRequest, no_tenant};

/// What a completed login led to.
#[derive(Debug)]
pub(in crate::authenticate) enum Completed {
    /// A session.
    SignedIn(Box<SignedIn>),
    /// A link between the caller and this person; how many other sessions ended.
    Linked(Uuid, usize),
}

impl KanidmLogin {
    /// Completes a login through Kanidm.
    ///
    /// # Errors
    /// `INVALID_LOGIN_ATTEMPT`, `PERSON_NOT_LINKED`, `NO_TENANT`, `TENANT_REQUIRED`, `INVALID_CREDENTIALS`,
    /// `KANIDM_REFUSED`, `KANIDM_UNAVAILABLE`, `KANIDM_NOT_CONFIGURED`; for a link also what `link_person` says.
    pub(in crate::authenticate) async fn complete_kanidm(
        &self,
        call: &Call,
        back: Return,
        holder: Option<Holder>,
    ) -> Result<Completed> {
        self.configured_kanidm()?;
        let (room, call) = (self.clone(), call.clone());
        // To its end, also if the caller goes away: what happened is written down.
        let made = correlation::spawn(async move { room.complete(&call, &back, holder).await });
        let answer = made.await.map_err(Fault::internal)?;
        let outcome = match answer.as_ref().map_err(Fault::reason) {
            Ok(_) => LoginOutcome::Success,
            Err(Reason::KanidmUnavailable | Reason::DatabaseUnavailable | Reason::Internal) => LoginOutcome::Failed,
            Err(_) => LoginOutcome::Refused,
        };
        self.metrics.login(LoginMethod::Kanidm, outcome);
        answer
    }

    async fn complete(&self, call: &Call, back: &Return, holder: Option<Holder>) -> Result<Completed> {
        // A proof is of no use here: it is asked for where it is needed.
        let arrived = self.arrive(call, back, &[Purpose::Login, Purpose::Link], holder).await?;
        match (arrived.purpose, holder) {
            (Purpose::Link, Some(holder)) => {
                let ended = self.link_person(call, holder, &arrived.person).await?;
                Ok(Completed::Linked(arrived.person.person, ended))
            }
            _ => self
                .sign_in_person(call, &arrived.session_request, &arrived.person)
                .await
                .map(|signed_in| Completed::SignedIn(Box::new(signed_in))),
        }
    }

    /// Signs in whoever is linked to the person, with the memberships that the person's groups give.
    async fn sign_in_person(
        &self,
        call: &Call,
        session_request: &SessionRequest,
        person: &kanidm::SignedIn,
    ) -> Result<SignedIn> {
        let mut pending = self.sessions.session_factory.open(call, session_request);
        self.sessions.session_factory.with_kanidm(&mut pending, person.session, &person.refresh_token);
        let session_id = pending.session_id;
        let prepare = |event: Event| self.recorder.prepare(event);
        let by_system = |event_type| Event::by_system(event_type, call.correlation_id).session(session_id);
        let (about, created) = self.first_login(call, person);
        let finish = KanidmFinish {
            person: person.person,
            groups: &person.groups,
            about,
            tenant_id: session_request.tenant_id,
            now: self.context.now(),
            session: &pending.record,
            event: prepare(Event::new(EventType::UserAuthenticated, call).detail("method", "kanidm")),
            refused: prepare(refused(call).detail("person", person.person)),
            groups_changed: prepare(by_system(EventType::MembershipSynced)),
            migrated: prepare(by_system(EventType::UserMigrated)),
            created: prepare(created.session(session_id)),
        };
        let finished = store::finish_kanidm(&self.db, &finish).await?;
        self.recorder.wake();
        let (rights, user) = match finished {
            Finished::SignedIn { rights, user, .. } => (rights, user),
            Finished::Refused | Finished::MfaRequired { .. } => return Err(invalid_credentials()),
            Finished::NoTenant => {
                // What the lost groups gave has ended here already.
                if let Some((user, epoch)) = store::voided(&self.db, person.person).await? {
                    self.sessions.revocations.end_tokens(user, epoch);
                }
                return Err(no_tenant());
            }
            Finished::TenantRequired(choices) => return Err(tenant_required(&choices)),
            Finished::NotLinked => {
                return Err(Fault::new(Reason::PersonNotLinked, "No user is linked to this Kanidm person."));
            }
        };
        self.sessions.note(user.user_id, &rights);
        let tokens = self.sessions.session_factory.tokens(pending, user.user_id, &rights)?;
        tracing::info!(event = "user_authenticated", method = "kanidm", user_id = %user.user_id, %session_id);
        let (tenant_id, must_change_password) = (rights.tenant_id, rights.must_change_password);
        Ok(SignedIn {
            tokens,
            session_id,
            tenant_id,
            user,
            must_change_password,
            known_device_token: None,
            enrolment: None,
        })
    }

    /// What the person would be as a user, should this be a first login that makes one. The user's id is the person's.
    fn first_login(&self, call: &Call, person: &kanidm::SignedIn) -> (Value, Event) {
        // Kanidm's word on the address is taken for what it is: an address that nobody has shown to be theirs.
        let email = person.email.as_deref().and_then(|email| input::email("email", email).ok());
        let name = person.name.as_deref().and_then(|name| input::text("name", name, 200).ok()).unwrap_or_default();
        let about = json!({ "email": email, "email_key": email.as_deref().map(names::email_key), "full_name": name });
        let created = Event::by_system(EventType::UserCreated, call.correlation_id)
            .target("user", person.person)
            .detail("source", "kanidm_first_login")
            .detail("with_password", false)
            .personal("email", email)
            .personal("full_name", name);
        (about, created)
    }
}
