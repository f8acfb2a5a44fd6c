//! The cost of judging a new password is bounded, and none is judged for a caller who may not set one.

use sidle::proto;
use tonic::Status;

use crate::look::reason;
use crate::support::{ADMIN_PASSWORD, Client, Setup, TestServer};

const ANN: &str = "ann@example.com";

/// It took a second in an optimised build when it was judged as a whole.
fn dearest() -> String {
    "@4({[<369!1|0$57+2%8".repeat(4).chars().take(72).collect()
}

fn judged(server: &TestServer) -> u64 {
    server.app().metrics.strength_checks.get()
}

async fn change(client: &Client, current: &str, new: &str) -> Result<(), Status> {
    let request = proto::ChangePasswordRequest { current_password: current.to_owned(), new_password: new.to_owned() };
    client.clone().authenticate.change_password(request).await.map(drop)
}

#[tokio::test]
async fn nothing_is_judged_where_nobody_can_register() {
    let setup = Setup::new().await.with("MAIL__HOST", "127.0.0.1").with("MAIL__PORT", "1").with("MAIL__TLS", "none");
    let setup = setup.with("MAIL__FROM", "sidle@example.com").with("MAIL__ORIGIN", "https://accounts.example");
    let server = setup.start().await;
    let tenant = server.tenant("closed").await;
    let request = proto::RegisterRequest {
        request_id: server.context.new_id().to_string(),
        tenant_id: tenant.to_string(),
        email: ANN.to_owned(),
        password: dearest(),
        ..Default::default()
    };
    let refused = server.client("").authenticate.register(request).await.unwrap_err();
    assert_eq!(reason(&refused), "REGISTRATION_CLOSED");
    assert_eq!((judged(&server), server.app().metrics.hash_units.get()), (0, 0));
}

#[tokio::test]
async fn nothing_is_judged_before_the_present_password_is_right() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, ANN, "user").await;
    let client = server.client(&server.sign_in(ANN).await.access_token);
    assert_eq!(reason(&change(&client, "a guess", &dearest()).await.unwrap_err()), "INVALID_CREDENTIALS");
    assert_eq!(reason(&change(&client, "a guess", "password1").await.unwrap_err()), "INVALID_CREDENTIALS");
    assert_eq!(judged(&server), 0);
    assert_eq!(reason(&change(&client, ADMIN_PASSWORD, "password1").await.unwrap_err()), "INVALID_FIELD");
    change(&client, ADMIN_PASSWORD, &dearest()).await.expect("strange, and hard to guess");
    assert_eq!(judged(&server), 2);
}

#[tokio::test]
async fn who_has_signed_in_has_so_many_passwords_judged_a_minute() {
    let setup = Setup::new().await.with("THROTTLE__PER_MINUTE", "1").with("THROTTLE__BURST", "5");
    let server = setup.start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, ANN, "user").await;
    let client = server.client(&server.sign_in(ANN).await.access_token);
    let mut reasons = Vec::new();
    for _ in 0..12 {
        reasons.push(reason(&change(&client, ADMIN_PASSWORD, "password1").await.unwrap_err()));
    }
    assert_eq!(reasons[..5], ["INVALID_FIELD"; 5]);
    assert_eq!(reasons[5..], ["THROTTLED"; 7]);
    assert_eq!(judged(&server), 5);
}
