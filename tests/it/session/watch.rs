//! `WatchRevocations`: the whole snapshot, then new revocations, in order, against any replica.

use std::collections::HashSet;

use sidle::proto;
use sidle::proto::revocation::Revoked;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::signed_in;
use crate::authenticate::{api_key, exchange, verifier_token};
use crate::look::reason;
use crate::support::{Setup, TestServer, within};

type Stream = Streaming<proto::WatchRevocationsResponse>;

async fn watch(server: &TestServer, token: &str, cursor: &str) -> Result<Stream, Status> {
    let request = proto::WatchRevocationsRequest { cursor: cursor.to_owned() };
    Ok(server.client(token).session.watch_revocations(request).await?.into_inner())
}

/// Reads until `enough` says so, and returns what was revoked, in order, with the last cursor.
async fn read(
    stream: &mut Stream,
    mut enough: impl FnMut(&proto::WatchRevocationsResponse) -> bool,
) -> (Vec<Revoked>, String) {
    let mut revoked = Vec::new();
    within("enough revocations", async {
        loop {
            let message = stream.message().await.unwrap().expect("the stream goes on");
            revoked.extend(message.revocations.iter().map(|revocation| {
                assert!(revocation.forget_after.is_some());
                revocation.revoked.clone().expect("something is revoked")
            }));
            if enough(&message) {
                return (revoked, message.cursor);
            }
        }
    })
    .await
}

/// Ends a fresh session of Ann's and returns its id.
async fn revoke_one(server: &TestServer) -> String {
    let tokens = server.sign_in("ann@example.com").await;
    let mut client = server.client(&tokens.access_token).session;
    let revoked = client.revoke_session(proto::RevokeSessionRequest::default()).await.unwrap().into_inner();
    revoked.session.unwrap().session_id
}

fn sessions(revoked: &[Revoked]) -> Vec<String> {
    let session = |revoked: &Revoked| match revoked {
        Revoked::SessionId(id) => Some(id.clone()),
        _ => None,
    };
    revoked.iter().filter_map(session).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_comes_first_then_the_news_and_it_goes_on_at_another_replica() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    signed_in(&one).await;
    let caller = verifier_token(&one).await;
    let mut old = HashSet::new();
    for _ in 0..3 {
        old.insert(revoke_one(&one).await);
    }
    super::settled(&two, &one, "session.revoked").await;
    let mut stream = watch(&two, &caller, "").await.unwrap();
    let (snapshot, _) = read(&mut stream, |message| message.caught_up).await;
    assert!(sessions(&snapshot).into_iter().collect::<HashSet<_>>().is_superset(&old));

    let mut news = Vec::new();
    for _ in 0..5 {
        news.push(revoke_one(&one).await);
    }
    let mut left = news.len();
    let (told, _) = read(&mut stream, |message| {
        left -= message.revocations.len().min(left);
        left == 0
    })
    .await;
    assert_eq!(sessions(&told), news, "in order, each once");

    // From any cursor on, at any replica, the same.
    super::settled(&one, &one, "session.revoked").await;
    let mut stream = watch(&one, &caller, "").await.unwrap();
    let (_, cursor) = read(&mut stream, |message| message.caught_up).await;
    drop(stream);
    let missed = [revoke_one(&two).await, revoke_one(&one).await];
    let mut stream = watch(&two, &caller, &cursor).await.unwrap();
    let mut got = Vec::new();
    within("what was missed", async {
        while got.len() < 2 {
            let (told, _) = read(&mut stream, |_| true).await;
            got.extend(sessions(&told));
        }
    })
    .await;
    assert_eq!(got, missed, "nothing is missed and nothing comes twice");
}

#[tokio::test]
async fn silence_is_told_to_be_complete() {
    let setup = Setup::new().await.with("TOKENS__REVOCATION_HEARTBEAT", "100ms");
    let server = setup.with("TOKENS__MAX_REVOCATION_AGE", "60s").start().await;
    let caller = verifier_token(&server).await;
    let mut stream = watch(&server, &caller, "").await.unwrap();
    let mut last = None;
    let mut seen = 0;
    within("five heartbeats that say more each", async {
        while seen < 5 {
            let message = stream.message().await.unwrap().unwrap();
            assert_eq!(message.bound.unwrap().seconds, 60, "the published bound");
            let sent = message.sent_at.unwrap();
            let Some(complete) = message.complete_until else { continue };
            let (sent, complete) = ((sent.seconds, sent.nanos), (complete.seconds, complete.nanos));
            assert!(complete <= sent, "nobody knows the future");
            seen += usize::from(last.is_none_or(|last| last < complete));
            last = Some(complete);
        }
    })
    .await;
}

