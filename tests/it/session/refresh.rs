//! Refresh tokens: one branch is valid, a lost answer can be repeated, theft ends the family.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use sidle::context::Context;
use sidle::proto;
use sidle::session::REFRESH_PREFIX;
use sidle::token::opaque;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::{is_good, refresh, signed_in};
use crate::look::{event, reason, reasons};
use crate::support::{Setup, TestServer, eventually, until};

fn pair(response: proto::RefreshTokenResponse) -> proto::TokenPair {
    response.tokens.unwrap()
}

/// Number of refresh tokens that could still be exchanged.
async fn live_branches(server: &TestServer) -> i64 {
    let count = "SELECT count(*) FROM refresh_tokens t JOIN sessions s USING (session_id)
                 WHERE t.used_at IS NULL AND t.revoked_at IS NULL AND s.status = 'active'";
    sqlx::query_scalar(count).fetch_one(server.sql()).await.unwrap()
}

/// A server for which every second exchange without the first one's id is theft.
async fn strict() -> Setup {
    Setup::new().await.with("TOKENS__REFRESH_LEEWAY", "0s")
}

/// Makes the user an administrator of a tenant.
pub async fn join(server: &TestServer, tenant: Uuid, user: Uuid) {
    let join = "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
                SELECT gen_random_uuid(), $1, $2, role_id, 'local' FROM roles WHERE name = 'admin' AND tenant_id IS NULL";
    sqlx::query(join).bind(tenant).bind(user).execute(server.sql()).await.unwrap();
}

#[tokio::test]
async fn each_refresh_gives_the_next_pair_of_the_same_session() {
    let server = TestServer::start().await;
    let (tenant, _, first) = signed_in(&server).await;
    let second = refresh(&server, &first.refresh_token, None).await.unwrap();
    assert_eq!(second.tenant_id, tenant.to_string());
    let session = second.session_id.clone();
    let second = pair(second);
    assert_ne!(first.refresh_token, second.refresh_token);
    assert!(is_good(&server, &second.access_token).await);
    let third = refresh(&server, &second.refresh_token, None).await.unwrap();
    assert_eq!(third.session_id, session);
    assert_eq!(live_branches(&server).await, 1);
    let recorded = event(&server, "session.refreshed").await;
    assert_eq!(recorded.session_id.map(|id| id.to_string()), Some(session));
}

#[tokio::test]
async fn a_lost_answer_is_given_again_to_the_same_call() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let (_, _, first) = signed_in(&one).await;
    let id = Some(Uuid::from_u128(0x5151));
    let lost = pair(refresh(&one, &first.refresh_token, id).await.unwrap());
    let again = pair(refresh(&two, &first.refresh_token, id).await.unwrap());
    assert_eq!(lost.refresh_token, again.refresh_token, "the same one, on any replica");
    assert!(is_good(&one, &again.access_token).await);
    assert_eq!(live_branches(&one).await, 1);
    refresh(&one, &again.refresh_token, Some(Uuid::from_u128(0x5252))).await.unwrap();
    let stored: Vec<u8> = sqlx::query_scalar("SELECT token_hash FROM refresh_tokens ORDER BY created_at LIMIT 1")
        .fetch_one(one.sql())
        .await
        .unwrap();
    assert_eq!(stored, sidle::token::opaque::digest(&first.refresh_token), "only digests are kept");
}

