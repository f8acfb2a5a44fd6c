//! The database goes back to an earlier state, as after a restore or a fail-over that lost the last writes: what a
//! replica knew of revocations is discarded and read again before any token is accepted, and watchers begin anew.

use sidle::proto;
use sqlx::Connection as _;
use tonic::{Code, Status, Streaming};

use super::{settled, signed_in};
use crate::audit::rewind;
use crate::authenticate::{verifier_token, verify};
use crate::look::reason;
use crate::support::{Client, Setup, TestServer, within};

async fn revoke(server: &TestServer, tokens: &proto::TokenPair) {
    let mut client = server.client(&tokens.access_token).session;
    client.revoke_session(proto::RevokeSessionRequest::default()).await.unwrap();
}

/// Asks until the answer is this one: the reason of a refusal, or none.
async fn until(server: &TestServer, caller: &str, tokens: &proto::TokenPair, expected: &str) {
    crate::support::until(&format!("the answer {expected:?}"), async || {
        let answer = verify(server, caller, &tokens.access_token, "sidle").await;
        answer.as_ref().err().map(reason).unwrap_or_default() == expected
    })
    .await;
}

/// The end of a stream, which must come.
async fn end<T>(stream: &mut Streaming<T>) -> Status {
    within("the stream ends", async {
        loop {
            match stream.message().await {
                Ok(message) => assert!(message.is_some(), "it ends with a reason"),
                Err(status) => return status,
            }
        }
    })
    .await
}

async fn watch(server: &TestServer, token: &str, cursor: &str) -> Result<(WatchStream, String), Status> {
    let request = proto::WatchRevocationsRequest { cursor: cursor.to_owned() };
    let mut stream = server.client(token).session.watch_revocations(request).await?.into_inner();
    within("the stream has caught up", async {
        loop {
            let message = stream.message().await?.expect("the stream goes on");
            if message.caught_up && !message.cursor.is_empty() {
                return Ok((stream, message.cursor));
            }
        }
    })
    .await
}

type WatchStream = Streaming<proto::WatchRevocationsResponse>;

async fn events(client: &mut Client, cursor: &str) -> Result<(Streaming<proto::StreamEventsResponse>, String), Status> {
    let start = match cursor {
        "" => proto::stream_events_request::Start::FromNow(true),
        cursor => proto::stream_events_request::Start::Cursor(cursor.to_owned()),
    };
    let request = proto::StreamEventsRequest { start: Some(start), ..Default::default() };
    let mut stream = client.audit.stream_events(request).await?.into_inner();
    let cursor = within("the state of the stream", stream.message()).await?.expect("the stream goes on").cursor;
    Ok((stream, cursor))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_database_went_back_revocations_are_read_anew_before_a_token_is_accepted() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let (_, _, first) = signed_in(&one).await;
    let (caller, mut admin) = (verifier_token(&one).await, one.admin().await.on(two.channel.clone()));
    let second = one.sign_in("ann@example.com").await;
    let third = one.sign_in("ann@example.com").await;
    settled(&two, &one, "user.authenticated").await;
    let before = one.app().log.head().await.unwrap();
    // What happens now is lost later: this revocation, and many other events, up to where the readers are.
    revoke(&one, &second).await;
    for _ in 0..20 {
        one.sign_in("ann@example.com").await;
    }
    settled(&two, &one, "user.authenticated").await;
    until(&two, &caller, &second, "INVALID_TOKEN").await;
    let (mut watching, watch_cursor) = watch(&two, &caller, "").await.unwrap();
    let (mut streaming, stream_cursor) = events(&mut admin, "").await.unwrap();

    // Keys and revocations cannot be read again yet.
    let mut holder = one.sql().acquire().await.unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::query("LOCK TABLE signing_keys IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    sqlx::query(
        "UPDATE sessions SET status = 'active', revoked_at = NULL, revoke_reason = NULL WHERE status = 'revoked'",
    )
    .execute(&mut *held)
    .await
    .unwrap();
    rewind(one.sql(), before).await;
    for server in [&one, &two] {
        until(server, &caller, &first, "REVOCATIONS_STALE").await;
        until(server, &caller, &second, "REVOCATIONS_STALE").await;
    }
    let ended = [end(&mut watching).await, end(&mut streaming).await];
    for status in ended {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "LOG_FORKED"), "{status:?}");
    }
    held.commit().await.unwrap();
    drop(holder);

    // The snapshot is now what the database knows: the lost revocation is not in it any more, and new ones are.
    until(&two, &caller, &second, "").await;
    until(&two, &caller, &first, "").await;
    // Each replica reads anew by itself: the one that is asked to revoke must have finished that as well.
    until(&one, &caller, &first, "").await;
    revoke(&one, &third).await;
    until(&two, &caller, &third, "INVALID_TOKEN").await;
    until(&two, &caller, &first, "").await;
    for server in [&one, &two] {
        assert!(server.app().metrics.audit_forks.get() >= 1);
        for refused in [
            watch(server, &caller, &watch_cursor).await.map(drop).expect_err("a cursor of a log that is gone"),
            events(&mut admin.on(server.channel.clone()), &stream_cursor).await.map(drop).expect_err("the same"),
        ] {
            assert!(["CURSOR_AHEAD", "LOG_FORKED"].contains(&reason(&refused).as_str()), "{refused:?}");
        }
    }
    watch(&two, &caller, "").await.expect("anew it works");
    let told = "SELECT count(*) FROM audit_events WHERE event_type = 'audit.forked' AND position > $1";
    let told: i64 = sqlx::query_scalar(told).bind(before).fetch_one(one.sql()).await.unwrap();
    assert!(told >= 1, "the fork is an event");
}

/// The new log has grown past where a replica had read the old one before that replica looks again: only the events
/// themselves differ. A token that was revoked meanwhile is refused all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_before_the_replica_noticed_is_refused() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let (_, _, first) = signed_in(&one).await;
    let caller = verifier_token(&one).await;
    settled(&two, &one, "user.authenticated").await;
    let before = one.app().log.head().await.unwrap();
    for _ in 0..20 {
        one.sign_in("ann@example.com").await;
    }
    settled(&two, &one, "user.authenticated").await;

    // No sequencer or reader runs while the log is exchanged and its first new event is a revocation.
    rewind(one.sql(), before).await;
    revoke(&one, &first).await;
    for _ in 0..40 {
        one.sign_in("ann@example.com").await;
    }
    until(&two, &caller, &first, "INVALID_TOKEN").await;
    until(&two, &caller, &one.sign_in("ann@example.com").await, "").await;
}
