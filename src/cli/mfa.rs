//! `sidle mfa`.

use std::io::IsTerminal as _;

use clap::Subcommand;

use super::Global;
use super::connect::Caller;
use super::failure::{Failure, Result};
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
    if std::io::stdout().is_terminal() {
        picture(&answer.otpauth_uri).iter().try_for_each(|line| out.line(line))?;
    }
    let until = time(answer.expires_at.as_ref());
    if std::io::stdin().is_terminal() {
        out.note(&format!("The enrolment lapses at {until} unless the application's first code is entered."));
        return confirm(caller, out).await;
    }
    out.note(&format!("Complete the enrolment with `sidle mfa confirm` until {until}."));
    Ok(())
}

async fn confirm(caller: &Caller, out: &Out) -> Result<()> {
    let answer = first_code(caller, out).await?;
    if out.is_json() {
        return out.message(&answer);
    }
    out.note(&format!("The application is enrolled; {} other sessions have ended.", answer.sessions_revoked));
    out.note("Keep these recovery codes where you find them without the application. Each works once:");
    show_codes(&answer.recovery_codes, out)
}

/// Asks for the application's first code until it is right: a slip of the finger, or a code that was just over, must not cost
/// the enrolment. It stops before the service locks the account, which it does after five failures by default.
async fn first_code(caller: &Caller, out: &Out) -> Result<ConfirmTotpResponse> {
    const TRIES: usize = 4;
    let mut tries = 0;
    let mut refused: Option<Failure> = None;
    loop {
        let totp_code = match code("Code that the application shows: ") {
            Ok(code) => code.to_string(),
            // No more input: what was wrong with the last code is the answer.
            Err(failure) => return Err(refused.unwrap_or(failure)),
        };
        tries += 1;
        let request = ConfirmTotpRequest { totp_code };
        match caller.authenticate().await?.confirm_totp(request).await.map_err(Failure::from) {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(failure) if failure.reason.as_deref() == Some("INVALID_CREDENTIALS") => {
                let failure = failure.remedy("The enrolment is still open: try again with `sidle mfa confirm`.");
                if tries == TRIES {
                    return Err(failure);
                }
                out.note(
                    "That code is not right. Enter the one that is shown now; the application's clock must be right.",
                );
                refused = Some(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// The address as a QR code, for a terminal: light on dark, as most are, with two rows of it in each line. Nothing for an
/// address that is too long for one.
fn picture(address: &str) -> Vec<String> {
    use qrcode::render::unicode::Dense1x2;
    let Ok(code) = qrcode::QrCode::new(address) else { return Vec::new() };
    let text = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    text.lines().map(str::to_owned).collect()
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
    fn an_address_is_drawn_as_a_square_that_fits_a_terminal() {
        let lines =
            picture(&format!("otpauth://totp/Sidle:ann%40north.example?secret={}&issuer=Sidle", "A".repeat(32)));
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width) && width < 80, "{lines:?}");
        assert_eq!(lines.len(), width.div_ceil(2));
        assert!(picture(&"x".repeat(10_000)).is_empty());
    }

    #[test]
    fn a_secret_is_shown_as_people_type_it() {
        assert_eq!(in_groups("GEZDGNBVGY"), "GEZD GNBV GY");
        assert_eq!(in_groups(""), "");
    }
}
