//! Signing keys: rotated under traffic, retired immediately, sealed to their row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sidle::app::App;
use sidle::config::Config;
use sidle::context::Context;
use sidle::proto;
use tonic::Status;
use uuid::Uuid;

use super::{is_good, kid, signed_in};
use crate::look::reason;
use crate::support::{Client, Setup, TestServer, until, within};

async fn rotate(
    client: &Client,
    change: impl FnOnce(&mut proto::RotateSigningKeysRequest),
) -> Result<proto::RotateSigningKeysResponse, Status> {
    let mut request = proto::RotateSigningKeysRequest { request_id: Uuid::new_v4().to_string(), ..Default::default() };
    change(&mut request);
    client.rotate_signing_keys(request).await
}

async fn list(client: &Client, include_expired: bool) -> Vec<proto::SigningKey> {
    let request = proto::ListSigningKeysRequest { include_expired, ..Default::default() };
    client.directory.clone().list_signing_keys(request).await.unwrap().into_inner().signing_keys
}

fn states(keys: &[proto::SigningKey]) -> Vec<proto::SigningKeyState> {
    keys.iter().map(proto::SigningKey::state).collect()
}

fn now(lead: u64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: lead as i64, nanos: 0 })
}

/// Waits until the replica knows this key.
async fn published(server: &TestServer, kid: &str) {
    until("the replica knows the key", async || {
        server.app().verifier.published_keys().iter().any(|key| key.kid == kid)
    })
    .await;
}

