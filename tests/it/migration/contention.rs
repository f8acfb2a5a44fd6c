//! An import holds the addresses of its rows until it ends. Calls that want one of them wait a short time, and no
//! others do.

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use sidle::proto::import_users_request::Part;
use sidle::proto::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{IMPORT, header, import, reason, row};
use crate::support::server::with_proof;
use crate::support::{Setup, TestServer, eventually, within};

fn part(part: Part) -> ImportUsersRequest {
    ImportUsersRequest { part: Some(part) }
}

#[tokio::test]
async fn while_an_import_is_held_open_those_who_want_its_addresses_are_refused_and_logins_go_on() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    let harbour = server.tenant("harbour").await;
    server.user(harbour, "there@harbour.example", "user").await;
    let (messages, received) = mpsc::channel(8);
    let mut importing = client.migration.clone();
    messages.send(part(Part::Header(header("harbour")))).await.unwrap();
    let rows = (1..=30).map(|n| row(n, &format!("new{n}@harbour.example"))).collect();
    messages.send(part(Part::Rows(ImportRows { rows }))).await.unwrap();
    let request = with_proof(ReceiverStream::new(received), &client.prove(IMPORT, "").await);
    let mut answers = importing.import_users(request).await.unwrap().into_inner();
    // The verdicts show that the rows are written, and not committed.
    within("verdicts", answers.next()).await.unwrap().unwrap();

    let create = async |email: String| {
        let request = CreateUserRequest { tenant_id: harbour.to_string(), email, ..Default::default() };
        let call = async |request| client.directory.clone().create_user(request).await;
        client.proving(request, call).await
    };
    // Proved one after the other: a user's step-ups are serialised.
    let mut requests = Vec::new();
    for n in 1..=30 {
        let email = format!("new{n}@harbour.example");
        let request = CreateUserRequest { tenant_id: harbour.to_string(), email, ..Default::default() };
        requests.push(client.proven("sidle.v1.DirectoryService/CreateUser", "", request).await);
    }
    let creates = join_all(requests.into_iter().map(|request| {
        let mut directory = client.plain.clone();
        async move { directory.create_user(request).await }
    }));
    let logins = async {
        for _ in 0..30 {
            server.sign_in("there@harbour.example").await;
        }
    };
    let (created, ()) = tokio::join!(creates, logins);
    for refused in created {
        let refused = refused.unwrap_err();
        assert_eq!((reason(&refused).as_str(), refused.code()), ("VALUE_CONTENDED", tonic::Code::Unavailable));
    }
    // Another address is free.
    create("else@harbour.example".to_owned()).await.unwrap();

    messages.send(part(Part::End(ImportEnd { row_count: 30 }))).await.unwrap();
    drop(messages);
    within("the import ends", async {
        while let Some(answer) = answers.next().await {
            answer.unwrap();
        }
    })
    .await;
    let taken = create("new1@harbour.example".to_owned()).await.unwrap_err();
    assert_eq!(reason(&taken), "ALREADY_EXISTS");
}

/// An import holds its addresses while its answers wait to be read: a client that reads none does not hold them for
/// ever.
#[tokio::test]
async fn an_import_whose_answers_nobody_reads_ends() {
    let server = Setup::new().await.with("DATABASE__IDLE_IN_TRANSACTION_TIMEOUT", "2s").start().await;
    let client = server.admin().await;
    server.tenant("harbour").await;
    let (messages, received) = mpsc::channel(1);
    let mut importing = client.migration.clone();
    let feeding = tokio::spawn(async move {
        // Far more verdicts than all buffers in between hold.
        for n in 0..40 {
            let rows =
                (0..2_000).map(|m| ImportRow { email: "nobody".to_owned(), ..row(2_000 * n + m, "x") }).collect();
            if messages.send(part(Part::Rows(ImportRows { rows }))).await.is_err() {
                return;
            }
        }
        // The stream's end is not the reason either.
        messages.closed().await;
    });
    let stream = tokio_stream::once(part(Part::Header(header("harbour")))).chain(ReceiverStream::new(received));
    let request = with_proof(stream, &client.prove(IMPORT, "").await);
    let mut answers = importing.import_users(request).await.unwrap().into_inner();
    eventually("another import has its turn", async || {
        import(&client, header("harbour"), vec![row(1, "ann@harbour.example")]).await.ok()
    })
    .await;
    feeding.abort();
    let refused = within("the import ends", async {
        loop {
            match answers.next().await.expect("it ends with a reason") {
                Ok(_) => {}
                Err(refused) => break refused,
            }
        }
    })
    .await;
    assert_eq!(refused.code(), tonic::Code::DeadlineExceeded, "{refused:?}");
}
