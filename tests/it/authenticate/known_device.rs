//! Guesses that are meant to lock the victim out: an account that others lock still opens from its own device, and
//! guesses get no more attempts by that.

use std::time::Duration;

use sidle::proto;
use tonic::{Request, Status};
use uuid::Uuid;

use super::factors::{Authenticator, DISABLE, tick};
use super::{ask, set};
use crate::look::{event, reason, reasons};
use crate::support::server::with_proof;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

const ANN: &str = "ann@example.com";

async fn from(server: &TestServer, device: &str, password: &str) -> Result<proto::SignedIn, Status> {
    let request = proto::AuthenticatePasswordRequest {
        identifier: ANN.to_owned(),
        password: password.to_owned(),
        known_device_token: device.to_owned(),
        ..Default::default()
    };
    ask(server, request).await
}

/// Ann, and a known device of hers.
async fn ann(server: &TestServer) -> (Uuid, String) {
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, ANN, "user").await;
    let device = from(server, "", ADMIN_PASSWORD).await.unwrap().known_device_token;
    assert!(device.starts_with("sidle_kd_"));
    (user, device)
}

async fn guess(server: &TestServer, device: &str, times: usize) {
    for _ in 0..times {
        assert_eq!(reason(&from(server, device, "a guess").await.unwrap_err()), "INVALID_CREDENTIALS");
    }
}

async fn refused(server: &TestServer, device: &str, why: &str) {
    let answer = from(server, device, ADMIN_PASSWORD).await;
    assert_eq!(reason(&answer.err().unwrap_or_else(|| panic!("let in: {why}"))), "INVALID_CREDENTIALS", "{why}");
}

#[tokio::test]
async fn an_account_under_attack_still_opens_from_its_known_device() {
    let server = TestServer::start().await;
    let (_, device) = ann(&server).await;
    guess(&server, "", 7).await;
    refused(&server, "", "from anywhere else it is locked").await;
    let signed_in = from(&server, &device, ADMIN_PASSWORD).await.unwrap();
    assert_eq!(signed_in.known_device_token, "", "the secret it has stays good");
    assert!(event(&server, "user.authenticated").await.details.contains_key("known_device"));
    refused(&server, "", "its success opens the account to nobody else").await;
    from(&server, &device, ADMIN_PASSWORD).await.unwrap();
}

/// An expired device counts as unknown: its owner's right logins clear what they reserved.
#[tokio::test]
async fn a_lapsed_device_does_not_lock_its_owner_out() {
    let server = TestServer::start().await;
    let (user, device) = ann(&server).await;
    let lapse = "UPDATE known_devices SET expires_at = created_at";
    sqlx::query(lapse).execute(server.sql()).await.unwrap();
    for n in 0..8 {
        let signed_in = from(&server, &device, ADMIN_PASSWORD).await.unwrap_or_else(|status| panic!("{n}: {status:?}"));
        assert!(signed_in.known_device_token.starts_with("sidle_kd_"), "{n}: a new secret in the place of the old one");
        assert_eq!(super::factors::counted(&server, user).await, (0, false), "{n}");
    }
    // With a second factor after it the attempt is given back on another path.
    let client = server.client(&server.sign_in(ANN).await.access_token);
    let (application, _) = super::factors::enrol(&server, &client).await;
    for n in 0..8 {
        sqlx::query(lapse).execute(server.sql()).await.unwrap();
        let request = proto::AuthenticatePasswordRequest {
            identifier: ANN.to_owned(),
            password: ADMIN_PASSWORD.to_owned(),
            known_device_token: device.clone(),
            ..Default::default()
        };
        let answer = server.client("").authenticate.authenticate_password(request).await.unwrap().into_inner().outcome;
        let Some(proto::authenticate_password_response::Outcome::MfaChallenge(asked)) = answer else {
            panic!("{n}: {answer:?}")
        };
        assert_eq!(super::factors::counted(&server, user).await, (0, false), "{n}: given back");
        tick(&server);
        let code = application.code(server.context.now(), 0);
        super::factors::answer_code(&server, &asked, code).await.unwrap_or_else(|status| panic!("{n}: {status:?}"));
    }
}

/// A request from the device: `sidle-known-device` is for calls of signed-in users.
fn here<T>(device: &str, request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.metadata_mut().insert("sidle-known-device", device.parse().unwrap());
    request
}

