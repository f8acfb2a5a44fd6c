//! At most one reset link is valid, whatever gets lost and however many calls ask.

use serde_json::{Value, json};
use sidle_dev::kanidm::Fault;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{World, assert_refused, intent, redeem};
use crate::look::{a_statement_waits, reason, reasons};
use crate::support::{ADMIN_PASSWORD, until};

const MINTED: &str = "GET /v1/person/{id}/_credential/_update_intent/{ttl}";

#[tokio::test]
async fn redemptions_at_once_on_two_replicas_give_one_live_link() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let replica = world.server.setup.start().await;
    let invitation = world.invited(&ann).await;
    let (a, b, c, d) = tokio::join!(
        world.redeem(&invitation, ADMIN_PASSWORD, ""),
        redeem(&replica, &invitation, ADMIN_PASSWORD, ""),
        world.redeem(&invitation, ADMIN_PASSWORD, ""),
        redeem(&replica, &invitation, ADMIN_PASSWORD, ""),
    );
    let links = [a, b, c, d].map(Result::unwrap);
    assert!(links.iter().all(|link| *link == links[0]), "one link, handed out to each");
    if world.kanidm.is_dev() {
        assert_eq!(world.kanidm.requests(MINTED).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn opening_the_page_spends_neither_the_invitation_nor_the_link() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    let link = world.redeem(&invitation, ADMIN_PASSWORD, "").await.unwrap();
    // As the page does when it is opened; no credential is set, and the tab is closed.
    for _ in 0..2 {
        let opened = world.kanidm.post("/v1/credential/_exchange_intent", &json!(intent(&link))).await.unwrap();
        let session: &Value = &opened[0];
        world.kanidm.post("/v1/credential/_cancel", session).await.unwrap();
    }
    let again = world.redeem(&invitation, ADMIN_PASSWORD, "").await.unwrap();
    assert_eq!(again, link);
    world.kanidm.use_reset_link(&intent(&again), "a-password-of-Kanidms-4711").await.expect("still good");
}

#[tokio::test]
async fn a_link_whose_answer_got_lost_is_not_joined_by_another() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    let path = format!("/v1/person/{}/_credential/_update_intent", ann.person);
    world.kanidm.fault(Fault::DropReply, &path, 0, Some(1)).await.unwrap();
    let lost = world.redeem(&invitation, ADMIN_PASSWORD, "").await.unwrap_err();
    assert_eq!(reason(&lost), "KANIDM_UNAVAILABLE");
    let out = world.redeem(&invitation, ADMIN_PASSWORD, "").await.unwrap_err();
    assert_eq!(reason(&out), "ENROLMENT_LINK_PENDING");
    let delay = out.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!((250..=330).contains(&delay.as_secs()), "when the lost one is certainly dead: {delay:?}");
    assert_eq!(world.kanidm.requests(MINTED).await.unwrap(), 1);
    world.set_enrolment(ann.person, "link_until = now() - interval '1 second'").await;
    world.redeem(&invitation, ADMIN_PASSWORD, "").await.expect("after that there is another");
}

#[tokio::test]
async fn a_link_that_kanidm_refused_to_make_keeps_nobody_waiting() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    world.kanidm.delete_person(&ann.person.to_string()).await.unwrap();
    let refused = world.redeem(&invitation, ADMIN_PASSWORD, "").await.unwrap_err();
    assert_eq!(reason(&refused), "KANIDM_REFUSED");
    let free = "SELECT count(*) FROM kanidm_enrolments WHERE person_id = $1 AND link_id IS NULL AND lease_id IS NULL";
    assert_eq!(world.count(free, ann.person).await, 1);
    assert!(world.has_invitation(ann.user).await);
}

#[tokio::test]
async fn with_kanidm_down_nothing_is_spent_and_nothing_made() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    for fault in [Fault::Fail, Fault::Garbage] {
        world.kanidm.fault(fault, "/v1", 0, None).await.unwrap();
        let refused = world.redeem(&invitation, ADMIN_PASSWORD, "").await.unwrap_err();
        assert_eq!(reason(&refused), "KANIDM_UNAVAILABLE", "{fault:?}");
        world.kanidm.heal().await.unwrap();
    }
    world.redeem(&invitation, ADMIN_PASSWORD, "").await.expect("once Kanidm answers again");
}

