//! Registering and verifying addresses, and attackers who register the address of another.

use std::time::Duration;

use sidle::context::Context;
use sidle::proto::*;
use sidle_dev::smtp::Smtp;
use uuid::Uuid;

use sqlx::{Connection as _, PgConnection};

use super::{refused, server, smtp, until, with_mail};
use crate::database::waiting_for_locks;
use crate::look::{event, reasons};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, eventually};

const OTHER_PASSWORD: &str = "purple tractor orbit lemonade";

async fn open(server: &TestServer, slug: &str) -> Uuid {
    let tenant = server.tenant(slug).await;
    let open = "UPDATE tenants SET settings = '{\"allow_registration\": true}' WHERE tenant_id = $1";
    sqlx::query(open).bind(tenant).execute(server.sql()).await.unwrap();
    tenant
}

fn request(tenant: Uuid, email: &str, password: &str) -> RegisterRequest {
    RegisterRequest {
        request_id: Uuid::new_v4().to_string(),
        tenant_id: tenant.to_string(),
        email: email.to_owned(),
        username: String::new(),
        full_name: "Ann Lee".to_owned(),
        password: password.to_owned(),
    }
}

async fn register(server: &TestServer, request: RegisterRequest) -> RegisterResponse {
    server.client("").authenticate.register(request).await.unwrap().into_inner()
}

async fn verify(server: &TestServer, token: &str, secret: &str) -> Result<VerifyEmailResponse, tonic::Status> {
    let request = VerifyEmailRequest { verification_token: token.to_owned(), registration_secret: secret.to_owned() };
    Ok(server.client("").authenticate.verify_email(request).await?.into_inner())
}

async fn signs_in(server: &TestServer, email: &str, password: &str) -> bool {
    let request = AuthenticatePasswordRequest {
        identifier: email.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    match server.client("").authenticate.authenticate_password(request).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(refused(&status), "INVALID_CREDENTIALS");
            false
        }
    }
}

async fn next_token(smtp: &mut Smtp) -> String {
    smtp.message().await.unwrap().token().expect("a link with a token")
}

#[tokio::test]
async fn somebody_registers_confirms_the_address_and_signs_in() {
    let (server, mut smtp) = server().await;
    let tenant = open(&server, "open").await;
    let registered = register(&server, request(tenant, "Ann@open.example", ADMIN_PASSWORD)).await;
    let token = next_token(&mut smtp).await;
    assert!(token.starts_with("sidle_ev_") && registered.registration_secret.starts_with("sidle_rs_"));
    assert!(!signs_in(&server, "ann@open.example", ADMIN_PASSWORD).await, "not before the address is confirmed");

    let verified = verify(&server, &token, &registered.registration_secret).await.unwrap();
    assert!(verified.password_kept);
    assert!(signs_in(&server, "ann@open.example", ADMIN_PASSWORD).await);
    let again = verify(&server, &token, &registered.registration_secret).await.unwrap();
    assert_eq!(again, verified, "repeating it is harmless");
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM registrations WHERE password_hash IS NOT NULL OR email IS NOT NULL")
            .fetch_one(server.sql())
            .await
            .unwrap();
    assert_eq!(left, 0, "nothing personal is left behind");
}

/// A name that only looks like another user's, or that the database would fold to it, gets a key of its own.
#[tokio::test]
async fn a_registered_name_has_the_key_that_its_login_has() {
    let (server, mut smtp) = server().await;
    let tenant = open(&server, "open").await;
    for (name, email, password) in
        [("İrem", "one@open.example", ADMIN_PASSWORD), ("irem", "two@open.example", OTHER_PASSWORD)]
    {
        let request = RegisterRequest { username: name.to_owned(), ..request(tenant, email, password) };
        let registered = register(&server, request).await;
        let token = next_token(&mut smtp).await;
        verify(&server, &token, &registered.registration_secret).await.unwrap();
        assert!(signs_in(&server, name, password).await, "{name}");
    }
    assert!(!signs_in(&server, "İrem", OTHER_PASSWORD).await && !signs_in(&server, "irem", ADMIN_PASSWORD).await);
    for alike in ["аnn", "a\u{200b}nn"] {
        let request =
            RegisterRequest { username: alike.to_owned(), ..request(tenant, "eve@open.example", OTHER_PASSWORD) };
        let status = server.client("").authenticate.register(request).await.unwrap_err();
        assert_eq!(refused(&status), "INVALID_FIELD", "{alike:?}");
    }
}

