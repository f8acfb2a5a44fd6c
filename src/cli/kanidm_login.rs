//! Signing in through Kanidm: the person signs in in a browser, which comes back to this command where it runs on the same
//! machine; otherwise they paste the address that it ended at.

use std::io::{BufRead as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

use tonic::transport::Uri;

use super::connect::Caller;
use super::failure::{Failure, Result};
use super::login_request::{Tenant, this_device};
use super::loopback::{Loopback, parameter};
use crate::access::input;
use crate::proto::{CompleteKanidmLoginRequest, SignedIn, StartKanidmLoginRequest, StartKanidmLoginResponse};

/// Where the browser comes back to when nothing else is said. A fixed port, since Kanidm and the service compare the whole
/// address with those that they were given.
pub(super) const DEFAULT_REDIRECT: &str = "http://localhost:8931/callback";

/// Signs in by way of a browser. `redirect_uri` is one of those that the service has configured.
pub(super) async fn sign_in(caller: &Caller, redirect_uri: String, tenant: Tenant) -> Result<SignedIn> {
    // Before Kanidm is asked for anything: nobody else must be listening there when the browser comes back.
    let loopback = Loopback::bind(&redirect_uri).await;
    let request = StartKanidmLoginRequest {
        redirect_uri: redirect_uri.clone(),
        tenant_id: tenant.id,
        tenant_slug: tenant.slug,
        device: Some(this_device()),
        ..Default::default()
    };
    let begun = caller.anonymous().start_kanidm_login(request).await;
    let begun = begun.map_err(|status| not_begun(status.into(), &redirect_uri))?.into_inner();
    let address = usable(&begun.authorization_url)?;
    show(&address, loopback.is_some())?;
    open_browser(&address);
    let left = time_left(caller, &begun);
    let code = tokio::time::timeout(left, code_of(&begun.state, loopback))
        .await
        .map_err(|_| Failure::new("nobody came back from Kanidm in time").remedy("Begin again."))??;
    let request = CompleteKanidmLoginRequest { state: begun.state, code, login_secret: begun.login_secret };
    let answer = caller.anonymous().complete_kanidm_login(request).await?.into_inner();
    answer.signed_in.ok_or_else(|| Failure::new("the service answered no tokens"))
}

/// The address to open, if it is one that a browser opens as a page. A service in the right one's place could name a file, a
/// program's own scheme, or what a terminal obeys.
fn usable(address: &str) -> Result<String> {
    let unusable = || Failure::new("the service answered no address that a browser could sign in at");
    let url: Uri = address.parse().map_err(|_| unusable())?;
    let is_near = matches!(url.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let is_page = match url.scheme_str() {
        Some("https") => url.host().is_some(),
        Some("http") => is_near,
        _ => false,
    };
    if is_page && address.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(address.to_owned())
    } else {
        Err(unusable())
    }
}

fn not_begun(failure: Failure, redirect_uri: &str) -> Failure {
    if !failure.fields.iter().any(|field| field.field == "redirect_uri") {
        return failure;
    }
    failure.remedy(format!(
        "Add {redirect_uri} to kanidm.redirect_uris of the service and to the redirect URLs of its client in Kanidm, or name \
         one that is there with --kanidm REDIRECT_URI."
    ))
}

/// How long the attempt is good for.
fn time_left(caller: &Caller, begun: &StartKanidmLoginResponse) -> Duration {
    let expires_at = begun.expires_at.as_ref().and_then(|at| input::from_proto("expires_at", at).ok());
    let left = expires_at.and_then(|at| (at - caller.context.now()).to_std().ok());
    // Clocks may differ; the service decides.
    left.unwrap_or(Duration::from_secs(600)).max(Duration::from_secs(60))
}

/// Says where to sign in, to standard error: what is printed there is no result.
fn show(url: &str, listens: bool) -> Result<()> {
    let mut err = std::io::stderr();
    writeln!(err, "Open this address in a browser and sign in:\n\n  {url}\n")?;
    match listens {
        true => write!(
            err,
            "This goes on when the browser comes back. From another machine's browser, paste the address that it ended at: "
        )?,
        false => write!(err, "Then paste the address that the browser ended at: ")?,
    }
    Ok(err.flush()?)
}

/// Opens a browser where there is a screen to open one on. Nothing depends on it.
fn open_browser(url: &str) {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let has_screen = cfg!(target_os = "macos") || is_set("DISPLAY") || is_set("WAYLAND_DISPLAY");
    // The screen of a remote login is elsewhere.
    if !has_screen || is_set("SSH_CONNECTION") {
        return;
    }
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = tokio::process::Command::new(opener);
    // Not waited for, and not spoken to: the address has been printed.
    let _ = command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
}

/// The code, from the browser that comes back or from the address that is pasted, whichever comes first.
async fn code_of(state: &str, loopback: Option<Loopback>) -> Result<String> {
    let pasted = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let Some(loopback) = loopback else {
        let line = pasted.await.map_err(|error| Failure::new(error.to_string()))??;
        return code(line.trim(), state);
    };
    let line = async {
        match pasted.await {
            Ok(Ok(line)) if !line.trim().is_empty() => line,
            // Nobody pastes anything: the browser is waited for.
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        back = loopback.wait(state) => code(&back?, state),
        line = line => code(line.trim(), state),
    }
}

/// The code in the address that the browser ended at, when it belongs to the login that was begun.
fn code(address: &str, state: &str) -> Result<String> {
    if let Some(error) = parameter(address, "error") {
        let word: String = error.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
        return Err(Failure::new(format!("Kanidm did not sign anybody in: {word}")));
    }
    match (parameter(address, "code"), parameter(address, "state")) {
        // The address of another login would sign in another user.
        (Some(code), Some(back)) if back == state => Ok(code.to_owned()),
        (Some(_), Some(_)) => Err(Failure::new("the address belongs to another login")),
        _ => Err(Failure::new("the address holds no code").remedy("Paste the whole address, from http to the end.")),
    }
}

#[cfg(test)]
mod tests {
    use super::{code, usable};

    #[test]
    fn only_a_page_is_opened() {
        for page in ["https://idm.example/ui/oauth2?state=a&x=%20", "http://localhost:8080/x", "http://[::1]:1/"] {
            assert_eq!(usable(page).unwrap(), page);
        }
        for other in [
            "file:///etc/passwd",
            "http://idm.example/",
            "smb://host/share",
            "--help",
            "",
            "https://",
            "https://idm.example/\u{1b}[2J",
            "https://idm.example/ --arg",
            "http://localhost.evil.example/",
            "https://idm.example/\u{202e}",
        ] {
            assert!(usable(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn the_code_is_read_from_an_address_of_this_login_only() {
        assert_eq!(code("https://app.example/cb?code=abc-1&state=s", "s").unwrap(), "abc-1");
        assert_eq!(code("https://app.example/cb?state=s&code=abc#top", "s").unwrap(), "abc");
        for bad in [
            "",
            "abc",
            "https://app.example/cb",
            "https://app.example/cb?state=s",
            "https://app.example/cb?code=abc&state=other",
            "https://app.example/cb?error=access_denied&state=s",
        ] {
            assert!(code(bad, "s").is_err(), "{bad}");
        }
    }
}
