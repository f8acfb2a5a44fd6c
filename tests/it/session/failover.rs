//! A real fail-over: the primary dies before its standby has received the last writes, and the standby takes over.

use sidle::audit::{Filter, Page};
use sidle::db::Scope;
use sidle::proto;
use tonic::{Code, Status};

use super::{settled, signed_in};
use crate::authenticate::{verifier_token, verify};
use crate::look::reason;
use crate::support::cluster::Cluster;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, eventually, until, within};

/// Makes a call until the service has found the new primary.
async fn recovered<A>(call: impl AsyncFn() -> Result<A, Status>) -> A {
    eventually("the service comes back by itself", async || {
        call().await.inspect_err(|status| assert_eq!(status.code(), Code::Unavailable, "{status:?}")).ok()
    })
    .await
}

async fn sign_in(server: &TestServer) -> Result<proto::TokenPair, Status> {
    let request = proto::AuthenticatePasswordRequest {
        identifier: "ann@example.com".to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        ..Default::default()
    };
    let answer = server.client("").authenticate.authenticate_password(request).await?.into_inner();
    match answer.outcome {
        Some(proto::authenticate_password_response::Outcome::SignedIn(signed_in)) => Ok(signed_in.tokens.unwrap()),
        other => panic!("not signed in: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_fail_over_that_lost_the_last_events_every_event_is_delivered_and_revoked_means_refused() {
    let (cluster, primary) = Cluster::start().await;
    let setup = Setup::new().await.on_cluster(&cluster);
    let (one, two) = (setup.start().await, setup.start().await);
    let (_, _, first) = signed_in(&one).await;
    let caller = verifier_token(&one).await;
    settled(&two, &one, "user.authenticated").await;
    cluster.take_standby(&primary).await;
    let kept = one.app().log.head().await.unwrap();
    for _ in 0..20 {
        one.sign_in("ann@example.com").await;
    }
    settled(&two, &one, "user.authenticated").await;
    let known = two.app().feed.position().unwrap();
    assert!(known >= kept + 20, "{known} were read, of which the standby has {kept}");
    let watched = proto::WatchRevocationsRequest::default();
    let mut watching = two.client(&caller).session.watch_revocations(watched).await.unwrap().into_inner();

    primary.kill().await;
    let _primary = cluster.promote_standby().await;
    let ended = within("the stream ends", async {
        loop {
            if let Err(status) = watching.message().await {
                return reason(&status);
            }
        }
    })
    .await;
    // While nothing could be read it may have ended for that.
    assert!(["LOG_FORKED", "REVOCATIONS_STALE", "DATABASE_UNAVAILABLE"].contains(&ended.as_str()), "{ended}");

    // Revoked at one replica, refused at the other, however far the old log had been read there.
    recovered(async || {
        let mut client = one.client(&first.access_token).session;
        client.revoke_session(proto::RevokeSessionRequest::default()).await
    })
    .await;
    until("the revoked token is refused", async || {
        let answer = verify(&two, &caller, &first.access_token, "sidle").await;
        answer.is_err_and(|refused| reason(&refused) == "INVALID_TOKEN")
    })
    .await;
    let tokens = recovered(async || sign_in(&two).await).await;
    recovered(async || verify(&two, &caller, &tokens.access_token, "sidle").await).await;

    // The new log is complete, records the fork, and both replicas have read all of it.
    let page = Page { size: 10_000, ..Page::default() };
    // Each replica records how far it had read, in whatever order they notice.
    let events = eventually("the fork is an event of the replica that had read furthest", async || {
        let events = recovered(async || Ok(one.app().log.list(&Filter::new(Scope::Platform), page).await?)).await;
        let is_told = events.iter().any(|event| {
            let old_position = event.details.get("old_position").and_then(|old| old.as_i64());
            event.event_type == "audit.forked" && old_position.is_some_and(|old| old >= known) && event.position > kept
        });
        is_told.then_some(events)
    })
    .await;
    assert!(events.iter().map(|event| event.position).eq(1..=i64::try_from(events.len()).unwrap()), "no gap");
    for server in [&one, &two] {
        // Until it has noticed, it has read further than the new log goes.
        until("the fork is noticed", async || server.app().feed.epoch() == 1).await;
        within("it is read", server.app().feed.reached(events.len() as i64)).await;
    }
}
