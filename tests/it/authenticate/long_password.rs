//! Passwords of more bytes than bcrypt reads.

use sidle::proto;

use super::{attempt, set, set_hash};
use crate::look::{event, reason};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

/// 72 bytes, no two neighbours of which are equal.
const SEVENTY_TWO: &str = "Seven grey herons wade 19 cold rivers; nobody counts them twice, ever. !";

async fn change(server: &TestServer, current: &str, new: &str) -> Result<(), tonic::Status> {
    let signed_in = attempt(server, "ann@example.com", current).await?;
    let mut client = server.client(&signed_in.tokens.unwrap().access_token).authenticate;
    let request = proto::ChangePasswordRequest { current_password: current.to_owned(), new_password: new.to_owned() };
    client.change_password(request).await.map(|_| ())
}

/// CVE-2025-22228, and Okta's of 2024, where a prefix of the password filled the 72 bytes.
#[tokio::test]
async fn nobody_gets_in_with_only_the_beginning_of_a_password_set_here() {
    assert_eq!(SEVENTY_TWO.len(), 72);
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    let too_long = format!("{SEVENTY_TWO}x");
    let refused = change(&server, ADMIN_PASSWORD, &too_long).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_FIELD", "bcrypt would not read the end of it");
    change(&server, ADMIN_PASSWORD, SEVENTY_TWO).await.unwrap();
    attempt(&server, "ann@example.com", SEVENTY_TWO).await.unwrap();
    for other in [too_long, format!("{SEVENTY_TWO}{}", "y".repeat(500))] {
        let refused = attempt(&server, "ann@example.com", &other).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_CREDENTIALS", "only begins like the password");
    }
}

#[tokio::test]
async fn with_a_pepper_every_byte_of_a_long_password_counts() {
    let peppers = "1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let server = Setup::new().await.with("PASSWORDS__PEPPERS", peppers).start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    let long = format!("{SEVENTY_TWO} and one more");
    change(&server, ADMIN_PASSWORD, &long).await.unwrap();
    attempt(&server, "ann@example.com", &long).await.unwrap();
    for other in [SEVENTY_TWO.to_owned(), format!("{SEVENTY_TWO} and one less"), format!("{long}!")] {
        assert_eq!(reason(&attempt(&server, "ann@example.com", &other).await.unwrap_err()), "INVALID_CREDENTIALS");
    }
}

/// The old application accepted any length, and what came after the 72nd byte is unknown.
#[tokio::test]
async fn whoever_brought_a_longer_password_along_comes_in_and_must_set_another() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "admin").await;
    set_hash(&server, user, &bcrypt::hash(SEVENTY_TWO, 4).unwrap(), 4).await;
    attempt(&server, "ann@example.com", SEVENTY_TWO).await.unwrap();
    let must_change: bool = sqlx::query_scalar("SELECT must_change_password FROM users WHERE user_id = $1")
        .bind(user)
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert!(!must_change, "all of it was compared");

    let long = format!("{SEVENTY_TWO} as it was typed ever since");
    let signed_in = attempt(&server, "ann@example.com", &long).await.unwrap();
    assert!(signed_in.must_change_password);
    let token = signed_in.tokens.unwrap().access_token;
    let me = server.client(&token).authenticate.who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner();
    assert!(me.claims.unwrap().permissions.is_empty());
    let mut flagged = false;
    for _ in 0..2 {
        let recorded = event(&server, "user.authenticated").await;
        flagged |= recorded.details.contains_key("overlong");
    }
    let kept: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT details FROM audit_events UNION ALL SELECT details FROM audit_inbox) e
         WHERE details ? 'overlong'",
    )
    .fetch_one(server.sql())
    .await
    .unwrap();
    assert!(flagged || kept == 1, "the log says so");
    change(&server, &long, "nine lives of a grey cat").await.unwrap();
    assert!(!attempt(&server, "ann@example.com", "nine lives of a grey cat").await.unwrap().must_change_password);
}

/// Today's pepper must not make what was never compared a part of the password.
#[tokio::test]
async fn a_longer_password_is_not_hashed_anew_by_a_login() {
    let peppers = "1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let server = Setup::new().await.with("PASSWORDS__PEPPERS", peppers).start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    set_hash(&server, user, &bcrypt::hash(SEVENTY_TWO, 4).unwrap(), 4).await;
    let mistyped = format!("{SEVENTY_TWO}mistyped");
    attempt(&server, "ann@example.com", &mistyped).await.unwrap();
    // The rehash of the next login is the only one.
    set(&server, user, "must_change_password = false").await;
    attempt(&server, "ann@example.com", SEVENTY_TWO).await.unwrap();
    let rehashed = event(&server, "user.password_rehashed").await;
    assert_eq!(rehashed.target_id, Some(user.to_string()));
    attempt(&server, "ann@example.com", SEVENTY_TWO).await.unwrap();
    attempt(&server, "ann@example.com", &mistyped).await.expect_err("not part of it");
}
