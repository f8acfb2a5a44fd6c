//! What voids an invitation, by any caller and on any path.

use super::{World, assert_refused};
use crate::authenticate::set;
use crate::support::ADMIN_PASSWORD;

/// Each way to void an invitation, and how to restore the account afterwards, so that nothing else refuses.
const EVENTS: &[(&str, &str, &str)] = &[
    ("the mail address changes", "email = 'x' || email, email_key = 'x' || email_key", "version = version"),
    ("the password is set anew", "password_changed_at = now()", "version = version"),
    ("an administrator asks for a new password", "must_change_password = true", "must_change_password = false"),
    (
        "the password is taken away",
        "password_hash = NULL, password_cost = NULL",
        "password_hash = $hash, password_cost = 4",
    ),
    (
        "an administrator locks the account",
        "locked_until = now() + interval '1 hour', lock_reason = 'administrator'",
        "locked_until = NULL, lock_reason = NULL",
    ),
    (
        "guessing locks the account",
        "locked_until = now() + interval '1 hour', lock_reason = 'too_many_failures'",
        "locked_until = NULL, lock_reason = NULL",
    ),
    ("the user is rolled back", "auth_method = 'password'", "auth_method = 'dual'"),
    ("the password is switched off", "auth_method = 'kanidm'", "auth_method = 'dual'"),
    ("the link to the person is taken away", "kanidm_user_id = NULL", "kanidm_user_id = $person"),
    ("the user signs in through Kanidm", "migration_completed_at = now()", "migration_completed_at = NULL"),
    ("the user is disabled", "status = 'disabled'", "status = 'active'"),
    ("the user is deleted", "deleted_at = now()", "deleted_at = NULL"),
];

#[tokio::test]
async fn whatever_changes_the_account_voids_the_invitation() {
    let world = World::new().await;
    for (event, change, back) in EVENTS {
        let ann = world.person("ann").await;
        let invitation = world.invited(&ann).await;
        set(&world.server, ann.user, change).await;
        let back = back
            .replace("$hash", &format!("'{}'", crate::support::cheap_hash(ADMIN_PASSWORD)))
            .replace("$person", &format!("'{}'", ann.person));
        set(&world.server, ann.user, &back).await;
        assert!(!world.has_invitation(ann.user).await, "{event}");
        assert_refused(event, world.redeem(&invitation, ADMIN_PASSWORD, "").await);
    }
}

#[tokio::test]
async fn what_is_seen_of_a_credential_voids_the_invitation() {
    let world = World::new().await;
    for seen in [
        "INSERT INTO kanidm_enrolments (person_id, credential_seen_at) VALUES ($1, now())",
        "WITH made AS (INSERT INTO kanidm_enrolments (person_id) VALUES ($1)) SELECT 1",
    ] {
        let ann = world.person("ann").await;
        let invitation = world.invited(&ann).await;
        sqlx::query(seen).bind(ann.person).execute(world.server.sql()).await.ok();
        world.set_enrolment(ann.person, "credential_seen_at = now()").await;
        assert!(!world.has_invitation(ann.user).await);
        world.set_enrolment(ann.person, "credential_seen_at = NULL").await;
        assert_refused("voided", world.redeem(&invitation, ADMIN_PASSWORD, "").await);
    }
}

#[tokio::test]
async fn what_changes_nothing_of_the_account_voids_nothing() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    for change in [
        "last_login_at = now()",
        "full_name = 'Ann'",
        "email = upper(email)",
        "failed_login_attempts = 3",
        "password_hash = password_hash || ''",
        "kanidm_synced_at = now()",
    ] {
        set(&world.server, ann.user, change).await;
        assert!(world.has_invitation(ann.user).await, "{change}");
    }
    world.redeem(&invitation, ADMIN_PASSWORD, "").await.expect("still good");
}

#[tokio::test]
async fn a_link_is_not_handed_out_again_once_the_account_has_changed() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    world.redeem(&invitation, ADMIN_PASSWORD, "").await.unwrap();
    set(&world.server, ann.user, "password_changed_at = now()").await;
    let sealed = "SELECT count(*) FROM kanidm_enrolments WHERE person_id = $1 AND link IS NOT NULL";
    assert_eq!(world.count(sealed, ann.person).await, 0);
    // Its holder still has a valid link: no other may be made beside it.
    let invitation = world.invited(&ann).await;
    let refused = world.redeem(&invitation, ADMIN_PASSWORD, "").await.unwrap_err();
    assert_eq!(crate::look::reason(&refused), "ENROLMENT_LINK_PENDING");
}
