//! A change that an administrator makes: a [`Change`](crate::change::Change) with the caller, how far they reach, and the
//! proofs it takes.

use std::ops::{Deref, DerefMut};

use chrono::TimeDelta;
use sidle_token::Epoch;
use uuid::Uuid;

use super::{Directory, store};
use crate::access::delegation::{Aimed, Effect, aim};
use crate::access::replay::{Answer, ChangeRequest};
use crate::access::{Call, Principal, PrincipalKind};
use crate::audit::Event;
use crate::context::Context;
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};

/// How many users one event names when the tokens of many end.
pub(super) const CHUNK: i64 = 500;

/// A change that is being made. Nothing has happened unless it is committed.
pub(super) struct Change<'a> {
    directory: &'a Directory,
    pub call: &'a Call,
    pub scope: Scope,
    change: crate::change::Change,
}

impl Deref for Change<'_> {
    type Target = crate::change::Change;

    fn deref(&self) -> &Self::Target {
        &self.change
    }
}

impl DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.change
    }
}

impl Directory {
    /// Begins a change as far as the caller reaches with `permission`.
    pub(super) async fn change<'a>(&'a self, call: &'a Call, permission: &'static str) -> Result<Change<'a>> {
        let scope = call.principal()?.authorize(permission, None)?;
        Change::begin(self, call, scope).await
    }

    /// Begins a change that writes addresses or usernames.
    pub(super) async fn change_of_keys<'a>(&'a self, call: &'a Call, permission: &'static str) -> Result<Change<'a>> {
        let scope = call.principal()?.authorize(permission, None)?;
        Change::begin_contended(self, call, scope).await
    }
}

impl<'a> Change<'a> {
    pub async fn begin(directory: &'a Directory, call: &'a Call, scope: Scope) -> Result<Self> {
        Ok(Self { directory, call, scope, change: directory.changes.begin(scope).await? })
    }

    /// Begins one that writes addresses or usernames, for which it may have to wait: see [`Db::begin_contended`].
    ///
    /// [`Db::begin_contended`]: crate::db::Db::begin_contended
    pub async fn begin_contended(directory: &'a Directory, call: &'a Call, scope: Scope) -> Result<Self> {
        Ok(Self { directory, call, scope, change: directory.changes.begin_contended(scope).await? })
    }

