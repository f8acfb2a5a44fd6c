//! Second factors at login: enrolling one, completing a login with it, and all that an attacker who has the password
//! but not the factor would try.

use std::time::Duration;

use sidle::context::Context;
use sidle::proto::complete_mfa_request::Factor;
use sidle::proto::step_up_request::Proof;
use sidle::proto::*;
use tonic::Code;

use super::factors::*;
use super::{attempt, set, tidy};
use crate::look::{event, reason, reasons};
use crate::support::server::with_proof;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, cheap_hash};

fn metadata(status: &tonic::Status, key: &str) -> String {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().and_then(|info| info.metadata.get(key).cloned()).unwrap_or_default()
}

#[tokio::test]
async fn with_a_second_factor_the_right_password_begins_no_session() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let before = sessions(&server, ann.user).await;
    let asked = challenge(&server, ann.email).await.unwrap();
    assert_eq!(asked.factors, [SecondFactor::Totp as i32, SecondFactor::RecoveryCode as i32]);
    assert!(asked.challenge_token.starts_with("sidle_mc_"));
    assert_eq!(sessions(&server, ann.user).await, before);

    let signed_in = answer_code(&server, &asked, ann.code(&server)).await.unwrap();
    assert_eq!(signed_in.tenant_id, tenant.to_string());
    assert_eq!(sessions(&server, ann.user).await, before + 1);
    let client = server.client(&signed_in.tokens.unwrap().access_token);
    let me = client.authenticate.clone().who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(me.second_factors, [SecondFactor::Totp as i32, SecondFactor::RecoveryCode as i32]);
    assert_eq!((me.claims.unwrap().subject, me.recovery_codes_left), (ann.user.to_string(), 10));
    let recorded: serde_json::Value = sqlx::query_scalar(
        "SELECT details FROM (SELECT event_id, event_type, details FROM audit_inbox
             UNION ALL SELECT event_id, event_type, details FROM audit_events) e
         WHERE event_type = 'user.authenticated' ORDER BY event_id DESC LIMIT 1",
    )
    .fetch_one(server.sql())
    .await
    .unwrap();
    assert_eq!((&recorded["method"], &recorded["factor"]), (&"password".into(), &"totp".into()));
}