/// Pre-hijacking: the attacker registers the victim's address and waits for the victim to verify it.
#[tokio::test]
async fn whoever_registers_somebody_elses_address_does_not_get_into_their_account() {
    let (server, mut smtp) = server().await;
    let tenant = open(&server, "open").await;
    let attackers = register(&server, request(tenant, "victim@open.example", OTHER_PASSWORD)).await;
    let token = next_token(&mut smtp).await;
    let verified = verify(&server, &token, "").await.unwrap();
    assert!(!verified.password_kept);
    assert!(!signs_in(&server, "victim@open.example", OTHER_PASSWORD).await);
    // The secret alone is worthless as well, and comes too late.
    assert!(!verify(&server, &token, &attackers.registration_secret).await.unwrap().password_kept);
    assert!(!signs_in(&server, "victim@open.example", OTHER_PASSWORD).await);

    super::reset::forgotten(&server, &mut smtp, "victim@open.example", ADMIN_PASSWORD).await;
    assert!(signs_in(&server, "victim@open.example", ADMIN_PASSWORD).await);
}

/// The attacker registers the address once more, after its owner did, so that the owner verifies the wrong one.
#[tokio::test]
async fn the_password_is_kept_only_of_the_registration_that_is_confirmed() {
    let (server, mut smtp) = server().await;
    let tenant = open(&server, "open").await;
    let own = register(&server, request(tenant, "victim@open.example", ADMIN_PASSWORD)).await;
    let first = next_token(&mut smtp).await;
    register(&server, request(tenant, "victim@open.example", OTHER_PASSWORD)).await;
    let second = next_token(&mut smtp).await;
    let old = verify(&server, &first, &own.registration_secret).await.unwrap_err();
    assert_eq!(refused(&old), "INVALID_CREDENTIALS", "a newer registration supersedes it");
    let verified = verify(&server, &second, &own.registration_secret).await.unwrap();
    assert!(!verified.password_kept);
    assert!(!signs_in(&server, "victim@open.example", OTHER_PASSWORD).await);
    assert!(!signs_in(&server, "victim@open.example", ADMIN_PASSWORD).await);
}

