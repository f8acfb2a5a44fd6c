//! `sidle mfa`.

use std::io::IsTerminal as _;

use clap::Subcommand;

use super::Global;
use super::connect::Caller;
use super::failure::Result;
use super::output::{Out, time};
use super::prompt::code;
use crate::proto::*;

/// Commands on one's own second factor.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Show which second factors there are
    Status,
    /// Enrol an authenticator application
    Enrol,
    /// Complete an enrolment with the application's first code
    Confirm,
    /// Remove the authenticator application and the recovery codes
    Disable,
    /// Replace the recovery codes
    RecoveryCodes,
}

impl Command {
    pub async fn run(self, global: &Global, out: &Out) -> Result<()> {
        let caller = Caller::open(global)?;
        match self {
            Self::Status => status(&caller, out).await,
            Self::Enrol => enrol(&caller, out).await,
            Self::Confirm => confirm(&caller, out).await,
            Self::Disable => disable(&caller, out).await,
            Self::RecoveryCodes => {
                let request = RegenerateRecoveryCodesRequest {};
                let call = async |request| Ok(caller.authenticate().await?.regenerate_recovery_codes(request).await?);
                let answer = caller.proving(request, call).await?;
                if out.is_json() {
                    return out.message(&answer);
                }
                out.note("The old recovery codes have stopped working. These are the new ones:");
                show_codes(&answer.recovery_codes, out)
            }
        }
    }
}

async fn status(caller: &Caller, out: &Out) -> Result<()> {
    let me = caller.authenticate().await?.who_am_i(WhoAmIRequest {}).await?.into_inner();
    if out.is_json() {
        return out.message(&me);
    }
    if me.second_factors.is_empty() {
        return out.line("No second factor is enrolled.");
    }
    let left = me.recovery_codes_left;
    out.line(&format!("An authenticator application is enrolled; {left} recovery codes are left."))
}

async fn enrol(caller: &Caller, out: &Out) -> Result<()> {
    let call = async |request| Ok(caller.authenticate().await?.enroll_totp(request).await?);
    let answer = caller.proving(EnrollTotpRequest {}, call).await?;
    if out.is_json() {
        return out.message(&answer);
    }
    out.note("Give this to the authenticator application; it is shown once:");
    out.line(&format!("secret   {}", in_groups(&answer.secret)))?;
    out.line(&format!("address  {}", answer.otpauth_uri))?;
    let until = time(answer.expires_at.as_ref());
    if std::io::stdin().is_terminal() {
        out.note(&format!("The enrolment lapses at {until} unless the application's first code is entered."));
        return confirm(caller, out).await;
    }
    out.note(&format!("Complete the enrolment with `sidle mfa confirm` until {until}."));
    Ok(())
}

async fn confirm(caller: &Caller, out: &Out) -> Result<()> {
    let totp_code = code("Code that the application shows: ")?.to_string();
    let answer = caller.authenticate().await?.confirm_totp(ConfirmTotpRequest { totp_code }).await?.into_inner();
    if out.is_json() {
        return out.message(&answer);
    }
    out.note(&format!("The application is enrolled; {} other sessions have ended.", answer.sessions_revoked));
    out.note("Keep these recovery codes where you find them without the application. Each works once:");
    show_codes(&answer.recovery_codes, out)
}

async fn disable(caller: &Caller, out: &Out) -> Result<()> {
    let call = async |request| Ok(caller.authenticate().await?.disable_totp(request).await?);
    let answer = caller.proving(DisableTotpRequest {}, call).await?;
    if out.is_json() {
        return out.message(&answer);
    }
    out.line(&format!("The second factor is taken away; {} other sessions have ended.", answer.sessions_revoked))
}

fn show_codes(codes: &[String], out: &Out) -> Result<()> {
    codes.iter().try_for_each(|code| out.line(code))
}

/// Four characters at a time, as people type what they copy.
fn in_groups(secret: &str) -> String {
    let characters: Vec<char> = secret.chars().collect();
    characters.chunks(4).map(String::from_iter).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_as_people_type_it() {
        assert_eq!(in_groups("GEZDGNBVGY"), "GEZD GNBV GY");
        assert_eq!(in_groups(""), "");
    }
}
