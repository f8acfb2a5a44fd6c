//! Whether a token or the revocation that is to end it came first is decided by the principal's row, by no replica's
//! clock.

use std::time::Duration;

use sidle::context::Context;
use sidle::proto::*;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{is_good, refresh, settled};
use crate::look::reason;
use crate::support::{ADMIN_PASSWORD, Client, Setup, TestServer, until};

/// Waits until so many statements wait for a lock.
async fn waiting(server: &TestServer, many: i64) {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("they wait for the row", async || {
        sqlx::query_scalar::<_, i64>(count).fetch_one(server.sql()).await.unwrap() >= many
    })
    .await;
}

/// Holds the row of a service account until the transaction ends, on a connection of its own.
async fn hold(server: &TestServer, account: &str) -> PgConnection {
    let mut connection = PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
    let lock = "SELECT FROM service_accounts WHERE service_account_id = $1::uuid FOR UPDATE";
    sqlx::query(lock).bind(account).execute(&mut connection).await.unwrap();
    connection
}

async fn program(admin: &Client, name: &str) -> (String, String, String) {
    let request = CreateServiceAccountRequest {
        name: name.to_owned(),
        permissions: vec!["users.read".to_owned()],
        ..Default::default()
    };
    let account = admin.create_service_account(request).await.unwrap().service_account.unwrap().service_account_id;
    let request = CreateApiKeyRequest { service_account_id: account.clone(), ..Default::default() };
    let made = admin.create_api_key(request).await.unwrap();
    (account, made.api_key.unwrap().api_key_id, made.secret)
}

async fn exchange(server: &TestServer, key: &str) -> Result<String, tonic::Status> {
    let request = AuthenticateServiceAccountRequest { api_key: key.to_owned(), ..Default::default() };
    Ok(server.client("").authenticate.authenticate_service_account(request).await?.into_inner().access_token)
}

/// An exchange that is in progress when the key is deleted, in both orders: whichever gets the row first, a token from
/// before the deletion is revoked by it, however much later the token is signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_bought_while_its_key_is_deleted_dies_with_it() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    for round in 0..8 {
        let (account, key_id, key) = program(&admin, &format!("billing{round}")).await;
        let holder = hold(&server, &account).await;
        let buy = exchange(&server, &key);
        let delete = async {
            let request = DeleteApiKeyRequest { api_key_id: key_id };
            admin.directory.clone().delete_api_key(request).await.unwrap();
        };
        let (bought, ()) = tokio::join!(buy, async {
            waiting(&server, 1).await;
            // The deletion queues behind the exchange, before either gets the row.
            let release = async {
                waiting(&server, 2).await;
                holder.close_hard().await.unwrap();
            };
            tokio::join!(delete, release);
        });
        match bought {
            Ok(token) => assert!(!is_good(&server, &token).await, "bought before the deletion, and good after it"),
            Err(refused) => assert_eq!(reason(&refused), "INVALID_CREDENTIALS"),
        }
        assert!(exchange(&server, &key).await.is_err());
    }
}

struct Replicas {
    /// The clock ahead of the other.
    fast: TestServer,
    slow: TestServer,
    admin: Client,
}

async fn four_seconds_apart() -> Replicas {
    let setup = Setup::new().await;
    let (fast, slow) = (setup.start_with(Context::system()).await, setup.start_with(Context::system()).await);
    fast.context.clock.advance(Duration::from_secs(4));
    let admin = slow.admin().await;
    Replicas { fast, slow, admin }
}

impl Replicas {
    /// After a change that was made at the slow replica: tokens from before are refused at both, whichever issued them.
    async fn refused(&self, what: &str, event: &str, tokens: &[String]) {
        for server in [&self.slow, &self.fast] {
            settled(server, &self.slow, event).await;
            for token in tokens {
                assert!(!is_good(server, token).await, "{what}: a token from before it is good after it");
            }
        }
    }