/// An attacker got into an account before its address was ever verified.
#[tokio::test]
async fn the_first_confirmation_drops_passwords_and_sessions_from_before() {
    let (server, mut smtp) = server().await;
    let tenant = open(&server, "open").await;
    let user = server.user(tenant, "victim@open.example", "user").await;
    let tokens = server.sign_in("victim@open.example").await;
    let pending = "UPDATE users SET status = 'pending_verification', verified_at = NULL WHERE user_id = $1";
    sqlx::query(pending).bind(user).execute(server.sql()).await.unwrap();
    assert!(!signs_in(&server, "victim@open.example", ADMIN_PASSWORD).await, "nobody signs in unconfirmed");

    register(&server, request(tenant, "victim@open.example", OTHER_PASSWORD)).await;
    let token = next_token(&mut smtp).await;
    let verified = verify(&server, &token, "").await.unwrap();
    assert_eq!((verified.user_id.as_str(), verified.password_kept), (user.to_string().as_str(), false));
    let told = event(&server, "user.email_verified").await;
    let (ended, revoked): (String, i64) = sqlx::query_as(
        "SELECT session_id::text, (extract(epoch FROM tokens_valid_from) * 1000000)::bigint
         FROM sessions JOIN users USING (user_id)",
    )
    .fetch_one(server.sql())
    .await
    .unwrap();
    let details = serde_json::json!({ "first": true, "password_kept": false, "sessions": [ended],
        "principals": [user], "tokens_valid_from": revoked });
    assert_eq!(serde_json::Value::Object(told.details.clone()), details);
    assert_eq!(
        (told.actor_id, told.target_id.clone(), told.tenant_id),
        (Some(user), Some(user.to_string()), Some(tenant))
    );
    for password in [ADMIN_PASSWORD, OTHER_PASSWORD] {
        assert!(!signs_in(&server, "victim@open.example", password).await);
    }
    let refresh = RefreshTokenRequest { refresh_token: tokens.refresh_token, ..Default::default() };
    let refresh = server.client("").authenticate.refresh_token(refresh).await.unwrap_err();
    assert_eq!(refused(&refresh), "INVALID_REFRESH_TOKEN");
    let who = server.client(&tokens.access_token).authenticate.who_am_i(WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(refused(&who), "UNAUTHENTICATED");
}

/// An account that is in use under an unverified address, as one that began with a login through Kanidm: the holder of
/// the mailbox who wants an account of their own must not verify that one for its user unknowingly.
#[tokio::test]
async fn whoever_registers_does_not_confirm_the_address_of_an_account_that_is_in_use() {
    let (server, mut smtp) = server().await;
    let tenant = open(&server, "open").await;
    let user = server.user(tenant, "ann@open.example", "user").await;
    crate::authenticate::set(&server, user, "verified_at = NULL").await;
    register(&server, request(tenant, "ann@open.example", OTHER_PASSWORD)).await;
    let told = smtp.message().await.unwrap();
    assert_eq!(told.header("Subject").unwrap(), "You already have an account");
    assert!(told.token().is_none(), "nothing that confirms anything");
}

/// An attacker who wants to know which addresses have accounts.
#[tokio::test]
async fn a_taken_address_gets_the_same_answer_and_the_same_work_and_its_owner_is_told() {
    let (server, mut smtp) = server().await;
    let tenant = open(&server, "open").await;
    server.user(tenant, "ann@open.example", "user").await;
    let units = || server.app().metrics.hash_units.get();
    let (free, taken) = (
        request(tenant, "free@open.example", OTHER_PASSWORD),
        RegisterRequest {
            full_name: "BUY PILLS at evil.example".into(),
            ..request(tenant, "ann@open.example", OTHER_PASSWORD)
        },
    );
    let before = units();
    let free_answer = register(&server, free.clone()).await;
    let for_free = units() - before;
    let taken_answer = register(&server, taken.clone()).await;
    assert_eq!(units() - before - for_free, for_free, "the same work");
    assert_eq!(free_answer.registration_secret.len(), taken_answer.registration_secret.len());
    assert!(free_answer.verification_expires_at.is_some() && taken_answer.verification_expires_at.is_some());

    let (first, second) = (smtp.message().await.unwrap(), smtp.message().await.unwrap());
    let told = if first.to == ["ann@open.example"] { &first } else { &second };
    assert_eq!(told.header("Subject").unwrap(), "You already have an account");
    assert!(told.token().is_none());
    let sent = if first.to == ["ann@open.example"] { &second } else { &first };
    for message in [told, sent] {
        assert!(!message.body().contains("evil.example"), "what a stranger chose goes to nobody");
    }

    // A repeat reveals no more: the same answer for both, and another request under the id is refused for both.
    for (request, answer) in [(free, free_answer), (taken, taken_answer)] {
        assert_eq!(register(&server, request.clone()).await, answer);
        let other = RegisterRequest { password: ADMIN_PASSWORD.to_owned(), ..request };
        let status = server.client("").authenticate.register(other).await.unwrap_err();
        assert_eq!(refused(&status), "REQUEST_ID_REUSED");
    }
    assert!(signs_in(&server, "ann@open.example", ADMIN_PASSWORD).await, "nothing has changed for the owner");
}

/// The row is written whatever the address is; nothing else is done before the answer.
#[tokio::test]
async fn asking_writes_the_same_rows_for_a_free_and_for_a_taken_address() {
    let smtp = smtp().await;
    // No worker runs, so that the rows stay as the calls left them.
    let server = with_mail(Setup::new().await, smtp.port).with("MAIL__POLL", "1h").start().await;
    let tenant = open(&server, "open").await;
    server.user(tenant, "ann@open.example", "user").await;
    let hold = "LOCK TABLE mail_outbox IN ACCESS EXCLUSIVE MODE";
    let mut held = server.sql().begin().await.unwrap();
    sqlx::query(hold).execute(&mut *held).await.unwrap();
    for email in ["free@open.example", "ann@open.example"] {
        register(&server, request(tenant, email, OTHER_PASSWORD)).await;
        let reset = RequestPasswordResetRequest { identifier: email.to_owned() };
        server.client("").authenticate.request_password_reset(reset).await.unwrap();
    }
    let rows: Vec<String> = sqlx::query_scalar("SELECT email FROM registrations ORDER BY created_at")
        .fetch_all(server.sql())
        .await
        .unwrap();
    assert_eq!(rows, ["free@open.example", "ann@open.example"], "neither call waits for the outbox");
}

#[tokio::test]
async fn registration_is_closed_unless_the_tenant_opens_it() {
    let (server, _smtp) = server().await;
    let closed = server.tenant("closed").await;
    let disabled = open(&server, "disabled").await;
    let off = "UPDATE tenants SET status = 'disabled' WHERE tenant_id = $1";
    sqlx::query(off).bind(disabled).execute(server.sql()).await.unwrap();
    for tenant in [closed, disabled, Uuid::new_v4()] {
        let status = server.client("").authenticate.register(request(tenant, "a@open.example", OTHER_PASSWORD)).await;
        assert_eq!(refused(&status.unwrap_err()), "REGISTRATION_CLOSED");
    }
    let none: i64 = sqlx::query_scalar("SELECT count(*) FROM registrations").fetch_one(server.sql()).await.unwrap();
    assert_eq!(none, 0);
}

#[tokio::test]
async fn without_a_mail_server_the_answer_says_so_for_every_address() {
    let server = TestServer::start().await;
    let tenant = open(&server, "open").await;
    server.user(tenant, "ann@open.example", "user").await;
    for email in ["ann@open.example", "nobody@open.example"] {
        let registered = server.client("").authenticate.register(request(tenant, email, OTHER_PASSWORD)).await;
        let reset = RequestPasswordResetRequest { identifier: email.to_owned() };
        let reset = server.client("").authenticate.request_password_reset(reset).await;
        for status in [registered.unwrap_err(), reset.unwrap_err()] {
            assert_eq!(refused(&status), "MAIL_NOT_CONFIGURED");
            assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        }
    }
}

/// An attacker has the service fill the mailbox of another.
#[tokio::test]
async fn an_address_gets_no_more_than_its_share_of_messages() {
    let (server, mut smtp) = server().await;
    let tenant = open(&server, "open").await;
    server.user(tenant, "ann@open.example", "user").await;
    for number in 0..9 {
        if number % 2 == 0 {
            register(&server, request(tenant, "ann@open.example", OTHER_PASSWORD)).await;
        } else {
            let reset = RequestPasswordResetRequest { identifier: "ann@open.example".to_owned() };
            server.client("").authenticate.request_password_reset(reset).await.unwrap();
        }
        answered(&server).await;
    }
    let written: i64 = sqlx::query_scalar("SELECT count(*) FROM mail_outbox").fetch_one(server.sql()).await.unwrap();
    assert_eq!(written, 5);
    for _ in 0..5 {
        smtp.message().await.unwrap();
    }
}

/// An administrator does, by creating and deleting a user with that address, or by setting it and removing it.
#[tokio::test]
async fn an_administrator_sends_an_address_no_more_than_its_share_either() {
    let (server, _smtp) = server().await;
    let admin = server.admin().await;
    let tenant = server.tenant("letters").await;
    let written = async |kind: &str, address: &str| {
        let count =
            "SELECT count(*) FROM mail_outbox WHERE kind = $1 AND recipient_hash = sha256(convert_to($2, 'UTF8'))";
        sqlx::query_scalar::<_, i64>(count).bind(kind).bind(address).fetch_one(server.sql()).await.unwrap()
    };
    let create = async |email: &str| {
        let request = CreateUserRequest {
            request_id: Uuid::new_v4().to_string(),
            tenant_id: tenant.to_string(),
            email: email.to_owned(),
            ..Default::default()
        };
        let created = admin.proving(request, async |request| admin.directory.clone().create_user(request).await).await;
        created.unwrap().user.unwrap()
    };
    for _ in 0..12 {
        let user = create("victim@letters.example").await;
        let delete = DeleteUserRequest { user_id: user.user_id, ..Default::default() };
        admin.proving(delete, async |request| admin.directory.clone().delete_user(request).await).await.unwrap();
    }
    assert_eq!(written("verify_email", "victim@letters.example").await, 5);

    let mut user = create("decoy@letters.example").await;
    for number in 0..16 {
        let email = if number % 2 == 0 { "Victim@letters.example" } else { "decoy@letters.example" };
        let request = UpdateUserRequest {
            user: Some(User { email: email.to_owned(), ..user }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["email".to_owned()] }),
            validate_only: false,
        };
        let moved = admin.proving(request, async |request| admin.directory.clone().update_user(request).await).await;
        user = moved.unwrap().user.unwrap();
    }
    assert_eq!(written("email_changed", "victim@letters.example").await, 5, "of each notice as many");
    assert_eq!(written("verify_email", "victim@letters.example").await, 5);
}

