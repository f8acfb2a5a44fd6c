//! Kanidm down, slow, or with invalid answers: needs the switches of dev Kanidm.

use std::time::Duration;

use sidle_dev::kanidm::Fault;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{World, complete};
use crate::authenticate::{attempt, set};
use crate::look::reason;
use crate::support::{ADMIN_PASSWORD, Setup};

#[tokio::test]
async fn an_outage_stops_the_logins_through_kanidm_and_no_other() {
    let quick = |setup: Setup| setup.with("KANIDM__TIMEOUT", "500ms").with("KANIDM__BREAKER_FAILURES", "0");
    let world = World::with(quick).await;
    let mut tokens = world.login().await.unwrap().tokens.unwrap();
    for (round, fault) in [Fault::Fail, Fault::Stall, Fault::Garbage].into_iter().enumerate() {
        let begun = world.start().await.unwrap();
        let back = world.kanidm.authorise(&world.bearer, &begun.authorization_url).await.unwrap();
        world.kanidm.fault(fault, "/oauth2", 0, None).await.unwrap();
        for refused in [
            complete(&world.server, &back, &begun.login_secret).await.unwrap_err(),
            world.refresh(&tokens.refresh_token, 1).await.unwrap_err(),
        ] {
            let what = (refused.code(), reason(&refused));
            assert_eq!(what, (Code::Unavailable, "KANIDM_UNAVAILABLE".to_owned()), "{fault:?}");
        }
        attempt(&world.server, "ann@example.com", ADMIN_PASSWORD).await.expect("a dual user has a password");
        set(&world.server, world.user, "auth_method = 'kanidm'").await;
        let refused = attempt(&world.server, "ann@example.com", ADMIN_PASSWORD).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_CREDENTIALS", "never by the old hash, whatever is down");
        set(&world.server, world.user, "auth_method = 'dual'").await;
        world.kanidm.heal().await.unwrap();
        let id = 100 + round as u128;
        tokens = world.refresh(&tokens.refresh_token, id).await.expect("nothing was spent").tokens.unwrap();
    }
}