    /// And those from after it are accepted at both immediately, also from the replica whose clock is behind.
    async fn good(&self, what: &str, tokens: &[String]) {
        for server in [&self.slow, &self.fast] {
            for token in tokens {
                assert!(is_good(server, token).await, "{what}: a token from after it is refused");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_clocks_four_seconds_apart_no_right_outlives_its_end() {
    let world = four_seconds_apart().await;
    let (fast, slow) = (&world.fast, &world.slow);
    let tenant = slow.tenant("a").await;
    let user = slow.user(tenant, "ann@example.com", "user").await;
    let sign_in = async || {
        let mut tokens = Vec::new();
        for server in [fast, slow] {
            tokens.push(server.sign_in("ann@example.com").await.access_token);
        }
        tokens
    };

    // A membership, added and removed.
    let old = sign_in().await;
    let grant = CreateMembershipRequest {
        user_id: user.to_string(),
        tenant_id: tenant.to_string(),
        role_id: "00000000-0000-7000-8000-000000000003".to_owned(),
        ..Default::default()
    };
    let given =
        world.admin.proving(grant, async |request| world.admin.directory.clone().create_membership(request).await);
    let membership = given.await.unwrap().membership.unwrap().membership_id;
    world.refused("a membership was given", "membership.created", &old).await;
    let rich = sign_in().await;
    world.good("a membership was given", &rich).await;
    let take = DeleteMembershipRequest { membership_id: membership, ..Default::default() };
    world
        .admin
        .proving(take, async |request| world.admin.directory.clone().delete_membership(request).await)
        .await
        .unwrap();
    world.refused("a membership was taken", "membership.deleted", &rich).await;
    let plain = sign_in().await;
    world.good("a membership was taken", &plain).await;

    // The account itself, disabled and enabled.
    let disable = DisableUserRequest { user_id: user.to_string(), ..Default::default() };
    world
        .admin
        .proving(disable, async |request| world.admin.directory.clone().disable_user(request).await)
        .await
        .unwrap();
    world.refused("the user was disabled", "user.disabled", &plain).await;
    let enable = EnableUserRequest { user_id: user.to_string(), ..Default::default() };
    world
        .admin
        .proving(enable, async |request| world.admin.directory.clone().enable_user(request).await)
        .await
        .unwrap();
    let back = sign_in().await;
    world.good("the user was enabled", &back).await;
    world.refused("the user was enabled", "user.disabled", &plain).await;

    // Service accounts.
    let (_, key_id, key) = program(&world.admin, "billing").await;
    let bought = [exchange(fast, &key).await.unwrap(), exchange(slow, &key).await.unwrap()];
    world.good("bought", &bought).await;
    world.admin.directory.clone().delete_api_key(DeleteApiKeyRequest { api_key_id: key_id }).await.unwrap();
    world.refused("the key was deleted", "api_key.revoked", &bought).await;
}

/// The password is changed at one replica: what the session had is void, what it gets is valid, on either side of the
/// gap.
#[tokio::test(flavor = "multi_thread")]
async fn with_clocks_apart_a_new_token_is_good_at_once_after_a_revocation() {
    let world = four_seconds_apart().await;
    let tenant = world.slow.tenant("a").await;
    world.slow.user(tenant, "ann@example.com", "user").await;
    let old = world.fast.sign_in("ann@example.com").await;
    let change = ChangePasswordRequest {
        current_password: ADMIN_PASSWORD.to_owned(),
        new_password: "seven otters juggle walnuts".to_owned(),
    };
    let client = world.slow.client(&old.access_token);
    let new = client.authenticate.clone().change_password(change).await.unwrap().into_inner().tokens.unwrap();
    world.refused("the password was changed", "user.password_changed", &[old.access_token]).await;
    world.good("the password was changed", &[new.access_token]).await;
    let next = refresh(&world.fast, &new.refresh_token, None).await.unwrap().tokens.unwrap();
    world.good("and refreshed", &[next.access_token]).await;
}

/// A revocation that does not come after the one before it would end nothing; none can be written.
#[tokio::test]
async fn a_revocation_is_never_set_back() {
    let server = TestServer::start().await;
    let (_, user, _) = super::signed_in(&server).await;
    let revoke = "SELECT tokens_revoke(ARRAY[$1::uuid], NULL)";
    let first: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar(revoke).bind(user).fetch_one(server.sql()).await.unwrap();
    // As after a fail-over to a database whose clock is behind.
    let ahead = "UPDATE users SET tokens_valid_from = now() + interval '1 hour' WHERE user_id = $1";
    sqlx::query(ahead).bind(user).execute(server.sql()).await.unwrap();
    let next: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar(revoke).bind(user).fetch_one(server.sql()).await.unwrap();
    assert!(next > first + chrono::TimeDelta::minutes(59), "later than the one before, not than the clock");
    for value in ["now()", "NULL", "tokens_valid_from"] {
        let set = format!("UPDATE users SET tokens_valid_from = {value} WHERE user_id = $1");
        assert!(sqlx::query(sqlx::AssertSqlSafe(set)).bind(user).execute(server.sql()).await.is_err(), "{value}");
    }
    let unknown: Option<chrono::DateTime<chrono::Utc>> =
        sqlx::query_scalar(revoke).bind(Uuid::nil()).fetch_one(server.sql()).await.unwrap();
    assert!(unknown.is_some(), "of nobody");
}