async fn answered(server: &TestServer) {
    let left = "SELECT (SELECT count(*) FROM registrations WHERE state = 'asked') + (SELECT count(*) FROM password_reset_requests)";
    crate::support::until("every request is answered", async || {
        sqlx::query_scalar::<_, i64>(left).fetch_one(server.sql()).await.unwrap() == 0
    })
    .await;
}

#[tokio::test]
async fn an_address_of_the_network_that_asks_too_often_is_throttled() {
    let smtp = smtp().await;
    let setup = with_mail(Setup::new().await, smtp.port);
    let server = setup.with("THROTTLE__MAIL_PER_MINUTE", "1").with("THROTTLE__MAIL_BURST", "2").start().await;
    let tenant = open(&server, "open").await;
    for _ in 0..2 {
        register(&server, request(tenant, "ann@open.example", OTHER_PASSWORD)).await;
    }
    let status = server.client("").authenticate.register(request(tenant, "ann@open.example", OTHER_PASSWORD)).await;
    assert_eq!(refused(&status.unwrap_err()), "THROTTLED");
    let reset = RequestPasswordResetRequest { identifier: "ann@open.example".to_owned() };
    let status = server.client("").authenticate.request_password_reset(reset).await.unwrap_err();
    assert_eq!(refused(&status), "THROTTLED");
}

