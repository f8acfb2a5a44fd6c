//! The login attempt itself: its state, its secret, its redirect address, its code.

use std::time::Duration;

use sidle_dev::persona::Returned;
use tonic::Code;

use super::{REDIRECT, World, complete, start};
use crate::look::{reason, reasons};
use crate::support::TestServer;

#[tokio::test]
async fn an_attempt_is_spent_by_its_first_completion() {
    let world = World::new().await;
    let begun = world.start().await.unwrap();
    let back = world.kanidm.authorise(&world.bearer, &begun.authorization_url).await.unwrap();
    complete(&world.server, &back, &begun.login_secret).await.unwrap();
    let refused = complete(&world.server, &back, &begun.login_secret).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_LOGIN_ATTEMPT");
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM kanidm_logins").fetch_one(world.server.sql()).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn another_clients_secret_neither_completes_nor_spends_an_attempt() {
    let world = World::new().await;
    let (mine, theirs) = (world.start().await.unwrap(), world.start().await.unwrap());
    let back = world.kanidm.authorise(&world.bearer, &mine.authorization_url).await.unwrap();
    for secret in [&theirs.login_secret, "sidle_ls_", "x"] {
        let refused = complete(&world.server, &back, secret).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "INVALID_LOGIN_ATTEMPT"));
    }
    // Anonymous callers can make attempts up, so of many in a second one is recorded.
    let told = reasons(&world.server, "user.login_refused", "refused").await;
    assert!(!told.is_empty() && told.iter().all(|why| why == "unknown_attempt"), "{told:?}");
    complete(&world.server, &back, &mine.login_secret).await.expect("its own secret still does");
}

#[tokio::test]
async fn a_code_of_another_attempt_is_of_no_use() {
    let world = World::new().await;
    let (mine, theirs) = (world.start().await.unwrap(), world.start().await.unwrap());
    let mut back = world.kanidm.authorise(&world.bearer, &theirs.authorization_url).await.unwrap();
    back.state = mine.state.clone();
    let refused = complete(&world.server, &back, &mine.login_secret).await.unwrap_err();
    assert_eq!(reason(&refused), "KANIDM_REFUSED", "the code is bound to the verifier of its own attempt");
    back.code = "nonsense".to_owned();
    back.state = theirs.state.clone();
    let refused = complete(&world.server, &back, &theirs.login_secret).await.unwrap_err();
    assert_eq!(reason(&refused), "KANIDM_REFUSED");
    assert_eq!(reasons(&world.server, "user.login_refused", "refused").await, ["kanidm_refused"; 2]);
}

/// S14. The digests of the nonces are moved along: only the seal stops an attacker who can write to the table.
#[tokio::test]
async fn a_verifier_that_was_moved_to_another_attempt_completes_nothing() {
    let world = World::new().await;
    let (mine, theirs) = (world.start().await.unwrap(), world.start().await.unwrap());
    let back = world.kanidm.authorise(&world.bearer, &theirs.authorization_url).await.unwrap();
    let swap = "UPDATE kanidm_logins a SET pkce_verifier = b.pkce_verifier, nonce_hash = b.nonce_hash
        FROM kanidm_logins b WHERE b.login_id <> a.login_id";
    assert_eq!(sqlx::query(swap).execute(world.server.sql()).await.unwrap().rows_affected(), 2);
    let theirs = Returned { code: back.code, state: mine.state.clone() };
    let refused = complete(&world.server, &theirs, &mine.login_secret).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal, "{refused:?}");
    let begun: i64 = sqlx::query_scalar("SELECT count(*) FROM sessions").fetch_one(world.server.sql()).await.unwrap();
    assert_eq!(begun, 0);
}

#[tokio::test]
async fn an_attempt_lapses() {
    let world = World::new().await;
    let begun = world.start().await.unwrap();
    let back = world.kanidm.authorise(&world.bearer, &begun.authorization_url).await.unwrap();
    world.server.context.clock.advance(Duration::from_secs(10 * 60 + 1));
    let refused = complete(&world.server, &back, &begun.login_secret).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_LOGIN_ATTEMPT");
}

