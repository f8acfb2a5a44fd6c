//! Cost and text of a refusal are the same for every account: they do not reveal which accounts exist, or of what kind.

use tonic::{Code, Status};

use super::{ask, attempt, set, set_hash};
use crate::look::reason;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

const WRONG: &str = "not the password";
/// Longer than bcrypt reads.
const LONG: &str = "seventy-two bytes and a little more, of which the first seventy-two are right";
/// The highest cost of any account here, above today's.
const DEAREST: u32 = 7;

/// Every kind of account that a guess may meet, and the password that is tried.
async fn populations(server: &TestServer) -> Vec<(&'static str, &'static str)> {
    let tenant = server.tenant("a").await;
    let user = async |name: &str| server.user(tenant, &format!("{name}@example.com"), "user").await;
    user("four").await;
    for (name, cost) in [("five", 5), ("six", 6), ("seven", DEAREST)] {
        set_hash(server, user(name).await, &bcrypt::hash(ADMIN_PASSWORD, cost).unwrap(), cost as i16).await;
    }
    let until = "locked_until = now() + interval '1 hour'";
    set(server, user("locked").await, &format!("{until}, lock_reason = 'too_many_failures'")).await;
    set(server, user("shut").await, &format!("{until}, lock_reason = 'administrator'")).await;
    set(server, user("disabled").await, "status = 'disabled'").await;
    set(server, user("unverified").await, "status = 'pending_verification'").await;
    set(server, user("deleted").await, "deleted_at = now()").await;
    set(server, user("kanidm").await, "auth_method = 'kanidm', kanidm_user_id = gen_random_uuid()").await;
    set(server, user("none").await, "password_hash = NULL, password_cost = NULL").await;
    set(server, user("pepperless").await, "password_pepper_id = 9").await;
    set_hash(server, user("broken").await, "$2b$04$short", 4).await;
    set_hash(server, user("hostile").await, &bcrypt::hash(WRONG, 4).unwrap().replace("$04$", "$31$"), 4).await;
    // A password that is set here is at most as long as bcrypt reads; a longer one with the same beginning is another.
    let cut = user("cut").await;
    set_hash(server, cut, &bcrypt::hash(&LONG[..72], 4).unwrap(), 4).await;
    set(server, cut, "password_changed_at = now()").await;
    vec![
        ("nobody", ADMIN_PASSWORD),
        ("four", WRONG),
        ("five", WRONG),
        ("six", WRONG),
        ("seven", WRONG),
        ("locked", ADMIN_PASSWORD),
        ("shut", ADMIN_PASSWORD),
        ("disabled", ADMIN_PASSWORD),
        ("unverified", ADMIN_PASSWORD),
        ("deleted", ADMIN_PASSWORD),
        ("kanidm", ADMIN_PASSWORD),
        ("none", ADMIN_PASSWORD),
        ("pepperless", ADMIN_PASSWORD),
        ("broken", ADMIN_PASSWORD),
        ("hostile", WRONG),
        ("cut", LONG),
    ]
}

/// All of an answer that a caller can see, except what differs for every call.
fn seen(status: &Status) -> (Code, String, Vec<u8>, Vec<String>) {
    let names = status.metadata().keys().map(|key| format!("{key:?}"));
    (status.code(), status.message().to_owned(), status.details().to_vec(), names.collect())
}

#[tokio::test]
async fn a_refusal_does_the_same_work_for_everybody() {
    let server = Setup::new().await.with("PASSWORDS__COST", "5").start().await;
    let done = || server.app().metrics.hash_units.get();
    for (name, password) in populations(&server).await {
        let before = done();
        attempt(&server, &format!("{name}@example.com"), password).await.unwrap_err();
        assert_eq!(done() - before, 1 << DEAREST, "{name}: as much as the dearest hash there is");
    }
    // A success takes what its own hash takes, and does not wait for more.
    for (name, cost) in [("five", 5), ("seven", DEAREST)] {
        let before = done();
        attempt(&server, &format!("{name}@example.com"), ADMIN_PASSWORD).await.unwrap();
        assert_eq!(done() - before, 1 << cost, "{name}");
    }
}

/// CVE-2026-23511: existing accounts could be told from missing ones by the text of the refusal.
#[tokio::test]
async fn a_refusal_says_the_same_to_everybody() {
    let server = TestServer::start().await;
    let mut answers = Vec::new();
    for (name, password) in populations(&server).await {
        let refused = attempt(&server, &format!("{name}@example.com"), password).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_CREDENTIALS", "{name}");
        // The error's details name the call that it belongs to.
        let correlation = refused.metadata().get("x-correlation-id").map(|id| id.to_str().unwrap().to_owned());
        let (code, message, details, names) = seen(&refused);
        let details = String::from_utf8_lossy(&details).replace(&correlation.unwrap_or_default(), "");
        answers.push((name, (code, message, details, names)));
    }
    let (_, first) = &answers[0];
    for (name, answer) in &answers {
        assert_eq!(answer, first, "{name}");
    }
}

/// Asking for a tenant must not reveal anything either before the password is right.
#[tokio::test]
async fn a_tenant_asked_for_makes_no_difference_to_a_refusal() {
    let server = TestServer::start().await;
    let (own, other) = (server.tenant("own").await, server.tenant("other").await);
    server.user(own, "ann@example.com", "user").await;
    for (identifier, tenant) in [("ann@example.com", own), ("ann@example.com", other), ("nobody@example.com", own)] {
        let request = sidle::proto::AuthenticatePasswordRequest {
            identifier: identifier.to_owned(),
            password: WRONG.to_owned(),
            tenant_id: tenant.to_string(),
            ..Default::default()
        };
        assert_eq!(reason(&ask(&server, request).await.unwrap_err()), "INVALID_CREDENTIALS", "{identifier}");
    }
}
