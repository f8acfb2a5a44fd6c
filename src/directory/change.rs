//! A change that is being made: one transaction with the events that tell of it, and what this replica must know at
//! once when it is committed.

use chrono::{DateTime, TimeDelta, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

use super::{Directory, store};
use crate::access::delegation::{Aimed, Effect, aim};
use crate::access::{Call, Principal, PrincipalKind};
use crate::audit::Event;
use crate::context::Context;
use crate::db::{Scope, Tx};
use crate::fault::{Fault, Reason, Result};
use crate::mail::Message;

/// How many users one event names when the tokens of many end.
pub(super) const CHUNK: i64 = 500;

/// A change that is being made. Nothing has happened unless it is committed.
pub(super) struct Change<'a> {
    directory: &'a Directory,
    pub call: &'a Call,
    pub scope: Scope,
    pub tx: Tx,
    /// When the change began.
    pub now: DateTime<Utc>,
    principals: Vec<(Uuid, Epoch)>,
    sessions: Vec<Uuid>,
    keys: Vec<Uuid>,
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
        Ok(Self::over(directory.db.begin(scope).await?, directory, call, scope))
    }

    /// Begins one that writes addresses or usernames, for which it may have to wait: see [`Db::begin_contended`].
    ///
    /// [`Db::begin_contended`]: crate::db::Db::begin_contended
    pub async fn begin_contended(directory: &'a Directory, call: &'a Call, scope: Scope) -> Result<Self> {
        Ok(Self::over(directory.db.begin_contended(scope).await?, directory, call, scope))
    }

    fn over(tx: Tx, directory: &'a Directory, call: &'a Call, scope: Scope) -> Self {
        let now = directory.context.now();
        Self { directory, call, scope, tx, now, principals: Vec::new(), sessions: Vec::new(), keys: Vec::new() }
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
        self.directory.step_ups.require(&mut self.tx, self.call, method, target).await
    }

    /// As [`Change::step_up`], of people only: for what makes lasting rights over every tenant out of a session.
    pub async fn step_up_of_people(&mut self, method: &'static str, target: Option<Uuid>) -> Result<()> {
        let principal = self.call.principal()?;
        // The row before the proof: whoever changes the caller's credentials voids the proofs in this order.
        if principal.kind == PrincipalKind::User {
            store::tokens::lock_users(&mut self.tx, &[principal.id]).await?;
        }
        self.directory.step_ups.require_of_people(&mut self.tx, self.call, method, target).await
    }

    /// Keeps the caller from being ended until the change is made, and refuses one who has been: what lets somebody in must
    /// not come after the end of whoever makes it. Before any other row is locked; `account` is the service account that is
    /// about to change.
    pub async fn hold_caller(&mut self, account: Option<Uuid>) -> Result<()> {
        let principal = self.call.principal()?;
        let (is_there, revoked) = store::service_accounts::hold_caller(&mut self.tx, principal.id, account).await?;
        if is_there && Epoch::of(revoked) <= principal.epoch {
            return Ok(());
        }
        Err(Fault::new(Reason::Unauthenticated, "The access token is not accepted any more."))
    }

    /// Writes an event in the transaction of the change.
    pub async fn record(&mut self, event: Event) -> Result<()> {
        self.directory.recorder.record(&mut self.tx, event).await?;
        Ok(())
    }

    /// Tells somebody of the change, if it is committed.
    pub async fn notify(&mut self, message: Message) -> Result<()> {
        self.directory.outbox.enqueue(&mut self.tx, message).await
    }

    /// Asks a user to confirm the address they have now.
    pub async fn ask_to_verify(&mut self, user: Uuid) -> Result<()> {
        self.directory.verifications.ask(&mut self.tx, user).await
    }

    /// Aims the change at a user, or refuses it; see [`aim`].
    pub async fn aim(&mut self, user: Uuid, effect: Effect) -> Result<Aimed> {
        aim(&mut self.tx, self.call.principal()?, self.scope, user, effect).await
    }

    /// Refuses the access tokens that a user has now; `event` is to tell of it.
    pub async fn end_tokens(&mut self, aimed: &Aimed, event: Event) -> Result<Event> {
        self.end_tokens_of(&[aimed.user()], event).await
    }

    /// Revokes the access tokens that the holders of what changes have now; `event` is to tell of it. Their rows are locked
    /// first, so that no login or refresh that read the old rights comes after it.
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
        self.principals.extend(principals.iter().map(|principal| (*principal, epoch)));
        event.detail("tokens_valid_from", epoch.micros()).detail("principals", ids(principals))
    }

    /// Ends the sessions of a user and refuses their tokens; says how many there were, and `event` is to tell of it.
    pub async fn end_sessions(&mut self, aimed: &Aimed, reason: &'static str, event: Event) -> Result<(i32, Event)> {
        let sessions = store::tokens::end_sessions(&mut self.tx, aimed, reason, self.now).await?;
        let event = self.end_tokens(aimed, event).await?.detail("sessions", ids(&sessions));
        let count = i32::try_from(sessions.len()).unwrap_or(i32::MAX);
        self.sessions.extend(sessions);
        Ok((count, event))
    }

    /// Notes that the tokens end that were signed with a key.
    pub fn revoke_key(&mut self, kid: Uuid) {
        self.keys.push(kid);
    }

    /// Makes it so, and refuses what has ended on this replica without waiting for the log.
    pub async fn commit(self) -> Result<()> {
        self.tx.commit().await?;
        for (principal, epoch) in self.principals {
            self.directory.revocations.end_tokens(principal, epoch);
        }
        for session in self.sessions {
            self.directory.revocations.end_session(session);
        }
        for kid in self.keys {
            self.directory.revocations.end_key(kid);
        }
        Ok(())
    }
}

fn ids(ids: &[Uuid]) -> Vec<String> {
    ids.iter().map(Uuid::to_string).collect()
}

fn elsewhere() -> Fault {
    Fault::new(Reason::PermissionDenied, "The caller's permission does not reach beyond the tenant it acts in.")
        .with("permission", "on the platform")
}
