//! Answers what was asked for without having signed in: looks whose the address is, and sends what that leads to.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::authenticate::account::Account;
use crate::authenticate::account::store::one_time;
use crate::fault::Result;

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
        one_time::purge_expired(&self.db, self.context.now()).await?;
        while answered("registration", self.answer_registration().await?)
            || answered("password_reset", self.answer_reset().await?)
        {}
        Ok(())
    }
}

/// Whether there was something to answer, which is logged.
fn answered(what: &'static str, answer: Option<&'static str>) -> bool {
    if let Some(answer) = answer {
        tracing::info!(event = "mail_request_answered", what, answer);
    }
    answer.is_some()
}
