//! Fresh proofs: what a sensitive call asks for is asked on the terminal, and the call made again with it.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Response};
use zeroize::Zeroizing;

use super::connect::Caller;
use super::credentials::Store;
use super::failure::{Failure, Result};
use super::prompt::{code, is_totp, password};
use crate::proto::StepUpRequest;
use crate::proto::step_up_request::Proof;

impl Caller {
    /// Makes a call that may need a fresh proof of who is calling; when it does, asks for the proof and calls again.
    pub async fn proving<T: Clone, A>(
        &self,
        request: T,
        call: impl AsyncFn(Request<T>) -> Result<Response<A>>,
    ) -> Result<A> {
        match call(Request::new(request.clone())).await {
            Err(failure) if failure.reason.as_deref() == Some("STEP_UP_REQUIRED") => {
                let mut again = Request::new(request);
                again.metadata_mut().insert("sidle-step-up", self.prove(&failure).await?);
                Ok(call(again).await?.into_inner())
            }
            answer => Ok(answer?.into_inner()),
        }
    }

    /// A fresh proof for the call that was refused for want of one.
    pub(super) async fn prove(&self, asked: &Failure) -> Result<MetadataValue<Ascii>> {
        let of = |key: &str| asked.metadata.get(key).cloned().unwrap_or_default();
        let (method, target, change) = (of("method"), of("target"), of("change"));
        let request = StepUpRequest { method, target, change, proof: Some(proof(&of("ways"), asked)?) };
        let mut request = Request::new(request);
        self.name_device(&mut request)?;
        let answer = self.authenticate().await?.step_up(request).await?.into_inner();
        secret(&Zeroizing::new(answer.step_up_token))
    }

    /// Says which device a call with a guessable secret comes from: concurrent guesses of others must not lock the caller
    /// out.
    pub(super) fn name_device<T>(&self, request: &mut Request<T>) -> Result<()> {
        if self.is_signed_in()
            && let Ok(credentials) = Store::open().and_then(|store| store.read())
            && let Some(device) = credentials.known_device(&self.server)
        {
            request.metadata_mut().insert("sidle-known-device", secret(device)?);
        }
        Ok(())
    }
}

/// A secret as metadata.
fn secret(token: &str) -> Result<MetadataValue<Ascii>> {
    let mut value: MetadataValue<Ascii> =
        token.parse().map_err(|_| Failure::new("a secret holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A proof by one of the methods that the service names.
fn proof(ways: &str, asked: &Failure) -> Result<Proof> {
    let has = |way| ways.split(',').any(|there| there == way);
    if has("totp") {
        let typed = code("To go on, prove who you are. Code of the authenticator application, or a recovery code: ")?;
        return Ok(match is_totp(&typed) {
            true => Proof::TotpCode(typed.to_string()),
            false => Proof::RecoveryCode(typed.to_string()),
        });
    }
    if has("password") {
        return Ok(Proof::Password(password("To go on, prove who you are. Password: ")?.to_string()));
    }
    Err(Failure::new(asked.message.clone())
        .remedy("Prove who you are where you signed in: this command asks for passwords and codes only."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_way_is_asked_for_and_an_impossible_one_is_explained() {
        assert!(is_totp("123 456") && is_totp("123456") && !is_totp("12345") && !is_totp("7k3m-9qxt-0000-1111"));
        let asked = Failure::new("The call needs a fresh proof.");
        assert!(proof("kanidm", &asked).unwrap_err().remedy.is_some());
        assert!(proof("", &asked).unwrap_err().remedy.is_some());
    }
}