#[tokio::test]
async fn a_login_returns_to_a_configured_address_only_and_asks_for_nothing_more_than_it_needs() {
    let world = World::new().await;
    for elsewhere in [
        "",
        "https://app.example/callback/",
        "https://app.example/callback?x=1",
        "https://app.example/callback#x",
        "https://app.example/Callback",
        "https://APP.example/callback",
        "https://app.example/callback/../evil",
        "https://app.example:443/callback",
        "https://evil.example/callback",
        "https://app.example@evil.example/callback",
    ] {
        let refused = start(&world.server, elsewhere).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_FIELD", "{elsewhere}");
    }
    let begun = start(&world.server, REDIRECT).await.unwrap();
    let url = begun.authorization_url;
    assert!(url.starts_with(&world.kanidm.url), "{url}");
    for part in [
        "code_challenge_method=S256",
        "code_challenge=",
        "nonce=",
        "state=",
        "response_type=code",
        "scope=openid+groups&",
    ] {
        assert!(url.contains(part), "{part} is missing in {url}");
    }
    assert!(!url.contains(&begun.login_secret));
}

#[tokio::test]
async fn without_a_kanidm_the_calls_say_so() {
    let server = TestServer::start().await;
    assert_eq!(reason(&start(&server, REDIRECT).await.unwrap_err()), "KANIDM_NOT_CONFIGURED");
    let back = Returned { code: "c".to_owned(), state: "s".to_owned() };
    assert_eq!(reason(&complete(&server, &back, "x").await.unwrap_err()), "KANIDM_NOT_CONFIGURED");
}

#[tokio::test]
async fn a_login_begun_at_one_replica_is_completed_at_another() {
    let world = World::new().await;
    let replica = world.server.setup.start().await;
    let begun = world.start().await.unwrap();
    let back = world.kanidm.authorise(&world.bearer, &begun.authorization_url).await.unwrap();
    let signed_in = complete(&replica, &back, &begun.login_secret).await.expect("state, nonce and verifier are there");
    assert_eq!(signed_in.user.unwrap().user_id, world.user.to_string());
    let refused = complete(&world.server, &back, &begun.login_secret).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_LOGIN_ATTEMPT", "spent everywhere");
}

#[tokio::test]
async fn a_nonce_that_was_exchanged_on_the_way_is_noticed() {
    let world = World::new().await;
    let begun = world.start().await.unwrap();
    let (before, rest) = begun.authorization_url.split_once("nonce=").unwrap();
    let (nonce, after) = rest.split_once('&').unwrap();
    assert!(nonce.len() > 40, "{nonce}");
    for changed in [format!("{before}nonce=another&{after}"), format!("{before}{after}")] {
        let begun = world.start().await.unwrap();
        let state = |url: &str| url.split("state=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let challenge = |url: &str| url.split("code_challenge=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let url = changed
            .replace(&state(&changed), &state(&begun.authorization_url))
            .replace(&challenge(&changed), &challenge(&begun.authorization_url));
        let back = world.kanidm.authorise(&world.bearer, &url).await.unwrap();
        let refused = complete(&world.server, &back, &begun.login_secret).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_LOGIN_ATTEMPT");
    }
    assert_eq!(reasons(&world.server, "user.login_refused", "refused").await, ["nonce_mismatch"; 2]);
}

#[tokio::test]
async fn a_code_that_kanidm_gave_for_another_application_is_of_no_use() {
    let world = World::new().await;
    // Another application, whose owner wants to get into this one as its own users.
    let other = world.kanidm.prepare(REDIRECT).await.unwrap();
    let begun = world.start().await.unwrap();
    let own = begun.authorization_url.split("client_id=").nth(1).unwrap().split('&').next().unwrap();
    let url = begun.authorization_url.replace(own, &other.client_id);
    let back = world.kanidm.authorise(&world.bearer, &url).await.unwrap();
    let refused = complete(&world.server, &back, &begun.login_secret).await.unwrap_err();
    assert_eq!(reason(&refused), "KANIDM_REFUSED");
}
