//! `sidle login` and `sidle logout`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use zeroize::Zeroizing;

use super::connect::Caller;
use super::credentials::{SignIn, Store};
use super::failure::{Failure, Result, exit};
use super::kanidm_login::{self, DEFAULT_REDIRECT};
use super::login_request::{Tenant, this_device};
use super::output::Out;
use super::{Global, change_password, prompt};
use crate::access::names;
use crate::proto::authenticate_password_response::Outcome;
use crate::proto::complete_mfa_request::Factor;
use crate::proto::{AuthenticatePasswordRequest, CompleteMfaRequest, MfaChallenge, RevokeSessionRequest, SignedIn};

/// Signs in with a password and, where one is enrolled, a second factor. They are asked for on the terminal; otherwise the
/// password comes from SIDLE_PASSWORD or from the first line of standard input and the code from the next, never from an
/// argument, which other users of the machine could see.
#[derive(Args)]
pub(super) struct Login {
    /// E-mail address or username; asked for when not given
    #[arg(long, env = "SIDLE_EMAIL", value_name = "ADDRESS")]
    email: Option<String>,
    /// Slug or id of the tenant to act in, when it is not the home tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Sign in through Kanidm in a browser, which returns to this address: by default http://localhost:8931/callback, where
    /// this command waits for it. It has to be among those that the service has configured (kanidm.redirect_uris) and that
    /// Kanidm knows of the client
    #[arg(long, value_name = "REDIRECT_URI", num_args = 0..=1, default_missing_value = DEFAULT_REDIRECT,
        conflicts_with = "email")]
    kanidm: Option<String>,
}

impl Login {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        let tenant = Tenant::named(self.tenant);
        if let Some(redirect_uri) = self.kanidm {
            let signed_in = kanidm_login::sign_in(&caller, redirect_uri, tenant).await?;
            return keep(&caller, None, signed_in, out);
        }
        let identifier = match self.email {
            Some(email) => email,
            None => ask("E-mail address: ")?,
        };
        let password = prompt::password("Password: ")?;
        let signed_in = with_password(&caller, &identifier, &password, tenant).await?;
        let must_change = signed_in.must_change_password;
        keep(&caller, Some(&identifier), signed_in, out)?;
        if must_change { replace(&caller, &password, out).await } else { Ok(()) }
    }
}

async fn with_password(
    caller: &Caller,
    identifier: &str,
    password: &Zeroizing<String>,
    tenant: Tenant,
) -> Result<SignedIn> {
    let known = Store::open()?.read()?.known_devices;
    let known = known.get(&caller.server).and_then(|devices| devices.get(&names::identifier_key(identifier)));
    let request = AuthenticatePasswordRequest {
        identifier: identifier.to_owned(),
        password: password.to_string(),
        known_device_token: known.cloned().unwrap_or_default(),
        tenant_id: tenant.id,
        tenant_slug: tenant.slug,
        device: Some(this_device()),
        ..Default::default()
    };
    let answer = caller.anonymous().authenticate_password(request).await?.into_inner();
    match answer.outcome {
        Some(Outcome::SignedIn(signed_in)) => Ok(signed_in),
        Some(Outcome::MfaChallenge(challenge)) => {
            let answer = caller.anonymous().complete_mfa(second_factor(challenge)?).await?.into_inner();
            Ok(answer.signed_in.unwrap_or_default())
        }
        None => Err(Failure::new("the service answered neither tokens nor a question")),
    }
}

/// Has a password replaced that may be used for nothing else: at once on a terminal.
async fn replace(caller: &Caller, present: &str, out: &Out) -> Result<()> {
    out.note("The password must be changed first: until then the session may do nothing else.");
    if !prompt::is_asked("SIDLE_NEW_PASSWORD") {
        out.note("Change it with: sidle change-password");
        return Ok(());
    }
    change_password::change(caller, present, out)
        .await
        .map_err(|failure| failure.remedy("You are signed in; change the password with `sidle change-password`."))?;
    out.note("The password is changed.");
    Ok(())
}

