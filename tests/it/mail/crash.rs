//! The sender is killed midway. Run as the real program, since only a process can be killed.

use std::collections::BTreeMap;

use sidle::config::Config;
use sidle::context::Context;
use sidle::db::Scope;
use sidle::mail::{Kind, Message, Outbox};
use sidle_dev::smtp::{Fault, Smtp};

use super::{smtp, until, with_mail};
use crate::support::process::Process;
use crate::support::{Setup, TestServer, within};

/// A server that does not send, for the setup; the settings of one that does; a mail server.
async fn stage() -> (TestServer, Setup, Smtp) {
    let smtp = smtp().await;
    let setup = Setup::new().await;
    let sending = with_mail(setup.clone(), smtp.port);
    (setup.start().await, sending, smtp)
}

/// Writes messages to `n0@`, `n1@`, ... as a server with mail would.
async fn write(server: &TestServer, sending: &Setup, count: usize) {
    let config = Config::load(None, sending.environment().clone()).unwrap();
    let outbox = Outbox::new(Context::system(), config.seal.keyring().unwrap(), &config.mail);
    let mut tx = server.app().db.begin(Scope::Platform).await.unwrap();
    for number in 0..count {
        let address = format!("n{number}@letters.example");
        outbox.enqueue(&mut tx, Message::to_address(Kind::TotpEnabled, None, address)).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// As if the lease of the killed one had lapsed.
async fn lapse(server: &TestServer) {
    let lapsed = "UPDATE mail_outbox SET lease_until = now() - interval '1 second' WHERE lease_until IS NOT NULL";
    sqlx::query(lapsed).execute(server.sql()).await.unwrap();
}

async fn waiting(server: &TestServer) -> i64 {
    let count = "SELECT count(*) FROM mail_outbox WHERE finished_at IS NULL";
    sqlx::query_scalar(count).fetch_one(server.sql()).await.unwrap()
}

/// Killed at a random moment again and again: every message arrives, and a kill repeats at most the one that was being
/// sent, under its Message-ID.
#[tokio::test]
async fn killed_again_and_again_while_sending_every_message_arrives() {
    let (server, sending, mut smtp) = stage().await;
    write(&server, &sending, 80).await;
    let mut kills = 0;
    within("every message is sent", async {
        while waiting(&server).await > 0 {
            let process = Process::start(&sending).await;
            let until_nothing_waits = async {
                crate::support::until("nothing waits any more", async || waiting(&server).await == 0).await;
            };
            let some_have_come = async {
                for _ in 0..17 {
                    smtp.message().await.unwrap();
                }
            };
            tokio::select! {
                () = until_nothing_waits => {}
                () = some_have_come => kills += 1,
            }
            process.kill().await;
            lapse(&server).await;
        }
    })
    .await;
    assert!(kills >= 3, "killed only {kills} times");
    let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in smtp.taken().unwrap() {
        ids.entry(message.to[0].clone()).or_default().push(message.header("Message-ID").unwrap());
    }
    assert_eq!(ids.len(), 80, "every message arrives");
    let repeated: Vec<_> = ids.values().filter(|ids| ids.len() > 1).collect();
    assert!(repeated.len() <= kills, "{} were sent twice by {kills} kills", repeated.len());
    assert!(repeated.iter().all(|ids| ids.iter().all(|id| *id == ids[0])), "{repeated:?}");
}

/// The kill falls between the end of the message and the server's answer: sent again, under the same Message-ID.
#[tokio::test]
async fn killed_before_the_answer_it_sends_again_under_the_same_message_id() {
    let (server, sending, mut smtp) = stage().await;
    smtp.fault(Fault::Hold, 1).await.unwrap();
    write(&server, &sending, 1).await;
    let process = Process::start(&sending).await;
    let first = smtp.message().await.unwrap();
    process.kill().await;
    smtp.heal().await.unwrap();
    let begun = "SELECT begun_at IS NOT NULL AND attempts = 1 AND state = 'waiting' FROM mail_outbox";
    let begun: bool = sqlx::query_scalar(begun).fetch_one(server.sql()).await.unwrap();
    assert!(begun, "the attempt was written down before the mail server heard of it");

    lapse(&server).await;
    let _process = Process::start(&sending).await;
    let second = smtp.message().await.unwrap();
    assert_eq!(first.header("Message-ID").unwrap(), second.header("Message-ID").unwrap());
    until(&server, "totp_enabled", "sent").await;
}

/// The kill falls into the message: it never arrived, and is sent once.
#[tokio::test]
async fn killed_in_the_middle_of_a_message_it_sends_it_once() {
    let (server, sending, mut smtp) = stage().await;
    smtp.fault(Fault::DropBefore, 1).await.unwrap();
    write(&server, &sending, 1).await;
    let process = Process::start(&sending).await;
    smtp.failed().await.unwrap();
    process.kill().await;
    let put_off = "UPDATE mail_outbox SET next_attempt_at = now()";
    sqlx::query(put_off).execute(server.sql()).await.unwrap();
    lapse(&server).await;
    let _process = Process::start(&sending).await;
    smtp.message().await.unwrap();
    until(&server, "totp_enabled", "sent").await;
    assert_eq!(smtp.taken().unwrap().len(), 1);
}

/// A message that a living sender holds is not taken over.
#[tokio::test]
async fn a_message_that_somebody_is_sending_is_left_alone() {
    let (server, sending, mut smtp) = stage().await;
    smtp.fault(Fault::Hold, 1).await.unwrap();
    write(&server, &sending, 1).await;
    let _first = Process::start(&sending).await;
    smtp.message().await.unwrap();
    let second = Process::start(&sending).await;
    // It has nothing to do, and does something else meanwhile.
    let config = Config::load(None, sending.environment().clone()).unwrap();
    let outbox = Outbox::new(Context::system(), config.seal.keyring().unwrap(), &config.mail);
    let mut tx = server.app().db.begin(Scope::Platform).await.unwrap();
    let message = Message::to_address(Kind::TotpDisabled, None, "other@letters.example");
    outbox.enqueue(&mut tx, message).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(smtp.message().await.unwrap().to, ["other@letters.example"]);
    smtp.heal().await.unwrap();
    until(&server, "totp_enabled", "sent").await;
    assert_eq!(smtp.taken().unwrap().len(), 2);
    second.kill().await;
}