/// The login keeps what it asked for from the password until the second factor.
#[tokio::test]
async fn what_a_login_asked_for_survives_the_second_factor() {
    let server = TestServer::start().await;
    let (home, other) = (server.tenant("home").await, server.tenant("other").await);
    let ann = guarded(&server, home, "ann@example.com").await;
    sqlx::query(
        "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
         SELECT gen_random_uuid(), $1, $2, role_id, 'local' FROM roles WHERE name = 'admin' AND tenant_id IS NULL",
    )
    .bind(other)
    .bind(ann.user)
    .execute(server.sql())
    .await
    .unwrap();
    let request = AuthenticatePasswordRequest {
        identifier: ann.email.to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        tenant_id: other.to_string(),
        device: Some(Device { device_id: "laptop-7".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let outcome = server.client("").authenticate.authenticate_password(request).await.unwrap().into_inner().outcome;
    let Some(authenticate_password_response::Outcome::MfaChallenge(asked)) = outcome else { panic!("{outcome:?}") };
    let signed_in = answer_code(&server, &asked, ann.code(&server)).await.unwrap();
    assert_eq!(signed_in.tenant_id, other.to_string());
    let device: Option<String> = sqlx::query_scalar("SELECT device_id FROM sessions WHERE session_id = $1::uuid")
        .bind(&signed_in.session_id)
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert_eq!(device.as_deref(), Some("laptop-7"));
}

/// CVE-2025-64102, and S15: an attacker who has the password and guesses at the code has as many attempts as any other,
/// however often the right password is proved in between.
#[tokio::test]
async fn a_right_password_between_wrong_codes_does_not_hold_the_lock_off() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    for count in 1..=5 {
        let asked = challenge(&server, ann.email).await.unwrap();
        let refused = answer_code(&server, &asked, ann.wrong(&server)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "INVALID_CREDENTIALS"));
        assert_eq!(counted(&server, ann.user).await, (count, count == 5));
    }
    assert_eq!(reason(&challenge(&server, ann.email).await.unwrap_err()), "INVALID_CREDENTIALS", "locked");
    assert_eq!(reasons(&server, "user.login_refused", "refused").await[..5], ["wrong_code"; 5]);
    assert_eq!(reasons(&server, "user.locked", "success").await, ["too_many_failures"]);
}

/// One challenge is enough to guess with; and under the lock the right code is refused like any other.
#[tokio::test]
async fn guesses_at_one_challenge_lock_on_every_replica_and_for_every_factor() {
    let context = Context::system();
    let setup = Setup::new().await;
    let (one, two) = (setup.start_with(context.clone()).await, setup.start_with(context).await);
    let tenant = one.tenant("a").await;
    let ann = guarded(&one, tenant, "ann@example.com").await;
    let asked = challenge(&one, ann.email).await.unwrap();
    attempt(&one, ann.email, "not the password").await.unwrap_err();
    answer_code(&one, &asked, ann.wrong(&one)).await.unwrap_err();
    answer_code(&two, &asked, ann.wrong(&two)).await.unwrap_err();
    answer(&two, &asked, Factor::RecoveryCode("0000-0000-0000-0000".to_owned())).await.unwrap_err();
    assert_eq!(counted(&one, ann.user).await, (4, false));
    answer(&one, &asked, Factor::RecoveryCode("not even a code".to_owned())).await.unwrap_err();
    assert_eq!(counted(&one, ann.user).await, (5, true));
    for server in [&one, &two] {
        let refused = answer_code(server, &asked, ann.code(server)).await.unwrap_err();
        assert_eq!(refused.message(), "The credentials are not accepted.");
        let refused = answer(server, &asked, Factor::RecoveryCode(ann.codes[0].clone())).await.unwrap_err();
        assert_eq!(refused.message(), "The credentials are not accepted.");
    }
    // The lock blocks guesses, not the active session.
    ann.client.authenticate.clone().who_am_i(WhoAmIRequest {}).await.unwrap();
}

/// Concurrent attempts are counted one by one, before anything is compared.
#[tokio::test]
async fn many_guesses_at_once_are_no_more_than_five() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let asked = challenge(&server, ann.email).await.unwrap();
    let guesses = (0..20).map(|_| answer_code(&server, &asked, ann.wrong(&server)));
    let refused = futures_util::future::join_all(guesses).await;
    assert!(refused.iter().all(|answer| answer.as_ref().is_err_and(|status| reason(status) == "INVALID_CREDENTIALS")));
    assert_eq!(counted(&server, ann.user).await, (5, true));
    let compared = reasons(&server, "user.login_refused", "refused").await;
    assert_eq!(compared.iter().filter(|reason| *reason == "wrong_code").count(), 5);
}

#[tokio::test]
async fn a_code_that_was_accepted_is_refused_wherever_it_is_shown_again() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let (first, second) = (challenge(&server, ann.email).await.unwrap(), challenge(&server, ann.email).await.unwrap());
    let (earlier, code) = (ann.application.code(server.context.now(), -1), ann.code(&server));
    answer_code(&server, &first, code.clone()).await.unwrap();
    // An attacker who knows the password.
    for seen in [&code, &earlier] {
        let refused = answer_code(&server, &second, seen.clone()).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_CREDENTIALS");
        let refused = ann.prove(DISABLE, Proof::TotpCode(seen.clone())).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_CREDENTIALS");
    }
    assert_eq!(reasons(&server, "user.login_refused", "refused").await, ["replayed"; 2]);
    tick(&server);
    answer_code(&server, &second, ann.code(&server)).await.expect("the next code");
}

#[tokio::test]
async fn one_code_shown_to_two_replicas_at_once_lets_one_in() {
    let context = Context::system();
    let setup = Setup::new().await;
    let (one, two) = (setup.start_with(context.clone()).await, setup.start_with(context).await);
    let tenant = one.tenant("a").await;
    let ann = guarded(&one, tenant, "ann@example.com").await;
    for _ in 0..5 {
        let (first, second) = (challenge(&one, ann.email).await.unwrap(), challenge(&two, ann.email).await.unwrap());
        let code = ann.code(&one);
        let answers = tokio::join!(answer_code(&one, &first, code.clone()), answer_code(&two, &second, code.clone()));
        assert_eq!(u8::from(answers.0.is_ok()) + u8::from(answers.1.is_ok()), 1, "{answers:?}");
        tick(&one);
    }
}

