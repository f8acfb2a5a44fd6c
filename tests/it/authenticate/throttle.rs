//! Guessing at many accounts from few addresses.

use std::time::Duration;

use futures_util::future::join_all;
use sidle::access::{Policy, policies, policy_of};
use sidle::context::Context;
use sidle::proto;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::look::{reason, reasons};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

/// A server that trusts the client addresses which the test sends: a burst of ten attempts, then one a minute.
async fn few_attempts() -> Setup {
    let setup = Setup::new().await.with("SERVER__TRUSTED_PROXIES", "127.0.0.1");
    setup.with("THROTTLE__PER_MINUTE", "1").with("THROTTLE__BURST", "10")
}

/// A call as a proxy passes it on from `address`.
fn from<T>(address: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-forwarded-for", address.parse().unwrap());
    request
}

async fn guess(server: &TestServer, address: &str, identifier: &str, password: &str) -> Result<(), Status> {
    let request = proto::AuthenticatePasswordRequest {
        identifier: identifier.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    server.client("").authenticate.authenticate_password(from(address, request)).await.map(drop)
}

fn is_throttled(answer: &Result<(), Status>) -> bool {
    answer.as_ref().is_err_and(|status| reason(status) == "THROTTLED")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_as_many_attempts_over_all_replicas_as_over_one() {
    let setup = few_attempts().await;
    let context = Context::system();
    let (one, two) = (setup.start_with(context.clone()).await, setup.start_with(context.clone()).await);
    let tenant = one.tenant("a").await;
    let names: Vec<String> = (0..40).map(|n| format!("user{n}@example.com")).collect();
    for name in &names {
        one.user(tenant, name, "user").await;
    }
    let guesses = names.iter().enumerate().map(|(n, name)| {
        let server = if n % 2 == 0 { &one } else { &two };
        guess(server, "203.0.113.7", name, "a guess")
    });
    let answers = join_all(guesses).await;
    let throttled: Vec<&Status> = answers.iter().filter(|a| is_throttled(a)).filter_map(|a| a.as_ref().err()).collect();
    assert_eq!(throttled.len(), 30, "ten of forty were attempts");
    for status in throttled {
        assert_eq!(status.code(), Code::ResourceExhausted);
        let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        // Never longer than it takes to pay everything off, whichever of them came first.
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(10 * 60), "{wait:?}");
    }
    assert_eq!(reasons(&one, "user.login_refused", "refused").await.len(), 10);
    // All others are served, and the address again when it has waited.
    assert!(!is_throttled(&guess(&one, "203.0.113.8", "ann@example.com", "a guess").await));
    context.clock.advance(Duration::from_secs(61));
    assert!(!is_throttled(&guess(&two, "203.0.113.7", "ann@example.com", "a guess").await));
    assert!(is_throttled(&guess(&one, "203.0.113.7", "ann@example.com", "a guess").await));
}

#[tokio::test]
async fn who_owns_a_network_of_ipv6_gains_nothing_by_its_addresses() {
    let server = few_attempts().await.start().await;
    for n in 0..10 {
        let answer = guess(&server, &format!("2001:db8:1:2::{n}"), "nobody@example.com", "a guess").await;
        assert!(!is_throttled(&answer), "{n}");
    }
    assert!(is_throttled(&guess(&server, "2001:db8:1:2:ffff::1", "nobody@example.com", "a guess").await));
    assert!(!is_throttled(&guess(&server, "2001:db8:1:3::1", "nobody@example.com", "a guess").await));
}

/// A throttled call reveals nothing, counts against no user and costs nothing: not even the right password changes
/// that.
#[tokio::test]
async fn what_is_throttled_was_no_attempt() {
    let server = few_attempts().await.start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    for _ in 0..10 {
        guess(&server, "203.0.113.7", "nobody@example.com", "a guess").await.unwrap_err();
    }
    let units = server.app().metrics.hash_units.get();
    for (identifier, password) in
        [("ann@example.com", ADMIN_PASSWORD), ("ann@example.com", "a guess"), ("nobody@example.com", "a guess")]
    {
        let refused = guess(&server, "203.0.113.7", identifier, password).await.unwrap_err();
        assert_eq!(
            (reason(&refused).as_str(), refused.message()),
            ("THROTTLED", "Too many attempts from this address.")
        );
    }
    assert_eq!(server.app().metrics.hash_units.get(), units);
    let failures: i32 = sqlx::query_scalar("SELECT failed_login_attempts FROM users WHERE user_id = $1")
        .bind(user)
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert_eq!(failures, 0);
}

/// A header of the client's own is ignored unless a configured proxy sends it.
#[tokio::test]
async fn an_address_cannot_be_made_up() {
    let server = Setup::new().await.with("THROTTLE__PER_MINUTE", "1").with("THROTTLE__BURST", "3").start().await;
    for n in 0..3 {
        guess(&server, &format!("203.0.113.{n}"), "nobody@example.com", "a guess").await.unwrap_err();
    }
    assert!(is_throttled(&guess(&server, "203.0.113.99", "nobody@example.com", "a guess").await));
}

#[tokio::test]
async fn what_is_paid_off_is_removed() {
    let server = few_attempts().await.start().await;
    guess(&server, "203.0.113.7", "nobody@example.com", "a guess").await.unwrap_err();
    let counted = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM address_attempts").fetch_one(server.sql()).await.unwrap()
    };
    let purge_expired = async |after: u64| {
        server.context.clock.advance(Duration::from_secs(after));
        super::tidy(&server).await;
    };
    purge_expired(1).await;
    assert_eq!(counted().await, 1);
    purge_expired(60).await;
    assert_eq!(counted().await, 0);
}

