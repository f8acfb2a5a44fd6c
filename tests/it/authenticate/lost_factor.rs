//! A user who has lost telephone and recovery codes is helped by an administrator, who needs a fresh proof, must hold
//! every permission of the user, and leaves an event and a message.

use sidle::proto::*;
use sqlx::{Connection as _, PgConnection};
use tonic::{Code, Status};
use uuid::Uuid;

use super::factors::*;
use super::{api_key, attempt, exchange};
use crate::look::{event, reason};
use crate::support::{Client, Setup, TestServer};

const UPDATE: &str = "sidle.v1.DirectoryService/UpdateUser";

async fn user(client: &Client, id: Uuid) -> Result<User, Status> {
    let identifier = Some(get_user_request::Identifier::UserId(id.to_string()));
    let answer = client.directory.clone().get_user(GetUserRequest { identifier, include_deleted: false }).await?;
    Ok(answer.into_inner().user.unwrap())
}

fn change(user: User, has_second_factor: bool) -> UpdateUserRequest {
    UpdateUserRequest {
        user: Some(User { has_second_factor, ..user }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["has_second_factor".to_owned()] }),
        validate_only: false,
    }
}

async fn count(server: &TestServer, table: &str, user: Uuid) -> i64 {
    let sql = format!("SELECT count(*) FROM {table} WHERE user_id = $1");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(user).fetch_one(server.sql()).await.unwrap()
}

#[tokio::test]
async fn an_administrator_takes_a_lost_factor_away_with_a_proof_and_what_came_in_by_it() {
    // There is a mail server that does not answer: notices are in the outbox all the same.
    let setup = Setup::new().await.with("MAIL__HOST", "localhost").with("MAIL__PORT", "1").with("MAIL__TLS", "none");
    let setup = setup.with("MAIL__FROM", "sidle@example.com").with("MAIL__ORIGIN", "https://accounts.example.com");
    let server = setup.start().await;
    let tenant = server.tenant("a").await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let waiting = challenge(&server, ann.email).await.unwrap();
    server.user(tenant, "boss@example.com", "super_admin").await;
    let boss = server.client(&server.sign_in("boss@example.com").await.access_token);
    let known = user(&boss, ann.user).await.unwrap();
    assert!(known.has_second_factor);

    let refused = boss.directory.clone().update_user(change(known.clone(), false)).await.unwrap_err();
    assert_eq!(reason(&refused), "STEP_UP_REQUIRED");
    let request = boss.proven(UPDATE, &ann.user.to_string(), change(known.clone(), true)).await;
    assert_eq!(reason(&boss.directory.clone().update_user(request).await.unwrap_err()), "INVALID_FIELD");
    assert!(user(&boss, ann.user).await.unwrap().has_second_factor, "nothing has happened yet");

    let request = boss.proven(UPDATE, &ann.user.to_string(), change(known, false)).await;
    let after = boss.directory.clone().update_user(request).await.unwrap().into_inner().user.unwrap();
    assert!(!after.has_second_factor);
    for table in ["user_totp", "recovery_codes", "mfa_challenges", "step_up_tokens"] {
        assert_eq!(count(&server, table, ann.user).await, 0, "{table}");
    }
    let who = ann.client.authenticate.clone().who_am_i(WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(who.code(), Code::Unauthenticated, "whoever came in by the lost factor is out");
    let code = ann.codes[0].clone();
    let late = answer(&server, &waiting, complete_mfa_request::Factor::RecoveryCode(code)).await.unwrap_err();
    assert_eq!(reason(&late), "INVALID_CREDENTIALS");
    attempt(&server, ann.email, crate::support::ADMIN_PASSWORD).await.expect("the password is enough again");
    let recorded = event(&server, "user.totp_disabled").await;
    assert_eq!(
        (recorded.reason.as_deref(), recorded.target_id.clone()),
        (Some("administrator"), Some(ann.user.to_string()))
    );
    let told: i64 =
        sqlx::query_scalar("SELECT count(*) FROM mail_outbox WHERE kind = 'totp_disabled' AND user_id = $1")
            .bind(ann.user)
            .fetch_one(server.sql())
            .await
            .unwrap();
    assert_eq!(told, 1);
    boss.directory
        .clone()
        .update_user(change(after, false))
        .await
        .expect("there is nothing left to prove anything for");
}

#[tokio::test]
async fn nobody_takes_the_factor_of_somebody_out_of_their_reach() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let root = server.admin().await;
    let ann = guarded(&server, tenant, "ann@example.com").await;
    let known = user(&root, ann.user).await.unwrap();

    let other = server.tenant("b").await;
    server.user(other, "boss@b.example", "super_admin").await;
    let elsewhere = server.client(&server.sign_in("boss@b.example").await.access_token);
    let request = elsewhere.proven(UPDATE, &ann.user.to_string(), change(known.clone(), false)).await;
    assert_eq!(reason(&elsewhere.directory.clone().update_user(request).await.unwrap_err()), "NOT_FOUND");

    // An administrator who may edit users, but lacks what ann may do besides.
    server.user(tenant, "boss@a.example", "super_admin").await;
    let clerk = CreateRoleRequest {
        tenant_id: tenant.to_string(),
        name: "clerk".to_owned(),
        permissions: vec!["users.read".to_owned(), "users.write".to_owned()],
        ..Default::default()
    };
    let role_id = root.directory.clone().create_role(clerk).await.unwrap().into_inner().role.unwrap().role_id;
    let clerk = server.user(tenant, "clerk@a.example", "user").await.to_string();
    let grant =
        CreateMembershipRequest { user_id: clerk, tenant_id: tenant.to_string(), role_id, ..Default::default() };
    root.directory.clone().create_membership(grant).await.unwrap();
    let clerk = server.client(&server.sign_in("clerk@a.example").await.access_token);
    let boss: Uuid = sqlx::query_scalar("SELECT user_id FROM users WHERE email = 'boss@a.example'")
        .fetch_one(server.sql())
        .await
        .unwrap();
    let superior = user(&clerk, boss).await.unwrap();
    let request = clerk.proven(UPDATE, &boss.to_string(), change(superior, false)).await;
    assert_eq!(reason(&clerk.directory.clone().update_user(request).await.unwrap_err()), "PERMISSION_DENIED");

    let key = api_key(&server, None, &["*"], &[]).await;
    let program = server.client(&exchange(&server, &key).await.unwrap().access_token);
    let refused = program.directory.clone().update_user(change(known, false)).await.unwrap_err();
    assert_eq!(reason(&refused), "USER_REQUIRED");

    // The function does not rely on the check of its caller.
    let mut app = PgConnection::connect(&server.setup.database().app_url).await.unwrap();
    sqlx::query("SELECT set_config('sidle.tenant_id', $1, false)")
        .bind(other.to_string())
        .execute(&mut app)
        .await
        .unwrap();
    let call = "SELECT directory_remove_second_factor($1)";
    sqlx::query(call).bind(ann.user).execute(&mut app).await.expect_err("a user of another tenant");
    assert_eq!(count(&server, "user_totp", ann.user).await, 1);
    sqlx::query("SELECT set_config('sidle.tenant_id', $1, false)")
        .bind(tenant.to_string())
        .execute(&mut app)
        .await
        .unwrap();
    sqlx::query(call).bind(ann.user).execute(&mut app).await.expect("a user of this one");
    assert_eq!(count(&server, "user_totp", ann.user).await, 0);
}