#[tokio::test]
async fn one_challenge_answered_twice_at_once_begins_one_session() {
    let context = Context::system();
    let setup = Setup::new().await;
    let (one, two) = (setup.start_with(context.clone()).await, setup.start_with(context).await);
    let tenant = one.tenant("a").await;
    let ann = guarded(&one, tenant, "ann@example.com").await;
    for round in 0..3 {
        let before = sessions(&one, ann.user).await;
        let asked = challenge(&one, ann.email).await.unwrap();
        // Each answer is right by itself.
        let (code, recovery) = (ann.code(&one), Factor::RecoveryCode(ann.codes[round].clone()));
        let answers = tokio::join!(answer_code(&one, &asked, code), answer(&two, &asked, recovery));
        assert_eq!(u8::from(answers.0.is_ok()) + u8::from(answers.1.is_ok()), 1, "{answers:?}");
        assert_eq!(sessions(&one, ann.user).await, before + 1);
        let again = answer_code(&one, &asked, ann.application.code(one.context.now(), 1)).await.unwrap_err();
        assert_eq!(reason(&again), "INVALID_CREDENTIALS");
        tick(&one);
        tick(&one);
        set(&one, ann.user, "failed_login_attempts = 0").await;
    }
}

#[tokio::test]
async fn a_recovery_code_works_once_however_it_is_typed() {
    // A mail server that is down: its messages can be read in the outbox.
    let setup = Setup::new().await.with("MAIL__HOST", "localhost").with("MAIL__PORT", "1").with("MAIL__TLS", "none");
    let setup = setup.with("MAIL__FROM", "sidle@example.com").with("MAIL__ORIGIN", "https://accounts.example.com");
    let server = setup.start().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let asked = challenge(&server, ann.email).await.unwrap();
    let typed = ann.codes[3].to_uppercase().replace('-', " ").replace('0', "O");
    answer(&server, &asked, Factor::RecoveryCode(typed)).await.expect("read as people type");
    let used = event(&server, "user.recovery_code_used").await;
    assert_eq!((used.actor_id, &used.details["left"]), (Some(ann.user), &9.into()));
    let mails: Vec<String> = sqlx::query_scalar("SELECT kind FROM mail_outbox WHERE user_id = $1 ORDER BY mail_id")
        .bind(ann.user)
        .fetch_all(server.sql())
        .await
        .unwrap();
    assert_eq!(mails, ["totp_enabled", "recovery_code_used"]);

    let asked = challenge(&server, ann.email).await.unwrap();
    let again = answer(&server, &asked, Factor::RecoveryCode(ann.codes[3].clone())).await.unwrap_err();
    assert_eq!(reason(&again), "INVALID_CREDENTIALS");
    let again = ann.prove(DISABLE, Proof::RecoveryCode(ann.codes[3].clone())).await.unwrap_err();
    assert_eq!(reason(&again), "INVALID_CREDENTIALS");
}

#[tokio::test]
async fn one_recovery_code_shown_to_two_replicas_at_once_lets_one_in() {
    let context = Context::system();
    let setup = Setup::new().await;
    let (one, two) = (setup.start_with(context.clone()).await, setup.start_with(context).await);
    let tenant = one.tenant("a").await;
    let ann = guarded(&one, tenant, "ann@example.com").await;
    for code in &ann.codes[..3] {
        let (first, second) = (challenge(&one, ann.email).await.unwrap(), challenge(&two, ann.email).await.unwrap());
        let factor = || Factor::RecoveryCode(code.clone());
        let answers = tokio::join!(answer(&one, &first, factor()), answer(&two, &second, factor()));
        assert_eq!(u8::from(answers.0.is_ok()) + u8::from(answers.1.is_ok()), 1, "{answers:?}");
    }
}

