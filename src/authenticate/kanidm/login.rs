//! Completing a login through Kanidm: a session for the user who is linked to the person, or a link to the caller's
//! account, as the attempt was begun for.

use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

use super::KanidmLogin;
use super::attempt::{Holder, Purpose, Return, refused};
use super::first_login::not_linked;
use super::store::{self as store, Acting, AuthMethod, LockReason, Standing, User, UserStatus};
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::authenticate::{SignedIn, UserView, invalid_credentials, tenant_required};
use crate::change::Change;
use crate::correlation;
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};
use crate::kanidm;
use crate::metrics::{LoginMethod, LoginOutcome};
use crate::session::{PendingSession, Rights, SessionRequest, no_tenant};

/// What a completed login led to.
#[derive(Debug)]
pub(in crate::authenticate) enum Completed {
    /// A session.
    SignedIn(Box<SignedIn>),
    /// A link between the caller and this person; how many other sessions ended.
    Linked(Uuid, usize),
}

/// A login of a person whom Kanidm has confirmed, and the session that it is to open.
struct PersonLogin<'a> {
    call: &'a Call,
    person: &'a kanidm::SignedIn,
    /// The tenant that is asked for.
    asked: Option<Uuid>,
    pending: &'a PendingSession,
}

impl PersonLogin<'_> {
    /// The event of a refusal.
    fn refused(&self, reason: &'static str) -> Event {
        refused(self.call).detail("person", self.person.person).reason(reason)
    }

    /// The event of a refusal where the user is known. The caller is not known to be the user before there is a session.
    fn refused_user(&self, user: &User, reason: &'static str) -> Event {
        about(self.refused(reason), user)
    }

    /// An event about what the login changes of itself.
    fn by_system(&self, event: EventType, user: &User) -> Event {
        about(Event::by_system(event, self.call.correlation_id).session(self.pending.session_id), user)
    }
}

