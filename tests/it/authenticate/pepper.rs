//! Hashes with a pepper, without one, and a change of the pepper.

use uuid::Uuid;

use super::{attempt, set, set_hash};
use crate::look::{reason, reasons};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, eventually};

const FIRST: &str = "1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const SECOND: &str = "2:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

/// The stored hash of a password, once it is made with this pepper.
async fn kept(server: &TestServer, user: Uuid, pepper: Option<i16>) -> (String, Option<i16>) {
    // It is rehashed after the answer.
    eventually("the password is hashed anew, with this pepper", async || {
        let row: (String, Option<i16>) =
            sqlx::query_as("SELECT password_hash, password_pepper_id FROM users WHERE user_id = $1")
                .bind(user)
                .fetch_one(server.sql())
                .await
                .unwrap();
        (row.1 == pepper).then_some(row)
    })
    .await
}

#[tokio::test]
async fn a_login_brings_its_user_to_the_pepper_of_today() {
    let setup = Setup::new().await;
    let plain = setup.start().await;
    let tenant = plain.tenant("a").await;
    let user = plain.user(tenant, "ann@example.com", "user").await;
    plain.sign_in("ann@example.com").await;

    let peppered = setup.clone().with("PASSWORDS__PEPPERS", FIRST).start().await;
    peppered.sign_in("ann@example.com").await;
    let (first, _) = kept(&peppered, user, Some(1)).await;
    assert!(!bcrypt::verify(ADMIN_PASSWORD, &first).unwrap(), "the hash alone is worth nothing");
    peppered.sign_in("ann@example.com").await;

    let rotated = setup.clone().with("PASSWORDS__PEPPERS", &format!("{SECOND},{FIRST}")).start().await;
    rotated.sign_in("ann@example.com").await;
    let (second, _) = kept(&rotated, user, Some(2)).await;
    assert_ne!(first, second);
    rotated.sign_in("ann@example.com").await;
    assert_eq!(reason(&attempt(&rotated, "ann@example.com", "a guess").await.unwrap_err()), "INVALID_CREDENTIALS");

    // The way back: hashes that the old application can verify.
    let leaving = setup.clone().with("PASSWORDS__PEPPERS", SECOND).with("PASSWORDS__PEPPER_NEW_HASHES", "false");
    let leaving = leaving.start().await;
    leaving.sign_in("ann@example.com").await;
    let (plain, _) = kept(&leaving, user, None).await;
    assert!(bcrypt::verify(ADMIN_PASSWORD, &plain).unwrap());
    leaving.sign_in("ann@example.com").await;
}

#[tokio::test]
async fn without_its_pepper_a_hash_is_like_a_wrong_password() {
    let setup = Setup::new().await;
    let peppered = setup.clone().with("PASSWORDS__PEPPERS", FIRST).start().await;
    let tenant = peppered.tenant("a").await;
    let user = peppered.user(tenant, "ann@example.com", "user").await;
    peppered.sign_in("ann@example.com").await;
    kept(&peppered, user, Some(1)).await;

    let without = setup.clone().with("PASSWORDS__PEPPERS", SECOND).start().await;
    let before = without.app().metrics.hash_units.get();
    let refused = attempt(&without, "ann@example.com", ADMIN_PASSWORD).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_CREDENTIALS");
    assert_eq!(without.app().metrics.hash_units.get() - before, 1 << 4, "with as much work as ever");
    assert_eq!(reasons(&without, "user.login_refused", "refused").await, ["pepper_missing"]);
    // A hash without a pepper does not depend on the others.
    set(&without, user, "password_pepper_id = NULL").await;
    set_hash(&without, user, &bcrypt::hash(ADMIN_PASSWORD, 4).unwrap(), 4).await;
    attempt(&without, "ann@example.com", ADMIN_PASSWORD).await.unwrap();
}