/// An attacker who can read the database finds nothing to sign in with.
#[tokio::test]
async fn neither_secret_nor_recovery_codes_lie_in_the_database() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let (ann, bob) =
        (guarded(&server, tenant, "ann@example.com").await, guarded(&server, tenant, "bob@example.com").await);
    let hashes: Vec<Vec<u8>> = sqlx::query_scalar("SELECT code_hash FROM recovery_codes WHERE user_id = $1")
        .bind(ann.user)
        .fetch_all(server.sql())
        .await
        .unwrap();
    assert_eq!(hashes.len(), 10);
    for code in &ann.codes {
        let plain = code.replace('-', "");
        assert!(
            !hashes.contains(&sidle::token::opaque::digest(&plain).to_vec()),
            "a digest without a key can be tried out"
        );
        assert!(!hashes.contains(&sidle::token::opaque::digest(code).to_vec()));
    }
    // An attacker who can write to it cannot replace another's secret by their own.
    sqlx::query("UPDATE user_totp a SET secret = b.secret FROM user_totp b WHERE a.user_id = $1 AND b.user_id = $2")
        .bind(ann.user)
        .bind(bob.user)
        .execute(server.sql())
        .await
        .unwrap();
    let asked = challenge(&server, ann.email).await.unwrap();
    answer_code(&server, &asked, bob.code(&server)).await.expect_err("a value that was moved does not open");
}

#[tokio::test]
async fn a_challenge_dies_with_what_it_was_given_for() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let changes = [
        ("a@example.com", "password"),
        ("b@example.com", "status = 'disabled'"),
        ("c@example.com", "auth_method = 'kanidm', kanidm_user_id = gen_random_uuid()"),
        ("d@example.com", "deleted_at = now()"),
        ("e@example.com", "locked_until = now() + interval '1 hour', lock_reason = 'administrator'"),
    ];
    for (email, change) in changes {
        let person = guarded(&server, tenant, email).await;
        let asked = challenge(&server, email).await.unwrap();
        if change == "password" {
            super::set_hash(&server, person.user, &cheap_hash("another password entirely"), 4).await;
        } else {
            set(&server, person.user, change).await;
        }
        let refused = answer_code(&server, &asked, person.code(&server)).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_CREDENTIALS", "{change}");
        assert_eq!(refused.message(), "The credentials are not accepted.");
    }
    assert_eq!(
        reasons(&server, "user.login_refused", "refused").await,
        ["changed_meanwhile", "challenge_lapsed", "challenge_lapsed", "challenge_lapsed", "challenge_lapsed"]
    );
}

#[tokio::test]
async fn a_challenge_lapses_after_five_minutes() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let asked = challenge(&server, ann.email).await.unwrap();
    server.context.clock.advance(Duration::from_secs(301));
    let refused = answer_code(&server, &asked, ann.code(&server)).await.unwrap_err();
    assert_eq!(
        (reason(&refused).as_str(), refused.message()),
        ("INVALID_CREDENTIALS", "The credentials are not accepted.")
    );
    assert_eq!(counted(&server, ann.user).await, (0, false), "nothing was compared");
    // A token that was never issued looks the same.
    let forged = MfaChallenge { challenge_token: format!("sidle_mc_{}", "A".repeat(43)), ..asked };
    let refused = answer_code(&server, &forged, ann.code(&server)).await.unwrap_err();
    assert_eq!(
        (reason(&refused).as_str(), refused.message()),
        ("INVALID_CREDENTIALS", "The credentials are not accepted.")
    );
}

/// A stolen session must not give the thief a factor of their own, nor remove the existing one.
#[tokio::test]
async fn a_stolen_session_neither_enrols_nor_disables() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "bob@example.com", "user").await;
    let stolen = server.client(&server.sign_in("bob@example.com").await.access_token);
    let refused = stolen.authenticate.clone().enroll_totp(EnrollTotpRequest {}).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "STEP_UP_REQUIRED"));
    assert_eq!((metadata(&refused, "method").as_str(), metadata(&refused, "ways").as_str()), (ENROLL, "password"));
    let guess = Proof::Password("a guess".to_owned());
    assert_eq!(reason(&prove(&stolen, ENROLL, "", guess).await.unwrap_err()), "INVALID_CREDENTIALS");
    assert_eq!(counted(&server, user).await, (1, false));

    let ann = guarded(&server, tenant, "ann@example.com").await;
    let refused = ann.client.authenticate.clone().disable_totp(DisableTotpRequest {}).await.unwrap_err();
    assert_eq!(
        (reason(&refused).as_str(), metadata(&refused, "ways").as_str()),
        ("STEP_UP_REQUIRED", "totp,recovery_code")
    );
    // Also an attacker who knows the password: otherwise the second factor would protect nothing.
    let refused = ann.prove(DISABLE, Proof::Password(ADMIN_PASSWORD.to_owned())).await.unwrap_err();
    assert_eq!(
        (reason(&refused).as_str(), metadata(&refused, "ways").as_str()),
        ("STEP_UP_REQUIRED", "totp,recovery_code")
    );
    assert_eq!(counted(&server, ann.user).await, (0, false), "the password was not even compared");
}