#[tokio::test]
async fn a_token_that_has_expired_or_was_never_made_confirms_nothing() {
    let (context, mut smtp) = (Context::system(), smtp().await);
    let server = with_mail(Setup::new().await, smtp.port).start_with(context.clone()).await;
    let tenant = open(&server, "open").await;
    let registered = register(&server, request(tenant, "ann@open.example", ADMIN_PASSWORD)).await;
    let token = next_token(&mut smtp).await;
    let never = format!("sidle_ev_{}", "A".repeat(43));
    for bad in [never.as_str(), &registered.registration_secret, &token[..token.len() - 1]] {
        let status = verify(&server, bad, &registered.registration_secret).await.unwrap_err();
        assert_eq!(refused(&status), "INVALID_CREDENTIALS");
    }
    context.clock.advance(Duration::from_secs(25 * 3600));
    let status = verify(&server, &token, &registered.registration_secret).await.unwrap_err();
    assert_eq!(refused(&status), "INVALID_CREDENTIALS");
}

/// An administrator creates the account, and its holder verifies the address.
#[tokio::test]
async fn a_user_whom_an_administrator_makes_is_asked_to_confirm_the_address() {
    let (server, mut smtp) = server().await;
    let admin = server.admin().await;
    let tenant = server.tenant("letters").await;
    let user = CreateUserRequest {
        request_id: Uuid::new_v4().to_string(),
        tenant_id: tenant.to_string(),
        email: "ann@letters.example".to_owned(),
        full_name: "Ann Lee".to_owned(),
        ..Default::default()
    };
    admin.directory.clone().create_user(user).await.unwrap();
    let token = next_token(&mut smtp).await;
    until(&server, "verify_email", "sent").await;
    assert!(!verify(&server, &token, "").await.unwrap().password_kept);
    super::reset::forgotten(&server, &mut smtp, "ann@letters.example", ADMIN_PASSWORD).await;
    assert!(signs_in(&server, "ann@letters.example", ADMIN_PASSWORD).await);
}

