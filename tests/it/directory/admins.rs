//! The platform always has an administrator.

use sidle::directory::{FirstAdmin, bootstrap};
use sidle::fault::Reason;
use sidle::proto::*;
use uuid::Uuid;

use super::{UPDATE_USER, create_user, get_user, grant_on_platform, mask, memberships, new_user, reason};
use crate::support::{ADMIN_PASSWORD, Client, TestServer, cheap_hash};

fn first_admin(email: &str) -> FirstAdmin {
    let password = sidle::credential::StoredHash { hash: cheap_hash(ADMIN_PASSWORD), cost: 4, pepper_id: None };
    FirstAdmin {
        tenant_slug: "headquarters".to_owned(),
        email: email.to_owned(),
        full_name: "First".to_owned(),
        password,
        must_change_password: false,
    }
}

fn recorder(server: &TestServer) -> sidle::audit::Recorder {
    sidle::audit::Recorder::new(server.context.clone(), server.app().keyring.clone())
}

async fn platform_membership(client: &Client, user: Uuid) -> DeleteMembershipRequest {
    let found = memberships(client, user).await.into_iter().find(|found| found.tenant_id.is_empty()).unwrap();
    DeleteMembershipRequest { membership_id: found.membership_id, ..Default::default() }
}

#[tokio::test]
async fn of_many_bootstraps_one_makes_the_administrator() {
    let server = TestServer::start().await;
    let runs = (0..6).map(|n| {
        let (db, context, recorder) = (server.app().db.clone(), server.context.clone(), recorder(&server));
        tokio::spawn(
            async move { bootstrap(&db, &context, &recorder, first_admin(&format!("first{n}@example.com"))).await },
        )
    });
    let mut made = Vec::new();
    for run in runs.collect::<Vec<_>>() {
        match run.await.unwrap() {
            Ok(first) => made.push(first),
            Err(fault) => assert_eq!(fault.reason(), Reason::AlreadyBootstrapped),
        }
    }
    assert_eq!(made.len(), 1);
    let users: i64 = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(server.sql()).await.unwrap();
    assert_eq!(users, 1);
    let email: String = sqlx::query_scalar("SELECT email FROM users").fetch_one(server.sql()).await.unwrap();
    let admin = server.client(&server.sign_in(&email).await.access_token);
    let user = get_user(&admin, &made[0].user_id.to_string()).await;
    assert!(user.is_master_admin);
    assert_eq!(super::events(&server, "platform.bootstrapped").await.len(), 1);
}

#[tokio::test]
async fn the_master_administrator_stays_whatever_others_do() {
    let server = TestServer::start().await;
    let first = bootstrap(&server.app().db, &server.context, &recorder(&server), first_admin("first@example.com"))
        .await
        .unwrap();
    let rival = server.admin().await;
    let id = first.user_id.to_string();
    let mut d = rival.directory.clone();
    assert_eq!(
        reason(d.disable_user(DisableUserRequest { user_id: id.clone(), etag: String::new() }).await),
        "MASTER_ADMIN"
    );
    assert_eq!(
        reason(
            d.delete_user(DeleteUserRequest { user_id: id.clone(), etag: String::new(), ..Default::default() }).await
        ),
        "MASTER_ADMIN"
    );
    assert_eq!(
        reason(d.lock_user(LockUserRequest { user_id: id.clone(), ..Default::default() }).await),
        "MASTER_ADMIN"
    );
    let grant = platform_membership(&rival, first.user_id).await;
    assert_eq!(reason(d.delete_membership(grant.clone()).await), "MASTER_ADMIN");
    let user = get_user(&rival, &id).await;
    let takeover = UpdateUserRequest {
        user: Some(User { email: "rival@example.com".to_owned(), ..user.clone() }),
        update_mask: mask(&["email"]),
        validate_only: false,
    };
    assert_eq!(reason(d.update_user(takeover.clone()).await), "MASTER_ADMIN");
    let locked_out = UpdateUserRequest {
        user: Some(User { must_change_password: true, ..user.clone() }),
        update_mask: mask(&["must_change_password"]),
        validate_only: false,
    };
    assert_eq!(reason(d.update_user(locked_out).await), "MASTER_ADMIN");
    let weakened =
        UpdateUserRequest { user: Some(user.clone()), update_mask: mask(&["has_second_factor"]), validate_only: false };
    assert_eq!(reason(d.update_user(weakened).await), "MASTER_ADMIN");
    assert_eq!(get_user(&rival, &id).await, user);
    // Not even by a mistake of their own; but the address is their own to change.
    let master = server.client(&server.sign_in("first@example.com").await.access_token);
    assert_eq!(reason(master.directory.clone().delete_membership(grant).await), "MASTER_ADMIN");
    let takeover = master.proven(UPDATE_USER, &id, takeover).await;
    master.directory.clone().update_user(takeover).await.expect("one's own address");
}

