//! Answers what was asked for without having signed in: looks whose the address is, and sends what that leads to.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Letter, RESET_PREFIX, VERIFY_PREFIX, store};
use crate::audit::{Event, EventType};
use crate::authenticate::account::Account;
use crate::fault::Result;
use crate::mail::{Kind, Message};

/// Longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Account {
    /// Answers requests until `stop` is cancelled; none come without a mail server.
    pub async fn answer_mail(self, stop: CancellationToken) {
        let poll = self.config.mail.poll;
        let mut wait = poll;
        loop {
            let answered = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                answered = self.answer_all() => answered,
            };
            wait = match answered {
                Ok(()) => poll,
                Err(fault) => {
                    tracing::warn!(event = "mail_requests_failed", cause = %fault, "requests cannot be answered");
                    (wait * 2).min(LONGEST_WAIT)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.context.entropy.jitter(wait)) => {}
                () = self.asked.notified() => {}
            }
        }
    }

    async fn answer_all(&self) -> Result<()> {
        store::purge_expired(&self.db, self.context.now()).await?;
        while self.answer_registration().await? || self.answer_reset().await? {}
        Ok(())
    }

    async fn answer_registration(&self) -> Result<bool> {
        if !store::has_registration(&self.db).await? {
            return Ok(false);
        }
        let mail = &self.config.mail;
        let verify =
            Letter::new(&self.context, &self.outbox, Kind::VerifyEmail, VERIFY_PREFIX, mail.verification_lifetime);
        let attempt = self.outbox.prepare(Message::to_address(Kind::RegistrationAttempt, None, ""));
        let now = self.context.now();
        let most = mail.per_address_and_hour;
        let answer =
            store::answer_registration(&self.db, now, &verify.token, verify.mail.as_ref(), attempt.as_ref(), most);
        Ok(self.answered("registration", answer.await?))
    }

    async fn answer_reset(&self) -> Result<bool> {
        if !store::has_reset(&self.db).await? {
            return Ok(false);
        }
        let mail = &self.config.mail;
        let reset = Letter::new(&self.context, &self.outbox, Kind::PasswordReset, RESET_PREFIX, mail.reset_lifetime);
        let kanidm = self.outbox.prepare(Message::to_address(Kind::KanidmSignIn, None, ""));
        let event = Event::by_system(EventType::UserPasswordResetSent, self.context.new_id());
        let event = self.recorder.prepare(event).event;
        let now = self.context.now();
        let most = mail.per_address_and_hour;
        let answer =
            store::answer_reset(&self.db, now, &reset.token, reset.mail.as_ref(), kanidm.as_ref(), most, &event);
        Ok(self.answered("password_reset", answer.await?))
    }

    fn answered(&self, what: &'static str, answer: Option<String>) -> bool {
        let Some(answer) = answer else { return false };
        tracing::info!(event = "mail_request_answered", what, answer);
        self.recorder.wake();
        self.outbox.wake();
        true
    }
}
