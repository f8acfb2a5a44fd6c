//! Rotating signing keys for a caller. The keys themselves belong to the token module.

use sidle_token::Algorithm;

use super::Directory;
use crate::access::replay::{Answer, ChangeRequest};
use crate::access::{Call, denied};
use crate::db::Scope;
use crate::fault::Result;
use crate::token::{KeyView, Rotation};

const ROTATE: &str = "sidle.v1.DirectoryService/RotateSigningKeys";
/// What callers need to rotate keys.
const WRITE: &str = "keys.rotate";

impl Directory {
    /// Rotates the signing keys for a call; the answer is of the new key, or the active one where none was made, and of the
    /// keys that were there before.
    pub(super) async fn rotate_signing_keys<A: Answer>(
        &self,
        call: &Call,
        request: &ChangeRequest<'_>,
        algorithm: Option<Algorithm>,
        rotation: &Rotation,
        answer: impl FnOnce(KeyView, Vec<KeyView>) -> A,
    ) -> Result<A> {
        // For those only who may, and before anything is locked: an RSA key takes seconds.
        if call.principal()?.authorize(WRITE, None)? != Scope::Platform {
            return Err(denied(WRITE));
        }
        let fresh = self.keys.generate(algorithm).await?;
        let mut change = self.change(call, WRITE).await?;
        change.platform_only()?;
        if let Some(first) = change.repeated(request).await? {
            return Ok(first);
        }
        change.step_up_of_people(ROTATE, None).await?;
        let rotated = self.keys.rotate(&mut change.tx, call, fresh, rotation).await?;
        for kid in rotated.revoked {
            change.revoke_key(kid);
        }
        let answer = change.answer(answer(rotated.key, rotated.previous)).await?;
        self.keys.took_effect().await;
        Ok(answer)
    }
}
