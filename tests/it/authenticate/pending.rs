//! What waits to become a login - one without its second factor, a password reset, a step-up token - is void after all
//! that shuts its user out, also when they are admitted again.

use sidle::proto::step_up_request::Proof;
use sidle::proto::*;
use sidle_dev::smtp::Smtp;
use tonic::Status;
use uuid::Uuid;

use super::factors::*;
use crate::look::{event, reason, reasons};
use crate::mail;
use crate::support::server::with_proof;
use crate::support::{ADMIN_PASSWORD, Client, TestServer, within};

const NEW_PASSWORD: &str = "seven otters juggle walnuts";

/// The token in the next message of this kind to an address.
async fn token(smtp: &mut Smtp, email: &str, prefix: &str) -> String {
    within("a message with a token", async {
        loop {
            let message = smtp.message().await.unwrap();
            if let Some(token) =
                message.token().filter(|token| token.starts_with(prefix) && message.to == [email.to_owned()])
            {
                return token;
            }
        }
    })
    .await
}

async fn reset_link(server: &TestServer, smtp: &mut Smtp, email: &str) -> String {
    let ask = RequestPasswordResetRequest { identifier: email.to_owned() };
    server.client("").authenticate.request_password_reset(ask).await.unwrap();
    token(smtp, email, "sidle_pr_").await
}

async fn reset(server: &TestServer, token: &str, code: String) -> Result<(), Status> {
    let request = ResetPasswordRequest {
        reset_token: token.to_owned(),
        new_password: NEW_PASSWORD.to_owned(),
        second_factor_code: code,
    };
    server.client("").authenticate.reset_password(request).await.map(drop)
}