/// Two registrations of one address, verified concurrently: one becomes the user, the other is refused, and neither
/// call holds a lock that the other waits for.
#[tokio::test(flavor = "multi_thread")]
async fn two_registrations_of_one_address_are_confirmed_at_once_without_a_deadlock() {
    let mut smtp = smtp().await;
    // So that both may wait concurrently.
    let server = with_mail(Setup::new().await, smtp.port).with("DATABASE__POOL_SIZE", "16").start().await;
    let mut tokens = Vec::new();
    let mut tenants = Vec::new();
    for slug in ["one", "two"] {
        let tenant = open(&server, slug).await;
        register(&server, request(tenant, "ann@open.example", ADMIN_PASSWORD)).await;
        tokens.push(next_token(&mut smtp).await);
        tenants.push(tenant);
    }
    // Each has to wait here when it has locked its own registration, before it has a user.
    let mut holder = PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    sqlx::query("BEGIN").execute(&mut holder).await.unwrap();
    let hold = "SELECT FROM tenants WHERE tenant_id = ANY ($1) FOR UPDATE";
    sqlx::query(hold).bind(&tenants).execute(&mut holder).await.unwrap();
    let (one, two, ()) = tokio::join!(verify(&server, &tokens[0], ""), verify(&server, &tokens[1], ""), async {
        eventually("both wait", async || (waiting_for_locks(&server).await >= 2).then_some(())).await;
        sqlx::query("COMMIT").execute(&mut holder).await.unwrap();
    });
    let mut outcomes = [one, two].map(|answer| answer.map(|_| ()).map_err(|status| refused(&status)));
    outcomes.sort();
    let [verified, turned_away] = outcomes;
    assert_eq!((verified, turned_away), (Ok(()), Err("INVALID_CREDENTIALS".to_owned())));
    let users: i64 = sqlx::query_scalar("SELECT count(*) FROM users WHERE email_key = 'ann@open.example'")
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert_eq!(users, 1);
}