/// A signed-in user who wants to act against an attack can: guesses by others do not prevent that either.
#[tokio::test]
async fn an_account_under_attack_still_proves_who_it_is_from_its_known_device() {
    let server = TestServer::start().await;
    let (user, device) = ann(&server).await;
    let client = server.client(&server.sign_in(ANN).await.access_token);
    guess(&server, "", 7).await;
    let step_up = |password: &str| proto::StepUpRequest {
        method: "sidle.v1.AuthenticateService/EnrollTotp".to_owned(),
        proof: Some(proto::step_up_request::Proof::Password(password.to_owned())),
        ..Default::default()
    };
    let ask = async |request| client.authenticate.clone().step_up(request).await.map(|answer| answer.into_inner());
    assert_eq!(reason(&ask(Request::new(step_up(ADMIN_PASSWORD))).await.unwrap_err()), "INVALID_CREDENTIALS", "locked");
    assert_eq!(reason(&ask(here("sidle_kd_x", step_up(ADMIN_PASSWORD))).await.unwrap_err()), "INVALID_CREDENTIALS");
    ask(here(&device, step_up(ADMIN_PASSWORD))).await.expect("the device's own count");

    // A code as well.
    let (application, _) = {
        let token = ask(here(&device, step_up(ADMIN_PASSWORD))).await.unwrap().step_up_token;
        let request = with_proof(proto::EnrollTotpRequest {}, &token);
        let shown = client.authenticate.clone().enroll_totp(request).await.unwrap().into_inner();
        let application = Authenticator::new(&shown.secret);
        let code = application.code(server.context.now(), 0);
        let confirm = here(&device, proto::ConfirmTotpRequest { totp_code: code });
        let codes = client.authenticate.clone().confirm_totp(confirm).await.expect("confirmed").into_inner();
        (application, codes.recovery_codes)
    };
    tick(&server);
    let code = |code| proto::StepUpRequest {
        method: DISABLE.to_owned(),
        proof: Some(proto::step_up_request::Proof::TotpCode(code)),
        ..Default::default()
    };
    let right = application.code(server.context.now(), 0);
    assert_eq!(reason(&ask(Request::new(code(right.clone()))).await.unwrap_err()), "INVALID_CREDENTIALS", "locked");
    ask(here(&device, code(right))).await.expect("the device's own count");

    // The device gets no more guesses than any other, and they are its own.
    for n in 0..5 {
        let guess = ask(here(&device, code(application.wrong(server.context.now())))).await.unwrap_err();
        assert_eq!(reason(&guess), "INVALID_CREDENTIALS", "{n}");
    }
    tick(&server);
    let right = application.code(server.context.now(), 0);
    assert_eq!(reason(&ask(here(&device, code(right))).await.unwrap_err()), "INVALID_CREDENTIALS", "locked, too");
    assert_eq!(event(&server, "user.device_locked").await.target_id, Some(user.to_string()));
}

#[tokio::test]
async fn an_account_under_attack_still_changes_its_password_from_its_known_device() {
    let server = TestServer::start().await;
    let (_, device) = ann(&server).await;
    let client = server.client(&server.sign_in(ANN).await.access_token);
    guess(&server, "", 7).await;
    let change = proto::ChangePasswordRequest {
        current_password: ADMIN_PASSWORD.to_owned(),
        new_password: "seven otters juggle walnuts".to_owned(),
    };
    let change_password = async |request| client.authenticate.clone().change_password(request).await;
    assert_eq!(reason(&change_password(Request::new(change.clone())).await.unwrap_err()), "INVALID_CREDENTIALS");
    change_password(here(&device, change)).await.expect("changed");
}

#[tokio::test]
async fn a_known_device_gets_no_more_guesses_than_anybody() {
    let server = TestServer::start().await;
    let (user, device) = ann(&server).await;
    guess(&server, &device, 4).await;
    from(&server, &device, ADMIN_PASSWORD).await.unwrap();
    guess(&server, &device, 5).await;
    refused(&server, &device, "its own failures lock it").await;
    let locked = event(&server, "user.device_locked").await;
    assert_eq!(locked.target_id, Some(user.to_string()));
    // The account was not even locked: elsewhere there is a count of its own.
    from(&server, "", ADMIN_PASSWORD).await.unwrap();
    server.context.clock.advance(Duration::from_secs(15 * 60 + 1));
    from(&server, &device, ADMIN_PASSWORD).await.unwrap();
}

/// A device that is known for another user, or a made-up secret, counts as none.
#[tokio::test]
async fn only_the_users_own_secret_makes_a_device_known() {
    let server = TestServer::start().await;
    let (_, device) = ann(&server).await;
    let tenant = server.tenant("b").await;
    server.user(tenant, "eve@example.com", "user").await;
    let eve = proto::AuthenticatePasswordRequest {
        identifier: "eve@example.com".to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        known_device_token: device.clone(),
        ..Default::default()
    };
    let eves = ask(&server, eve).await.unwrap().known_device_token;
    assert_ne!((eves.as_str(), eves.as_str()), ("", device.as_str()), "eve's device is new");
    let made_up = sidle::token::opaque::mint("sidle_kd_", &server.context.entropy).to_string();
    guess(&server, &eves, 2).await;
    guess(&server, &made_up, 2).await;
    guess(&server, "nonsense", 1).await;
    for secret in ["", &eves, &made_up, "nonsense"] {
        refused(&server, secret, "all five were counted for the account").await;
    }
    from(&server, &device, ADMIN_PASSWORD).await.unwrap();
}

