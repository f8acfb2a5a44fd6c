//! A change that is being made: one transaction with its events, the messages it sends, and what this
//! replica must refuse as soon as it is committed. Here is decided how the call ends that makes it: a repeat is answered what
//! the first call was, one that only validates undoes everything, any other stores its answer and commits.

use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

use crate::access::Call;
use crate::access::replay::{Answer, ChangeRequest, Replay};
use crate::audit::{Event, Recorder};
use crate::context::Context;
use crate::db::{Db, Scope, Tx};
use crate::fault::{Fault, Result};
use crate::mail::{Message, Outbox};
use crate::shared::Core;
use crate::token::Revocations;

/// Begins changes.
#[derive(Clone)]
pub struct Changes {
    db: Db,
    context: Context,
    recorder: Recorder,
    outbox: Outbox,
    revocations: Revocations,
}

/// A change that is being made. Nothing has happened unless it is committed.
pub struct Change {
    changes: Changes,
    /// Every statement of the change goes through it.
    pub tx: Tx,
    /// When the change began.
    pub now: DateTime<Utc>,
    revoked: Vec<Revoked>,
    replay: Option<Replay>,
    /// Whether it is only to be validated, where the call that makes it gets an answer.
    validate_only: Option<bool>,
}

/// What ends with the change.
enum Revoked {
    Tokens(Uuid, Epoch),
    Session(Uuid),
    Key(Uuid),
}

impl Changes {
    /// Changes of what is in the database; what they revoke is refused by `revocations`.
    pub fn new(core: &Core, revocations: Revocations) -> Self {
        let Core { db, context, recorder, outbox, .. } = core.clone();
        Self { db, context, recorder, outbox, revocations }
    }

    /// Begins a change in `scope`.
    ///
    /// # Errors
    /// `DATABASE_UNAVAILABLE`.
    pub async fn begin(&self, scope: Scope) -> Result<Change> {
        Ok(self.over(self.db.begin(scope).await?))
    }

    /// Begins one that writes addresses or usernames, for which it may have to wait: see [`Db::begin_contended`].
    ///
    /// # Errors
    /// `VALUE_CONTENDED`, `DATABASE_UNAVAILABLE`.
    pub async fn begin_contended(&self, scope: Scope) -> Result<Change> {
        Ok(self.over(self.db.begin_contended(scope).await?))
    }

    /// Begins one for the platform on behalf of users of `tenant`: see [`Db::begin_contended_for`].
    ///
    /// # Errors
    /// `VALUE_CONTENDED`, `DATABASE_UNAVAILABLE`.
    pub async fn begin_contended_for(&self, tenant: Uuid) -> Result<Change> {
        Ok(self.over(self.db.begin_contended_for(Scope::Platform, Some(tenant)).await?))
    }

    fn over(&self, tx: Tx) -> Change {
        Change {
            changes: self.clone(),
            tx,
            now: self.context.now(),
            revoked: Vec::new(),
            replay: None,
            validate_only: None,
        }
    }
}

impl Change {
    /// Writes an event in the transaction of the change.
    ///
    /// # Errors
    /// When the database fails; the change must then not be committed.
    pub async fn record(&mut self, event: Event) -> Result<()> {
        self.changes.recorder.record(&mut self.tx, event).await?;
        Ok(())
    }

    /// Sends a message if the change is committed.
    ///
    /// # Errors
    /// As [`Change::record`].
    pub async fn notify(&mut self, message: Message) -> Result<()> {
        self.changes.outbox.enqueue(&mut self.tx, message).await
    }

    /// Refuses the access tokens of a principal from before `epoch`, which the database has, once the change is committed.
    pub fn revoke_tokens(&mut self, principal: Uuid, epoch: Epoch) {
        self.revoked.push(Revoked::Tokens(principal, epoch));
    }

    /// Refuses the access tokens of sessions that the database has ended, once the change is committed.
    pub fn revoke_sessions(&mut self, sessions: impl IntoIterator<Item = Uuid>) {
        self.revoked.extend(sessions.into_iter().map(Revoked::Session));
    }

    /// Refuses what was signed with a key once the change is committed.
    pub fn revoke_key(&mut self, kid: Uuid) {
        self.revoked.push(Revoked::Key(kid));
    }

    /// Says whether the change is only to be validated; it then ends with [`Change::answer`], which undoes it.
    pub fn validate_only(&mut self, validate_only: bool) {
        self.validate_only = Some(validate_only);
    }

    /// Begins to make the change that `request` asks for: the first answer, if the call was made before. Otherwise the change
    /// ends with [`Change::answer`].
    ///
    /// # Errors
    /// `REQUEST_ID_REUSED` when the id came before with another body.
    pub async fn repeated<A: Answer>(&mut self, call: &Call, request: &ChangeRequest<'_>) -> Result<Option<A>> {
        self.validate_only(request.is_validation());
        let (replay, first) = Replay::begin(&mut self.tx, call, request).await?;
        self.replay = replay;
        Ok(first)
    }

    /// Commits the change with the answer that repeats will get. One that was only to be validated is dropped instead: it has
    /// met every rule and every constraint that the real one would.
    ///
    /// # Errors
    /// As [`Change::commit`].
    pub async fn answer<A: Answer>(mut self, answer: A) -> Result<A> {
        let unknown =
            || Fault::internal("a change is answered of which nobody said whether it is only to be validated");
        if self.validate_only.take().ok_or_else(unknown)? {
            return Ok(answer.of_validation());
        }
        if let Some(replay) = self.replay.take() {
            replay.finish(&mut self.tx, &answer).await?;
        }
        self.commit().await?;
        Ok(answer)
    }

    /// Commits, and refuses what has been revoked on this replica without waiting for the log.
    ///
    /// # Errors
    /// When the database fails; the change may then have been made or not.
    pub async fn commit(self) -> Result<()> {
        if self.validate_only.is_some() {
            return Err(Fault::internal("a change that ends with its answer is committed without it"));
        }
        let Self { changes, tx, revoked, .. } = self;
        tx.commit().await?;
        for revoked in revoked {
            match revoked {
                Revoked::Tokens(principal, epoch) => changes.revocations.end_tokens(principal, epoch),
                Revoked::Session(session) => changes.revocations.end_session(session),
                Revoked::Key(kid) => changes.revocations.end_key(kid),
            }
        }
        changes.recorder.wake();
        changes.outbox.wake();
        Ok(())
    }
}