#[tokio::test]
async fn only_verifiers_of_the_platform_watch_and_only_while_they_are_welcome() {
    let server = TestServer::start().await;
    let (tenant, _, tokens) = signed_in(&server).await;
    assert_eq!(reason(&watch(&server, "", "").await.unwrap_err()), "UNAUTHENTICATED");
    assert_eq!(reason(&watch(&server, &tokens.access_token, "").await.unwrap_err()), "PERMISSION_DENIED");
    let local = exchange(&server, &api_key(&server, Some(tenant), &["tokens.verify"], &[]).await).await.unwrap();
    let refused = watch(&server, &local.access_token, "").await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED", "it would learn of other tenants");

    // The watcher's own token is revoked.
    let admin = server.admin().await;
    let account = exchange(&server, &api_key(&server, None, &["tokens.verify"], &[]).await).await.unwrap();
    let mut stream = watch(&server, &account.access_token, "").await.unwrap();
    read(&mut stream, |message| message.caught_up).await;
    let id = account.service_account_id;
    let mut directory = admin.directory.clone();
    let found = directory
        .get_service_account(proto::GetServiceAccountRequest {
            identifier: Some(proto::get_service_account_request::Identifier::ServiceAccountId(id.clone())),
        })
        .await;
    let etag = found.unwrap().into_inner().service_account.unwrap().etag;
    let request = proto::DeleteServiceAccountRequest { service_account_id: id, etag };
    directory.delete_service_account(request).await.unwrap();
    let ended = within("the stream ends", async {
        loop {
            match stream.message().await {
                Ok(message) => assert!(message.is_some()),
                Err(status) => break status,
            }
        }
    })
    .await;
    assert_eq!(reason(&ended), "UNAUTHENTICATED");
}

#[tokio::test]
async fn cursors_belong_to_their_watcher_and_expire_with_the_log() {
    let server = TestServer::start().await;
    signed_in(&server).await;
    let (mine, other) = (verifier_token(&server).await, verifier_token(&server).await);
    let mut stream = watch(&server, &mine, "").await.unwrap();
    let (_, cursor) = read(&mut stream, |message| message.caught_up).await;
    assert_eq!(reason(&watch(&server, &other, &cursor).await.unwrap_err()), "INVALID_PAGE_TOKEN");
    assert_eq!(reason(&watch(&server, &mine, "AAAA").await.unwrap_err()), "INVALID_PAGE_TOKEN");
    for _ in 0..3 {
        revoke_one(&server).await;
    }
    super::settled(&server, &server, "session.revoked").await;
    sqlx::query("ALTER TABLE audit_events DISABLE TRIGGER USER").execute(server.sql()).await.unwrap();
    sqlx::query("DELETE FROM audit_events WHERE position < (SELECT position FROM audit_head)")
        .execute(server.sql())
        .await
        .unwrap();
    assert_eq!(reason(&watch(&server, &mine, &cursor).await.unwrap_err()), "CURSOR_EXPIRED");
}

/// More than one message holds, and a slow reader: nothing is buffered for them, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_of_many_revocations_gets_them_all_in_order() {
    let server = TestServer::start().await;
    signed_in(&server).await;
    let caller = verifier_token(&server).await;
    let mut stream = watch(&server, &caller, "").await.unwrap();
    read(&mut stream, |message| message.caught_up).await;
    let app = server.app();
    let mut expected = Vec::new();
    // More batches than the feed buffers, while the reader does not read.
    for _ in 0..100 {
        let ids: Vec<Uuid> = (0..50).map(|_| Uuid::new_v4()).collect();
        let mut tx = app.db.begin(sidle::db::Scope::Platform).await.unwrap();
        let event = sidle::audit::Event::by_system(sidle::audit::EventType::RoleUpdated, Uuid::nil());
        app.recorder.record(&mut tx, event.detail("sessions", &ids)).await.unwrap();
        tx.commit().await.unwrap();
        expected.extend(ids.iter().map(Uuid::to_string));
    }
    let mut got = Vec::new();
    within("every revocation", async {
        while got.len() < expected.len() {
            let message = stream.message().await.unwrap().unwrap();
            assert!(message.revocations.len() <= 1100, "{}", message.revocations.len());
            let revoked: Vec<Revoked> =
                message.revocations.into_iter().filter_map(|revocation| revocation.revoked).collect();
            got.extend(sessions(&revoked));
        }
    })
    .await;
    assert_eq!(got, expected);

    // A watcher that begins later gets the snapshot in pieces.
    let mut stream = watch(&server, &caller, "").await.unwrap();
    let mut pieces = 0;
    let (snapshot, _) = read(&mut stream, |message| {
        pieces += 1;
        assert!(message.revocations.len() <= 1000);
        assert!(pieces > 1 || message.cursor.is_empty(), "who is cut off before the end of it begins again");
        message.caught_up
    })
    .await;
    assert!(snapshot.len() >= expected.len() && pieces > 5);
}