#[tokio::test]
async fn a_known_device_opens_nothing_that_an_administrator_has_shut() {
    let server = TestServer::start().await;
    let (user, device) = ann(&server).await;
    let lock = "locked_until = now() + interval '1 hour', lock_reason = 'administrator'";
    set(&server, user, lock).await;
    refused(&server, &device, "locked by an administrator").await;
    set(&server, user, "locked_until = NULL, lock_reason = NULL, auth_method = 'kanidm', kanidm_user_id = user_id")
        .await;
    refused(&server, &device, "signs in through Kanidm").await;
    set(&server, user, "auth_method = 'password', status = 'pending_verification'").await;
    refused(&server, &device, "never verified").await;
    // Before anything is compared: not one guess at the password is possible.
    let written = reasons(&server, "user.login_refused", "refused").await;
    assert_eq!(written, ["locked", "kanidm_only", "unverified"]);
}

#[tokio::test]
async fn a_device_is_forgotten_with_the_password_or_the_access() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, ANN, "user").await;
    let known = async || -> i64 {
        let count = "SELECT count(*) FROM known_devices WHERE user_id = $1";
        sqlx::query_scalar(count).bind(user).fetch_one(server.sql()).await.unwrap()
    };
    for (change, back) in [
        ("password_changed_at = now()", "password_changed_at = NULL"),
        ("status = 'disabled'", "status = 'active'"),
        ("auth_method = 'password'", ""),
        ("deleted_at = now()", "deleted_at = NULL"),
    ] {
        set(&server, user, "auth_method = 'dual', kanidm_user_id = gen_random_uuid()").await;
        from(&server, "", ADMIN_PASSWORD).await.unwrap();
        assert_eq!(known().await, 1, "known before: {change}");
        set(&server, user, change).await;
        assert_eq!(known().await, 0, "{change}");
        if !back.is_empty() {
            set(&server, user, back).await;
        }
    }
    // Other changes than of the password leave them alone.
    from(&server, "", ADMIN_PASSWORD).await.unwrap();
    set(&server, user, "password_hash = password_hash, full_name = 'Ann', auth_method = 'dual'").await;
    assert_eq!(known().await, 1);
}

#[tokio::test]
async fn a_device_that_did_not_come_back_for_long_is_forgotten() {
    let server = Setup::new().await.with("PASSWORDS__KNOWN_DEVICE_LIFETIME", "10d").start().await;
    let (_, device) = ann(&server).await;
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    server.context.clock.advance(days(9));
    assert_eq!(from(&server, &device, ADMIN_PASSWORD).await.unwrap().known_device_token, "");
    server.context.clock.advance(days(9));
    assert_eq!(from(&server, &device, ADMIN_PASSWORD).await.unwrap().known_device_token, "", "each login prolongs it");
    server.context.clock.advance(days(11));
    let renewed = from(&server, &device, ADMIN_PASSWORD).await.unwrap().known_device_token;
    assert!(renewed.starts_with("sidle_kd_") && renewed != device, "a stranger now");
}

#[tokio::test]
async fn those_that_come_back_are_kept_before_those_that_never_did() {
    let server = Setup::new().await.with("PASSWORDS__KNOWN_DEVICES", "3").start().await;
    let (user, device) = ann(&server).await;
    from(&server, &device, ADMIN_PASSWORD).await.unwrap();
    for _ in 0..6 {
        // A client that keeps nothing.
        assert_ne!(from(&server, "", ADMIN_PASSWORD).await.unwrap().known_device_token, "");
    }
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM known_devices WHERE user_id = $1")
        .bind(user)
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert_eq!(count, 3);
    guess(&server, "", 5).await;
    from(&server, &device, ADMIN_PASSWORD).await.unwrap();
}

#[tokio::test]
async fn unlocking_opens_the_account_and_its_devices_at_once() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    let (user, device) = ann(&server).await;
    guess(&server, "", 5).await;
    guess(&server, &device, 5).await;
    refused(&server, "", "locked").await;
    refused(&server, &device, "locked").await;
    admin.directory.unlock_user(proto::UnlockUserRequest { user_id: user.to_string() }).await.unwrap();
    from(&server, &device, ADMIN_PASSWORD).await.unwrap();
    from(&server, "", ADMIN_PASSWORD).await.unwrap();
}
