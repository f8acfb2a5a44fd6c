//! `sidle change-password`.

use tonic::Request;

use super::connect::Caller;
use super::credentials::Store;
use super::failure::{Failure, Result};
use super::output::Out;
use super::{Global, prompt};
use crate::proto::{ChangePasswordRequest, ChangePasswordResponse};

pub(super) async fn run(global: &Global, out: &Out) -> Result<()> {
    let caller = Caller::open(global)?;
    // Before anything is typed: whoever is not signed in has no password to change here.
    caller.token().await?;
    let present = prompt::password("Present password: ")?;
    let answer = change(&caller, &present, out).await?;
    if out.is_json() {
        // The tokens are secrets, and kept.
        return out.json(&serde_json::json!({ "sessions_revoked": answer.sessions_revoked }));
    }
    out.line(&format!("The password is changed; {} other sessions have ended.", answer.sessions_revoked))
}

/// Asks for a new password and sets it in the place of the present one. On a terminal a password that is not good enough is
/// asked for again.
pub(super) async fn change(caller: &Caller, present: &str, out: &Out) -> Result<ChangePasswordResponse> {
    loop {
        let new = prompt::new_password("SIDLE_NEW_PASSWORD", "New password: ")?;
        let request = ChangePasswordRequest { current_password: present.to_owned(), new_password: new.to_string() };
        let mut request = Request::new(request);
        caller.name_device(&mut request)?;
        match caller.authenticate().await?.change_password(request).await.map_err(Failure::from) {
            Ok(answer) => return keep(caller, answer.into_inner(), out),
            Err(failure) if prompt::is_asked("SIDLE_NEW_PASSWORD") && is_about_the_new(&failure) => {
                failure.fields.iter().for_each(|field| out.note(&format!("The new password {}.", field.problem)));
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn is_about_the_new(failure: &Failure) -> bool {
    !failure.fields.is_empty() && failure.fields.iter().all(|field| field.field == "new_password")
}

/// Keeps the tokens with which the session goes on: those from before are void.
fn keep(caller: &Caller, mut answer: ChangePasswordResponse, out: &Out) -> Result<ChangePasswordResponse> {
    let tokens = answer.tokens.take().unwrap_or_default();
    if !caller.is_signed_in() {
        out.note("The access token in SIDLE_TOKEN is not accepted any more.");
        return Ok(answer);
    }
    let store = Store::open()?;
    let mut credentials = store.read()?;
    if let Some(sign_in) = credentials.servers.get_mut(&caller.server) {
        sign_in.take(tokens, caller.context.now())?;
        store.write(&credentials, &caller.context)?;
    }
    Ok(answer)
}
