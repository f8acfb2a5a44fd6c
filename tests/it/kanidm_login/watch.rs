//! Sessions that are not refreshed: Kanidm is asked about them all the same.

use std::time::Duration;

use serde_json::json;
use sidle::proto::KanidmLoginPurpose::Link;
use sidle_dev::kanidm::Fault;

use super::{World, complete_as, is_good, person};
use crate::look::{event, reason};
use crate::support::{Setup, until, within};

/// A server that asks all the time.
fn watchful(setup: Setup) -> Setup {
    setup.with("KANIDM__RECHECK_INTERVAL", "50ms")
}

/// A server that asks only about sessions that, by its database, it did not ask about for long.
fn forgetful(setup: Setup) -> Setup {
    setup.with("KANIDM__RECHECK_INTERVAL", "1h").with("KANIDM__RECHECK_AT_ONCE", "3")
}

fn oldest_check(world: &World) -> f64 {
    let page = world.server.app().metrics.render().unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix("sidle_kanidm_oldest_check_age_seconds "));
    line.expect("a figure").parse().unwrap()
}

async fn ended_for_kanidm(world: &World) {
    let ended = event(&world.server, "session.revoked").await;
    assert_eq!(
        (ended.reason.as_deref(), ended.session_id),
        (Some("kanidm"), ended.target_id.as_deref().map(|id| id.parse().unwrap()))
    );
}