/// Public calls that are not counted: the keys are public, and a refresh token has 256 random bits.
const NOT_COUNTED: [&str; 2] = ["/sidle.v1.AuthenticateService/GetJwks", "/sidle.v1.AuthenticateService/RefreshToken"];

/// Makes the public call at `path`: complete, with secrets that look valid and were never issued.
async fn knock(server: &TestServer, path: &str, address: &str) -> Result<(), Status> {
    let mut ways = server.client("").authenticate;
    let secret = |prefix: &str| format!("{prefix}{}", "A".repeat(43));
    let password = || "seven otters juggle walnuts".to_owned();
    match path.rsplit('/').next().unwrap() {
        "AuthenticatePassword" => guess(server, address, "nobody@example.com", "a guess").await,
        "AuthenticateServiceAccount" => {
            let request =
                proto::AuthenticateServiceAccountRequest { api_key: secret("sidle_ak_"), ..Default::default() };
            ways.authenticate_service_account(from(address, request)).await.map(drop)
        }
        "CompleteKanidmLogin" => {
            let request = proto::CompleteKanidmLoginRequest {
                state: secret(""),
                code: secret(""),
                login_secret: secret("sidle_ls_"),
            };
            ways.complete_kanidm_login(from(address, request)).await.map(drop)
        }
        "CompleteMfa" => {
            let factor = Some(proto::complete_mfa_request::Factor::TotpCode("123456".to_owned()));
            let request = proto::CompleteMfaRequest { challenge_token: secret("sidle_mc_"), factor };
            ways.complete_mfa(from(address, request)).await.map(drop)
        }
        "GetJwks" => ways.get_jwks(from(address, proto::GetJwksRequest {})).await.map(drop),
        "RedeemInvitation" => {
            let request = proto::RedeemInvitationRequest {
                invitation_token: secret("sidle_iv_"),
                password: password(),
                ..Default::default()
            };
            ways.redeem_invitation(from(address, request)).await.map(drop)
        }
        "RefreshToken" => {
            let request = proto::RefreshTokenRequest { refresh_token: secret("sidle_rt_"), ..Default::default() };
            ways.refresh_token(from(address, request)).await.map(drop)
        }
        "Register" => {
            let request = proto::RegisterRequest {
                request_id: Uuid::new_v4().to_string(),
                tenant_id: Uuid::new_v4().to_string(),
                email: "nobody@example.com".to_owned(),
                password: password(),
                ..Default::default()
            };
            ways.register(from(address, request)).await.map(drop)
        }
        "RequestPasswordReset" => {
            let request = proto::RequestPasswordResetRequest { identifier: "nobody@example.com".to_owned() };
            ways.request_password_reset(from(address, request)).await.map(drop)
        }
        "ResetPassword" => {
            let request = proto::ResetPasswordRequest {
                reset_token: secret("sidle_pr_"),
                new_password: password(),
                ..Default::default()
            };
            ways.reset_password(from(address, request)).await.map(drop)
        }
        "StartKanidmLogin" => {
            let redirect_uri = "https://app.example/callback".to_owned();
            let request = proto::StartKanidmLoginRequest { redirect_uri, ..Default::default() };
            ways.start_kanidm_login(from(address, request)).await.map(drop)
        }
        "VerifyEmail" => {
            let request = proto::VerifyEmailRequest { verification_token: secret("sidle_ev_"), ..Default::default() };
            ways.verify_email(from(address, request)).await.map(drop)
        }
        other => panic!("anybody may call {other}: knock at it here, and count it or say why not"),
    }
}

#[tokio::test]
async fn an_address_gets_no_further_at_any_public_way_in_by_going_to_another_replica() {
    let setup = Setup::new().await.with("SERVER__TRUSTED_PROXIES", "127.0.0.1");
    let setup = setup.with("THROTTLE__PER_MINUTE", "1").with("THROTTLE__BURST", "1");
    let setup = setup.with("THROTTLE__MAIL_PER_MINUTE", "1").with("THROTTLE__MAIL_BURST", "1");
    let (one, two) = (setup.start().await, setup.start().await);
    let public = policies().iter().filter(|(_, policy)| *policy == Policy::Public).map(|(path, _)| *path);
    for (n, path) in public.filter(|path| !NOT_COUNTED.contains(path)).enumerate() {
        // An address for each, since some authentication methods are counted together.
        let address = format!("203.0.113.{n}");
        let first = knock(&one, path, &address).await.expect_err(path);
        assert!(!["THROTTLED", "INVALID_FIELD"].contains(&reason(&first).as_str()), "{path}: {first:?}");
        let second = knock(&two, path, &address).await.expect_err(path);
        assert_eq!((second.code(), reason(&second).as_str()), (Code::ResourceExhausted, "THROTTLED"), "{path}");
        let wait = second.get_details_retry_info().and_then(|info| info.retry_delay);
        assert!(wait.is_some_and(|wait| wait > Duration::ZERO), "{path}: {wait:?}");
    }
    for path in NOT_COUNTED {
        assert_eq!(policy_of(path), Some(Policy::Public), "{path}");
        for server in [&one, &two, &one] {
            assert!(!is_throttled(&knock(server, path, "203.0.113.200").await), "{path}");
        }
    }
}