#[tokio::test]
async fn an_enrolment_counts_for_nothing_until_its_first_code_and_then_lapses() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    let client = server.client(&server.sign_in("ann@example.com").await.access_token);
    let nothing = ConfirmTotpRequest { totp_code: "123456".to_owned() };
    let refused = client.authenticate.clone().confirm_totp(nothing).await.unwrap_err();
    assert_eq!(
        (reason(&refused).as_str(), metadata(&refused, "state").as_str()),
        ("INVALID_FACTOR_STATE", "not_enrolling")
    );

    let request = client.proven(ENROLL, "", EnrollTotpRequest {}).await;
    let first = client.authenticate.clone().enroll_totp(request).await.unwrap().into_inner();
    assert!(first.otpauth_uri.starts_with("otpauth://totp/Sidle:ann@example.com?secret="), "{}", first.otpauth_uri);
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.expect("no second factor yet");
    let request = client.proven(ENROLL, "", EnrollTotpRequest {}).await;
    let second = client.authenticate.clone().enroll_totp(request).await.unwrap().into_inner();
    let now = server.context.now();
    let confirm = async |secret: &str| {
        let totp_code = Authenticator::new(secret).code(server.context.now(), 0);
        client.authenticate.clone().confirm_totp(ConfirmTotpRequest { totp_code }).await
    };
    let old = Authenticator::new(&first.secret).code(now, 0);
    if old != Authenticator::new(&second.secret).code(now, 0) {
        assert_eq!(reason(&confirm(&first.secret).await.unwrap_err()), "INVALID_CREDENTIALS", "it was begun anew");
    }
    server.context.clock.advance(Duration::from_secs(15 * 60 + 1));
    let client = server.client(&server.sign_in("ann@example.com").await.access_token);
    let totp_code = Authenticator::new(&second.secret).code(server.context.now(), 0);
    let late = client.authenticate.clone().confirm_totp(ConfirmTotpRequest { totp_code }).await.unwrap_err();
    assert_eq!(reason(&late), "INVALID_FACTOR_STATE");
    tidy(&server).await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM user_totp").fetch_one(server.sql()).await.unwrap();
    assert_eq!(left, 0);
}

/// CVE-2025-64102: the first code of an enrolment gives recovery codes, so it must not be guessable either.
#[tokio::test]
async fn guesses_at_an_enrolment_lock() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    let client = server.client(&server.sign_in("ann@example.com").await.access_token);
    let request = client.proven(ENROLL, "", EnrollTotpRequest {}).await;
    let shown = client.authenticate.clone().enroll_totp(request).await.unwrap().into_inner();
    let application = Authenticator::new(&shown.secret);
    for _ in 0..5 {
        let request = ConfirmTotpRequest { totp_code: application.wrong(server.context.now()) };
        assert_eq!(
            reason(&client.authenticate.clone().confirm_totp(request).await.unwrap_err()),
            "INVALID_CREDENTIALS"
        );
    }
    assert_eq!(counted(&server, user).await, (5, true));
    let request = ConfirmTotpRequest { totp_code: application.code(server.context.now(), 0) };
    assert_eq!(reason(&client.authenticate.clone().confirm_totp(request).await.unwrap_err()), "INVALID_CREDENTIALS");
}

