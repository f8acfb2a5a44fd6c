//! The administrator of Kanidm on whose behalf it is set up.

use clap::Args;

use crate::cli::failure::{Failure, Result};
use crate::cli::prompt;
use crate::config::Secret;
use crate::kanidm::{Administrator, Kanidm, NotLetIn, Question};

const TOKEN: &str = "SIDLE_KANIDM_ADMIN_TOKEN";
const PASSWORD: &str = "SIDLE_KANIDM_ADMIN_PASSWORD";

/// Who it is. What they prove it with is no argument: other users of the machine see those.
#[derive(Args)]
pub(super) struct As {
    /// Administrator of Kanidm to sign in as; the password is asked for, or comes from SIDLE_KANIDM_ADMIN_PASSWORD. With
    /// SIDLE_KANIDM_ADMIN_TOKEN, the token of a session, nobody is asked
    #[arg(long, value_name = "NAME", default_value = "idm_admin")]
    admin: String,
}

/// An administrator's session, and whether it was begun here.
pub(super) struct Session {
    pub admin: Administrator,
    is_ours: bool,
}

impl As {
    /// Whom messages name.
    pub fn name(&self) -> &str {
        if std::env::var_os(TOKEN).is_some_and(|token| !token.is_empty()) { "the session" } else { &self.admin }
    }

    /// Signs in.
    pub async fn sign_in(&self, kanidm: &Kanidm) -> Result<Session> {
        if let Some(token) = std::env::var(TOKEN).ok().filter(|token| !token.trim().is_empty()) {
            let token = Secret::from(token.trim().to_owned());
            if token.expose().bytes().any(|b| !b.is_ascii_graphic()) {
                return Err(Failure::new(format!("{TOKEN} is not one line of printable characters")));
            }
            return Ok(Session { admin: kanidm.as_administrator(token), is_ours: false });
        }
        let question = format!("Password of {} in Kanidm: ", self.admin);
        let answered = kanidm.sign_in_administrator(&self.admin, |asked| match asked {
            Question::Password => prompt::password_of(PASSWORD, &question),
            Question::Code => prompt::code("Code of the authenticator application: "),
        });
        let admin = answered.await.map_err(|why| self.not_let_in(kanidm, why))?;
        Ok(Session { admin, is_ours: true })
    }

    fn not_let_in(&self, kanidm: &Kanidm, why: NotLetIn<Failure>) -> Failure {
        let (name, origin) = (&self.admin, kanidm.origin());
        let failure = Failure::new(format!("cannot sign in to Kanidm at {origin} as {name}"));
        let with = |why: &str, remedy: String| {
            Failure::new(format!("cannot sign in to Kanidm at {origin} as {name}: {why}")).remedy(remedy)
        };
        match why {
            NotLetIn::Answer(failure) => failure,
            NotLetIn::Kanidm(error) => with(
                &error.to_string(),
                "See that Kanidm runs and that --url and --ca-file are right.".to_owned(),
            ),
            NotLetIn::Unknown => with("there is no such account", "Name another one with --admin.".to_owned()),
            NotLetIn::Denied => with(
                "the password or the code is wrong, or the account is locked for a moment",
                format!("On the Kanidm server, `kanidmd recover-account {name}` makes a new password for a built-in account."),
            ),
            NotLetIn::NotHere => failure.remedy(format!(
                "This account signs in with a passkey, which cannot be used here: pass the token of a session in {TOKEN}, \
                 name another account with --admin, or use the commands of --print-commands."
            )),
        }
    }
}

impl Session {
    /// Ends a session that was begun here. It would end by itself within the hour; so that it cannot be ended is no failure.
    pub async fn end(self) {
        if self.is_ours {
            let _ = self.admin.sign_out().await;
        }
    }
}