fn about(event: Event, user: &User) -> Event {
    event.target("user", user.user_id).not_about_target().tenant(user.tenant_id)
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
        let (login, call) = (self.clone(), call.clone());
        // To its end, also if the client disconnects: what happened is written down.
        let made = correlation::spawn(async move { login.complete(&call, &back, holder).await });
        let answer = made.await.map_err(Fault::internal)?;
        let outcome = match answer.as_ref().map_err(Fault::reason) {
            Ok(_) => LoginOutcome::Success,
            Err(
                Reason::KanidmUnavailable | Reason::DatabaseUnavailable | Reason::ValueContended | Reason::Internal,
            ) => LoginOutcome::Failed,
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

    /// Signs in the user who is linked to the person, with the memberships that the person's groups give.
    async fn sign_in_person(
        &self,
        call: &Call,
        session_request: &SessionRequest,
        person: &kanidm::SignedIn,
    ) -> Result<SignedIn> {
        let mut pending = self.sessions.session_factory.open(call, session_request);
        self.sessions.session_factory.with_kanidm(&mut pending, person.session, &person.refresh_token);
        let session_id = pending.session_id;
        let asked = self.sessions.asked_tenant(session_request).await?;
        let login = PersonLogin { call, person, asked, pending: &pending };
        let (rights, user) = self.open_session(&login).await?;
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

    /// Opens a session of the user who is linked to the person, or of one who is made at this first login.
    async fn open_session(&self, login: &PersonLogin<'_>) -> Result<(Rights, UserView)> {
        let change = self.changes.begin(Scope::Platform).await?;
        let (mut change, user) = self.linked_user(login, change).await?;
        let user_id = user.user_id;
        if let Some(why) = login_refusal(&user, change.now) {
            return refuse(change, login.refused_user(&user, why.as_str()), why).await;
        }
        self.sync_groups(&mut change, login, &user).await?;
        let tenant_id = match store::tenant(&mut change.tx, user_id, user.tenant_id, login.asked).await? {
            Acting::In(tenant) => tenant,
            Acting::Nowhere => return refuse(change, login.refused_user(&user, "no_tenant"), no_tenant()).await,
            Acting::OneOf(choices) => {
                let event = login.refused_user(&user, "tenant_required");
                return refuse(change, event, tenant_required(&choices)).await;
            }
        };
        record_login(&mut change, login, &user, tenant_id).await?;
        let rights = rights(&mut change, user_id, tenant_id).await?;
        change.commit().await?;
        let User { email, username, full_name, auth_method, .. } = user;
        Ok((rights, UserView { user_id, email, username, full_name, auth_method: auth_method.as_str().to_owned() }))
    }

    /// The user who is linked to the person, or one who is made of them now; the row is locked. Gives the change that the
    /// login goes on with.
    async fn linked_user(&self, login: &PersonLogin<'_>, mut change: Change) -> Result<(Change, User)> {
        let PersonLogin { call, person, asked, pending } = *login;
        if let Some(user) = store::lock_linked(&mut change.tx, person.person).await? {
            return Ok((change, user));
        }
        let (change, made) = self.first_login(call, change, person, asked, pending.session_id).await?;
        match made {
            Ok(user) => Ok((change, user)),
            Err(why) => refuse(change, login.refused(why.as_str()), why).await,
        }
    }

    /// Brings the user's memberships up to date with the person's groups.
    async fn sync_groups(&self, change: &mut Change, login: &PersonLogin<'_>, user: &User) -> Result<()> {
        let (user_id, now) = (user.user_id, change.now);
        let changed = self.recorder.prepare(login.by_system(EventType::MembershipSynced, user));
        if store::sync_groups(&mut change.tx, user_id, &login.person.groups, now, &changed).await? {
            let epoch = store::epoch(&mut change.tx, user_id).await?;
            change.revoke_tokens(user_id, Epoch::of(epoch));
        }
        Ok(())
    }
}

/// Stores the session of a login, and its events.
async fn record_login(
    change: &mut Change,
    login: &PersonLogin<'_>,
    user: &User,
    tenant_id: Option<Uuid>,
) -> Result<()> {
    let (user_id, now) = (user.user_id, change.now);
    let is_first = user.migration_completed_at.is_none();
    store::signed_in(&mut change.tx, user_id, now).await?;
    store::open_session(&mut change.tx, user_id, tenant_id, now, &login.pending.record).await?;
    let authenticated = Event::new(EventType::UserAuthenticated, login.call)
        .by_user(user_id)
        .target("user", user_id)
        .tenant(tenant_id)
        .session(login.pending.session_id)
        .detail("method", "kanidm")
        .detail("first_kanidm_login", is_first);
    change.record(authenticated).await?;
    if is_first {
        change.record(login.by_system(EventType::UserMigrated, user)).await?;
    }
    Ok(())
}

/// What the user may do in the tenant from now on.
async fn rights(change: &mut Change, user_id: Uuid, tenant_id: Option<Uuid>) -> Result<Rights> {
    let Standing { roles, permissions, platform_permissions } =
        store::standing(&mut change.tx, user_id, tenant_id).await?;
    let epoch = Epoch::of(store::epoch(&mut change.tx, user_id).await?);
    // A seeded password that must change does not matter to a user who signed in without it.
    let must_change_password = false;
    Ok(Rights { tenant_id, roles, permissions, platform_permissions, epoch, must_change_password })
}

/// Why a user who is linked is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoginRefusal {
    NotLinked,
    Disabled,
    Locked,
}

impl LoginRefusal {
    /// Its name in events.
    fn as_str(self) -> &'static str {
        match self {
            Self::NotLinked => "not_linked",
            Self::Disabled => "disabled",
            Self::Locked => "locked",
        }
    }
}

impl From<LoginRefusal> for Fault {
    fn from(why: LoginRefusal) -> Self {
        match why {
            LoginRefusal::NotLinked => not_linked(),
            LoginRefusal::Disabled | LoginRefusal::Locked => invalid_credentials(),
        }
    }
}

/// Why the user may not sign in through Kanidm now.
fn login_refusal(user: &User, now: DateTime<Utc>) -> Option<LoginRefusal> {
    if user.auth_method == AuthMethod::Password {
        // A user who was rolled back to the password keeps the link for the next attempt, but cannot sign in by it.
        Some(LoginRefusal::NotLinked)
    } else if user.status != UserStatus::Active {
        Some(LoginRefusal::Disabled)
    } else if user.lock_reason == Some(LockReason::Administrator) && user.locked_until.is_some_and(|until| until > now)
    {
        // A lock after failures is against guessing; an administrator's holds for every authentication method.
        Some(LoginRefusal::Locked)
    } else {
        None
    }
}

/// Writes down why no user was signed in, with whatever else has changed.
async fn refuse<T>(mut change: Change, event: Event, fault: impl Into<Fault>) -> Result<T> {
    change.record(event).await?;
    change.commit().await?;
    Err(fault.into())
}
