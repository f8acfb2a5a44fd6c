//! One name has one key, wherever it is made; two names never have the same.

use sidle::proto;

use super::attempt;
use crate::look::reason;
use crate::support::{Client, TestServer};

const ONE: &str = "seven otters juggle walnuts";
const OTHER: &str = "purple tractor orbit lemonade";

async fn create(server: &TestServer, admin: &Client, username: &str, password: &str) -> Result<String, tonic::Status> {
    let id = server.context.new_id();
    let request = proto::CreateUserRequest {
        request_id: id.to_string(),
        email: format!("{}@example.com", id.simple()),
        username: username.to_owned(),
        initial_password: password.to_owned(),
        email_verified: true,
        ..Default::default()
    };
    Ok(admin.clone().directory.create_user(request).await?.into_inner().user.unwrap().user_id)
}

/// Postgres folded `İ` to `i`, Rust does not: the user of one name was signed in as that of the other.
#[tokio::test]
async fn who_is_called_alike_is_never_signed_in_as_another() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let dotted = create(&server, &admin, "İrem", ONE).await.unwrap();
    let signed_in = attempt(&server, "İrem", ONE).await.expect("signs in by name");
    assert_eq!(signed_in.user.unwrap().user_id, dotted);
    attempt(&server, "İREM", ONE).await.expect("in either case");

    let plain = create(&server, &admin, "irem", OTHER).await.unwrap();
    assert_ne!(plain, dotted);
    assert_eq!(attempt(&server, "irem", OTHER).await.unwrap().user.unwrap().user_id, plain);
    assert_eq!(attempt(&server, "IREM", OTHER).await.unwrap().user.unwrap().user_id, plain);
    for (name, password) in [("irem", ONE), ("İrem", OTHER)] {
        assert_eq!(reason(&attempt(&server, name, password).await.unwrap_err()), "INVALID_CREDENTIALS", "{name}");
    }
}

#[tokio::test]
async fn a_name_that_looks_like_another_is_refused() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    create(&server, &admin, "Ann", ONE).await.unwrap();
    for same in ["ann", "ａｎｎ", "ANN"] {
        assert_eq!(reason(&create(&server, &admin, same, OTHER).await.unwrap_err()), "ALREADY_EXISTS", "{same}");
    }
    for alike in ["аnn", "ann\u{200b}", "a\u{200d}nn", "ann\u{202e}", "сосо", "a＠b"] {
        assert_eq!(reason(&create(&server, &admin, alike, OTHER).await.unwrap_err()), "INVALID_FIELD", "{alike:?}");
        assert_eq!(reason(&attempt(&server, alike, ONE).await.unwrap_err()), "INVALID_CREDENTIALS", "{alike:?}");
    }
    attempt(&server, "ａｎｎ", ONE).await.expect("another form of the same name");
}