/// The answer to what the login asks for besides the password.
fn second_factor(challenge: MfaChallenge) -> Result<CompleteMfaRequest> {
    let typed = prompt::code("Code of the authenticator application, or a recovery code: ")?;
    let factor = match prompt::is_totp(&typed) {
        true => Factor::TotpCode(typed.to_string()),
        false => Factor::RecoveryCode(typed.to_string()),
    };
    Ok(CompleteMfaRequest { challenge_token: challenge.challenge_token, factor: Some(factor) })
}

/// Keeps the tokens of a login and, of one that began with `typed` and a password, what this device is known by.
fn keep(caller: &Caller, typed: Option<&str>, signed_in: SignedIn, out: &Out) -> Result<()> {
    let email = signed_in.user.map(|user| user.email).unwrap_or_default();
    let mut entry = SignIn {
        email: email.clone(),
        session_id: signed_in.session_id,
        access_token: String::new(),
        access_token_obtained_at: None,
        access_token_expires_at: caller.context.now(),
        refresh_token: String::new(),
        pending_refresh: None,
    };
    entry.take(signed_in.tokens.unwrap_or_default(), caller.context.now())?;
    let store = Store::open()?;
    let mut credentials = store.read()?;
    credentials.servers.insert(caller.server.clone(), entry);
    if let Some(ca) = &caller.ca {
        credentials.authorities.insert(caller.server.clone(), std::path::absolute(ca)?);
    }
    credentials.current = Some(caller.server.clone());
    if let Some(typed) = typed.filter(|_| !signed_in.known_device_token.is_empty()) {
        let devices = credentials.known_devices.entry(caller.server.clone()).or_default();
        // Also when a username was typed: proofs are given by the user of the session.
        devices.insert(names::identifier_key(&email), signed_in.known_device_token.clone());
        devices.insert(names::identifier_key(typed), signed_in.known_device_token);
    }
    store.write(&credentials, &caller.context)?;
    if out.is_json() {
        return out
            .json(&serde_json::json!({ "server": caller.server, "email": email, "tenant_id": signed_in.tenant_id }));
    }
    out.line(&format!("Signed in to {} as {email}.", caller.server))
}

/// Ends the session and forgets its tokens, also when the service cannot be reached. The service's address and its authority
/// stay, so that the next login needs no options.
pub(super) async fn logout(global: &Global, out: &Out) -> Result<()> {
    let caller = Caller::open(global)?;
    let kept = Store::open()?.read()?.servers.remove(&caller.server);
    let Some(kept) = kept else {
        out.note(&format!("Nobody is signed in to {}.", caller.server));
        return Ok(());
    };
    let revoked = match caller.sessions().await {
        Ok(mut sessions) => {
            let request = RevokeSessionRequest { session_id: kept.session_id };
            sessions.revoke_session(request).await.map(drop).map_err(Failure::from)
        }
        Err(failure) => Err(failure),
    };
    let store = Store::open()?;
    let mut credentials = store.read()?;
    credentials.servers.remove(&caller.server);
    store.write(&credentials, &caller.context)?;
    match revoked {
        // It had ended before: nothing is left to be ended.
        Err(failure) if failure.exit_code != exit::SIGNED_OUT => return Err(failure),
        _ => out.note(&format!("Signed out of {}.", caller.server)),
    }
    Ok(())
}

fn ask(question: &str) -> Result<String> {
    let mut err = std::io::stderr();
    if std::io::stdin().is_terminal() {
        write!(err, "{question}")?;
        err.flush()?;
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let line = line.trim().to_owned();
    if line.is_empty() {
        return Err(Failure::new("no e-mail address was given").remedy("Give it with --email, or in SIDLE_EMAIL."));
    }
    Ok(line)
}