#[tokio::test]
async fn a_renewal_whose_answer_got_lost_at_kanidm_asks_for_a_new_login_at_worst() {
    let world = World::new().await;
    let tokens = world.login().await.unwrap().tokens.unwrap();
    // Within the second of the login Kanidm would take the same token twice.
    world.kanidm.advance(Duration::from_secs(5)).await.unwrap();
    world.kanidm.fault(Fault::DropReply, "/oauth2/token", 0, Some(1)).await.unwrap();
    assert_eq!(reason(&world.refresh(&tokens.refresh_token, 1).await.unwrap_err()), "KANIDM_UNAVAILABLE");
    // Kanidm has moved on to a token that was never received, and takes the old one for stolen after a second.
    world.kanidm.advance(Duration::from_secs(5)).await.unwrap();
    assert_eq!(reason(&world.refresh(&tokens.refresh_token, 1).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    world.login().await.expect("a new login");
}

#[tokio::test]
async fn kanidms_keys_are_not_fetched_for_every_login() {
    let world = World::new().await;
    for _ in 0..3 {
        world.login().await.unwrap();
    }
    let fetched = world.kanidm.requests("GET /oauth2/openid/{client}/public_key.jwk").await.unwrap();
    assert_eq!(fetched, 1);
}

/// Kanidm answers nothing until the test ends, and calls to it have that long a timeout: a caller that waits hangs the
/// test.
#[tokio::test(flavor = "multi_thread")]
async fn while_kanidm_holds_every_call_nobody_with_a_password_waits_for_it() {
    let world = World::with(|setup| setup.with("KANIDM__TIMEOUT", "1h").with("MIGRATION__LONGEST_CALL", "1h")).await;
    let tokens = world.login().await.unwrap().tokens.unwrap();
    let begun = world.start().await.unwrap();
    let back = world.kanidm.authorise(&world.bearer, &begun.authorization_url).await.unwrap();
    world.kanidm.fault(Fault::Stall, "/oauth2", 0, None).await.unwrap();
    {
        let held = async {
            tokio::join!(
                complete(&world.server, &back, &begun.login_secret),
                world.refresh(&tokens.refresh_token, 1),
                world.refresh(&tokens.refresh_token, 2),
            )
        };
        let logins = async {
            for method in ["dual", "password"] {
                set(&world.server, world.user, &format!("auth_method = '{method}'")).await;
                let own = attempt(&world.server, "ann@example.com", ADMIN_PASSWORD).await.unwrap().tokens.unwrap();
                world.refresh(&own.refresh_token, 3).await.expect("a session that Kanidm has no part in");
            }
            set(&world.server, world.user, "auth_method = 'kanidm'").await;
            let refused = attempt(&world.server, "ann@example.com", ADMIN_PASSWORD).await.unwrap_err();
            let unknown = attempt(&world.server, "nobody@example.com", ADMIN_PASSWORD).await.unwrap_err();
            assert_eq!((refused.code(), refused.message()), (unknown.code(), unknown.message()));
        };
        tokio::select! {
            _ = held => panic!("Kanidm holds these"),
            () = logins => {}
        }
    }
}

#[tokio::test]
async fn after_failures_in_a_row_kanidm_is_not_asked_and_callers_do_not_wait() {
    let open = |setup: Setup| setup.with("KANIDM__BREAKER_FAILURES", "2").with("KANIDM__BREAKER_PAUSE", "1h");
    let world = World::with(open).await;
    let tokens = world.login().await.unwrap().tokens.unwrap();
    assert_eq!(circuit(&world.server).await, "closed");
    world.kanidm.fault(Fault::Garbage, "/oauth2/token", 0, None).await.unwrap();
    for id in 0..2 {
        assert_eq!(reason(&world.refresh(&tokens.refresh_token, id).await.unwrap_err()), "KANIDM_UNAVAILABLE");
    }
    world.kanidm.heal().await.unwrap();
    let before = world.kanidm.requests("POST /oauth2/token").await.unwrap();
    for refused in [
        world.refresh(&tokens.refresh_token, 3).await.unwrap_err(),
        world.start().await.unwrap_err(),
        world.refresh(&tokens.refresh_token, 4).await.unwrap_err(),
    ] {
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "KANIDM_UNAVAILABLE"));
        let wait = refused.get_details_retry_info().and_then(|info| info.retry_delay).expect("when to come again");
        assert!(wait > Duration::from_secs(3000), "{wait:?}: for as long as it is not asked");
    }
    assert_eq!(world.kanidm.requests("POST /oauth2/token").await.unwrap(), before, "nobody asked");
    assert_eq!(circuit(&world.server).await, "open");
    attempt(&world.server, "ann@example.com", ADMIN_PASSWORD).await.expect("a password needs no Kanidm");
}

#[tokio::test]
async fn one_call_finds_out_that_kanidm_is_back() {
    let world =
        World::with(|setup| setup.with("KANIDM__BREAKER_FAILURES", "1").with("KANIDM__BREAKER_PAUSE", "0s")).await;
    let tokens = world.login().await.unwrap().tokens.unwrap();
    world.kanidm.fault(Fault::Fail, "/oauth2/token", 0, None).await.unwrap();
    assert_eq!(reason(&world.refresh(&tokens.refresh_token, 1).await.unwrap_err()), "KANIDM_UNAVAILABLE");
    assert_eq!(circuit(&world.server).await, "half_open");
    world.kanidm.heal().await.unwrap();
    world.refresh(&tokens.refresh_token, 1).await.expect("it is back");
    assert_eq!(circuit(&world.server).await, "closed");
}

/// What readiness and metrics say about the circuit breaker; the service is ready all the while.
async fn circuit(server: &crate::support::TestServer) -> String {
    let page = async |path: &str| reqwest::get(format!("{}{path}", server.ops_url())).await.unwrap();
    let ready = page("/readyz").await;
    assert_eq!(ready.status(), 200, "others sign in with their passwords");
    let ready: serde_json::Value = ready.json().await.unwrap();
    let state = ready["kanidm"]["circuit"].as_str().unwrap().to_owned();
    let metrics = page("/metrics").await.text().await.unwrap();
    assert!(metrics.contains(&format!("sidle_kanidm_circuit{{state=\"{state}\"}} 1")), "{metrics}");
    state
}