/// Between the message and its answer another user gets the address, or the name.
#[tokio::test]
async fn what_was_taken_meanwhile_stays_with_whoever_has_it() {
    let (server, mut smtp) = server().await;
    let tenant = open(&server, "open").await;
    let named = |email: &str| RegisterRequest { username: "Ann".to_owned(), ..request(tenant, email, OTHER_PASSWORD) };
    let first = register(&server, named("ann@open.example")).await;
    let ann = next_token(&mut smtp).await;
    let second = register(&server, named("bob@open.example")).await;
    let bob = next_token(&mut smtp).await;
    let somebody = server.user(tenant, "ann@open.example", "user").await;
    crate::authenticate::set(&server, somebody, "username = 'ANN', username_key = 'ann'").await;

    let status = verify(&server, &ann, &first.registration_secret).await.unwrap_err();
    assert_eq!(refused(&status), "INVALID_CREDENTIALS", "the address has an account by now");
    assert!(reasons(&server, "user.registered", "success").await.is_empty());
    let verified = verify(&server, &bob, &second.registration_secret).await.unwrap();
    let (username, key): (Option<String>, Option<String>) =
        sqlx::query_as("SELECT username, username_key FROM users WHERE user_id = $1::uuid")
            .bind(&verified.user_id)
            .fetch_one(server.sql())
            .await
            .unwrap();
    assert_eq!((username, key), (None, None), "the name is somebody's");
    assert!(signs_in(&server, "bob@open.example", OTHER_PASSWORD).await);
    let registered = event(&server, "user.registered").await;
    assert_eq!(
        (registered.tenant_id, registered.target_id.as_deref()),
        (Some(tenant), Some(verified.user_id.as_str()))
    );
    assert_eq!(registered.actor_id.map(|id| id.to_string()), Some(verified.user_id));
    assert_eq!(serde_json::Value::Object(registered.details.clone()), serde_json::json!({ "password_kept": true }));
}

/// A tenant that is confined to domains accepts their addresses only, at the request and at the verification.
#[tokio::test]
async fn a_confined_tenant_registers_addresses_of_its_domains_only() {
    let (server, mut smtp) = server().await;
    let tenant = open(&server, "open").await;
    let confine = async |domain: &str| {
        let settings = serde_json::json!({ "allow_registration": true, "sidle": { "domains": [domain] } });
        let update = "UPDATE tenants SET settings = $2 WHERE tenant_id = $1";
        sqlx::query(update).bind(tenant).bind(settings).execute(server.sql()).await.unwrap();
    };
    confine("open.example").await;
    let foreign = request(tenant, "ceo@elsewhere.example", OTHER_PASSWORD);
    let status = server.client("").authenticate.register(foreign).await.unwrap_err();
    assert_eq!(refused(&status), "REGISTRATION_CLOSED");
    let registered = register(&server, request(tenant, "Ann@Open.example", OTHER_PASSWORD)).await;
    let token = next_token(&mut smtp).await;
    confine("other.example").await;
    let status = verify(&server, &token, &registered.registration_secret).await.unwrap_err();
    assert_eq!(refused(&status), "INVALID_CREDENTIALS");
    confine("open.example").await;
    verify(&server, &token, &registered.registration_secret).await.unwrap();
}

/// A transaction that holds the user is waited for before the token is taken: others lock in that order as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_held_while_its_user_is_waited_for() {
    let (server, mut smtp) = server().await;
    let tenant = open(&server, "open").await;
    let user = server.user(tenant, "ann@open.example", "user").await;
    crate::authenticate::set(&server, user, "status = 'pending_verification', verified_at = NULL").await;
    register(&server, request(tenant, "ann@open.example", OTHER_PASSWORD)).await;
    let token = next_token(&mut smtp).await;
    let mut holder = PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    sqlx::query("BEGIN").execute(&mut holder).await.unwrap();
    sqlx::query("SELECT FROM users WHERE user_id = $1 FOR UPDATE").bind(user).execute(&mut holder).await.unwrap();
    let (verified, ()) = tokio::join!(verify(&server, &token, ""), async {
        eventually("the call waits", async || (waiting_for_locks(&server).await >= 1).then_some(())).await;
        let take = "SELECT FROM one_time_tokens WHERE user_id = $1 FOR UPDATE NOWAIT";
        let taken = sqlx::query(take).bind(user).execute(&mut holder).await;
        assert_eq!(taken.expect("nobody holds the token").rows_affected(), 1);
        sqlx::query("COMMIT").execute(&mut holder).await.unwrap();
    });
    verified.unwrap();
}