#[tokio::test]
async fn a_link_made_while_the_invitation_died_is_handed_to_nobody() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    let path = format!("/v1/person/{}/_credential/_update_intent", ann.person);
    world.kanidm.fault(Fault::Stall, &path, 0, Some(1)).await.unwrap();
    let lock = async {
        until("Kanidm is asked for a link", async || world.kanidm.requests(MINTED).await.unwrap() != 0).await;
        crate::authenticate::set(&world.server, ann.user, "password_changed_at = now()").await;
        world.kanidm.heal().await.unwrap();
    };
    let (refused, ()) = tokio::join!(world.redeem(&invitation, ADMIN_PASSWORD, ""), lock);
    assert_refused("the password was reset meanwhile", refused);
    let kept = "SELECT count(*) FROM kanidm_enrolments WHERE person_id = $1 AND link IS NOT NULL";
    assert_eq!(world.count(kept, ann.person).await, 0);
}

/// What voids an invitation locks the user's row: whether the link is kept is decided after it is done, not by the rows
/// that were there before.
#[tokio::test]
async fn a_link_made_while_the_invitation_is_dying_is_handed_to_nobody() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    let path = format!("/v1/person/{}/_credential/_update_intent", ann.person);
    world.kanidm.fault(Fault::Stall, &path, 0, Some(1)).await.unwrap();
    let reset = async {
        until("Kanidm is asked for a link", async || world.kanidm.requests(MINTED).await.unwrap() != 0).await;
        let mut reset = world.server.sql().begin().await.unwrap();
        let update = "UPDATE users SET password_changed_at = now() WHERE user_id = $1";
        sqlx::query(update).bind(ann.user).execute(&mut *reset).await.unwrap();
        world.kanidm.heal().await.unwrap();
        a_statement_waits(&world.server).await;
        reset.commit().await.unwrap();
    };
    let (refused, ()) = tokio::join!(world.redeem(&invitation, ADMIN_PASSWORD, ""), reset);
    assert_refused("the password was reset meanwhile", refused);
    let kept = "SELECT count(*) FROM kanidm_enrolments WHERE person_id = $1 AND link IS NOT NULL";
    assert_eq!(world.count(kept, ann.person).await, 0);
    let known =
        "SELECT count(*) FROM kanidm_enrolments WHERE person_id = $1 AND link_until > now() AND lease_id IS NULL";
    assert_eq!(world.count(known, ann.person).await, 1, "the link works, so that no other is made, and nobody waits");
}

#[tokio::test]
async fn an_invitation_that_dies_while_the_password_is_compared_leads_to_no_link() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    let mut void = world.server.sql().begin().await.unwrap();
    let lock = "SELECT FROM users WHERE user_id = $1 FOR UPDATE";
    sqlx::query(lock).bind(ann.user).execute(&mut *void).await.unwrap();
    let voided = async {
        a_statement_waits(&world.server).await;
        sqlx::query("DELETE FROM invitations").execute(&mut *void).await.unwrap();
        void.commit().await.unwrap();
    };
    let (refused, ()) = tokio::join!(world.redeem(&invitation, ADMIN_PASSWORD, ""), voided);
    assert_refused("voided", refused);
    let minted = "SELECT count(*) FROM kanidm_enrolments WHERE person_id = $1 AND link_id IS NOT NULL";
    assert_eq!(world.count(minted, ann.person).await, 0, "Kanidm was asked for nothing");
    assert_eq!(reasons(&world.server, "migration.invitation_refused", "refused").await, ["void"]);
}

