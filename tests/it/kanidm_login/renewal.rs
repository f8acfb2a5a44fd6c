//! Refreshing a session that Kanidm authenticated.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use sidle::proto;
use sidle::seal::SealContext;
use tonic::Code;
use uuid::Uuid;

use super::{PASSWORD, World, group, is_good};
use crate::look::{event, reason, reasons};
use crate::support::{eventually, until};

/// What ends a session in Kanidm, besides disabling the account.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Its own browser.
    Logout,
    /// Another of the person's sessions.
    Session,
    /// The holder of its OAuth2 token.
    Token,
    /// The deletion of the person.
    Deletion,
}

impl World {
    /// Ids of the person's sessions in Kanidm, also of those that ended.
    async fn sessions_in_kanidm(&self) -> HashSet<String> {
        let url = format!("{}/v1/account/{}/_user_auth_token", self.kanidm.url, self.person);
        let answer = self.kanidm.http.get(url).bearer_auth(&self.bearer).send().await.unwrap();
        let list: Value = answer.json().await.unwrap();
        list.as_array().unwrap().iter().map(|session| session["session_id"].as_str().unwrap().to_owned()).collect()
    }

    /// Kanidm's refresh token of the user's only session.
    async fn token_of_kanidms(&self) -> String {
        let select = "SELECT session_id, kanidm_refresh_token FROM sessions WHERE user_id = $1 AND status = 'active'";
        let (row, sealed): (Uuid, Vec<u8>) =
            sqlx::query_as(select).bind(self.user).fetch_one(self.server.sql()).await.unwrap();
        let context = SealContext { table: "sessions", column: "kanidm_refresh_token", row };
        let token = self.server.app().keyring.open(context, &sealed).unwrap();
        String::from_utf8(token.to_vec()).unwrap()
    }

    /// Ends `session` of Kanidm's, whose browser has `bearer`.
    async fn end_in_kanidm(&self, end: End, session: &str, bearer: &str) {
        let (url, http) = (&self.kanidm.url, &self.kanidm.http);
        let call = match end {
            End::Logout => http.get(format!("{url}/v1/logout")).bearer_auth(bearer),
            End::Session => {
                let url = format!("{url}/v1/account/{}/_user_auth_token/{session}", self.person);
                http.delete(url).bearer_auth(&self.bearer)
            }
            End::Token => {
                let client = &self.server.app().config.kanidm;
                let token = self.token_of_kanidms().await;
                let call = http.post(format!("{url}/oauth2/token/revoke")).form(&[("token", token)]);
                call.basic_auth(&client.client_id, Some(client.client_secret.expose()))
            }
            End::Deletion => {
                self.kanidm.delete_person(&self.person.to_string()).await.unwrap();
                return;
            }
        };
        let status = call.send().await.unwrap().status();
        assert!(status.is_success(), "{end:?}: {status}");
    }
}