async fn shut(admin: &Client, ann: &Guarded, how: &str) {
    let user_id = ann.user.to_string();
    let directory = admin.directory.clone();
    match how {
        "signs out everywhere else" => {
            let all = RevokeAllSessionsRequest { user_id: String::new(), keep_current: true };
            ann.client.session.clone().revoke_all_sessions(all).await.unwrap();
        }
        "is signed out everywhere" => {
            let all = RevokeAllSessionsRequest { user_id, keep_current: false };
            admin.proving(all, async |request| admin.session.clone().revoke_all_sessions(request).await).await.unwrap();
        }
        "is disabled and enabled" => {
            let off = DisableUserRequest { user_id: user_id.clone(), ..Default::default() };
            admin.proving(off, async |request| directory.clone().disable_user(request).await).await.unwrap();
            let on = EnableUserRequest { user_id, ..Default::default() };
            admin.proving(on, async |request| directory.clone().enable_user(request).await).await.unwrap();
        }
        "is locked and unlocked" => {
            let lock = LockUserRequest { user_id: user_id.clone(), ..Default::default() };
            admin.proving(lock, async |request| directory.clone().lock_user(request).await).await.unwrap();
            let unlock = UnlockUserRequest { user_id };
            admin.proving(unlock, async |request| directory.clone().unlock_user(request).await).await.unwrap();
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn whatever_shuts_a_user_out_voids_what_waits_to_become_a_way_in() {
    let (server, mut smtp) = mail::server().await;
    let admin = server.admin().await;
    let tenant = server.tenant("a").await;
    for (email, how) in [
        ("a@example.com", "signs out everywhere else"),
        ("b@example.com", "is signed out everywhere"),
        ("c@example.com", "is disabled and enabled"),
        ("d@example.com", "is locked and unlocked"),
    ] {
        let ann = guarded(&server, tenant, email).await;
        let link = reset_link(&server, &mut smtp, email).await;
        let asked = challenge(&server, email).await.unwrap();
        let proof = ann.prove(DISABLE, Proof::RecoveryCode(ann.codes[0].clone())).await.unwrap();
        shut(&admin, &ann, how).await;
        let refused = answer_code(&server, &asked, ann.code(&server)).await.expect_err(how);
        assert_eq!(reason(&refused), "INVALID_CREDENTIALS", "{how}: the login that waited");
        tick(&server);
        let refused = reset(&server, &link, ann.code(&server)).await.expect_err(how);
        assert_eq!(reason(&refused), "INVALID_CREDENTIALS", "{how}: the link to a new password");
        let request = with_proof(DisableTotpRequest {}, &proof);
        let refused = ann.client.authenticate.clone().disable_totp(request).await.expect_err(how);
        assert!(["STEP_UP_REQUIRED", "UNAUTHENTICATED"].contains(&reason(&refused).as_str()), "{how}: {refused:?}");
        // Nothing else would refuse it.
        tick(&server);
        let asked = challenge(&server, email).await.unwrap_or_else(|status| panic!("{how}: {status:?}"));
        answer_code(&server, &asked, ann.code(&server)).await.unwrap_or_else(|status| panic!("{how}: {status:?}"));
        tick(&server);
        let link = reset_link(&server, &mut smtp, email).await;
        reset(&server, &link, ann.code(&server)).await.unwrap_or_else(|status| panic!("{how}: {status:?}"));
    }
}

/// Guesses must not void the password reset of the user whom they lock out.
#[tokio::test]
async fn the_automatic_lock_voids_no_link_to_a_new_password() {
    let (server, mut smtp) = mail::server().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    let link = reset_link(&server, &mut smtp, "ann@example.com").await;
    for _ in 0..6 {
        super::attempt(&server, "ann@example.com", "a guess").await.unwrap_err();
    }
    assert!(counted(&server, user).await.1, "locked");
    reset(&server, &link, String::new()).await.expect("the owner of the mailbox gets back in");
}

/// A tenant's administrator signs a guest out of that tenant, without effect on the guest elsewhere.
#[tokio::test]
async fn a_guests_pending_logins_are_not_the_hosts_to_void() {
    let (server, mut smtp) = mail::server().await;
    let (home, host) = (server.tenant("home").await, server.tenant("host").await);
    let ann = guarded(&server, home, "ann@example.com").await;
    crate::session::refresh::join(&server, host, ann.user).await;
    server.user(host, "boss@example.com", "super_admin").await;
    let link = reset_link(&server, &mut smtp, ann.email).await;
    let boss = server.client(&server.sign_in("boss@example.com").await.access_token);
    let all = RevokeAllSessionsRequest { user_id: ann.user.to_string(), keep_current: false };
    boss.proving(all, async |request| boss.session.clone().revoke_all_sessions(request).await).await.unwrap();
    reset(&server, &link, ann.code(&server)).await.expect("not the host's to void");
}

/// Verifying an address for the first time, or again after it was changed and the account was disabled and enabled:
/// what was set before is removed, and no factor without an event and a notice.
#[tokio::test]
async fn factors_that_go_with_the_first_confirmation_go_with_event_and_notice() {
    let (server, mut smtp) = mail::server().await;
    let admin = server.admin().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let identifier = Some(get_user_request::Identifier::UserId(ann.user.to_string()));
    let found = admin.directory.clone().get_user(GetUserRequest { identifier, include_deleted: false }).await;
    let update = UpdateUserRequest {
        user: Some(User { email: "new@example.com".to_owned(), ..found.unwrap().into_inner().user.unwrap() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["email".to_owned()] }),
        validate_only: false,
    };
    admin.proving(update, async |request| admin.directory.clone().update_user(request).await).await.unwrap();
    let confirm = token(&mut smtp, "new@example.com", "sidle_ev_").await;
    shut(&admin, &ann, "is disabled and enabled").await;
    let verify = VerifyEmailRequest { verification_token: confirm, ..Default::default() };
    let verified = server.client("").authenticate.verify_email(verify).await.unwrap().into_inner();
    assert!(!verified.password_kept);
    let told = within("a notice", async {
        loop {
            let message = smtp.message().await.unwrap();
            if message.header("Subject").as_deref() == Some("The old password of your account was removed") {
                return message;
            }
        }
    })
    .await;
    assert_eq!(told.to, ["new@example.com"]);
    let removed = event(&server, "user.credentials_removed").await;
    assert_eq!(removed.target_id.as_deref(), Some(ann.user.to_string().as_str()));
    assert_eq!((&removed.details["password"], &removed.details["second_factor"]), (&true.into(), &true.into()));
    let left = "SELECT (SELECT count(*) FROM user_totp) + (SELECT count(*) FROM recovery_codes)";
    assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(server.sql()).await.unwrap(), 0);
    let refused = super::attempt(&server, "new@example.com", ADMIN_PASSWORD).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_CREDENTIALS");

    // A user who had none is notified of none.
    let create = CreateUserRequest {
        request_id: Uuid::new_v4().to_string(),
        tenant_id: tenant.to_string(),
        email: "bob@example.com".to_owned(),
        ..Default::default()
    };
    admin.proving(create, async |request| admin.directory.clone().create_user(request).await).await.unwrap();
    let verification_token = token(&mut smtp, "bob@example.com", "sidle_ev_").await;
    let verify = VerifyEmailRequest { verification_token, ..Default::default() };
    server.client("").authenticate.verify_email(verify).await.unwrap();
    assert_eq!(reasons(&server, "user.credentials_removed", "success").await.len(), 1);
}
