//! Correlation ids of calls that lead through Kanidm.

use sidle::proto;

use super::{World, intent};
use crate::correlation::{Logged, OF_WORKERS, call};
use crate::support::ADMIN_PASSWORD;

const KANIDM_PASSWORD: &str = "a-password-that-Kanidm-likes-4711";

#[tokio::test]
async fn every_line_of_a_way_through_kanidm_is_under_the_id_of_its_call() {
    let (logged, _guard) = Logged::start();
    let on =
        |setup: crate::support::Setup| setup.with("ENROLMENT__HINTS", "true").with("ENROLMENT__CARRY_OVER", "true");
    let world = World::with(on).await;
    let (ann, bob) = (world.person("ann").await, world.person("bob").await);
    let mut calls = world.server.client("").authenticate;
    logged.clear();

    // Carried over after the answer: by work that the call left behind.
    let (id, request) = call(proto::AuthenticatePasswordRequest {
        identifier: ann.email.clone(),
        password: ADMIN_PASSWORD.to_owned(),
        ..Default::default()
    });
    calls.authenticate_password(request).await.unwrap();
    let events = logged.events(id, "password_carry_over_ended").await;
    assert!(events.contains(&"user_authenticated".to_owned()), "{events:?}");

    let invitation = world.invited(&bob).await;
    let (id, request) = call(proto::RedeemInvitationRequest {
        invitation_token: invitation,
        password: ADMIN_PASSWORD.to_owned(),
        ..Default::default()
    });
    let redeemed = calls.redeem_invitation(request).await;
    let events = logged.events(id, "call_answered").await;
    if let Ok(link) = redeemed {
        assert!(events.contains(&"invitation_redeemed".to_owned()), "{events:?}");
        world.kanidm.use_reset_link(&intent(&link.into_inner()), KANIDM_PASSWORD).await.unwrap();
    }

    let bearer = world.kanidm.sign_in(&ann.name, ADMIN_PASSWORD).await.unwrap();
    let start = proto::StartKanidmLoginRequest { redirect_uri: super::REDIRECT.to_owned(), ..Default::default() };
    let (id, request) = call(start);
    let begun = calls.start_kanidm_login(request).await.unwrap().into_inner();
    logged.events(id, "call_answered").await;
    let back = world.kanidm.authorise(&bearer, &begun.authorization_url).await.unwrap();
    let complete =
        proto::CompleteKanidmLoginRequest { state: back.state, code: back.code, login_secret: begun.login_secret };
    let (id, request) = call(complete);
    calls.complete_kanidm_login(request).await.unwrap();
    logged.events(id, "user_authenticated").await;

    logged.assert_all_have_an_id(OF_WORKERS);
}