#[tokio::test]
async fn a_refresh_asks_kanidm_and_follows_the_groups() {
    let world = World::new().await;
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
    let world = World::new().await;
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

#[tokio::test]
async fn expired_tokens_of_kanidms_are_renewed_at_the_refresh() {
    let world = World::new().await;
    // Kanidm's tokens live for 15 minutes, and so do ours.
    let pass = async || {
        let late = Duration::from_secs(16 * 60);
        world.kanidm.advance(late).await.unwrap();
        world.server.context.clock.advance(late);
    };
    let asked = async || world.kanidm.requests("POST /oauth2/token").await.unwrap();
    let mut tokens = world.login().await.unwrap().tokens.unwrap();
    for round in 0..2 {
        pass().await;
        assert!(!is_good(&world.server, &tokens.access_token).await, "expired");
        let before = asked().await;
        tokens = world.refresh(&tokens.refresh_token, round).await.expect("Kanidm confirms").tokens.unwrap();
        assert_eq!(asked().await, before + 1, "and was asked");
        assert!(is_good(&world.server, &tokens.access_token).await);
    }
    world.kanidm.expire(&world.person.to_string()).await.unwrap();
    pass().await;
    assert_eq!(reason(&world.refresh(&tokens.refresh_token, 2).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    let why: String = world.column("SELECT revoke_reason FROM sessions WHERE user_id = $1").await;
    assert_eq!(why, "kanidm");
}

#[tokio::test]
async fn whatever_ends_a_session_in_kanidm_ends_it_here_at_the_next_refresh() {
    let world = World::new().await;
    let entry = world.kanidm.person(&world.person.to_string()).await.unwrap().unwrap();
    let person = entry["name"][0].as_str().unwrap();
    // Kanidm stores a session after it has answered: what is not stored yet could not be ended.
    until("Kanidm has written the first session down", async || !world.sessions_in_kanidm().await.is_empty()).await;
    for (n, end) in [End::Logout, End::Session, End::Token, End::Deletion].into_iter().enumerate() {
        let before = world.sessions_in_kanidm().await;
        let bearer = world.kanidm.sign_in(person, PASSWORD).await.unwrap();
        let session = eventually("Kanidm has written the session down", async || {
            world.sessions_in_kanidm().await.difference(&before).next().cloned()
        })
        .await;
        let tokens = world.login_as(&bearer).await.unwrap().tokens.unwrap();
        assert!(is_good(&world.server, &tokens.access_token).await);
        world.end_in_kanidm(end, &session, &bearer).await;
        let refused = world.refresh(&tokens.refresh_token, n as u128).await.expect_err("ended");
        assert_eq!(reason(&refused), "INVALID_REFRESH_TOKEN", "{end:?}");
        assert!(!is_good(&world.server, &tokens.access_token).await, "{end:?}");
        let ended = "SELECT count(*) FROM sessions WHERE user_id = $1 AND revoke_reason = 'kanidm'";
        assert_eq!(world.column::<i64>(ended).await, n as i64 + 1, "{end:?}");
    }
    assert_eq!(reasons(&world.server, "session.revoked", "success").await, ["kanidm"; 4]);
}

/// S14. Of one person, so that nothing else about the other session's token is wrong.
#[tokio::test]
async fn a_token_of_kanidms_that_was_moved_to_another_session_renews_nothing() {
    let world = World::new().await;
    let sessions = [world.login().await.unwrap().tokens.unwrap(), world.login().await.unwrap().tokens.unwrap()];
    let swap = async || {
        let swap = "UPDATE sessions a SET kanidm_refresh_token = b.kanidm_refresh_token
            FROM sessions b WHERE b.session_id <> a.session_id";
        assert_eq!(sqlx::query(swap).execute(world.server.sql()).await.unwrap().rows_affected(), 2);
    };
    swap().await;
    for tokens in &sessions {
        let refused = world.refresh(&tokens.refresh_token, 1).await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal, "{refused:?}");
    }
    swap().await;
    for tokens in &sessions {
        world.refresh(&tokens.refresh_token, 2).await.expect("its own, and nothing was spent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refreshes_at_once_ask_kanidm_one_after_the_other_and_come_to_one_branch() {
    let world = World::new().await;
    let first = world.login().await.unwrap().tokens.unwrap();
    let answers = join_all((0..8).map(|_| world.refresh(&first.refresh_token, 1))).await;
    let tokens: HashSet<String> =
        answers.into_iter().map(|answer| answer.unwrap().tokens.unwrap().refresh_token).collect();
    assert_eq!(tokens.len(), 1);
    world.refresh(tokens.iter().next().unwrap(), 2).await.expect("and Kanidm's chain is whole");
}

impl World {
    /// Takes the lease to renew the user's session at Kanidm, for long; or releases it.
    async fn leased(&self, leased: bool) {
        let lease = "UPDATE sessions SET kanidm_lease_id = CASE WHEN $2 THEN gen_random_uuid() END,
                kanidm_lease_until = CASE WHEN $2 THEN now() + interval '1 hour' END, kanidm_renewed = false
            WHERE user_id = $1";
        sqlx::query(lease).bind(self.user).bind(leased).execute(self.server.sql()).await.unwrap();
    }

    /// Waits until a call with one of the session's tokens has arrived.
    async fn called(&self) {
        let called = "SELECT refresh_free_at IS NOT NULL FROM sessions WHERE user_id = $1";
        eventually("a call has come", async || self.column::<bool>(called).await.then_some(())).await;
    }
}

/// Kanidm may take longer than the leeway: a call that arrives when the first one is answered is the same client all
/// the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_renewal_at_kanidm_makes_no_thief_of_the_other_tab() {
    let world = World::new().await;
    let first = world.login().await.unwrap().tokens.unwrap();
    world.leased(true).await;
    let (slow, ()) = tokio::join!(world.refresh(&first.refresh_token, 1), async {
        world.called().await;
        world.server.context.clock.advance(Duration::from_secs(12));
        world.leased(false).await;
    });
    let slow = slow.expect("its turn has come").tokens.unwrap();
    let other_tab = world.refresh(&first.refresh_token, 2).await.expect("no theft").tokens.unwrap();
    assert_eq!(other_tab.refresh_token, slow.refresh_token);
    let access: (i64, i64) = sqlx::query_as(
        "SELECT extract(epoch FROM used_at)::bigint, extract(epoch FROM access_until)::bigint FROM
            (SELECT used_at FROM refresh_tokens WHERE used_at IS NOT NULL) used,
            (SELECT access_until FROM refresh_tokens WHERE used_at IS NULL) next",
    )
    .fetch_one(world.server.sql())
    .await
    .unwrap();
    let lifetime = world.server.app().config.tokens.access_lifetime.as_secs() as i64;
    assert!(access.1 - access.0 >= lifetime - 1, "what was handed out last is good for as long: {access:?}");
}

/// Many calls with one token while another renews the session: some wait, the others are told to retry.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_calls_with_one_token_only_some_wait_for_kanidm() {
    let world = World::new().await;
    let first = world.login().await.unwrap().tokens.unwrap();
    world.leased(true).await;
    let mut calls: Vec<_> = (0..24).map(|_| Box::pin(world.refresh(&first.refresh_token, 1))).collect();
    for _ in 0..8 {
        let (answer, _, others) = futures_util::future::select_all(calls).await;
        assert_eq!(reason(&answer.unwrap_err()), "REFRESH_RACED");
        calls = others;
    }
    world.leased(false).await;
    let tokens: HashSet<String> =
        join_all(calls).await.into_iter().map(|answer| answer.unwrap().tokens.unwrap().refresh_token).collect();
    assert_eq!(tokens.len(), 1, "and come to the same");
}

#[tokio::test]
async fn an_unlinked_user_cannot_go_on() {
    let world = World::new().await;
    let tokens = world.login().await.unwrap().tokens.unwrap();
    crate::authenticate::set(&world.server, world.user, "auth_method = 'password'").await;
    assert_eq!(reason(&world.refresh(&tokens.refresh_token, 1).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
}