#[tokio::test]
async fn the_last_administrator_stays_by_every_way_out() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let id: Uuid = sqlx::query_scalar("SELECT user_id FROM users").fetch_one(server.sql()).await.unwrap();
    let home: Uuid = sqlx::query_scalar("SELECT tenant_id FROM users").fetch_one(server.sql()).await.unwrap();
    // Has the role, and cannot sign in: no password, no Kanidm.
    let paper = create_user(&admin, new_user(home, "paper@example.com")).await;
    grant_on_platform(&admin, &paper.user_id).await;
    let mut d = admin.directory.clone();
    let user_id = id.to_string();
    assert_eq!(
        reason(d.disable_user(DisableUserRequest { user_id: user_id.clone(), etag: String::new() }).await),
        "LAST_ADMIN"
    );
    assert_eq!(
        reason(
            d.delete_user(DeleteUserRequest { user_id: user_id.clone(), etag: String::new(), ..Default::default() })
                .await
        ),
        "LAST_ADMIN"
    );
    assert_eq!(
        reason(d.lock_user(LockUserRequest { user_id: user_id.clone(), ..Default::default() }).await),
        "LAST_ADMIN"
    );
    let demote = platform_membership(&admin, id).await;
    assert_eq!(reason(d.delete_membership(demote.clone()).await), "LAST_ADMIN");
    let identifier = Some(get_tenant_request::Identifier::TenantId(home.to_string()));
    let tenant = d.get_tenant(GetTenantRequest { identifier }).await.unwrap().into_inner().tenant.unwrap();
    let close = UpdateTenantRequest {
        tenant: Some(Tenant { status: TenantStatus::Disabled.into(), ..tenant }),
        update_mask: mask(&["status"]),
        validate_only: false,
    };
    assert_eq!(reason(d.update_tenant(close).await), "LAST_ADMIN");
    d.list_users(ListUsersRequest::default()).await.expect("still the administrator");

    // With a second one who can sign in, the first may be removed.
    let second = server.user(home, "second@example.com", "SYSTEM_ADMIN").await;
    let second_client = server.client(&server.sign_in("second@example.com").await.access_token);
    second_client.directory.clone().delete_membership(demote).await.unwrap();
    let last = DisableUserRequest { user_id: second.to_string(), etag: String::new() };
    assert_eq!(reason(second_client.directory.clone().disable_user(last).await), "LAST_ADMIN");
}

#[tokio::test]
async fn two_administrators_who_turn_on_each_other_leave_one() {
    let server = TestServer::start().await;
    let home = server.tenant("platform").await;
    let (ann, bob) = ("ann@example.com", "bob@example.com");
    let ids = [server.user(home, ann, "SYSTEM_ADMIN").await, server.user(home, bob, "SYSTEM_ADMIN").await];
    for round in 0..12 {
        let clients = [
            server.client(&server.sign_in(ann).await.access_token),
            server.client(&server.sign_in(bob).await.access_token),
        ];
        let attack = |by: usize, on: usize| {
            let (mut directory, user_id) = (clients[by].directory.clone(), ids[on].to_string());
            async move {
                match round % 3 {
                    0 => directory.disable_user(DisableUserRequest { user_id, etag: String::new() }).await.map(drop),
                    1 => directory
                        .delete_user(DeleteUserRequest { user_id, etag: String::new(), ..Default::default() })
                        .await
                        .map(drop),
                    _ => directory.lock_user(LockUserRequest { user_id, ..Default::default() }).await.map(drop),
                }
            }
        };
        let (first, second) = tokio::join!(attack(0, 1), attack(1, 0));
        assert!(first.is_ok() != second.is_ok(), "round {round}: {first:?} {second:?}");
        let left: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM users WHERE status = 'active' AND deleted_at IS NULL AND locked_until IS NULL",
        )
        .fetch_one(server.sql())
        .await
        .unwrap();
        assert_eq!(left, 1, "round {round}");
        let restore = "UPDATE users SET status = 'active', deleted_at = NULL, locked_until = NULL, lock_reason = NULL";
        sqlx::query(restore).execute(server.sql()).await.unwrap();
        // A token issued in the instant of the revocation would not be distinguished from one before it.
        server.context.clock.advance(std::time::Duration::from_millis(5));
    }
}
