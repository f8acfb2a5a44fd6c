//! Sends what lies in the outbox. Every replica has one worker; a lease in the database keeps two from sending the same
//! message.
//!
//! Each message arrives at least once. An attempt is recorded before the server hears of the message, and its end
//! as soon as the server has answered; a worker that dies between the server's answer and our note leaves a message that
//! is sent again when the lease has run out, with the same Message-ID. Nothing else makes a message arrive twice.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Map;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::failure::{Failure, Unconnected};
use super::mailer::{Letter, Mailer};
use super::outbox::seal_context;
use super::smtp::Connection;
use super::store::{self, Due};
use super::{Kind, Outbox};
use crate::config::MailConfig;
use crate::context::Context;
use crate::db::Db;
use crate::fault::Result;
use crate::metrics::Metrics;
use crate::seal::Keyring;

/// Messages that are taken together.
const BATCH: i64 = 20;
/// Longest wait for a server that does not answer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often recording the end of a message is tried, before it is left to be sent again.
const NOTES: u32 = 5;

pub struct Worker {
    db: Db,
    context: Context,
    keyring: Keyring,
    metrics: Metrics,
    wake: Arc<Notify>,
    mailer: Mailer,
    config: MailConfig,
}

/// How a round ended.
enum Round {
    /// There may be more.
    Full,
    /// There is nothing left.
    Done,
    /// The server cannot be used.
    ServerDown,
}

impl Worker {
    pub fn new(
        db: Db,
        context: Context,
        keyring: Keyring,
        metrics: Metrics,
        outbox: &Outbox,
        mailer: Mailer,
        config: MailConfig,
    ) -> Self {
        Self { db, context, keyring, metrics, wake: outbox.wakes(), mailer, config }
    }

