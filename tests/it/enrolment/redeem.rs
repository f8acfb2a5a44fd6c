//! What redeeming an invitation requires.

use super::{World, assert_refused, intent};
use crate::authenticate::set;
use crate::look::{reason, reasons};
use crate::support::ADMIN_PASSWORD;

const KANIDM_PASSWORD: &str = "a-password-that-Kanidm-likes-4711";

#[tokio::test]
async fn an_invitation_and_the_password_lead_to_a_credential() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    let link = world.redeem(&invitation, ADMIN_PASSWORD, "").await.unwrap();
    assert!(link.enrolment_url.starts_with(&world.kanidm.url), "{}", link.enrolment_url);
    let lives = link.expires_at.unwrap().seconds - world.server.context.now().timestamp();
    assert!((200..=301).contains(&lives), "as briefly as Kanidm allows, not {lives}");
    assert!(world.has_invitation(ann.user).await, "redeeming alone spends nothing");
    world.kanidm.use_reset_link(&intent(&link), KANIDM_PASSWORD).await.unwrap();
    world.kanidm.sign_in(&ann.name, KANIDM_PASSWORD).await.expect("enrolled");
    assert_refused("enrolled by now", world.redeem(&invitation, ADMIN_PASSWORD, "").await);
    assert!(!world.has_invitation(ann.user).await);
    assert_eq!(reasons(&world.server, "migration.invitation_redeemed", "success").await.len(), 1);
    assert_eq!(reasons(&world.server, "migration.invitation_refused", "refused").await, ["void"]);
}

#[tokio::test]
async fn neither_the_link_alone_nor_the_password_alone_gives_anything() {
    let world = World::new().await;
    let (ann, bob) = (world.person("ann").await, world.person("bob").await);
    set(&world.server, bob.user, &format!("password_hash = '{}'", crate::support::cheap_hash("bobs own password")))
        .await;
    let invitation = world.invited(&ann).await;
    let unknown = format!("sidle_iv_{}", "A".repeat(43));
    assert_refused("with another's password", world.redeem(&invitation, "bobs own password", "").await);
    assert_refused("a link that is none", world.redeem("sidle_iv_x", ADMIN_PASSWORD, "").await);
    assert_refused("an unknown link", world.redeem(&unknown, ADMIN_PASSWORD, "").await);
    assert_refused(
        "another kind of secret",
        world.redeem(&invitation.replace("_iv_", "_kd_"), ADMIN_PASSWORD, "").await,
    );
    for (token, password) in [(invitation.as_str(), ""), ("", ADMIN_PASSWORD)] {
        assert_eq!(reason(&world.redeem(token, password, "").await.unwrap_err()), "INVALID_FIELD");
    }
    let minted = "SELECT count(*) FROM kanidm_enrolments WHERE person_id = $1 AND link_id IS NOT NULL";
    assert_eq!(world.count(minted, ann.person).await, 0, "Kanidm was asked for nothing");
    world.redeem(&invitation, ADMIN_PASSWORD, "").await.expect("and nothing was spent");
}

#[tokio::test]
async fn a_refused_redemption_does_the_work_of_any_other() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    let units = &world.server.app().metrics.hash_units;
    let unknown = format!("sidle_iv_{}", "A".repeat(43));
    for token in [invitation.as_str(), unknown.as_str(), "sidle_iv_x"] {
        let before = units.get();
        assert_refused(token, world.redeem(token, "not the password", "").await);
        assert_eq!(units.get() - before, 1 << 4, "{token}");
    }
}

#[tokio::test]
async fn guesses_with_a_link_count_to_the_lock_which_voids_it() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    for attempt in 1..=5 {
        assert_refused("a guess", world.redeem(&invitation, &format!("guess {attempt}"), "").await);
        assert_eq!(world.has_invitation(ann.user).await, attempt < 5, "attempt {attempt}");
    }
    assert_refused("right, too late", world.redeem(&invitation, ADMIN_PASSWORD, "").await);
    let refused = super::sign_in(&world.server, &ann.email, ADMIN_PASSWORD, "").await;
    assert_refused("the lock is the account's", refused);
    assert_eq!(reasons(&world.server, "user.locked", "success").await, ["too_many_failures"]);
    let by_refusal = reasons(&world.server, "user.reauthentication_failed", "refused").await;
    assert_eq!(by_refusal.len(), 6, "each is recorded: {by_refusal:?}");
}

#[tokio::test]
async fn redemptions_are_counted_for_each_address() {
    let few = |setup: crate::support::Setup| setup.with("THROTTLE__PER_MINUTE", "1").with("THROTTLE__BURST", "2");
    let world = World::with(few).await;
    let unknown = format!("sidle_iv_{}", "A".repeat(43));
    for _ in 0..2 {
        assert_refused("a guess", world.redeem(&unknown, ADMIN_PASSWORD, "").await);
    }
    assert_eq!(reason(&world.redeem(&unknown, ADMIN_PASSWORD, "").await.unwrap_err()), "THROTTLED");
}
