//! Showing and ending sessions. Every user may for their own; for others' it takes the permission, and reaches as far
//! as that.

use uuid::Uuid;

use super::Sessions;
use super::store::sessions::{self as store, Wanted};
pub use super::store::sessions::{SessionView, Status};
use crate::access::delegation::{Aimed, Effect, aim};
use crate::access::{Call, PrincipalKind, paging};
use crate::audit::{Event, EventType};
use crate::db::Scope;
use crate::fault::{Fault, Result};

const METHOD: &str = "ListSessions";

/// Whose sessions are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionOwner {
    /// The caller's.
    Own,
    /// One user's.
    User(Uuid),
    /// All users'.
    Everybody,
}

/// A list of sessions.
#[derive(Clone, Debug)]
pub struct Listing {
    pub owner: SessionOwner,
    /// In which tenant.
    pub tenant_id: Option<Uuid>,
    /// In which states; living ones when empty.
    pub statuses: Vec<Status>,
    /// Sessions on a page.
    pub page_size: i32,
    /// Where the page begins.
    pub page_token: String,
}

/// By whom a session is ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum By<'a> {
    /// By the service, as Kanidm says.
    Service,
    /// By a caller who may aim at its user.
    Caller(&'a Aimed),
}

impl Sessions {
    /// A session; the caller's current one when none is named.
    ///
    /// # Errors
    /// `NOT_FOUND`, also for one that the caller may not see.
    pub async fn get(&self, call: &Call, session: Option<Uuid>) -> Result<SessionView> {
        let session = session.or(call.principal()?.session_id).ok_or_else(no_session)?;
        Ok(self.find(call, session, "sessions.read").await?.0)
    }

    /// A page of sessions, and the token of the next.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, `INVALID_PAGE_TOKEN`.
    pub async fn list(&self, call: &Call, listing: &Listing) -> Result<(Vec<SessionView>, String)> {
        let principal = call.principal()?;
        let user_id = match listing.owner {
            SessionOwner::Own => Some(principal.id),
            SessionOwner::User(user) => Some(user),
            SessionOwner::Everybody => None,
        };
        let scope = if user_id == Some(principal.id) && listing.tenant_id.is_none() {
            Scope::Platform
        } else {
            principal.authorize("sessions.read", listing.tenant_id)?
        };
        let statuses = if listing.statuses.is_empty() { vec![Status::Active] } else { listing.statuses.clone() };
        let wanted = Wanted { user_id, statuses };
        let filter = (&wanted, scope.tenant());
        let before: Option<Uuid> = self.paging.decode(call, METHOD, &filter, &listing.page_token)?;
        let size = paging::page_size(listing.page_size)?;
        let mut tx = self.db.begin(scope).await?;
        let mut page = store::list(&mut tx, &wanted, before, size + 1, self.context.now()).await?;
        let last = paging::cut(&mut page, size).map(|session| session.session_id);
        let next = last.map(|last| self.paging.encode(call, METHOD, &filter, &last)).unwrap_or_default();
        Ok((page, next))
    }

    /// Ends a session; the caller's current one when none is named. One that has ended stays as it is.
    ///
    /// # Errors
    /// `NOT_FOUND`, also for one that the caller may not end.
    pub async fn revoke(&self, call: &Call, session: Option<Uuid>) -> Result<SessionView> {
        let principal = call.principal()?;
        let session = session.or(principal.session_id).ok_or_else(no_session)?;
        let (found, scope) = self.find(call, session, "sessions.revoke").await?;
        let reason = match () {
            () if principal.session_id == Some(session) => "logout",
            () if principal.id == found.user_id => "user",
            () => "administrator",
        };
        let mut tx = self.db.begin(scope).await?;
        let aimed = aim(&mut tx, principal, scope, found.user_id, Effect::Here).await?;
        drop(tx);
        let event = Event::new(EventType::SessionRevoked, call).session(session).reason(reason);
        self.end(By::Caller(&aimed), session, reason, event.subject(found.user_id), scope).await?;
        let mut tx = self.db.begin(scope).await?;
        store::get(&mut tx, session, self.context.now()).await?.ok_or_else(|| Fault::not_found("session"))
    }

    /// Ends every session of a user; the caller's own when none is named. Says how many ended.
    ///
    /// # Errors
    /// `NOT_FOUND`, `PERMISSION_DENIED`.
    pub async fn revoke_all(&self, call: &Call, user: Option<Uuid>, keep_current: bool) -> Result<usize> {
        let principal = call.principal()?;
        let user = user.unwrap_or(principal.id);
        let is_own = user == principal.id && principal.kind == PrincipalKind::User;
        let scope = if is_own { Scope::Platform } else { principal.authorize("sessions.revoke", None)? };
        let except = principal.session_id.filter(|_| keep_current);
        let reason = if is_own { "user" } else { "administrator" };
        let mut tx = self.db.begin(scope).await?;
        if !store::knows_user(&mut tx, user).await? {
            return Err(Fault::not_found("user"));
        }
        let aimed = aim(&mut tx, principal, scope, user, Effect::Here).await?;
        let ended = store::end_all(&mut tx, &aimed, except, reason, self.context.now()).await?;
        if !ended.is_empty() {
            let event = Event::new(EventType::SessionAllRevoked, call).target("user", user).reason(reason);
            self.recorder.record(&mut tx, event.detail("sessions", &ended)).await?;
        }
        tx.commit().await?;
        for session in &ended {
            self.revocations.end_session(*session);
        }
        Ok(ended.len())
    }

    /// Ends a session with its event, here immediately and elsewhere through the log; says whether it still lived.
    pub(super) async fn end(
        &self,
        by: By<'_>,
        session: Uuid,
        reason: &str,
        event: Event,
        scope: Scope,
    ) -> Result<bool> {
        if let By::Caller(aimed) = by {
            tracing::debug!(event = "session_ended_by_caller", %session, user_id = %aimed.user());
        }
        let event = self.recorder.prepare(event);
        let mut tx = self.db.begin(scope).await?;
        let ended = store::end(&mut tx, session, reason, self.context.now(), &event).await?;
        tx.commit().await?;
        if ended {
            self.revocations.end_session(session);
            self.recorder.wake();
        }
        Ok(ended)
    }

    /// A session that is the caller's, or within reach of the permission; and the scope to act on it in. A caller who
    /// may not learns no more than about one that does not exist.
    async fn find(&self, call: &Call, session: Uuid, permission: &'static str) -> Result<(SessionView, Scope)> {
        let principal = call.principal()?;
        let now = self.context.now();
        let own = store::get(&mut *self.db.begin(Scope::Platform).await?, session, now).await?;
        if let Some(own) = own.filter(|found| found.user_id == principal.id) {
            return Ok((own, Scope::Platform));
        }
        let Ok(scope) = principal.authorize(permission, None) else { return Err(Fault::not_found("session")) };
        let found = store::get(&mut *self.db.begin(scope).await?, session, now).await?;
        found.map(|found| (found, scope)).ok_or_else(|| Fault::not_found("session"))
    }
}

fn no_session() -> Fault {
    Fault::field("session_id", "must name a session: the caller's token belongs to none")
}