    pub fn principal(&self) -> Result<&'a Principal> {
        self.call.principal()
    }

    pub fn context(&self) -> &'a Context {
        &self.directory.context
    }

    /// How long a key works at most.
    pub fn longest_key_life(&self) -> TimeDelta {
        self.directory.longest_key_life
    }

    /// The tenant that the caller named or, without one, acts in; refused when it is out of the caller's reach.
    pub fn tenant(&self, named: Option<Uuid>) -> Result<Uuid> {
        match (self.scope, named.or(self.principal()?.tenant_id)) {
            (Scope::Tenant(own), Some(tenant)) if own == tenant => Ok(tenant),
            (Scope::Platform, Some(tenant)) => Ok(tenant),
            (Scope::Platform, None) => {
                Err(Fault::field("tenant_id", "must be named by a caller that acts in no tenant"))
            }
            (Scope::Tenant(_), _) => Err(elsewhere()),
        }
    }

    /// Refuses a caller that does not act for the platform.
    pub fn platform_only(&self) -> Result<()> {
        if self.scope == Scope::Platform { Ok(()) } else { Err(elsewhere()) }
    }

    /// Spends the proof that the caller brings for `method` on the resource `target`; it stays good if the change is not
    /// committed.
    pub async fn step_up(&mut self, method: &'static str, target: Option<Uuid>) -> Result<()> {
        self.directory.step_ups.require(&mut self.change.tx, self.call, method, target).await
    }

    /// As [`Change::step_up`], of people only: for what makes lasting rights over every tenant out of a session.
    pub async fn step_up_of_people(&mut self, method: &'static str, target: Option<Uuid>) -> Result<()> {
        let principal = self.call.principal()?;
        // The row before the proof: a change of the caller's credentials voids the proofs in this order.
        if principal.kind == PrincipalKind::User {
            store::tokens::lock_users(&mut self.tx, &[principal.id]).await?;
        }
        self.directory.step_ups.require_of_people(&mut self.change.tx, self.call, method, target).await
    }

    /// Locks the caller's account until the change is made, and refuses one that has been ended: what gives access must
    /// not come after the end of its maker. Before any other row is locked; `account` is the service account that is
    /// about to change.
    pub async fn hold_caller(&mut self, account: Option<Uuid>) -> Result<()> {
        let principal = self.call.principal()?;
        let (is_there, revoked) = store::service_accounts::hold_caller(&mut self.tx, principal.id, account).await?;
        if is_there && Epoch::of(revoked) <= principal.epoch {
            return Ok(());
        }
        Err(Fault::new(Reason::Unauthenticated, "The access token is not accepted any more."))
    }

    /// Asks a user to confirm the address they have now.
    pub async fn ask_to_verify(&mut self, user: Uuid) -> Result<()> {
        self.directory.verifications.ask(&mut self.change.tx, user).await
    }

    /// Aims the change at a user, or refuses it; see [`aim`].
    pub async fn aim(&mut self, user: Uuid, effect: Effect) -> Result<Aimed> {
        aim(&mut self.change.tx, self.call.principal()?, self.scope, user, effect).await
    }

    /// Refuses the access tokens that a user has now; `event` is to record it.
    pub async fn end_tokens(&mut self, aimed: &Aimed, event: Event) -> Result<Event> {
        self.end_tokens_of(&[aimed.user()], event).await
    }

    /// Revokes the access tokens that the holders of what changes have now; `event` is to record it. Their rows are
    /// locked first, so that no login or refresh that read the old rights comes after it.
    pub async fn end_tokens_of(&mut self, users: &[Uuid], event: Event) -> Result<Event> {
        store::tokens::lock_users(&mut self.tx, users).await?;
        let epoch = store::tokens::end_users(&mut self.tx, users).await?;
        Ok(self.ended(users, epoch, event))
    }

    /// As [`Change::end_tokens`], of service accounts.
    pub async fn end_account_tokens(&mut self, accounts: &[Uuid], event: Event) -> Result<Event> {
        let epoch = store::tokens::end_accounts(&mut self.tx, accounts).await?;
        Ok(self.ended(accounts, epoch, event))
    }

    /// Notes that the tokens of these principals end with this revocation, in `event` and for after the commit.
    fn ended(&mut self, principals: &[Uuid], epoch: Epoch, event: Event) -> Event {
        for principal in principals {
            self.revoke_tokens(*principal, epoch);
        }
        event.detail("tokens_valid_from", epoch.micros()).detail("principals", ids(principals))
    }

    /// Ends the sessions of a user and refuses their tokens; says how many there were, and `event` is to record it.
    pub async fn end_sessions(&mut self, aimed: &Aimed, reason: &'static str, event: Event) -> Result<(i32, Event)> {
        let sessions = store::tokens::end_sessions(&mut self.change.tx, aimed, reason, self.change.now).await?;
        let event = self.end_tokens(aimed, event).await?.detail("sessions", ids(&sessions));
        let count = i32::try_from(sessions.len()).unwrap_or(i32::MAX);
        self.revoke_sessions(sessions);
        Ok((count, event))
    }

    /// The first answer, if the call was made before; see [`Change::repeated`](crate::change::Change::repeated).
    pub async fn repeated<A: Answer>(&mut self, request: &ChangeRequest<'_>) -> Result<Option<A>> {
        self.change.repeated(self.call, request).await
    }

    /// Ends as [`Change::answer`](crate::change::Change::answer).
    pub async fn answer<A: Answer>(self, answer: A) -> Result<A> {
        self.change.answer(answer).await
    }

    /// Commits as [`Change::commit`](crate::change::Change::commit).
    pub async fn commit(self) -> Result<()> {
        self.change.commit().await
    }
}

fn ids(ids: &[Uuid]) -> Vec<String> {
    ids.iter().map(Uuid::to_string).collect()
}

fn elsewhere() -> Fault {
    Fault::new(Reason::PermissionDenied, "The caller's permission does not reach beyond the tenant it acts in.")
        .with("permission", "on the platform")
}