    /// Works until `stop` is cancelled. A server or database that does not answer is waited for.
    pub async fn run(self, stop: CancellationToken) {
        let mut wait = self.config.poll;
        loop {
            let round = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                figures = self.purge_expired() => match figures {
                    Ok(()) => self.round(&stop).await,
                    Err(fault) => Err(fault),
                },
            };
            wait = match round {
                Ok(Round::Full) => continue,
                Ok(Round::Done) => self.config.poll,
                Ok(Round::ServerDown) => (wait * 2).min(LONGEST_WAIT),
                Err(fault) => {
                    tracing::warn!(event = "mail_worker_failed", cause = %fault, "the outbox cannot be read");
                    (wait * 2).min(LONGEST_WAIT)
                }
            };
            // A wake does not bring a server back.
            let is_patient = wait > self.config.poll;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.context.entropy.jitter(wait)) => {}
                () = self.wake.notified(), if !is_patient => {}
            }
        }
    }

    async fn purge_expired(&self) -> Result<()> {
        let figures = store::purge_expired(&self.db, self.config.keep).await?;
        self.metrics.mail_waiting.set(figures.waiting);
        self.metrics.mail_oldest(figures.oldest_seconds);
        for _ in 0..figures.expired {
            self.metrics.mail_failed("expired");
        }
        if figures.expired > 0 {
            tracing::warn!(event = "mail_expired", count = figures.expired, "messages were given up");
        }
        Ok(())
    }

    async fn round(&self, stop: &CancellationToken) -> Result<Round> {
        let lease_id = self.context.new_id();
        let due = store::claim(&self.db, lease_id, self.config.lease, BATCH).await?;
        if due.is_empty() {
            return Ok(Round::Done);
        }
        let round = if i64::try_from(due.len()).is_ok_and(|count| count == BATCH) { Round::Full } else { Round::Done };
        let ended = self.deliver(lease_id, due, stop).await;
        let class = ended.as_ref().err().map(|broken| broken.class.as_str());
        store::give_back(&self.db, lease_id, class).await?;
        let Err(broken) = ended else { return Ok(round) };
        self.metrics.mail_failed(broken.class.as_str());
        let remedy = broken.remedy();
        tracing::warn!(event = "mail_server_failed", class, cause = %broken, remedy);
        Ok(Round::ServerDown)
    }

    /// Sends one after the other over one connection; fails with what makes going on useless.
    async fn deliver(&self, lease_id: Uuid, due: Vec<Due>, stop: &CancellationToken) -> Result<(), Unconnected> {
        let broken = |class| Unconnected { class, cause: None, peer: self.mailer.peer() };
        let mut connection = self.mailer.connect().await?;
        for mail in due {
            if stop.is_cancelled() {
                break;
            }
            match self.attempt(lease_id, &mail, &mut connection).await {
                Ok(()) => {}
                Err(failure) if failure.is_the_servers() => return Err(broken(failure)),
                // The server still listens, but not to the rest of this message.
                Err(_) => connection.reset().await.map_err(broken)?,
            }
        }
        connection.quit().await;
        Ok(())
    }

    async fn attempt(&self, lease_id: Uuid, mail: &Due, connection: &mut Connection) -> Result<(), Failure> {
        let composed = self.compose(mail);
        match store::begin(&self.db, lease_id, mail.mail_id, self.config.lease).await {
            Ok(true) => {}
            // Another replica has it, or the database does not answer: then nothing is sent.
            Ok(false) => return Ok(()),
            Err(fault) => {
                tracing::warn!(event = "mail_worker_failed", cause = %fault, "an attempt could not be noted");
                return Ok(());
            }
        }
        // Well within the lease, so that no other replica begins while this goes on.
        let sent = match &composed {
            Ok(composed) => {
                let sending = self.mailer.send(connection, composed);
                tokio::time::timeout(self.config.lease / 2, sending).await.unwrap_or(Err(Failure::Connection))
            }
            Err(failure) => Err(*failure),
        };
        self.note(lease_id, mail, sent).await;
        sent
    }

    fn compose(&self, mail: &Due) -> Result<super::mailer::Composed, Failure> {
        let kind = Kind::parse(&mail.kind).ok_or(Failure::Unusable)?;
        let opened = match mail.parameters.as_deref() {
            Some(sealed) => self.keyring.open(seal_context(mail.mail_id), sealed).map_err(|_| Failure::Unusable)?,
            None => Zeroizing::new(b"{}".to_vec()),
        };
        let parameters: Map<_, _> = serde_json::from_slice(&opened).map_err(|_| Failure::Unusable)?;
        // An attacker may have registered with any name, and this goes to the owner of the address.
        let name = if kind == Kind::VerifyEmail { String::new() } else { mail.name.clone() };
        let letter = Letter {
            mail_id: mail.mail_id,
            kind,
            recipient: mail.recipient.clone(),
            name,
            created_at: mail.created_at,
            parameters,
        };
        self.mailer.compose(&letter)
    }

    /// Records how an attempt ended. After a success this is tried hard: without the note the message goes out again.
    async fn note(&self, lease_id: Uuid, mail: &Due, sent: Result<(), Failure>) {
        let (id, kind) = (mail.mail_id, mail.kind.as_str());
        for attempt in 0..NOTES {
            let noted = match sent {
                Ok(()) => store::finish(&self.db, lease_id, id, "sent", None).await,
                Err(failure) if failure.is_final() => {
                    store::finish(&self.db, lease_id, id, "failed", Some(failure.as_str())).await
                }
                Err(failure) => {
                    let (first, longest) = (self.config.retry_after, self.config.retry_at_most);
                    store::put_off(&self.db, lease_id, id, failure.as_str(), first, longest).await
                }
            };
            match noted {
                Ok(()) => break,
                Err(fault) => {
                    tracing::warn!(event = "mail_worker_failed", mail_id = %id, cause = %fault, "an end could not be noted");
                    tokio::time::sleep(Duration::from_millis(200) * (attempt + 1)).await;
                }
            }
        }
        match sent {
            Ok(()) => {
                self.metrics.mail_sent.inc();
                tracing::info!(event = "mail_sent", mail_id = %id, kind);
            }
            Err(failure) => {
                // What the server's state caused is counted once a round.
                if !failure.is_the_servers() {
                    self.metrics.mail_failed(failure.as_str());
                }
                tracing::warn!(event = "mail_failed", mail_id = %id, kind, class = failure.as_str());
            }
        }
    }
}
