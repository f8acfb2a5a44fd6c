//! Which users are invited by a login, when, and by which route.

use std::time::Duration;

use sidle_dev::kanidm::Fault;

use super::{World, assert_refused, login};
use crate::authenticate::set;
use crate::support::{ADMIN_PASSWORD, TestServer};

#[tokio::test]
async fn a_login_from_a_known_device_invites_in_its_answer() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let first = world.login(&ann.email, "").await;
    assert_eq!(first.enrolment, None, "whoever has only the password gets nothing");
    let second = world.login(&ann.email, &first.known_device_token).await.enrolment.expect("an invitation");
    assert!(second.invitation_token.starts_with("sidle_iv_"));
    let lifetime = second.expires_at.unwrap().seconds - world.server.context.now().timestamp();
    assert!((6 * 86_400..=7 * 86_400).contains(&lifetime), "{lifetime}");
    let third = world.login(&ann.email, &first.known_device_token).await.enrolment.expect("a newer one");
    assert_eq!(world.count("SELECT count(*) FROM invitations WHERE user_id = $1", ann.user).await, 1);
    assert_refused("superseded", world.redeem(&second.invitation_token, ADMIN_PASSWORD, "").await);
    world.redeem(&third.invitation_token, ADMIN_PASSWORD, "").await.expect("the newest is good");
    let invited = "SELECT count(*) FROM users WHERE user_id = $1 AND migration_invited_at IS NOT NULL";
    assert_eq!(world.count(invited, ann.user).await, 1);
}

#[tokio::test]
async fn nobody_is_invited_who_has_nothing_to_enrol_for() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let device = world.login(&ann.email, "").await.known_device_token;
    for (assignment, back) in [
        ("kanidm_user_id = NULL", format!("kanidm_user_id = '{}'", ann.person)),
        ("migration_completed_at = now()", "migration_completed_at = NULL".to_owned()),
        ("must_change_password = true", "must_change_password = false".to_owned()),
    ] {
        set(&world.server, ann.user, assignment).await;
        assert_eq!(world.login(&ann.email, &device).await.enrolment, None, "{assignment}");
        set(&world.server, ann.user, &back).await;
        assert!(world.login(&ann.email, &device).await.enrolment.is_some(), "{assignment} undone");
    }
    world.invited(&ann).await;
    world
        .kanidm
        .use_reset_link(&world.kanidm.reset_link(&ann.person.to_string()).await.unwrap(), "a-password-of-Kanidms-4711")
        .await
        .unwrap();
    let invitation = world.invited(&ann).await;
    assert_refused("who has a credential", world.redeem(&invitation, ADMIN_PASSWORD, "").await);
    assert_eq!(world.login(&ann.email, &device).await.enrolment, None, "and that is known now");
}

#[tokio::test]
async fn invitations_are_for_the_tenants_that_are_listed_and_off_by_default() {
    let world = World::with(|setup| setup).await;
    let ann = world.person("ann").await;
    let device = world.login(&ann.email, "").await.known_device_token;
    assert_eq!(world.login(&ann.email, &device).await.enrolment, None);
    for (tenants, invited) in [("b", false), ("b,a", true), ("", true)] {
        let setup = world.server.setup.clone().with("ENROLMENT__HINTS", "true").with("ENROLMENT__TENANTS", tenants);
        let server = setup.start().await;
        let hint = login(&server, &ann.email, ADMIN_PASSWORD, &device).await.enrolment;
        assert_eq!(hint.is_some(), invited, "{tenants:?}");
    }
}

#[tokio::test]
async fn from_an_unknown_device_the_invitation_goes_to_the_verified_address_and_not_every_time() {
    let world = World::new().await;
    let (ann, bob) = (world.person("ann").await, world.person("bob").await);
    set(&world.server, bob.user, "verified_at = NULL").await;
    for _ in 0..3 {
        assert_eq!(world.login(&ann.email, "").await.enrolment, None);
        assert_eq!(
            world.login(&bob.email, "sidle_kd_0123456789012345678901234567890123456789012").await.enrolment,
            None
        );
    }
    let mailed = world.mailed(&ann.email).await;
    assert_eq!(mailed.len(), 1);
    assert!(world.mailed(&bob.email).await.is_empty() && !world.has_invitation(bob.user).await);
    world.redeem(&mailed[0], ADMIN_PASSWORD, "").await.expect("what was mailed is good");
    world.server.context.clock.advance(Duration::from_secs(8 * 86_400));
    world.login(&ann.email, "").await;
    assert_eq!(world.mailed(&ann.email).await.len(), 2, "after a while again");
}

#[tokio::test]
async fn an_invitation_lapses() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    world.server.context.clock.advance(Duration::from_secs(7 * 86_400 + 1));
    assert_refused("lapsed", world.redeem(&invitation, ADMIN_PASSWORD, "").await);
}

#[tokio::test]
async fn a_login_invites_without_asking_kanidm() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let device = world.login(&ann.email, "").await.known_device_token;
    world.kanidm.fault(Fault::Stall, "/", 0, None).await.unwrap();
    assert!(world.login(&ann.email, &device).await.enrolment.is_some(), "though Kanidm does not answer");
    world.kanidm.heal().await.unwrap();
}

#[tokio::test]
async fn without_kanidm_nobody_is_invited() {
    let setup = crate::support::Setup::new().await.with("ENROLMENT__HINTS", "true");
    let server: TestServer = setup.start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    set(&server, user, "auth_method = 'dual', kanidm_user_id = gen_random_uuid()").await;
    let device = login(&server, "ann@example.com", ADMIN_PASSWORD, "").await.known_device_token;
    assert_eq!(login(&server, "ann@example.com", ADMIN_PASSWORD, &device).await.enrolment, None);
}