#[tokio::test]
async fn a_second_use_that_is_no_repeat_ends_the_session() {
    /// What happens between the first use and the second, and the id of the second.
    enum Then {
        AnotherId,
        NoId,
        TooLate,
        SuccessorUsed,
    }
    for then in [Then::AnotherId, Then::NoId, Then::TooLate, Then::SuccessorUsed] {
        let server = strict().await.start().await;
        let (_, _, first) = signed_in(&server).await;
        let id = Uuid::from_u128(0x5151);
        let mut owner = pair(refresh(&server, &first.refresh_token, Some(id)).await.unwrap());
        let second_id = match then {
            Then::AnotherId => Some(Uuid::from_u128(0x6666)),
            Then::NoId => None,
            Then::TooLate => {
                server.context.clock.advance(Duration::from_secs(60));
                Some(id)
            }
            Then::SuccessorUsed => {
                owner = pair(refresh(&server, &owner.refresh_token, Some(Uuid::from_u128(0x5252))).await.unwrap());
                Some(id)
            }
        };
        let refused = refresh(&server, &first.refresh_token, second_id).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_REFRESH_TOKEN");
        assert!(!is_good(&server, &owner.access_token).await, "at once on the replica that saw it");
        assert_eq!(reason(&refresh(&server, &owner.refresh_token, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
        assert_eq!(live_branches(&server).await, 0);
        assert_eq!(reasons(&server, "session.refresh_reused", "refused").await, ["token_reuse"]);
    }
}

/// Separately for the two conditions of a repeat: here the successor was never used, and only time passes.
#[tokio::test]
async fn an_unused_successor_is_given_again_for_less_than_sixty_seconds() {
    let server = TestServer::start().await;
    let (_, _, first) = signed_in(&server).await;
    let id = Some(Uuid::from_u128(0x5151));
    let second = pair(refresh(&server, &first.refresh_token, id).await.unwrap());
    // Well before the limit, for a machine that is slow itself.
    server.context.clock.advance(Duration::from_secs(45));
    let again = pair(refresh(&server, &first.refresh_token, id).await.unwrap());
    assert_eq!(again.refresh_token, second.refresh_token);
    // The limit counts from the first call: a repeat does not push it out.
    server.context.clock.advance(Duration::from_secs(15));
    assert_eq!(reason(&refresh(&server, &first.refresh_token, id).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    assert_eq!(live_branches(&server).await, 0, "and ends the family");
}

/// Here no time passes, and only the successor was used.
#[tokio::test]
async fn a_used_successor_is_not_given_again_however_soon() {
    let server = TestServer::start().await;
    let (_, _, first) = signed_in(&server).await;
    let id = Some(Uuid::from_u128(0x5151));
    let second = pair(refresh(&server, &first.refresh_token, id).await.unwrap());
    let third = pair(refresh(&server, &second.refresh_token, Some(Uuid::from_u128(0x5252))).await.unwrap());
    assert_eq!(reason(&refresh(&server, &first.refresh_token, id).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    assert_eq!(live_branches(&server).await, 0);
    assert_eq!(reason(&refresh(&server, &third.refresh_token, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
}

/// A user who changes the password because of a thief must not leave the thief the repeat of the last exchange.
#[tokio::test]
async fn a_successor_that_was_revoked_is_given_to_nobody_again() {
    let server = TestServer::start().await;
    let (_, _, first) = signed_in(&server).await;
    let id = Some(Uuid::from_u128(0x5151));
    let second = pair(refresh(&server, &first.refresh_token, id).await.unwrap());
    let change = proto::ChangePasswordRequest {
        current_password: crate::support::ADMIN_PASSWORD.to_owned(),
        new_password: "seven otters juggle walnuts".to_owned(),
    };
    server.client(&second.access_token).authenticate.change_password(change).await.unwrap();
    assert_eq!(reason(&refresh(&server, &first.refresh_token, id).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
}

/// Real clients race themselves: two tabs, or a page that makes parallel calls. Each succeeds, and nothing ends.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_race_themselves_come_to_one_successor_and_go_on() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let (_, _, mut held) = signed_in(&one).await;
    for round in 0..6u128 {
        let id = |n: u128| (!n.is_multiple_of(3)).then(|| Uuid::from_u128(round * 100 + n + 1));
        let calls = (0..6u128).map(|n| refresh(if n % 2 == 0 { &one } else { &two }, &held.refresh_token, id(n)));
        let pairs: Vec<_> = join_all(calls).await.into_iter().map(|answer| pair(answer.expect("one's own"))).collect();
        let tokens: HashSet<&str> = pairs.iter().map(|pair| pair.refresh_token.as_str()).collect();
        assert_eq!(tokens.len(), 1, "one branch");
        assert_eq!(live_branches(&one).await, 1);
        for pair in &pairs {
            assert!(is_good(&one, &pair.access_token).await && is_good(&two, &pair.access_token).await);
        }
        held = pairs.into_iter().next().unwrap();
    }
    assert!(reasons(&one, "session.refresh_reused", "refused").await.is_empty());
}

/// The leeway ends with time, and with the use of the successor; then it is theft.
#[tokio::test]
async fn outside_the_leeway_a_second_exchange_is_theft() {
    for uses_successor in [false, true] {
        let server = TestServer::start().await;
        let (_, _, first) = signed_in(&server).await;
        let second = pair(refresh(&server, &first.refresh_token, None).await.unwrap());
        let again = pair(refresh(&server, &first.refresh_token, None).await.unwrap());
        assert_eq!(again.refresh_token, second.refresh_token, "within the leeway");
        let newest = match uses_successor {
            true => pair(refresh(&server, &second.refresh_token, None).await.unwrap()),
            false => {
                server.context.clock.advance(Duration::from_secs(10));
                second
            }
        };
        let refused = refresh(&server, &first.refresh_token, None).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_REFRESH_TOKEN");
        assert_eq!(live_branches(&server).await, 0, "the family ends");
        assert_eq!(reason(&refresh(&server, &newest.refresh_token, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
        assert_eq!(reasons(&server, "session.refresh_reused", "refused").await, ["token_reuse"]);
    }
}

/// Where there is no same successor to return, the call is told so and nothing ends.
#[tokio::test]
async fn a_racing_call_for_another_tenant_is_told_to_look_again() {
    let server = TestServer::start().await;
    let (tenant, user, first) = signed_in(&server).await;
    let other = server.tenant("b").await;
    join(&server, other, user).await;
    let switch = proto::RefreshTokenRequest {
        refresh_token: first.refresh_token.clone(),
        tenant_id: other.to_string(),
        ..Default::default()
    };
    let second = server.client("").authenticate.refresh_token(switch.clone()).await.unwrap().into_inner();
    let back = proto::RefreshTokenRequest { tenant_id: tenant.to_string(), ..switch };
    let raced = server.client("").authenticate.refresh_token(back).await.unwrap_err();
    assert_eq!((raced.code(), reason(&raced).as_str()), (tonic::Code::Aborted, "REFRESH_RACED"));
    assert!(raced.get_details_retry_info().and_then(|info| info.retry_delay).is_some());
    let second = pair(second);
    assert!(is_good(&server, &second.access_token).await);
    refresh(&server, &second.refresh_token, None).await.expect("nothing has ended");
}

/// A session for one audience must not get a token for another.
#[tokio::test]
async fn the_audience_of_a_session_is_that_of_all_its_tokens() {
    let server = Setup::new().await.with("TOKENS__AUDIENCES", "shop,depot").start().await;
    signed_in(&server).await;
    let sign_in = proto::AuthenticatePasswordRequest {
        identifier: "ann@example.com".to_owned(),
        password: crate::support::ADMIN_PASSWORD.to_owned(),
        audience: "shop".to_owned(),
        ..Default::default()
    };
    let tokens = crate::authenticate::ask(&server, sign_in).await.unwrap().tokens.unwrap();
    let ask = async |token: &str, audience: &str| {
        let request = proto::RefreshTokenRequest {
            refresh_token: token.to_owned(),
            audience: audience.to_owned(),
            ..Default::default()
        };
        server.client("").authenticate.refresh_token(request).await.map(tonic::Response::into_inner)
    };
    assert!(!is_good(&server, &tokens.access_token).await, "for the shop, not for Sidle");
    for other in ["sidle", "depot"] {
        let refused = ask(&tokens.refresh_token, other).await.unwrap_err();
        assert_eq!(reason(&refused), "AUDIENCE_BOUND", "{other}");
    }
    assert_eq!(reason(&ask(&tokens.refresh_token, "elsewhere").await.unwrap_err()), "INVALID_FIELD");
    let second = pair(ask(&tokens.refresh_token, "shop").await.expect("the token is not spent by a refusal"));
    assert!(!is_good(&server, &second.access_token).await);
    // A second exchange, as a race, does not get around it.
    assert_eq!(reason(&ask(&tokens.refresh_token, "sidle").await.unwrap_err()), "AUDIENCE_BOUND");
    let third = pair(ask(&second.refresh_token, "").await.unwrap());
    assert!(!is_good(&server, &third.access_token).await, "for the shop all along");
    let audience: String = sqlx::query_scalar("SELECT audience FROM sessions ORDER BY created_at DESC LIMIT 1")
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert_eq!(audience, "shop");
}

/// CVE-2026-1035: two replicas that refresh one token at the same instant, without ids, as two thieves would.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_race_for_one_token_at_most_one_gets_a_branch_and_the_family_ends() {
    let setup = strict().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let (_, _, mut first) = signed_in(&one).await;
    for _ in 0..8 {
        let (a, b) = tokio::join!(refresh(&one, &first.refresh_token, None), refresh(&two, &first.refresh_token, None));
        let won: Vec<_> = [a, b].into_iter().flatten().collect();
        assert_eq!(won.len(), 1, "one exchanges it, the other is a second use");
        assert_eq!(live_branches(&one).await, 0, "which ends the family, the winner's token too");
        let winner = won.into_iter().next().unwrap().tokens.unwrap();
        assert_eq!(reason(&refresh(&one, &winner.refresh_token, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
        first = one.sign_in("ann@example.com").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_repeats_at_once_come_to_one_branch() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let (_, _, first) = signed_in(&one).await;
    let id = Some(Uuid::from_u128(0x5151));
    let calls = (0..24).map(|n| refresh(if n % 2 == 0 { &one } else { &two }, &first.refresh_token, id));
    let tokens: HashSet<String> =
        join_all(calls).await.into_iter().map(|answer| pair(answer.unwrap()).refresh_token).collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(live_branches(&one).await, 1);
    refresh(&two, tokens.iter().next().unwrap(), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_different_calls_at_once_let_at_most_one_through_and_count_as_theft() {
    let server = strict().await.start().await;
    let (_, _, first) = signed_in(&server).await;
    let calls = (0..16).map(|n| refresh(&server, &first.refresh_token, Some(Uuid::from_u128(n + 1))));
    let through = join_all(calls).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(through, 1);
    assert_eq!(live_branches(&server).await, 0);
    assert_eq!(reasons(&server, "session.refresh_reused", "refused").await.len(), 1, "told once");
}

#[tokio::test]
async fn rights_are_read_again_at_each_refresh() {
    let server = TestServer::start().await;
    let (tenant, user, first) = signed_in(&server).await;
    let claims = async |token: &str| {
        let mut client = server.client(token).authenticate;
        client.who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner().claims.unwrap()
    };
    assert_eq!(claims(&first.access_token).await.roles, ["user"]);
    let promote =
        "UPDATE memberships SET role_id = (SELECT role_id FROM roles WHERE name = 'admin' AND tenant_id IS NULL)
                   WHERE user_id = $1";
    sqlx::query(promote).bind(user).execute(server.sql()).await.unwrap();
    let second = pair(refresh(&server, &first.refresh_token, None).await.unwrap());
    assert_eq!(claims(&second.access_token).await.roles, ["admin"]);

    sqlx::query("DELETE FROM memberships WHERE user_id = $1").bind(user).execute(server.sql()).await.unwrap();
    assert_eq!(reason(&refresh(&server, &second.refresh_token, None).await.unwrap_err()), "NO_TENANT");
    let rejoin = "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
                  SELECT gen_random_uuid(), $1, $2, role_id, 'local' FROM roles WHERE name = 'user' AND tenant_id IS NULL";
    sqlx::query(rejoin).bind(tenant).bind(user).execute(server.sql()).await.unwrap();
    refresh(&server, &second.refresh_token, None).await.expect("the token was not spent by the refusal");
}

#[tokio::test]
async fn the_tenant_can_be_switched_to_one_that_the_user_is_in() {
    let server = TestServer::start().await;
    let (_, user, first) = signed_in(&server).await;
    let (other, foreign) = (server.tenant("b").await, server.tenant("c").await);
    join(&server, other, user).await;
    let switch = async |token: &str, tenant: Uuid, id: u128| {
        let request = proto::RefreshTokenRequest {
            refresh_token: token.to_owned(),
            tenant_id: tenant.to_string(),
            request_id: Uuid::from_u128(id).to_string(),
            ..Default::default()
        };
        server.client("").authenticate.refresh_token(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(reason(&switch(&first.refresh_token, foreign, 1).await.unwrap_err()), "NO_TENANT");
    let second = switch(&first.refresh_token, other, 2).await.unwrap();
    assert_eq!(second.tenant_id, other.to_string());
    assert_eq!(reason(&switch(&first.refresh_token, foreign, 2).await.unwrap_err()), "REQUEST_ID_REUSED");
    let third = refresh(&server, &pair(second).refresh_token, None).await.unwrap();
    assert_eq!(third.tenant_id, other.to_string(), "and stays there");
}

#[tokio::test]
async fn a_refresh_token_ends_with_time_with_its_user_and_with_its_session() {
    let server = TestServer::start().await;
    let (tenant, user, tokens) = signed_in(&server).await;
    let disable = "UPDATE users SET status = $2 WHERE user_id = $1";
    sqlx::query(disable).bind(user).bind("disabled").execute(server.sql()).await.unwrap();
    assert_eq!(reason(&refresh(&server, &tokens.refresh_token, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    sqlx::query(disable).bind(user).bind("active").execute(server.sql()).await.unwrap();
    let tokens = pair(refresh(&server, &tokens.refresh_token, None).await.unwrap());

    server.context.clock.advance(Duration::from_secs(31 * 24 * 3600));
    assert_eq!(reason(&refresh(&server, &tokens.refresh_token, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");

    server.user(tenant, "bob@example.com", "user").await;
    let tokens = server.sign_in("bob@example.com").await;
    let mut client = server.client(&tokens.access_token);
    client.session.revoke_session(proto::RevokeSessionRequest::default()).await.unwrap();
    assert_eq!(reason(&refresh(&server, &tokens.refresh_token, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    for nonsense in ["", "x", "sidle_rt_x", &tokens.access_token] {
        let refused = refresh(&server, nonsense, None).await.unwrap_err();
        assert!(["INVALID_REFRESH_TOKEN", "INVALID_FIELD"].contains(&reason(&refused).as_str()), "{nonsense}");
    }
}

/// A session is charged for every call with one of its tokens, on any replica, so that the holder of one does not
/// decide how many rows and events there are.
#[tokio::test]
async fn one_session_is_good_for_so_many_exchanges_over_all_replicas() {
    let setup = Setup::new().await.with("THROTTLE__SESSION_REFRESH_PER_MINUTE", "1");
    let setup = setup.with("THROTTLE__SESSION_REFRESH_BURST", "3");
    let context = Context::system();
    let servers = [setup.start_with(context.clone()).await, setup.start_with(context.clone()).await];
    let (_, _, mut held) = signed_in(&servers[0]).await;
    for n in 0..3 {
        held = pair(refresh(&servers[n % 2], &held.refresh_token, None).await.unwrap());
    }
    for server in &servers {
        let refused = refresh(server, &held.refresh_token, None).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (tonic::Code::ResourceExhausted, "THROTTLED"));
        let wait = refused.get_details_retry_info().and_then(|info| info.retry_delay).expect("when to come again");
        assert!(wait <= Duration::from_secs(60), "{wait:?}");
    }
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM refresh_tokens").fetch_one(servers[0].sql()).await.unwrap();
    assert_eq!((rows, reasons(&servers[0], "session.refreshed", "success").await.len()), (4, 3));
    // Another session is not affected, and this one continues after the delay.
    let other = servers[1].sign_in("ann@example.com").await;
    refresh(&servers[1], &other.refresh_token, None).await.expect("another session");
    context.clock.advance(Duration::from_secs(60));
    refresh(&servers[1], &held.refresh_token, None).await.expect("nothing was spent");
}

/// An exchange that is repeated again and again makes one event, and is charged for each call; and a theft is detected
/// however many calls came before.
#[tokio::test]
async fn calls_that_race_are_charged_and_recorded_together_and_theft_is_found_all_the_same() {
    let server = Setup::new().await.with("THROTTLE__SESSION_REFRESH_BURST", "20").start().await;
    let (_, _, first) = signed_in(&server).await;
    let second = pair(refresh(&server, &first.refresh_token, None).await.unwrap());
    let mut throttled = 0;
    for _ in 0..60 {
        match refresh(&server, &first.refresh_token, None).await {
            Ok(again) => assert_eq!(pair(again).refresh_token, second.refresh_token),
            Err(refused) => {
                assert_eq!(reason(&refused), "THROTTLED");
                throttled += 1;
            }
        }
    }
    assert!(throttled > 0, "they are charged");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM refresh_tokens").fetch_one(server.sql()).await.unwrap();
    let events = reasons(&server, "session.refreshed", "success").await.len();
    // One for each ten seconds that this may have taken.
    assert!(rows == 2 && (2..=4).contains(&events), "{rows} rows, {events} events");

    server.context.clock.advance(Duration::from_secs(60));
    let third = pair(refresh(&server, &second.refresh_token, None).await.unwrap());
    until("the older token is refused", async || refresh(&server, &second.refresh_token, None).await.is_err()).await;
    let refused = refresh(&server, &first.refresh_token, None).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_REFRESH_TOKEN");
    assert!(!is_good(&server, &third.access_token).await, "the family has ended");
}

/// Invalid tokens cost an address what valid ones do, before anything is looked up.
#[tokio::test]
async fn an_address_is_good_for_so_many_exchanges() {
    let setup = Setup::new().await.with("THROTTLE__REFRESH_PER_MINUTE", "1");
    let server = setup.with("THROTTLE__REFRESH_BURST", "3").start().await;
    let (_, _, held) = signed_in(&server).await;
    for _ in 0..3 {
        let made_up = opaque::mint(REFRESH_PREFIX, &server.context.entropy);
        assert_eq!(reason(&refresh(&server, &made_up, None).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
    }
    assert_eq!(reason(&refresh(&server, &held.refresh_token, None).await.unwrap_err()), "THROTTLED");
    server.context.clock.advance(Duration::from_secs(60));
    refresh(&server, &held.refresh_token, None).await.expect("nothing was spent");
}

/// The leeway counts from when a token was exchanged, not from when the call arrived that waited for the session's row.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_exchange_waits_for_is_no_part_of_the_leeway() {
    let server = Setup::new().await.with("DATABASE__LOCK_TIMEOUT", "60s").start().await;
    let (_, _, first) = signed_in(&server).await;
    let mut holder = PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    sqlx::query("BEGIN").execute(&mut holder).await.unwrap();
    sqlx::query("SELECT FROM sessions FOR UPDATE").execute(&mut holder).await.unwrap();
    let clock = "SELECT clock_timestamp()";
    let begun: DateTime<Utc> = sqlx::query_scalar(clock).fetch_one(server.sql()).await.unwrap();
    let waiting = "FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'sidle' AND wait_event_type = 'Lock'";
    let (slow, seen) = tokio::join!(refresh(&server, &first.refresh_token, None), async {
        let look = format!("{clock} {waiting}");
        let seen: DateTime<Utc> = eventually("it waits for the row", async || {
            sqlx::query_scalar(AssertSqlSafe(look.clone())).fetch_optional(server.sql()).await.unwrap()
        })
        .await;
        // The service read its clock before the statement began, at most since `begun`: for longer than that.
        let longer = format!("SELECT clock_timestamp() - $1 > query_start - $2 {waiting}");
        until("it has waited for longer than it took to get there", async || {
            let longer = sqlx::query_scalar(AssertSqlSafe(longer.clone())).bind(seen).bind(begun);
            longer.fetch_optional(server.sql()).await.unwrap().unwrap_or(false)
        })
        .await;
        sqlx::query("COMMIT").execute(&mut holder).await.unwrap();
        seen
    });
    let slow = pair(slow.unwrap());
    let used = "SELECT used_at FROM refresh_tokens WHERE used_at IS NOT NULL";
    let used: DateTime<Utc> = sqlx::query_scalar(used).fetch_one(server.sql()).await.unwrap();
    assert!(used > seen, "used at {used}, when it was waiting at {seen}");
    let other_tab = pair(refresh(&server, &first.refresh_token, None).await.expect("no theft"));
    assert_eq!(other_tab.refresh_token, slow.refresh_token);
}
