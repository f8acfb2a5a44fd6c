//! Calls with a `request_id`: a repeat gets the first answer. The answer is stored in the transaction of the change,
//! belongs to caller, RPC and body, and holds no secret.

use prost::Message;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Call, input, store};
use crate::db::Connection;
use crate::fault::{Fault, Reason, Result};

/// What a call that changes something says about how the change is to be made.
#[derive(Debug)]
pub struct ChangeRequest<'a> {
    method: &'static str,
    request_id: &'a str,
    validate_only: bool,
    body_digest: [u8; 32],
}

impl<'a> ChangeRequest<'a> {
    /// That of a call of `method` with this body, which holds no secret that could be found from its digest.
    pub fn new(method: &'static str, request_id: &'a str, validate_only: bool, body: &impl Message) -> Self {
        Self { method, request_id, validate_only, body_digest: Sha256::digest(body.encode_to_vec()).into() }
    }

    /// Whether the change is only to be validated.
    pub fn is_validation(&self) -> bool {
        self.validate_only
    }
}

/// The answer to a call that changes something.
pub trait Answer: Message + Clone + Default {
    /// What a repeat of the call is answered: the same, without secrets. It is stored.
    fn for_repeats(&self) -> Self;

    /// What a call that only validated is answered: without what would lead to something that is not there.
    #[must_use]
    fn of_validation(self) -> Self {
        self
    }
}

/// Says of answers that hold no secret that a repeat gets the same.
macro_rules! answers_without_secrets {
    ($($answer:ty),+ $(,)?) => {$(
        impl $crate::access::replay::Answer for $answer {
            fn for_repeats(&self) -> Self {
                self.clone()
            }
        }
    )+};
}
pub(crate) use answers_without_secrets;

/// A call that may be repeated.
#[derive(Debug)]
pub(crate) struct Replay {
    principal_id: Uuid,
    method: &'static str,
    request_id: Uuid,
    body_digest: [u8; 32],
}

impl Replay {
    /// Begins a call, in its transaction: none when it came without a `request_id`, otherwise the handle to finish it
    /// with and, if it was made before, the first answer. Of two concurrent ones the second waits for the first. A call that
    /// only validates is never a repeat, so that the real one may follow with the same id.
    ///
    /// # Errors
    /// `REQUEST_ID_REUSED` when the id came before with another body.
    pub async fn begin<A: Answer>(
        tx: &mut Connection,
        call: &Call,
        request: &ChangeRequest<'_>,
    ) -> Result<(Option<Self>, Option<A>)> {
        let request_id = input::optional_uuid("request_id", request.request_id)?;
        let Some(request_id) = request_id.filter(|_| !request.validate_only) else { return Ok((None, None)) };
        let ChangeRequest { method, body_digest, .. } = *request;
        let replay = Self { principal_id: call.principal()?.id, method, request_id, body_digest };
        store::lock_request(tx, replay.principal_id, method, request_id).await?;
        let Some((digest, answer)) = store::answer(tx, replay.principal_id, method, request_id).await? else {
            return Ok((Some(replay), None));
        };
        if digest != replay.body_digest {
            return Err(Fault::new(
                Reason::RequestIdReused,
                "This request_id was used before for a different request.",
            ));
        }
        let answer = A::decode(answer.as_slice()).map_err(Fault::internal)?;
        Ok((Some(replay), Some(answer)))
    }

    /// Stores the answer, in the same transaction as the change.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish(self, tx: &mut Connection, answer: &impl Answer) -> Result<()> {
        let Self { principal_id, method, request_id, body_digest } = self;
        let answer = answer.for_repeats().encode_to_vec();
        store::keep_answer(tx, principal_id, method, request_id, &body_digest, &answer).await
    }
}
