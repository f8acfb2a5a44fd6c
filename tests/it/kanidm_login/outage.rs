//! Kanidm down, slow, or answering nonsense: needs the switches of dev Kanidm.

use std::time::Duration;

use sidle_dev::kanidm::Fault;
use tonic::Code;

use super::{World, complete};
use crate::authenticate::{attempt, set};
use crate::look::reason;
use crate::support::ADMIN_PASSWORD;

#[tokio::test]
async fn an_outage_stops_the_logins_through_kanidm_and_no_other() {
    let name = "an_outage_stops_the_logins_through_kanidm_and_no_other";
    let quick = |setup: crate::support::Setup| setup.with("KANIDM__TIMEOUT", "500ms");
    let Some(world) = World::with(name, quick).await else { return };
    let mut tokens = world.login().await.unwrap().tokens.unwrap();
    for (round, fault) in [Fault::Fail, Fault::Stall, Fault::Garbage].into_iter().enumerate() {
        let begun = world.start().await.unwrap();
        let back = world.kanidm.authorise(&world.bearer, &begun.authorization_url).await.unwrap();
        world.kanidm.fault(fault, "/oauth2", 0, None).await.unwrap();
        for refused in [
            world.start().await.unwrap_err(),
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
    let name = "a_renewal_whose_answer_got_lost_at_kanidm_asks_for_a_new_login_at_worst";
    let Some(world) = World::new(name).await else { return };
    let tokens = world.login().await.unwrap().tokens.unwrap();
    // Within the second of the login Kanidm would take the same token twice.
    world.kanidm.advance(Duration::from_secs(5)).await.unwrap();
    world.kanidm.fault(Fault::DropReply, "/oauth2/token", 0, Some(1)).await.unwrap();
    assert_eq!(reason(&world.refresh(&tokens.refresh_token, 1).await.unwrap_err()), "KANIDM_UNAVAILABLE");
    // Kanidm has moved on to a token that nobody got, and takes the old one for stolen after a second.
    world.kanidm.advance(Duration::from_secs(5)).await.unwrap();
    assert_eq!(reason(&world.refresh(&tokens.refresh_token, 1).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    world.login().await.expect("a new login");
}

#[tokio::test]
async fn kanidms_keys_are_not_fetched_for_every_login() {
    let Some(world) = World::new("kanidms_keys_are_not_fetched_for_every_login").await else { return };
    for _ in 0..3 {
        world.login().await.unwrap();
    }
    let fetched = world.kanidm.requests("GET /oauth2/openid/{client}/public_key.jwk").await.unwrap();
    assert_eq!(fetched, 1);
}
