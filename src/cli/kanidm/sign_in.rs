//! Signing in through Kanidm: the person opens an address in a browser, wherever that is, and brings back the address that
//! the browser was sent to.

use std::io::{BufRead as _, Write as _};

use crate::cli::connect::Caller;
use crate::cli::failure::{Failure, Result};
use crate::proto::{CompleteKanidmLoginRequest, Device, DeviceType, SignedIn, StartKanidmLoginRequest};

/// Signs in by way of a browser. `redirect_uri` is one of those that the service has configured.
pub(in crate::cli) async fn sign_in(caller: &Caller, redirect_uri: String, tenant_id: String) -> Result<SignedIn> {
    let request = StartKanidmLoginRequest {
        redirect_uri,
        tenant_id,
        device: Some(Device {
            r#type: DeviceType::Desktop.into(),
            platform: std::env::consts::OS.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let begun = caller.anonymous().start_kanidm_login(request).await?.into_inner();
    // To standard error: what is printed there is no result.
    let mut err = std::io::stderr();
    writeln!(err, "Open this address in a browser and sign in:\n\n  {}\n", begun.authorization_url)?;
    write!(err, "Then paste the address that the browser ended at: ")?;
    err.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let code = code(line.trim(), &begun.state)?;
    let request = CompleteKanidmLoginRequest { state: begun.state, code, login_secret: begun.login_secret };
    let answer = caller.anonymous().complete_kanidm_login(request).await?.into_inner();
    answer.signed_in.ok_or_else(|| Failure::new("the service answered no tokens"))
}

/// The code in the address that the browser ended at, when it belongs to the login that was begun.
fn code(address: &str, state: &str) -> Result<String> {
    let query = address.split_once('?').map(|(_, query)| query.split('#').next().unwrap_or(query));
    let parameter =
        |name: &str| query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    if let Some(error) = parameter("error") {
        let word: String = error.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
        return Err(Failure::new(format!("Kanidm did not sign anybody in: {word}")));
    }
    match (parameter("code"), parameter("state")) {
        // The address of another login would sign in another user.
        (Some(code), Some(back)) if back == state => Ok(code),
        (Some(_), Some(_)) => Err(Failure::new("the address belongs to another login")),
        _ => {
            Err(Failure::new("the address holds no code").remedy("Paste the whole address, from https:// to the end."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::code;

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