/// Waits until this key signs the replica's new tokens.
async fn signs(server: &TestServer, email: &str, with: &str) {
    until("the replica signs with the key", async || kid(&server.sign_in(email).await.access_token) == with).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_under_traffic_refuses_no_token_on_any_replica() {
    // However many logins the traffic makes, none of them ends the first session.
    let setup = Setup::new().await.with("SESSIONS__PER_USER", "0").with("THROTTLE__PER_MINUTE", "0");
    let context = Context::system();
    let (one, two) = (setup.start_with(context.clone()).await, setup.start_with(context.clone()).await);
    let (one, two) = (Arc::new(one), Arc::new(two));
    let (tenant, _, tokens) = signed_in(&one).await;
    one.user(tenant, "root@example.com", "SYSTEM_ADMIN").await;
    let admin = one.client(&one.sign_in("root@example.com").await.access_token);
    let old = kid(&tokens.access_token);

    // Both replicas sign without a pause, and each verifies what the other signed.
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut traffic = Vec::new();
    for (from, to) in [(&one, &two), (&two, &one)] {
        let (from, to, stop, seen) = (Arc::clone(from), Arc::clone(to), Arc::clone(&stop), Arc::clone(&seen));
        traffic.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let token = from.sign_in("ann@example.com").await.access_token;
                let who = to.client(&token).authenticate.who_am_i(proto::WhoAmIRequest {}).await;
                who.unwrap_or_else(|refused| panic!("a good token was refused: {refused:?}"));
                seen.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let rotated = rotate(&admin, |_| {}).await.unwrap();
    let new = rotated.signing_key.unwrap();
    assert_eq!(new.state(), proto::SigningKeyState::Published);
    assert_ne!(new.key_id, old);
    published(&one, &new.key_id).await;
    published(&two, &new.key_id).await;
    assert_eq!(kid(&two.sign_in("ann@example.com").await.access_token), old, "published, and does not sign yet");

    context.clock.advance(Duration::from_secs(10 * 60));
    signs(&one, "ann@example.com", &new.key_id).await;
    signs(&two, "ann@example.com", &new.key_id).await;
    let before = seen.load(Ordering::Relaxed);
    until("ten more calls", async || seen.load(Ordering::Relaxed) >= before + 10).await;
    stop.store(true, Ordering::Relaxed);
    for traffic in traffic {
        traffic.await.expect("no token was refused");
    }
    assert!(is_good(&two, &tokens.access_token).await, "a token of the old key lives out its time");
    let fresh = one.client(&one.sign_in("root@example.com").await.access_token);
    assert_eq!(states(&list(&fresh, false).await), [proto::SigningKeyState::Active, proto::SigningKeyState::Retiring]);

    // When the last token it may have signed has expired, the old key is retired, and its private half is deleted.
    context.clock.advance(Duration::from_secs(15 * 60 + 3600));
    until("both replicas have forgotten the old key", async || {
        one.app().verifier.published_keys().len() + two.app().verifier.published_keys().len() <= 2
    })
    .await;
    let fresh = one.client(&one.sign_in("root@example.com").await.access_token);
    assert_eq!(list(&fresh, false).await.len(), 1);
    let all = list(&fresh, true).await;
    assert_eq!(states(&all), [proto::SigningKeyState::Active, proto::SigningKeyState::Expired]);
    assert!(all[1].public_jwk.is_empty() && !all[0].public_jwk.is_empty());
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM signing_keys WHERE octet_length(private_key) > 0")
        .fetch_one(one.sql())
        .await
        .unwrap();
    assert_eq!(kept, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_leaked_key_are_refused_on_every_replica_at_once() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let (tenant, _, tokens) = signed_in(&one).await;
    one.user(tenant, "root@example.com", "SYSTEM_ADMIN").await;
    let admin = one.client(&one.sign_in("root@example.com").await.access_token);
    assert!(is_good(&two, &tokens.access_token).await, "and is remembered there");
    let leaked = kid(&tokens.access_token);

    let rotated = rotate(&admin, |request| request.revoke_key_ids = vec![leaked.clone()]).await.unwrap();
    let new = rotated.signing_key.unwrap();
    assert_eq!(new.state(), proto::SigningKeyState::Active, "there is no time to wait");
    assert_eq!(states(&rotated.previous_keys), [proto::SigningKeyState::Expired]);
    assert!(!is_good(&one, &tokens.access_token).await, "at once where it was asked");
    super::settled(&two, &one, "signing_key.retired").await;
    assert!(!is_good(&two, &tokens.access_token).await, "and elsewhere once the log has told");
    let three = setup.start().await;
    assert!(!is_good(&three, &tokens.access_token).await, "a replica that starts later knows it from the tables");
    let renewed = super::refresh(&two, &tokens.refresh_token, None).await.unwrap().tokens.unwrap();
    assert_eq!(kid(&renewed.access_token), new.key_id, "whoever refreshes goes on");
    for server in [&one, &two, &three] {
        published(server, &new.key_id).await;
        assert!(is_good(server, &renewed.access_token).await);
    }
}

#[tokio::test]
async fn an_open_stream_ends_when_the_key_of_its_token_is_revoked() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let key = crate::authenticate::api_key(&server, None, &["tokens.verify"], &[]).await;
    let watcher = crate::authenticate::exchange(&server, &key).await.unwrap().access_token;
    let request = proto::WatchRevocationsRequest::default();
    let mut stream = server.client(&watcher).session.watch_revocations(request).await.unwrap().into_inner();
    assert!(within("the state of the stream", stream.message()).await.unwrap().is_some());
    rotate(&admin, |request| request.revoke_previous = true).await.unwrap();
    let ended = within("the stream ends", async {
        loop {
            match stream.message().await {
                Ok(message) => assert!(message.is_some(), "ended as if all were well"),
                Err(status) => break status,
            }
        }
    })
    .await;
    assert_eq!(reason(&ended), "UNAUTHENTICATED");
}

#[tokio::test]
async fn keys_of_every_algorithm_sign_and_are_published() {
    let server = Setup::new().await.with("TOKENS__ALGORITHM", "ES256").with("TOKENS__RSA_BITS", "2048").start().await;
    let (tenant, _, _) = signed_in(&server).await;
    server.user(tenant, "root@example.com", "SYSTEM_ADMIN").await;
    for (asked, algorithm) in [("", "ES256"), ("RS256", "RS256"), ("EdDSA", "EdDSA")] {
        let admin = server.client(&server.sign_in("root@example.com").await.access_token);
        let rotated = rotate(&admin, |request| {
            request.algorithm = asked.to_owned();
            request.lead_time = now(0);
        });
        let key = rotated.await.unwrap().signing_key.unwrap();
        assert_eq!((key.algorithm.as_str(), key.state()), (algorithm, proto::SigningKeyState::Active));
        let token = server.sign_in("ann@example.com").await.access_token;
        assert_eq!(kid(&token), key.key_id);
        assert!(is_good(&server, &token).await, "{algorithm}");

        // Another library with the published keys verifies as well.
        let mut client = server.client("").authenticate;
        let jwks = client.get_jwks(proto::GetJwksRequest {}).await.unwrap().into_inner().keys;
        assert!(jwks.iter().any(|jwk| jwk.kid == key.key_id && jwk.alg == algorithm));
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_str(&key.public_jwk).unwrap();
        let mut validation = jsonwebtoken::Validation::new(algorithm.parse().unwrap());
        validation.set_audience(&["sidle"]);
        let decoding = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        jsonwebtoken::decode::<serde_json::Value>(&token, &decoding, &validation).unwrap();
    }
}

#[tokio::test]
async fn a_key_is_replaced_by_itself_when_it_is_old_enough() {
    let server = Setup::new().await.with("TOKENS__ROTATE_AFTER", "30d").start().await;
    let (_, _, tokens) = signed_in(&server).await;
    let old = kid(&tokens.access_token);
    server.context.clock.advance(Duration::from_secs(30 * 24 * 3600));
    until("the new key is published", async || server.app().verifier.published_keys().len() >= 2).await;
    assert_eq!(kid(&server.sign_in("ann@example.com").await.access_token), old, "the new one is only published yet");
    server.context.clock.advance(Duration::from_secs(10 * 60));
    until("the new key signs", async || kid(&server.sign_in("ann@example.com").await.access_token) != old).await;
}

#[tokio::test]
async fn a_rotation_is_checked_repeatable_and_for_the_platform_only() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let before = list(&admin, true).await;
    let dry = rotate(&admin, |request| request.validate_only = true).await.unwrap();
    assert_eq!(dry.signing_key.unwrap().state(), proto::SigningKeyState::Published);
    assert_eq!(list(&admin, true).await, before, "nothing happened");

    let id = Uuid::new_v4().to_string();
    let first = rotate(&admin, |request| request.request_id = id.clone()).await.unwrap();
    assert_eq!(rotate(&admin, |request| request.request_id = id.clone()).await.unwrap(), first);
    assert_eq!(list(&admin, true).await.len(), 2);
    let second = rotate(&admin, |_| {}).await.unwrap();
    let superseded = first.signing_key.unwrap().key_id;
    let found = list(&admin, true).await;
    let found = found.iter().find(|key| key.key_id == superseded).unwrap();
    assert_eq!(found.state(), proto::SigningKeyState::Expired, "a rotation under way is replaced by the next");
    assert_ne!(second.signing_key.unwrap().key_id, superseded);

    for (what, change) in [
        ("request_id", (|request| request.request_id.clear()) as fn(&mut proto::RotateSigningKeysRequest)),
        ("algorithm", |request| request.algorithm = "HS256".to_owned()),
        ("algorithm", |request| request.algorithm = "none".to_owned()),
        ("lead_time", |request| request.lead_time = Some(prost_types::Duration { seconds: -1, nanos: 0 })),
        ("lead_time", |request| request.lead_time = Some(prost_types::Duration { seconds: 604_801, nanos: 0 })),
        ("revoke_key_ids", |request| request.revoke_key_ids = vec![Uuid::nil().to_string()]),
        ("revoke_key_ids", |request| request.revoke_key_ids = vec!["all".to_owned()]),
    ] {
        let refused = rotate(&admin, change).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_FIELD", "{what}");
        assert!(refused.message().contains(what), "{refused:?}");
    }
    // An administrator of one tenant, with any permissions there, cannot administer keys.
    let tenant = server.tenant("b").await;
    server.user(tenant, "boss@example.com", "super_admin").await;
    let boss = server.client(&server.sign_in("boss@example.com").await.access_token);
    assert_eq!(reason(&rotate(&boss, |_| {}).await.unwrap_err()), "PERMISSION_DENIED");
    let request = proto::ListSigningKeysRequest::default();
    assert_eq!(reason(&boss.directory.clone().list_signing_keys(request).await.unwrap_err()), "PERMISSION_DENIED");
}

/// S14: an attacker who can write to the database cannot have the service sign with a key of their choice, or with an
/// old one.
#[tokio::test]
async fn a_sealed_key_that_was_moved_does_not_open() {
    let setup = Setup::new().await;
    let server = setup.start().await;
    let admin = server.admin().await;
    let key = rotate(&admin, |_| {}).await.unwrap().signing_key.unwrap();
    let rows: Vec<(Uuid, Vec<u8>)> =
        sqlx::query_as("SELECT kid, private_key FROM signing_keys ORDER BY kid").fetch_all(server.sql()).await.unwrap();
    let put = "UPDATE signing_keys SET private_key = $2 WHERE kid = $1";
    let starts = async || {
        let config = Config::load(None, setup.environment().clone()).unwrap();
        App::new(config, Context::system()).await.unwrap().start().await.is_ok_and(|running| {
            running.app.stop.cancel();
            true
        })
    };
    assert!(starts().await, "the attacker's way of starting works");

    sqlx::query(put).bind(rows[0].0).bind(&rows[1].1).execute(server.sql()).await.unwrap();
    assert!(!starts().await, "a key of another row");
    let keyring = &server.app().keyring;
    let raw = keyring
        .open(sidle::seal::SealContext { table: "signing_keys", column: "private_key", row: rows[0].0 }, &rows[0].1);
    let raw = raw.unwrap();
    for (table, column) in [("sessions", "private_key"), ("signing_keys", "kanidm_refresh_token")] {
        let context = sidle::seal::SealContext { table, column, row: rows[0].0 };
        let moved = keyring.seal(&server.context.entropy, context, &raw);
        sqlx::query(put).bind(rows[0].0).bind(moved).execute(server.sql()).await.unwrap();
        assert!(!starts().await, "a value that was sealed for {table}.{column}");
    }
    sqlx::query(put).bind(rows[0].0).bind(raw.as_slice()).execute(server.sql()).await.unwrap();
    assert!(!starts().await, "a key that is not sealed");
    sqlx::query(put).bind(rows[0].0).bind(&rows[0].1).execute(server.sql()).await.unwrap();
    assert!(starts().await);
    // The published key is derived: there is no public key in the database that could be changed.
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT column_name::text FROM information_schema.columns WHERE table_name = 'signing_keys'",
    )
    .fetch_all(server.sql())
    .await
    .unwrap();
    assert!(!columns.iter().any(|column| column.contains("public")), "{columns:?}");
    let jwk: serde_json::Value = serde_json::from_str(&key.public_jwk).unwrap();
    assert!(server.app().verifier.published_keys().iter().any(|known| known.x == jwk["x"]));
}
