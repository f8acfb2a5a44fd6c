//! Calls with a `request_id`: a repeat gets the first answer. The answer is stored in the transaction of the change,
//! belongs to caller, RPC and body, and holds no secret.

use crate::db::Connection;
use prost::Message;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Call, input, store};
use crate::fault::{Fault, Reason, Result};

/// A call that may be repeated.
#[derive(Debug)]
pub struct Replay {
    principal_id: Uuid,
    method: &'static str,
    request_id: Uuid,
    body_digest: [u8; 32],
}

impl Replay {
    /// Begins a call, in its transaction: none when it came without a `request_id`, otherwise the handle to finish it
    /// with and, if it was made before, the first answer. Of two concurrent ones the second waits for the first.
    ///
    /// # Errors
    /// `REQUEST_ID_REUSED` when the id came before with another body.
    pub async fn begin<A: Message + Default>(
        tx: &mut Connection,
        call: &Call,
        method: &'static str,
        request_id: &str,
        body: &impl Message,
    ) -> Result<(Option<Self>, Option<A>)> {
        let Some(request_id) = input::optional_uuid("request_id", request_id)? else { return Ok((None, None)) };
        let replay = Self {
            principal_id: call.principal()?.id,
            method,
            request_id,
            body_digest: Sha256::digest(body.encode_to_vec()).into(),
        };
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
    pub async fn finish(this: Option<Self>, tx: &mut Connection, answer: &impl Message) -> Result<()> {
        let Some(replay) = this else { return Ok(()) };
        let answer = answer.encode_to_vec();
        store::keep_answer(tx, replay.principal_id, replay.method, replay.request_id, &replay.body_digest, &answer)
            .await
    }
}