#[tokio::test]
async fn an_account_that_kanidm_switched_off_loses_its_sessions_unasked() {
    let world = World::with(watchful).await;
    let tokens = world.login().await.unwrap().tokens.unwrap();
    assert!(is_good(&world.server, &tokens.access_token).await);
    world.kanidm.expire(&world.person.to_string()).await.unwrap();
    ended_for_kanidm(&world).await;
    assert!(!is_good(&world.server, &tokens.access_token).await);
    assert_eq!(reason(&world.refresh(&tokens.refresh_token, 1).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
}

#[tokio::test]
async fn a_person_whom_kanidm_deleted_loses_their_sessions_unasked() {
    let world = World::with(watchful).await;
    world.login().await.unwrap();
    world.kanidm.delete_person(&world.person.to_string()).await.unwrap();
    ended_for_kanidm(&world).await;
}

#[tokio::test]
async fn a_logout_in_kanidm_ends_the_session_here() {
    let world = World::with(watchful).await;
    world.login().await.unwrap();
    let logout = world.kanidm.http.get(format!("{}/v1/logout", world.kanidm.url)).bearer_auth(&world.bearer);
    assert!(logout.send().await.unwrap().status().is_success());
    ended_for_kanidm(&world).await;
}

#[tokio::test]
async fn a_session_that_both_sides_confirm_ends_with_kanidms() {
    let world = World::with(watchful).await;
    world.server.user(world.tenant, "bob@example.com", "user").await;
    let (bob, bearer) = person(&world.kanidm, "bob").await;
    let tokens = world.server.sign_in("bob@example.com").await;
    let begun = world.go(&tokens.access_token, Link).await.unwrap();
    let back = world.kanidm.authorise(&bearer, &begun.authorization_url).await.unwrap();
    complete_as(&world.server, &tokens.access_token, &back, &begun.login_secret).await.unwrap();
    let tokens = world.refresh(&tokens.refresh_token, 1).await.unwrap().tokens.unwrap();
    world.kanidm.expire(&bob.to_string()).await.unwrap();
    ended_for_kanidm(&world).await;
    assert!(!is_good(&world.server, &tokens.access_token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_and_refreshes_of_one_session_never_cross() {
    // Kanidm's clock is moved forward again and again.
    let world = World::with(|setup| watchful(setup).with("KANIDM__LEEWAY", "4m")).await;
    let replica = world.server.setup.start().await;
    let asked = async || world.kanidm.requests("POST /oauth2/token").await.unwrap();
    let mut sessions = Vec::new();
    for round in 0..8 {
        let mut tokens = world.login().await.unwrap().tokens.unwrap();
        // Nothing else asks meanwhile: the refreshes come right after a check in the background has begun.
        let before = asked().await;
        until("a check in the background", async || asked().await > before).await;
        for again in 0..2 {
            // Kanidm's own token rotates each time: the use of an old one would end the session there, but for the second
            // of its issue.
            world.kanidm.advance(Duration::from_secs(2)).await.unwrap();
            let refreshed =
                world.refresh(&tokens.refresh_token, 3 * round + again).await.expect("nobody was in the way");
            tokens = refreshed.tokens.unwrap();
        }
        sessions.push(tokens);
    }
    // In order: it finishes the calls to Kanidm that are in progress.
    replica.stop().await;
    for (round, tokens) in (0..).zip(sessions) {
        world.refresh(&tokens.refresh_token, 3 * round + 2).await.expect("Kanidm's chain is whole");
    }
}

#[tokio::test]
async fn groups_are_followed_also_while_nobody_refreshes() {
    let world = World::with(watchful).await;
    sqlx::query("DELETE FROM memberships").execute(world.server.sql()).await.unwrap();
    let tokens = world.login().await.unwrap().tokens.unwrap();
    let log = &world.server.app().log;
    let before = log.resolve(sidle::audit::Start::Now).await.unwrap();
    world.kanidm.remove_member(&world.group.to_string(), &world.person.to_string()).await.unwrap();
    let mut follow = log.follow(sidle::audit::Filter::new(sidle::db::Scope::Platform), before);
    within("the group is left here too", async {
        loop {
            match follow.progress().await.unwrap() {
                sidle::audit::Progress::Event(event)
                    if event.event_type == "membership.synced" && event.details["removed"] == json!(1) =>
                {
                    break;
                }
                sidle::audit::Progress::End => panic!("the server stopped"),
                _ => {}
            }
        }
    })
    .await;
    assert!(!is_good(&world.server, &tokens.access_token).await, "what it said of roles is no longer so");
}

#[tokio::test]
async fn an_outage_ends_no_session_and_what_was_due_is_asked_about_after_it() {
    let world = World::with(|setup| watchful(setup).with("KANIDM__BREAKER_FAILURES", "0")).await;
    let mut tokens = world.login().await.unwrap().tokens.unwrap();
    let asked = async || world.kanidm.requests("POST /oauth2/token").await.unwrap();
    for fault in [Fault::Fail, Fault::Garbage] {
        // The time after which another try is made is long here: what was tried once is asked about at the refresh.
        world.kanidm.fault(fault, "/oauth2/token", 0, None).await.unwrap();
        let long_ago = "UPDATE sessions SET kanidm_check_until = NULL, kanidm_checked_at = now() - interval '1 hour'";
        sqlx::query(long_ago).execute(world.server.sql()).await.unwrap();
        let before = asked().await;
        until("Kanidm is asked in the background", async || asked().await != before).await;
        // And the metrics show for how long no session could be checked.
        until("the figure shows the outage", async || oldest_check(&world) >= 3_600.0).await;
        world.kanidm.heal().await.unwrap();
        let id = u128::from(before) + 1000;
        tokens =
            world.refresh(&tokens.refresh_token, id).await.expect("the outage said nothing about it").tokens.unwrap();
    }
    assert!(is_good(&world.server, &tokens.access_token).await);
}

#[tokio::test]
async fn sessions_that_fail_do_not_keep_the_others_from_being_asked_about() {
    let world = World::with(forgetful).await;
    for _ in 0..3 {
        world.login().await.unwrap();
    }
    // Sealed under a key that is lost: these can never be checked, and they are always the first.
    sqlx::query("UPDATE sessions SET kanidm_refresh_token = '\\x00', kanidm_checked_at = now() - interval '2 days'")
        .execute(world.server.sql())
        .await
        .unwrap();
    world.login().await.unwrap();
    world.kanidm.expire(&world.person.to_string()).await.unwrap();
    let age = "UPDATE sessions SET kanidm_checked_at = now() - interval '1 day' WHERE length(kanidm_refresh_token) > 1";
    sqlx::query(age).execute(world.server.sql()).await.unwrap();
    let watching = world.server.setup.clone().with("KANIDM__RECHECK_INTERVAL", "1s").start().await;
    ended_for_kanidm(&world).await;
    drop(watching);
}