#[tokio::test]
async fn the_link_lies_sealed_and_not_longer_than_it_lives() {
    let world = World::new().await;
    let ann = world.person("ann").await;
    let invitation = world.invited(&ann).await;
    let link = world.redeem(&invitation, ADMIN_PASSWORD, "").await.unwrap();
    let select = "SELECT link FROM kanidm_enrolments WHERE person_id = $1";
    let sealed: Vec<u8> = sqlx::query_scalar(select).bind(ann.person).fetch_one(world.server.sql()).await.unwrap();
    let token = intent(&link);
    assert!(!sealed.windows(token.len()).any(|window| window == token.as_bytes()));
    world.set_enrolment(ann.person, "link_until = now() - interval '1 second'").await;
    // Every replica purges what has expired as soon as it starts.
    let _replica = world.server.setup.start().await;
    let kept = "SELECT count(*) FROM kanidm_enrolments WHERE person_id = $1 AND link IS NOT NULL";
    until("the link is gone", async || world.count(kept, ann.person).await == 0).await;
    assert!(world.has_invitation(ann.user).await, "which outlives the link");
}

#[tokio::test]
async fn an_invitation_that_has_lapsed_is_removed_and_no_other() {
    let world = World::new().await;
    let (ann, bob) = (world.person("ann").await, world.person("bob").await);
    let invitation = world.invited(&ann).await;
    world.invited(&bob).await;
    let lapse = "UPDATE invitations SET expires_at = now() - interval '1 second' WHERE user_id = $1";
    sqlx::query(lapse).bind(ann.user).execute(world.server.sql()).await.unwrap();
    assert_refused("lapsed", world.redeem(&invitation, ADMIN_PASSWORD, "").await);
    let _replica = world.server.setup.start().await;
    until("it is gone", async || !world.has_invitation(ann.user).await).await;
    assert!(world.has_invitation(bob.user).await);
}

/// S14: an attacker who can write to the table gets no access to any account by that.
#[tokio::test]
async fn a_link_that_was_moved_to_another_person_is_handed_to_nobody() {
    let world = World::new().await;
    let (ann, bob) = (world.person("ann").await, world.person("bob").await);
    let invitations = [world.invited(&ann).await, world.invited(&bob).await];
    let mut links = Vec::new();
    for invitation in &invitations {
        links.push(world.redeem(invitation, ADMIN_PASSWORD, "").await.unwrap());
    }
    let swap = async || {
        let swap =
            "UPDATE kanidm_enrolments a SET link = b.link FROM kanidm_enrolments b WHERE b.person_id <> a.person_id";
        assert_eq!(sqlx::query(swap).execute(world.server.sql()).await.unwrap().rows_affected(), 2);
    };
    swap().await;
    for invitation in &invitations {
        let refused = world.redeem(invitation, ADMIN_PASSWORD, "").await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal, "{refused:?}");
    }
    swap().await;
    for (invitation, link) in invitations.iter().zip(&links) {
        assert_eq!(&world.redeem(invitation, ADMIN_PASSWORD, "").await.unwrap(), link, "its own");
    }
}

/// S14: the id of a link is a column like any other, and can be moved as easily.
#[tokio::test]
async fn a_link_that_was_moved_with_its_id_is_not_handed_to_somebody_else() {
    let world = World::new().await;
    let (ann, bob) = (world.person("ann").await, world.person("bob").await);
    let invitations = [world.invited(&ann).await, world.invited(&bob).await];
    let mut links = Vec::new();
    for invitation in &invitations {
        links.push(world.redeem(invitation, ADMIN_PASSWORD, "").await.unwrap());
    }
    let swap = "UPDATE kanidm_enrolments a SET link = b.link, link_id = b.link_id, link_until = b.link_until
        FROM kanidm_enrolments b WHERE b.person_id <> a.person_id";
    assert_eq!(sqlx::query(swap).execute(world.server.sql()).await.unwrap().rows_affected(), 2);
    for (invitation, theirs) in invitations.iter().zip(links.iter().rev()) {
        let handed = world.redeem(invitation, ADMIN_PASSWORD, "").await.ok();
        assert_ne!(handed.as_ref(), Some(theirs), "the other person's link");
    }
}
