//! A replica that loses its database refuses everything once its snapshot is too old, and recovers by itself.

use std::time::Duration;

use sidle::proto;
use tonic::Code;

use super::signed_in;
use crate::authenticate::{verifier_token, verify};
use crate::look::reason;
use crate::support::proxy::Proxy;
use crate::support::{Setup, TestServer, eventually};

const BOUND: Duration = Duration::from_secs(60);

/// Two replicas, the second with its database behind a proxy.
async fn replicas() -> (TestServer, TestServer, Proxy) {
    let setup = Setup::new().await.with("TOKENS__MAX_REVOCATION_AGE", "60s");
    let url = setup.environment()["SIDLE_DATABASE__URL"].clone();
    let (before, after) = url.rsplit_once('@').unwrap();
    let (target, database) = after.split_once('/').unwrap();
    let proxy = Proxy::start(target).await;
    let behind = setup.clone().with("DATABASE__URL", &format!("{before}@{}/{database}", proxy.address));
    (setup.start().await, behind.start().await, proxy)
}

/// Cuts the second replica off, revokes a session at the first, and asks the second while its clock moves.
async fn cut_off(break_it: impl Fn(&Proxy)) {
    let (one, two, proxy) = replicas().await;
    let (_, _, tokens) = signed_in(&one).await;
    let caller = verifier_token(&one).await;
    let other = one.sign_in("ann@example.com").await.access_token;
    verify(&two, &caller, &tokens.access_token, "sidle").await.expect("a good token");
    verify(&two, &caller, &other, "sidle").await.expect("a good token");

    break_it(&proxy);
    let mut client = one.client(&tokens.access_token).session;
    client.revoke_session(proto::RevokeSessionRequest::default()).await.unwrap();
    verify(&two, &caller, &tokens.access_token, "sidle").await.expect("it cannot know, and need not yet");
    // Its last answer was from before the revocation: from now on that is longer ago than the bound.
    two.context.clock.advance(BOUND);
    let stale = verify(&two, &caller, &tokens.access_token, "sidle").await.unwrap_err();
    assert_eq!((stale.code(), reason(&stale).as_str()), (Code::Unavailable, "REVOCATIONS_STALE"), "it fails closed");
    let refused = verify(&two, &caller, &other, "sidle").await.unwrap_err();
    assert_eq!(reason(&refused), "REVOCATIONS_STALE", "for every token, since it cannot tell");
    let watching = two.client(&caller).session.watch_revocations(proto::WatchRevocationsRequest::default()).await;
    assert_eq!(reason(&watching.unwrap_err()), "REVOCATIONS_STALE", "and tells nobody what it does not know");

    proxy.mend();
    // The answer to a query from before the revocation may have been on its way: its age counts from the query.
    let refused = eventually("it knows again what is revoked", async || {
        let refused = verify(&two, &caller, &tokens.access_token, "sidle").await.expect_err("revoked longer ago");
        (reason(&refused) != "REVOCATIONS_STALE").then_some(refused)
    })
    .await;
    assert_eq!(reason(&refused), "INVALID_TOKEN", "it comes back by itself, and knows what it has missed");
    verify(&two, &caller, &other, "sidle").await.expect("and verifies the others again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_database_connections_break_fails_closed_within_the_bound_and_comes_back() {
    cut_off(Proxy::cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_database_falls_silent_fails_closed_within_the_bound_and_comes_back() {
    cut_off(Proxy::freeze).await;
}