/// Registers while the worker waits for what `holder` has locked, and again with the same request: the second call must
/// not wait for the answer to the first.
async fn assert_a_repeat_does_not_wait(server: &TestServer, asked: RegisterRequest, mut holder: PgConnection) {
    let registered = register(server, asked.clone()).await;
    eventually("the answer waits", async || (waiting_for_locks(server).await >= 1).then_some(())).await;
    let waiting = "SELECT pid, xact_start::text FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'sidle' AND wait_event_type = 'Lock'";
    let first: Vec<(i32, String)> = sqlx::query_as(waiting).fetch_all(server.sql()).await.unwrap();
    assert_eq!(register(server, asked).await, registered);
    let after: Vec<(i32, String)> = sqlx::query_as(waiting).fetch_all(server.sql()).await.unwrap();
    assert_eq!(after, first, "the same answer to the first still waits, and nothing else");
    sqlx::query("COMMIT").execute(&mut holder).await.unwrap();
}

/// A server whose statements wait for locks for longer than the test takes, and a transaction that can hold some.
async fn patient_server() -> (TestServer, Smtp, PgConnection) {
    let smtp = smtp().await;
    let server = with_mail(Setup::new().await, smtp.port).with("DATABASE__LOCK_TIMEOUT", "25s").start().await;
    let mut holder = PgConnection::connect_with(&server.sql().connect_options()).await.unwrap();
    sqlx::query("BEGIN").execute(&mut holder).await.unwrap();
    (server, smtp, holder)
}

/// How long the answer to a registration takes depends on whose the address is: nobody may be able to wait for its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_registration_does_not_wait_for_the_answer_to_the_first() {
    let (server, mut smtp, mut holder) = patient_server().await;
    let tenant = open(&server, "open").await;
    let user = server.user(tenant, "ann@open.example", "user").await;
    sqlx::query("SELECT FROM users WHERE user_id = $1 FOR UPDATE").bind(user).execute(&mut holder).await.unwrap();
    assert_a_repeat_does_not_wait(&server, request(tenant, "ann@open.example", OTHER_PASSWORD), holder).await;
    smtp.message().await.expect("the owner is told");
}

/// The same for an address without an account, which another registration has been sent to.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_registration_does_not_wait_while_an_older_one_is_superseded() {
    let (server, mut smtp, mut holder) = patient_server().await;
    let tenant = open(&server, "open").await;
    register(&server, request(tenant, "bob@open.example", ADMIN_PASSWORD)).await;
    let older = next_token(&mut smtp).await;
    sqlx::query("SELECT FROM registrations FOR UPDATE").execute(&mut holder).await.unwrap();
    assert_a_repeat_does_not_wait(&server, request(tenant, "bob@open.example", OTHER_PASSWORD), holder).await;
    assert_ne!(next_token(&mut smtp).await, older);
}

/// Whatever has expired is purged, also the registrations of users who exist.
#[tokio::test]
async fn registrations_and_tokens_that_have_lapsed_are_removed() {
    let (context, mut smtp) = (Context::system(), smtp().await);
    let server = with_mail(Setup::new().await, smtp.port).start_with(context.clone()).await;
    let tenant = open(&server, "open").await;
    let user = server.user(tenant, "ann@open.example", "user").await;
    crate::authenticate::set(&server, user, "status = 'pending_verification', verified_at = NULL").await;
    for email in ["ann@open.example", "bob@open.example"] {
        register(&server, request(tenant, email, OTHER_PASSWORD)).await;
        next_token(&mut smtp).await;
    }
    let left = "SELECT (SELECT count(*) FROM registrations) + (SELECT count(*) FROM one_time_tokens)";
    let left = async || sqlx::query_scalar::<_, i64>(left).fetch_one(server.sql()).await.unwrap();
    assert_eq!(left().await, 3);
    context.clock.advance(Duration::from_secs(365 * 24 * 3600));
    crate::support::until("everything is removed", async || left().await == 0).await;
}
