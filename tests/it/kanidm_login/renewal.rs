//! Refreshing a session that Kanidm vouches for.

use std::collections::HashSet;

use futures_util::future::join_all;
use sidle::proto;

use super::{World, group, is_good};
use crate::look::{event, reason};

#[tokio::test]
async fn a_refresh_asks_kanidm_and_follows_the_groups() {
    let Some(world) = World::new("a_refresh_asks_kanidm_and_follows_the_groups").await else { return };
    sqlx::query("DELETE FROM memberships").execute(world.server.sql()).await.unwrap();
    let first = world.login().await.unwrap().tokens.unwrap();
    let kept = "SELECT kanidm_refresh_token FROM sessions WHERE user_id = $1";
    let before: Vec<u8> = world.column(kept).await;

    let admins = group(&world.kanidm, &world.server, world.tenant, "admin").await;
    world.kanidm.add_member(&admins.to_string(), &world.person.to_string()).await.unwrap();
    let second = world.refresh(&first.refresh_token, 1).await.unwrap().tokens.unwrap();
    let mut client = world.server.client(&second.access_token).authenticate;
    let claims = client.who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner().claims.unwrap();
    assert_eq!(claims.roles, ["admin", "user"]);
    let after: Vec<u8> = world.column(kept).await;
    assert_ne!(before, after, "Kanidm's next token is kept");

    for group in [&world.group, &admins] {
        world.kanidm.remove_member(&group.to_string(), &world.person.to_string()).await.unwrap();
    }
    let refused = world.refresh(&second.refresh_token, 2).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_TENANT");
    assert!(!is_good(&world.server, &second.access_token).await, "what it said of roles is no longer so");
    world.kanidm.add_member(&world.group.to_string(), &world.person.to_string()).await.unwrap();
    let third = world.refresh(&second.refresh_token, 3).await.expect("the refusal spent nothing").tokens.unwrap();
    assert!(is_good(&world.server, &third.access_token).await);
}

#[tokio::test]
async fn an_account_that_kanidm_switched_off_ends_the_session() {
    let Some(world) = World::new("an_account_that_kanidm_switched_off_ends_the_session").await else { return };
    let tokens = world.login().await.unwrap().tokens.unwrap();
    world.kanidm.expire(&world.person.to_string()).await.unwrap();
    let refused = world.refresh(&tokens.refresh_token, 1).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_REFRESH_TOKEN");
    assert!(!is_good(&world.server, &tokens.access_token).await);
    let ended = event(&world.server, "session.revoked").await;
    assert_eq!(ended.reason.as_deref(), Some("kanidm"));
    let why: String = world.column("SELECT revoke_reason FROM sessions WHERE user_id = $1").await;
    assert_eq!(why, "kanidm");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refreshes_at_once_ask_kanidm_one_after_the_other_and_come_to_one_branch() {
    let name = "many_refreshes_at_once_ask_kanidm_one_after_the_other_and_come_to_one_branch";
    let Some(world) = World::new(name).await else { return };
    let first = world.login().await.unwrap().tokens.unwrap();
    let answers = join_all((0..8).map(|_| world.refresh(&first.refresh_token, 1))).await;
    let tokens: HashSet<String> =
        answers.into_iter().map(|answer| answer.unwrap().tokens.unwrap().refresh_token).collect();
    assert_eq!(tokens.len(), 1);
    world.refresh(tokens.iter().next().unwrap(), 2).await.expect("and Kanidm's chain is whole");
}

#[tokio::test]
async fn an_unlinked_user_cannot_go_on() {
    let Some(world) = World::new("an_unlinked_user_cannot_go_on").await else { return };
    let tokens = world.login().await.unwrap().tokens.unwrap();
    crate::authenticate::set(&world.server, world.user, "auth_method = 'password'").await;
    assert_eq!(reason(&world.refresh(&tokens.refresh_token, 1).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
}
