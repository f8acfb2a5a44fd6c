//! A typical day of an ordinary user and of their administrators, in the calls that an application makes.

use sidle::proto::*;
use tonic::Code;

use crate::look::reason;
use crate::support::{Client, TestServer};

const FIRST_PASSWORD: &str = "nine grey herons over the quay";
const NEW_PASSWORD: &str = "a much longer heron stands still";

async fn sign_in(server: &TestServer, password: &str, persistent: bool) -> Result<SignedIn, tonic::Status> {
    let request = AuthenticatePasswordRequest {
        identifier: "Ann@Example.com".to_owned(),
        password: password.to_owned(),
        persistent,
        device: Some(Device { device_id: "browser".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    crate::authenticate::ask(server, request).await
}

async fn who(client: &Client) -> WhoAmIResponse {
    client.authenticate.clone().who_am_i(WhoAmIRequest {}).await.expect("known").into_inner()
}

async fn renew(server: &TestServer, tokens: &TokenPair) -> Result<TokenPair, tonic::Status> {
    let request = RefreshTokenRequest {
        refresh_token: tokens.refresh_token.clone(),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    Ok(server.client("").authenticate.refresh_token(request).await?.into_inner().tokens.unwrap())
}

#[tokio::test]
async fn a_users_day_goes_through() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("harbour").await;

    // An administrator creates the user.
    let request = CreateUserRequest {
        tenant_id: tenant.to_string(),
        email: "ann@example.com".to_owned(),
        full_name: "Ann".to_owned(),
        email_verified: true,
        initial_password: FIRST_PASSWORD.to_owned(),
        must_change_password: Some(false),
        ..Default::default()
    };
    let user = admin.directory.clone().create_user(request).await.unwrap().into_inner().user.unwrap();

    // Signed in, with a persistent session and a known device.
    let session = sign_in(&server, FIRST_PASSWORD, true).await.unwrap();
    let tokens = session.tokens.unwrap();
    let ann = server.client(&tokens.access_token);
    let me = who(&ann).await;
    let claims = me.claims.unwrap();
    assert_eq!((claims.subject, claims.tenant_id), (user.user_id.clone(), tenant.to_string()));
    assert_eq!(me.tenants.len(), 1);

    // She may not do what her role does not permit; with another role she may, after the next refresh.
    let list = |client: &Client| client.directory.clone();
    let refused = list(&ann).list_users(ListUsersRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED");
    let grant = CreateMembershipRequest {
        user_id: user.user_id.clone(),
        tenant_id: tenant.to_string(),
        role_id: crate::directory::SUPER_ADMIN.to_owned(),
        ..Default::default()
    };
    admin.directory.clone().create_membership(grant).await.unwrap();
    let tokens = renew(&server, &tokens).await.unwrap();
    let ann = server.client(&tokens.access_token);
    let seen = list(&ann).list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
    assert_eq!(seen.len(), 1, "her tenant and no other");

    // Another password: the other sessions end, this one continues with new tokens, and the old password is refused.
    let elsewhere = sign_in(&server, FIRST_PASSWORD, false).await.unwrap().tokens.unwrap();
    let change =
        ChangePasswordRequest { current_password: FIRST_PASSWORD.to_owned(), new_password: NEW_PASSWORD.to_owned() };
    let changed = ann.authenticate.clone().change_password(change).await.unwrap().into_inner();
    let tokens = changed.tokens.expect("new tokens");
    let refused = server.client(&elsewhere.access_token).authenticate.who_am_i(WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(reason(&sign_in(&server, FIRST_PASSWORD, false).await.unwrap_err()), "INVALID_CREDENTIALS");
    let tokens = renew(&server, &tokens).await.expect("this session goes on");
    sign_in(&server, NEW_PASSWORD, false).await.expect("the new password");

    // The list of sessions, and logging out.
    let ann = server.client(&tokens.access_token);
    let open = ann.session.clone().list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner().sessions;
    assert_eq!(open.iter().filter(|session| session.current && session.persistent).count(), 1);
    assert_eq!(open.len(), 2);
    let ended = ann.session.clone().revoke_session(RevokeSessionRequest::default()).await.unwrap().into_inner();
    assert_eq!(ended.session.unwrap().revoke_reason(), RevokeReason::Logout);
    assert_eq!(ann.authenticate.clone().who_am_i(WhoAmIRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(reason(&renew(&server, &tokens).await.unwrap_err()), "INVALID_REFRESH_TOKEN");
}
