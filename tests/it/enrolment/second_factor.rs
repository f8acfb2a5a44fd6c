//! Users with a second factor: no invitation before they have proved it, none redeemed without it, no password carried
//! over.

use super::{Person, World, assert_refused};
use crate::authenticate::factors::{Authenticator, answer_code, counted, enrol, tick};
use crate::look::reasons;
use crate::support::{ADMIN_PASSWORD, Setup, until};
use sidle::proto::authenticate_password_response::Outcome;

/// Has the person enrol an authenticator application.
async fn guard(world: &World, person: &Person) -> (Authenticator, Vec<String>) {
    let client = world.server.client(&world.server.sign_in(&person.email).await.access_token);
    enrol(&world.server, &client).await
}

impl World {
    fn code(&self, application: &Authenticator) -> String {
        application.code(self.server.context.now(), 0)
    }

    /// A whole login with the second factor.
    async fn login_with(&self, person: &Person, device: &str, application: &Authenticator) -> sidle::proto::SignedIn {
        let Outcome::MfaChallenge(challenge) =
            super::sign_in(&self.server, &person.email, ADMIN_PASSWORD, device).await.unwrap()
        else {
            panic!("no second factor was asked for")
        };
        let signed_in = answer_code(&self.server, &challenge, self.code(application)).await.unwrap();
        tick(&self.server);
        signed_in
    }
}

#[tokio::test]
async fn no_invitation_before_the_second_factor() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let (application, _) = guard(&world, &ann).await;
    let device = world.login_with(&ann, "", &application).await.known_device_token;
    sqlx::query("DELETE FROM invitations").execute(world.server.sql()).await.unwrap();
    let outcome = super::sign_in(&world.server, &ann.email, ADMIN_PASSWORD, &device).await.unwrap();
    assert!(matches!(outcome, Outcome::MfaChallenge(_)));
    assert!(!world.has_invitation(ann.user).await, "the password alone makes none, not even in the database");
    let signed_in = world.login_with(&ann, &device, &application).await;
    assert!(signed_in.enrolment.is_some(), "after the second factor");
}

#[tokio::test]
async fn a_redemption_takes_the_second_factor() {
    // More attempts for the guesses below: a lock would void the invitation.
    let patient = |setup: Setup| setup.with("ENROLMENT__HINTS", "true").with("PASSWORDS__MAX_ATTEMPTS", "20");
    let world = World::with(patient).await;
    let ann = world.person("ann").await;
    let (application, codes) = guard(&world, &ann).await;
    let device = world.login_with(&ann, "", &application).await.known_device_token;
    let invitation = world.login_with(&ann, &device, &application).await.enrolment.unwrap().invitation_token;
    let wrong = application.wrong(world.server.context.now());
    assert_refused("without a code", world.redeem(&invitation, ADMIN_PASSWORD, "").await);
    assert_refused("with a wrong one", world.redeem(&invitation, ADMIN_PASSWORD, &wrong).await);
    assert_eq!(counted(&world.server, ann.user).await, (2, false), "guesses at the code count");
    assert_refused(
        "with the code alone",
        world.redeem(&invitation, "not the password", &world.code(&application)).await,
    );
    let code = world.code(&application);
    let link = world.redeem(&invitation, ADMIN_PASSWORD, &code).await.expect("with both");
    assert_refused("with a code that was used", world.redeem(&invitation, ADMIN_PASSWORD, &code).await);
    let again = world.redeem(&invitation, ADMIN_PASSWORD, &codes[0]).await.expect("with a recovery code");
    assert_eq!(again, link);
    assert!(reasons(&world.server, "migration.invitation_refused", "refused").await.contains(&"wrong_code".to_owned()));
}

#[tokio::test]
async fn a_change_of_the_second_factor_voids_the_invitation() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    let (application, _) = guard(&world, &ann).await;
    assert!(!world.has_invitation(ann.user).await, "one from before, which asked for the password only");
    assert_refused("from before", world.redeem(&invitation, ADMIN_PASSWORD, "").await);
    for change in
        ["UPDATE user_totp SET confirmed_at = NULL WHERE user_id = $1", "DELETE FROM user_totp WHERE user_id = $1"]
    {
        let device = world.login_with(&ann, "", &application).await.known_device_token;
        let invitation = world.login_with(&ann, &device, &application).await.enrolment.unwrap().invitation_token;
        sqlx::query(change).bind(ann.user).execute(world.server.sql()).await.unwrap();
        assert!(!world.has_invitation(ann.user).await, "{change}");
        assert_refused(change, world.redeem(&invitation, ADMIN_PASSWORD, "").await);
        sqlx::query("UPDATE user_totp SET confirmed_at = now() WHERE user_id = $1")
            .bind(ann.user)
            .execute(world.server.sql())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_user_with_a_second_factor_is_never_carried_over() {
    let both = |setup: Setup| setup.with("ENROLMENT__CARRY_OVER", "true").with("ENROLMENT__TENANTS", "a,b");
    let world = World::with(both).await;
    let ann = world.person("ann").await;
    let quiet = world.server.setup.clone().with("ENROLMENT__CARRY_OVER", "false");
    let quiet = quiet.start_with(world.server.context.clone()).await;
    let client = quiet.client(&quiet.sign_in(&ann.email).await.access_token);
    let (application, _) = enrol(&quiet, &client).await;
    world.login_with(&ann, "", &application).await;
    // Users who sign in later are carried over later.
    let bob = world.person("bob").await;
    world.login(&bob.email, "").await;
    until("the other is carried over", async || {
        world
            .count(
                "SELECT count(*) FROM kanidm_enrolments WHERE person_id = $1 AND carry_over_outcome = 'done'",
                bob.person,
            )
            .await
            != 0
    })
    .await;
    assert_eq!(world.count("SELECT count(*) FROM kanidm_enrolments WHERE person_id = $1", ann.person).await, 0);
}