#[tokio::test]
async fn enabling_and_disabling_end_what_came_in_before() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    let thief = server.client(&server.sign_in("ann@example.com").await.access_token);
    let client = server.client(&server.sign_in("ann@example.com").await.access_token);
    let (application, _) = enrol(&server, &client).await;
    let refused = thief.authenticate.clone().who_am_i(WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(reason(&refused), "UNAUTHENTICATED");
    assert_eq!(sessions(&server, user).await, 1);

    let asked = challenge(&server, "ann@example.com").await.unwrap();
    let code = application.code(server.context.now(), 0);
    let other = answer_code(&server, &asked, code).await.unwrap();
    tick(&server);
    let waiting = challenge(&server, "ann@example.com").await.unwrap();
    let proof = Proof::TotpCode(application.code(server.context.now(), 0));
    let token = prove(&client, DISABLE, "", proof).await.unwrap();
    let done = client.authenticate.clone().disable_totp(with_proof(DisableTotpRequest {}, &token)).await.unwrap();
    assert_eq!(done.into_inner().sessions_revoked, 1);
    let other = server.client(&other.tokens.unwrap().access_token);
    assert_eq!(reason(&other.authenticate.clone().who_am_i(WhoAmIRequest {}).await.unwrap_err()), "UNAUTHENTICATED");
    client.authenticate.clone().who_am_i(WhoAmIRequest {}).await.expect("the session that did it");
    // A login that waited for a factor that was removed begins anew.
    tick(&server);
    let code = application.code(server.context.now(), 0);
    assert_eq!(reason(&answer_code(&server, &waiting, code).await.unwrap_err()), "INVALID_CREDENTIALS");
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.expect("the password is enough again");
    for recorded in ["user.totp_enrolled", "user.totp_confirmed", "user.totp_disabled"] {
        assert_eq!(event(&server, recorded).await.target_id.as_deref(), Some(user.to_string().as_str()), "{recorded}");
    }
}

#[tokio::test]
async fn new_recovery_codes_replace_the_old_ones() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let token = ann.prove(REGENERATE, Proof::RecoveryCode(ann.codes[0].clone())).await.unwrap();
    let request = with_proof(RegenerateRecoveryCodesRequest {}, &token);
    let fresh = ann.client.authenticate.clone().regenerate_recovery_codes(request).await.unwrap().into_inner();
    assert_eq!(fresh.recovery_codes.len(), 10);
    let asked = challenge(&server, ann.email).await.unwrap();
    let old = Factor::RecoveryCode(ann.codes[1].clone());
    assert_eq!(reason(&answer(&server, &asked, old).await.unwrap_err()), "INVALID_CREDENTIALS");
    answer(&server, &asked, Factor::RecoveryCode(fresh.recovery_codes[1].clone())).await.unwrap();
}

/// An administrator who set the password still knows it, and must not get the second factor as well.
#[tokio::test]
async fn a_password_that_must_change_enrols_nothing() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    set(&server, user, "must_change_password = true").await;
    let client = server.client(&server.sign_in("ann@example.com").await.access_token);
    let request = client.proven(ENROLL, "", EnrollTotpRequest {}).await;
    let refused = client.authenticate.clone().enroll_totp(request).await.unwrap_err();
    assert_eq!(metadata(&refused, "state"), "password_change_required");
}

#[tokio::test]
async fn calls_that_the_factors_do_not_allow_say_so() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "bob@example.com", "user").await;
    let bob = server.client(&server.sign_in("bob@example.com").await.access_token);
    let refused = bob.authenticate.clone().disable_totp(DisableTotpRequest {}).await.unwrap_err();
    assert_eq!(
        (reason(&refused).as_str(), metadata(&refused, "state").as_str()),
        ("INVALID_FACTOR_STATE", "not_enrolled")
    );
    let request = RegenerateRecoveryCodesRequest {};
    let refused = bob.authenticate.clone().regenerate_recovery_codes(request).await.unwrap_err();
    assert_eq!(metadata(&refused, "state"), "not_enrolled");
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let refused = ann.client.authenticate.clone().enroll_totp(EnrollTotpRequest {}).await.unwrap_err();
    assert_eq!((reason(&refused).as_str(), metadata(&refused, "state").as_str()), ("INVALID_FACTOR_STATE", "enrolled"));
    let long =
        CompleteMfaRequest { challenge_token: "x".repeat(300), factor: Some(Factor::TotpCode("1".repeat(1000))) };
    assert_eq!(reason(&server.client("").authenticate.complete_mfa(long).await.unwrap_err()), "INVALID_FIELD");
    let none = CompleteMfaRequest { challenge_token: "sidle_mc_x".to_owned(), factor: None };
    assert_eq!(reason(&server.client("").authenticate.complete_mfa(none).await.unwrap_err()), "INVALID_FIELD");
}
