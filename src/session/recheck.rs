//! Whether what the caller of an open stream was authenticated by is still good, once the access token has expired: the
//! session neither ended nor lapsed and in the same tenant, the service account active, and the rights unchanged.
//!
//! Ten thousand streams ask every few seconds. Their questions are gathered while a statement is under way and asked
//! together in the next, over one connection.

use std::collections::{HashMap, HashSet};

use sidle_token::Epoch;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::store::recheck::{self as store, Asked, Found};
use crate::access::{Call, Principal};
use crate::context::Context;
use crate::correlation;
use crate::db::Db;
use crate::fault::{Fault, Reason, Result};

/// Questions that one statement answers at most.
const MOST: usize = 1_000;

/// Answers the questions of open streams. Clones ask the same.
#[derive(Clone, Debug)]
pub struct Rechecks {
    questions: mpsc::Sender<Question>,
}

/// A caller, and where the answer goes: whether they are still authorised.
#[derive(Debug)]
struct Question {
    call: Call,
    answer: oneshot::Sender<Result<bool>>,
}

impl Rechecks {
    /// Asks over `db`, in a task that ends when nobody can ask any more.
    pub fn new(db: Db, context: Context) -> Self {
        let (questions, asked) = mpsc::channel(MOST);
        drop(correlation::spawn(answer_all(db, context, asked)));
        Self { questions }
    }

    /// Checks that the caller is still authorised.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`; `DATABASE_UNAVAILABLE` when nobody knows.
    pub async fn recheck(&self, call: Call) -> Result<()> {
        let gone = || Fault::internal("the task that rechecks callers has ended");
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question { call, answer }).await.map_err(|_| gone())?;
        match answered.await.map_err(|_| gone())?? {
            true => Ok(()),
            false => Err(Fault::new(Reason::Unauthenticated, "The session has ended, or its rights have changed.")),
        }
    }
}

/// The callers of a question: the holder of the token, and that of the certificate that came with it.
fn principals(call: &Call) -> impl Iterator<Item = &Principal> {
    call.principal.as_deref().into_iter().chain(call.certificate.as_deref())
}

async fn answer_all(db: Db, context: Context, mut questions: mpsc::Receiver<Question>) {
    let mut batch = Vec::new();
    while questions.recv_many(&mut batch, MOST).await > 0 {
        let found = store::good(&db, &asked(&batch), context.now()).await.map(Known::new);
        for Question { call, answer } in batch.drain(..) {
            let verdict = match &found {
                Ok(known) => Ok(call.principal.is_some() && principals(&call).all(|caller| known.authorises(caller))),
                Err(fault) => Err(Fault::new(fault.reason(), "Sessions cannot be looked up at the moment.")),
            };
            // A stream that was closed meanwhile takes no answer.
            let _ = answer.send(verdict);
        }
        if let Err(fault) = found {
            tracing::warn!(event = "streams_not_rechecked", %fault, cause = fault.cause().map(tracing::field::display));
        }
    }
}

fn asked(batch: &[Question]) -> Asked {
    let mut asked = Asked::default();
    for principal in batch.iter().flat_map(|question| principals(&question.call)) {
        match principal.session_id {
            Some(session) => asked.sessions.push(session),
            None => asked.service_accounts.push(principal.id),
        }
        asked.keys.extend(principal.key_id);
    }
    for ids in [&mut asked.sessions, &mut asked.service_accounts, &mut asked.keys] {
        ids.sort_unstable();
        ids.dedup();
    }
    asked
}

/// What the database said.
struct Known {
    good: HashMap<Uuid, (Option<Uuid>, Epoch)>,
    revoked_keys: HashSet<Uuid>,
}

impl Known {
    fn new(found: Found) -> Self {
        let good = found.good.into_iter().map(|good| (good.id, (good.tenant_id, good.epoch))).collect();
        Self { good, revoked_keys: found.revoked_keys.into_iter().collect() }
    }

    /// Whether the caller has the rights now that the stream was opened with.
    fn authorises(&self, caller: &Principal) -> bool {
        let is_good = self
            .good
            .get(&caller.session_id.unwrap_or(caller.id))
            .is_some_and(|(tenant, epoch)| *tenant == caller.tenant_id && *epoch <= caller.epoch);
        is_good && caller.key_id.is_none_or(|key| !self.revoked_keys.contains(&key))
    }
}
