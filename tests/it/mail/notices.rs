//! A change of an account's credential notifies its user, whoever makes it.

use sidle::proto::step_up_request::Proof;
use sidle::proto::*;
use sidle_dev::smtp::Smtp;
use uuid::Uuid;

use super::{ann, refused, server};
use crate::authenticate::factors::{DISABLE, REGENERATE, enrol, prove};
use crate::support::server::with_proof;
use crate::support::{ADMIN_PASSWORD, Client, TestServer, until};

const SECOND: &str = "seven otters juggle walnuts";
const THIRD: &str = "purple tractor orbit lemonade";

/// Events of changes of a credential, and the message that each leads to. Both happen in one transaction.
const CHANGES: [(&str, &str); 7] = [
    ("user.password_changed", "password_changed"),
    ("user.password_reset", "password_changed"),
    ("user.totp_confirmed", "totp_enabled"),
    ("user.totp_disabled", "totp_disabled"),
    ("user.recovery_codes_regenerated", "recovery_codes_regenerated"),
    ("user.kanidm_linked", "kanidm_linked"),
    ("user.kanidm_unlinked", "kanidm_unlinked"),
];

async fn expect(smtp: &mut Smtp, to: &str, subject: &str) {
    let message = smtp.message().await.unwrap();
    assert_eq!((message.to.as_slice(), message.header("Subject").unwrap().as_str()), (&[to.to_owned()][..], subject));
}

/// As many messages of a kind as events that lead to it.
async fn every_change_was_told(server: &TestServer, user: Uuid) {
    for (event, kind) in CHANGES {
        let others: Vec<&str> = CHANGES.iter().filter(|(_, k)| *k == kind).map(|(event, _)| *event).collect();
        let events: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM audit_events WHERE event_type = ANY ($1) AND target_id = $2 AND outcome = 'success')
                  + (SELECT count(*) FROM audit_inbox WHERE event_type = ANY ($1) AND target_id = $2 AND outcome = 'success')",
        )
        .bind(&others)
        .bind(user.to_string())
        .fetch_one(server.sql())
        .await
        .unwrap();
        let messages: i64 = sqlx::query_scalar("SELECT count(*) FROM mail_outbox WHERE kind = $1 AND user_id = $2")
            .bind(kind)
            .bind(user)
            .fetch_one(server.sql())
            .await
            .unwrap();
        assert_eq!(messages, events, "{event}");
    }
}

const MAIL: &str = "ann@letters.example";

/// Changes the user as an administrator.
async fn update(admin: &Client, user: Uuid, field: &str, change: impl FnOnce(User) -> User) {
    let get = GetUserRequest {
        identifier: Some(get_user_request::Identifier::UserId(user.to_string())),
        include_deleted: false,
    };
    let found = admin.directory.clone().get_user(get).await.unwrap().into_inner().user.unwrap();
    let update = UpdateUserRequest {
        user: Some(change(found)),
        update_mask: Some(prost_types::FieldMask { paths: vec![field.to_owned()] }),
        validate_only: false,
    };
    let update = admin.proven("sidle.v1.DirectoryService/UpdateUser", &user.to_string(), update).await;
    admin.directory.clone().update_user(update).await.unwrap();
}

/// Added, its codes used and replaced, removed by the user, and by an administrator.
#[tokio::test]
async fn every_change_of_the_second_factor_tells_its_user() {
    let (server, mut smtp) = server().await;
    let admin = server.admin().await;
    let user = ann(&server).await;
    let client = server.client(&server.sign_in(MAIL).await.access_token);
    let (_, codes) = enrol(&server, &client).await;
    expect(&mut smtp, MAIL, "An authenticator application was added to your account").await;
    let token = prove(&client, REGENERATE, "", Proof::RecoveryCode(codes[0].clone())).await.unwrap();
    expect(&mut smtp, MAIL, "A recovery code was used").await;
    let request = with_proof(RegenerateRecoveryCodesRequest {}, &token);
    let codes =
        client.authenticate.clone().regenerate_recovery_codes(request).await.unwrap().into_inner().recovery_codes;
    expect(&mut smtp, MAIL, "Your recovery codes were replaced").await;
    let token = prove(&client, DISABLE, "", Proof::RecoveryCode(codes[0].clone())).await.unwrap();
    expect(&mut smtp, MAIL, "A recovery code was used").await;
    client.authenticate.clone().disable_totp(with_proof(DisableTotpRequest {}, &token)).await.unwrap();
    expect(&mut smtp, MAIL, "The authenticator application was removed from your account").await;
    every_change_was_told(&server, user).await;
    enrol(&server, &client).await;
    expect(&mut smtp, MAIL, "An authenticator application was added to your account").await;
    update(&admin, user, "has_second_factor", |found| User { has_second_factor: false, ..found }).await;
    expect(&mut smtp, MAIL, "The authenticator application was removed from your account").await;
    every_change_was_told(&server, user).await;
}

/// By the user, with the present password, and by the holder of the mailbox.
#[tokio::test]
async fn every_change_of_the_password_tells_its_user() {
    let (server, mut smtp) = server().await;
    let user = ann(&server).await;
    let tokens = server.sign_in(MAIL).await;
    let change = ChangePasswordRequest { current_password: ADMIN_PASSWORD.to_owned(), new_password: SECOND.to_owned() };
    server.client(&tokens.access_token).authenticate.change_password(change).await.unwrap();
    expect(&mut smtp, MAIL, "Your password was changed").await;
    every_change_was_told(&server, user).await;

    super::reset::forgotten(&server, &mut smtp, MAIL, THIRD).await;
    every_change_was_told(&server, user).await;
}

/// The old address is notified as well, which the new one's holder cannot prevent.
#[tokio::test]
async fn a_change_of_the_address_by_an_administrator_tells_both() {
    let (server, mut smtp) = server().await;
    let admin = server.admin().await;
    let user = ann(&server).await;
    update(&admin, user, "email", |found| User { email: "new@letters.example".to_owned(), ..found }).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        let message = smtp.message().await.unwrap();
        told.push((message.to[0].clone(), message.header("Subject").unwrap(), message.token().is_some()));
    }
    told.sort();
    let changed = "The e-mail address of your account was changed".to_owned();
    let confirm = "Confirm your e-mail address".to_owned();
    assert_eq!(
        told,
        [
            (MAIL.to_owned(), changed.clone(), false),
            ("new@letters.example".to_owned(), confirm, true),
            ("new@letters.example".to_owned(), changed, false),
        ]
    );
    // Until the new address is verified, no password is reset through it.
    let ask = RequestPasswordResetRequest { identifier: "new@letters.example".to_owned() };
    server.client("").authenticate.request_password_reset(ask).await.unwrap();
    let asked = "SELECT count(*) FROM password_reset_requests";
    until("the request is answered", async || {
        sqlx::query_scalar::<_, i64>(asked).fetch_one(server.sql()).await.unwrap() == 0
    })
    .await;
    let bad =
        ResetPasswordRequest { reset_token: "x".to_owned(), new_password: SECOND.to_owned(), ..Default::default() };
    let bad = server.client("").authenticate.reset_password(bad).await.unwrap_err();
    assert_eq!(refused(&bad), "INVALID_CREDENTIALS");
    let tokens: i64 =
        sqlx::query_scalar("SELECT count(*) FROM one_time_tokens WHERE purpose = 'password_reset' AND used_at IS NULL")
            .fetch_one(server.sql())
            .await
            .unwrap();
    assert_eq!(tokens, 0);
}
