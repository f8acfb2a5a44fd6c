//! Users: their fields, and that no change of them happens twice, halfway or unrecorded.

use sidle::proto::get_user_request::Identifier;
use sidle::proto::*;
use uuid::Uuid;

use super::{UPDATE_USER, create_user, events, field, get_user, mask, member, new_user, reason, refusal};
use crate::support::{ADMIN_PASSWORD, Client, TestServer, until};

fn renamed(user: &User, name: &str) -> UpdateUserRequest {
    UpdateUserRequest {
        user: Some(User { full_name: name.to_owned(), ..user.clone() }),
        update_mask: mask(&["full_name"]),
        validate_only: false,
    }
}

async fn count_users(server: &TestServer) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(server.sql()).await.unwrap()
}

#[tokio::test]
async fn a_user_is_found_by_every_name_in_any_case() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let request = CreateUserRequest {
        username: "Ann.Lee".to_owned(),
        full_name: "Ann Lee".to_owned(),
        ..new_user(tenant, "Ann.Lee@Example.com")
    };
    let created = create_user(&admin, request).await;
    assert_eq!((created.email.as_str(), created.status), ("Ann.Lee@Example.com", UserStatus::Active.into()));
    assert!(!created.has_password && !created.must_change_password && !created.is_master_admin);
    for identifier in [
        Identifier::UserId(created.user_id.clone()),
        Identifier::Email("ANN.LEE@example.COM".to_owned()),
        Identifier::Username("ann.lee".to_owned()),
    ] {
        let request = GetUserRequest { identifier: Some(identifier), include_deleted: false };
        let found = admin.directory.clone().get_user(request).await.unwrap().into_inner().user.unwrap();
        assert_eq!(found, created);
    }
    let recorded = events(&server, "user.created").await;
    assert_eq!(recorded.len(), 1);
    assert_eq!(recorded[0].0, created.user_id);
    assert!(
        !recorded[0].1.to_string().to_lowercase().contains("ann"),
        "people's data stands beside the log: {recorded:?}"
    );
}

#[tokio::test]
async fn names_are_unique_over_all_tenants_and_the_field_is_told() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let (north, south) = (server.tenant("north").await, server.tenant("south").await);
    let first = CreateUserRequest { username: "ann".to_owned(), ..new_user(north, "ann@example.com") };
    create_user(&admin, first).await;
    let same_mail = admin.directory.clone().create_user(new_user(south, "ANN@example.com")).await;
    assert_eq!(field(same_mail), "email");
    let same_name = CreateUserRequest { username: "Ann".to_owned(), ..new_user(south, "ann@example.org") };
    let same_name = admin.directory.clone().create_user(same_name).await;
    assert_eq!(refusal(same_name), ("ALREADY_EXISTS".to_owned(), "username".to_owned()));
}

#[tokio::test]
async fn of_writers_with_the_same_etag_exactly_one_wins() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let user = create_user(&admin, new_user(tenant, "ann@example.com")).await;
    let writers = (0..8).map(|n| {
        let (mut directory, request) = (admin.directory.clone(), renamed(&user, &format!("Name {n}")));
        tokio::spawn(async move { directory.update_user(request).await })
    });
    let mut winners = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        match writer.await.unwrap() {
            Ok(answer) => winners.push(answer.into_inner().user.unwrap()),
            refused => assert_eq!(reason(refused), "ETAG_MISMATCH"),
        }
    }
    assert_eq!(winners.len(), 1);
    let now = get_user(&admin, &user.user_id).await;
    assert_eq!(now, winners[0]);
    assert_ne!(now.etag, user.etag);
    assert_eq!(events(&server, "user.updated").await.len(), 1);
}

#[tokio::test]
async fn signing_in_does_not_make_an_etag_stale() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let id = server.user(tenant, "ann@example.com", "user").await;
    let before = get_user(&admin, &id.to_string()).await;
    server.sign_in("ann@example.com").await;
    let answer = admin.directory.clone().update_user(renamed(&before, "Ann Lee")).await.unwrap().into_inner();
    assert_eq!(answer.user.unwrap().full_name, "Ann Lee");
}

#[tokio::test]
async fn a_repeated_call_gets_the_first_answer() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let (_, other) = member(&server, tenant, "boss@example.com", "super_admin").await;
    let request_id = Uuid::from_u128(0x7e57).to_string();
    let request = CreateUserRequest { request_id: request_id.clone(), ..new_user(tenant, "ann@example.com") };
    let before = count_users(&server).await;
    let calls = (0..6).map(|_| {
        tokio::spawn({
            let (mut directory, request) = (admin.directory.clone(), request.clone());
            async move { directory.create_user(request).await }
        })
    });
    let mut answers = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        answers.push(call.await.unwrap().expect("every repeat is answered").into_inner());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(count_users(&server).await, before + 1);
    assert_eq!(events(&server, "user.created").await.len(), 1);

    let changed = CreateUserRequest { email: "bob@example.com".to_owned(), ..request.clone() };
    assert_eq!(reason(admin.directory.clone().create_user(changed.clone()).await), "REQUEST_ID_REUSED");
    // The id is the caller's own: another caller's use of it is another call.
    let bob = other.directory.clone().create_user(changed).await.unwrap().into_inner().user.unwrap();
    assert_eq!(bob.email, "bob@example.com");
    let odd = CreateUserRequest { request_id: "again".to_owned(), ..new_user(tenant, "eve@example.com") };
    assert_eq!(field(admin.directory.clone().create_user(odd).await), "request_id");
}

#[tokio::test]
async fn what_is_kept_of_a_request_does_not_lead_to_its_password() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let request_id = Uuid::from_u128(0x7e57).to_string();
    let with = |password: &str| CreateUserRequest {
        request_id: request_id.clone(),
        initial_password: password.to_owned(),
        ..new_user(tenant, "ann@example.com")
    };
    let first = create_user(&admin, with("first of the passwords")).await;
    assert!(first.has_password && first.must_change_password);
    let digest = || async {
        let sql = "SELECT body_digest, answer FROM request_answers WHERE method LIKE '%CreateUser'";
        sqlx::query_as::<_, (Vec<u8>, Vec<u8>)>(sql).fetch_one(server.sql()).await.unwrap()
    };
    let kept = digest().await;
    assert!(!kept.1.windows(5).any(|window| window == b"first"));
    // The same digest for another password: so it is no function of the password, and guesses cannot be tried on it.
    assert_eq!(create_user(&admin, with("second of the passwords")).await, first);
    assert_eq!(digest().await, kept);
}

#[tokio::test]
async fn validating_changes_nothing_and_fails_when_the_real_call_would() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let before = count_users(&server).await;
    let request_id = Uuid::from_u128(0x7e57).to_string();
    let real = CreateUserRequest { request_id, ..new_user(tenant, "ann@example.com") };
    let dry = CreateUserRequest { validate_only: true, ..real.clone() };
    let answer = create_user(&admin, dry.clone()).await;
    assert_eq!(answer.email, "ann@example.com");
    assert_eq!(count_users(&server).await, before);
    assert!(events(&server, "user.created").await.is_empty());
    // The same id may then be used for the real call, since no answer was stored.
    let user = create_user(&admin, real).await;
    let again = CreateUserRequest { request_id: String::new(), ..dry };
    assert_eq!(reason(admin.directory.clone().create_user(again).await), "ALREADY_EXISTS");
    let stale =
        UpdateUserRequest { validate_only: true, ..renamed(&User { etag: "v99".to_owned(), ..user.clone() }, "x") };
    assert_eq!(reason(admin.directory.clone().update_user(stale).await), "ETAG_MISMATCH");
    let fresh = UpdateUserRequest { validate_only: true, ..renamed(&user, "Ann") };
    assert_eq!(admin.directory.clone().update_user(fresh).await.unwrap().into_inner().user.unwrap().full_name, "Ann");
    assert_eq!(get_user(&admin, &user.user_id).await, user);
}

#[tokio::test]
async fn pages_follow_each_other_and_their_tokens_belong_to_caller_and_filter() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    for n in 0..5 {
        create_user(&admin, new_user(tenant, &format!("user{n}@example.com"))).await;
    }
    let (_, boss) = member(&server, tenant, "boss@example.com", "super_admin").await;
    let first = ListUsersRequest { page_size: 2, tenant_id: tenant.to_string(), ..Default::default() };
    let mut seen = Vec::new();
    let mut request = first.clone();
    // More pages than there are, so that pages without an end fail.
    for _ in 0..5 {
        let page = admin.directory.clone().list_users(request.clone()).await.unwrap().into_inner();
        assert!(page.users.len() <= 2);
        seen.extend(page.users.into_iter().map(|user| user.user_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen.len(), 6);
    assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");

    let token = admin.directory.clone().list_users(first.clone()).await.unwrap().into_inner().next_page_token;
    let with_token = ListUsersRequest { page_token: token, ..first };
    assert_eq!(reason(boss.directory.clone().list_users(with_token.clone()).await), "INVALID_PAGE_TOKEN");
    let other_filter = ListUsersRequest { locked_only: true, ..with_token.clone() };
    assert_eq!(reason(admin.directory.clone().list_users(other_filter).await), "INVALID_PAGE_TOKEN");
    let negative = ListUsersRequest { page_size: -1, ..Default::default() };
    assert_eq!(field(admin.directory.clone().list_users(negative).await), "page_size");
}

#[tokio::test]
async fn lists_are_narrowed_by_status_and_method() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let ann = create_user(&admin, new_user(tenant, "ann@example.com")).await;
    let bob =
        create_user(&admin, CreateUserRequest { email_verified: false, ..new_user(tenant, "bob@example.com") }).await;
    let list = async |request: ListUsersRequest| {
        let request = ListUsersRequest { tenant_id: tenant.to_string(), ..request };
        let answer = admin.directory.clone().list_users(request).await.unwrap().into_inner();
        answer.users.into_iter().map(|user| user.user_id).collect::<Vec<_>>()
    };
    let pending = ListUsersRequest { status: UserStatus::PendingVerification.into(), ..Default::default() };
    assert_eq!(list(pending).await, [bob.user_id]);
    let kanidm = ListUsersRequest { auth_method: AuthMethod::Kanidm.into(), ..Default::default() };
    assert!(list(kanidm).await.is_empty());
    let lock = LockUserRequest { user_id: ann.user_id.clone(), ..Default::default() };
    admin.directory.clone().lock_user(lock).await.unwrap();
    assert_eq!(list(ListUsersRequest { locked_only: true, ..Default::default() }).await, [ann.user_id]);
    let odd = ListUsersRequest { status: 77, ..Default::default() };
    assert_eq!(field(admin.directory.clone().list_users(odd).await), "status");
}

/// Refused as a caller and as a token to verify, on the replica that was asked and on another one.
async fn assert_signed_out(server: &TestServer, verifier: &Client, tokens: &TokenPair) {
    let request = VerifyTokenRequest { token: tokens.access_token.clone(), audience: "sidle".to_owned() };
    assert_eq!(reason(verifier.authenticate.clone().verify_token(request).await), "INVALID_TOKEN");
    let client = server.client(&tokens.access_token);
    assert_eq!(reason(client.authenticate.clone().who_am_i(WhoAmIRequest {}).await), "UNAUTHENTICATED");
    let request = RefreshTokenRequest {
        refresh_token: tokens.refresh_token.clone(),
        request_id: Uuid::from_u128(1).to_string(),
        ..Default::default()
    };
    assert_eq!(reason(server.client("").authenticate.clone().refresh_token(request).await), "INVALID_REFRESH_TOKEN");
}

fn password_login(email: &str) -> AuthenticatePasswordRequest {
    AuthenticatePasswordRequest {
        identifier: email.to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        ..Default::default()
    }
}

/// CVE-2023-22492, CVE-2024-46999: a disabled user keeps what was granted before.
#[tokio::test]
async fn disabling_a_user_ends_everything_at_once() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let id = server.user(tenant, "ann@example.com", "user").await;
    let (first, second) = (server.sign_in("ann@example.com").await, server.sign_in("ann@example.com").await);
    let request = DisableUserRequest { user_id: id.to_string(), etag: String::new() };
    let answer = admin.directory.clone().disable_user(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.sessions_revoked, 2);
    assert_eq!(answer.user.unwrap().status, i32::from(UserStatus::Disabled));
    for tokens in [&first, &second] {
        assert_signed_out(&server, &admin, tokens).await;
    }
    let login = server.client("").authenticate.clone().authenticate_password(password_login("ann@example.com")).await;
    assert_eq!(reason(login), "INVALID_CREDENTIALS");
    let recorded = events(&server, "user.disabled").await;
    assert_eq!(recorded[0].1["sessions"].as_array().unwrap().len(), 2);
    // Disabling a disabled user is no change.
    assert_eq!(admin.directory.clone().disable_user(request).await.unwrap().into_inner().sessions_revoked, 0);
    assert_eq!(events(&server, "user.disabled").await.len(), 1);

    let enable = EnableUserRequest { user_id: id.to_string(), ..Default::default() };
    let user = admin.directory.clone().enable_user(enable).await.unwrap().into_inner().user.unwrap();
    assert_eq!(user.status, i32::from(UserStatus::Active), "the address was verified before");
    assert_signed_out(&server, &admin, &first).await;
    server.sign_in("ann@example.com").await;
}

/// An administrator confirms an address whatever the user's status; what there is nothing to say about asks for no proof.
#[tokio::test]
async fn an_address_is_confirmed_whatever_the_status() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let (_, boss) = member(&server, tenant, "boss@north.example", "super_admin").await;
    let request = CreateUserRequest {
        initial_password: ADMIN_PASSWORD.to_owned(),
        must_change_password: Some(false),
        email_verified: false,
        ..new_user(tenant, "ann@north.example")
    };
    let ann = create_user(&admin, request).await;
    assert_eq!(ann.status(), UserStatus::PendingVerification);
    let enable =
        |email_verified| EnableUserRequest { user_id: ann.user_id.clone(), email_verified, ..Default::default() };
    let plain = admin.plain.clone().enable_user(enable(false)).await.unwrap().into_inner().user.unwrap();
    assert_eq!(plain.status(), UserStatus::PendingVerification, "that alone says nothing of the address");
    let refused = admin.plain.clone().enable_user(enable(true)).await;
    assert_eq!(reason(refused), "STEP_UP_REQUIRED");

    // A tenant confirms what it knows; the platform's word stands by itself.
    let verified = boss.directory.clone().enable_user(enable(true)).await.unwrap().into_inner().user.unwrap();
    assert!(verified.status() == UserStatus::Active && verified.verified_at.is_some(), "{verified:?}");
    server.sign_in("ann@north.example").await;
    let by_tenant = async || -> bool {
        let sql = "SELECT verified_by_tenant FROM users WHERE email_key = 'ann@north.example'";
        sqlx::query_scalar(sql).fetch_one(server.sql()).await.unwrap()
    };
    assert!(by_tenant().await);
    admin.directory.clone().enable_user(enable(true)).await.unwrap();
    assert!(!by_tenant().await);
    let recorded = events(&server, "user.email_verified").await;
    let told: Vec<_> = recorded.iter().map(|(_, details)| (&details["old_status"], &details["by_tenant"])).collect();
    assert_eq!(told, [(&"pending_verification".into(), &true.into()), (&"active".into(), &false.into())]);
    assert_eq!(events(&server, "user.enabled").await.len(), 0, "nobody was disabled");
    admin.plain.clone().enable_user(enable(true)).await.expect("nothing is left to be said");

    let disable = DisableUserRequest { user_id: ann.user_id.clone(), etag: String::new() };
    admin.directory.clone().disable_user(disable).await.unwrap();
    crate::authenticate::set(&server, ann.user_id.parse().unwrap(), "verified_at = NULL").await;
    let again = admin.directory.clone().enable_user(enable(true)).await.unwrap().into_inner().user.unwrap();
    assert!(again.status() == UserStatus::Active && again.verified_at.is_some());
    assert_eq!(
        (events(&server, "user.enabled").await.len(), events(&server, "user.email_verified").await.len()),
        (1, 3)
    );
}

/// Whoever registered with the old application chose the password, perhaps for somebody else's address.
#[tokio::test]
async fn an_imported_password_goes_when_an_administrator_verifies_the_address_for_the_first_time() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    server.tenant("north").await;
    let header = ImportHeader {
        inactive_means: InactiveMeaning::PendingVerification.into(),
        ..crate::migration::header("north")
    };
    let row = |line, email: &str, is_active| ImportRow {
        password_hash: crate::support::cheap_hash(ADMIN_PASSWORD),
        is_active: Some(is_active),
        ..crate::migration::row(line, email)
    };
    let rows = vec![row(1, "ann@north.example", false), row(2, "bob@north.example", true)];
    let imported = crate::migration::import(&admin, header, rows).await.unwrap();
    let enable = async |line| {
        let user_id = imported.verdict(line).user_id.clone();
        let request = EnableUserRequest { user_id, email_verified: true, ..Default::default() };
        admin.directory.clone().enable_user(request).await.unwrap().into_inner().user.unwrap()
    };
    let ann = enable(1).await;
    assert!(ann.status() == UserStatus::Active && !ann.has_password, "{ann:?}");
    let removed = events(&server, "user.credentials_removed").await;
    assert_eq!((removed.len(), &removed[0].1["password"]), (1, &true.into()));
    assert!(enable(2).await.has_password, "an active user of the old application had verified it there");
}

#[tokio::test]
async fn another_replica_refuses_a_disabled_user_too() {
    let server = TestServer::start().await;
    let replica = server.setup.start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let id = server.user(tenant, "ann@example.com", "user").await;
    let tokens = server.sign_in("ann@example.com").await;
    let there = replica.client(&tokens.access_token);
    there.authenticate.clone().who_am_i(WhoAmIRequest {}).await.expect("good before");
    let request = DisableUserRequest { user_id: id.to_string(), etag: String::new() };
    admin.directory.clone().disable_user(request).await.unwrap();
    // The log carries it to the other replica; the bound on how long that takes is measured elsewhere.
    until("the replica refuses the token", async || {
        there.authenticate.clone().who_am_i(WhoAmIRequest {}).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn a_lock_by_an_administrator_refuses_the_password_and_ends_what_lives() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let id = server.user(tenant, "ann@example.com", "user").await;
    let tokens = server.sign_in("ann@example.com").await;
    let minute = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let lock = LockUserRequest { user_id: id.to_string(), duration: minute, ..Default::default() };
    let locked = admin.directory.clone().lock_user(lock).await.unwrap().into_inner().user.unwrap();
    assert_eq!(locked.lock_reason, i32::from(LockReason::Administrator));
    let client = server.client("");
    let login = || client.authenticate.clone();
    assert_eq!(reason(login().authenticate_password(password_login("ann@example.com")).await), "INVALID_CREDENTIALS");
    server.client(&tokens.access_token).authenticate.who_am_i(WhoAmIRequest {}).await.expect_err("at once");
    let request = RefreshTokenRequest { refresh_token: tokens.refresh_token, ..Default::default() };
    assert_eq!(reason(login().refresh_token(request).await), "INVALID_REFRESH_TOKEN");
    server.context.clock.advance(std::time::Duration::from_secs(61));
    server.sign_in("ann@example.com").await;

    let admin = server.client(&server.sign_in("root@platform.example").await.access_token);
    let lock = LockUserRequest { user_id: id.to_string(), duration: None, ..Default::default() };
    let answer = admin.directory.clone().lock_user(lock).await.unwrap().into_inner();
    assert_eq!(answer.sessions_revoked, 1);
    server.context.clock.advance(std::time::Duration::from_secs(3600));
    assert_eq!(reason(login().authenticate_password(password_login("ann@example.com")).await), "INVALID_CREDENTIALS");
    let admin = server.client(&server.sign_in("root@platform.example").await.access_token);
    let unlock = UnlockUserRequest { user_id: id.to_string() };
    let user = admin.directory.clone().unlock_user(unlock).await.unwrap().into_inner().user.unwrap();
    assert_eq!((user.lock_reason, user.failed_login_attempts, user.lock_ends_at), (0, 0, None));
    server.sign_in("ann@example.com").await;
}

#[tokio::test]
async fn a_deleted_user_is_gone_and_frees_the_address() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let id = server.user(tenant, "ann@example.com", "user").await;
    let tokens = server.sign_in("ann@example.com").await;
    let delete = DeleteUserRequest { user_id: id.to_string(), etag: String::new(), ..Default::default() };
    let answer = admin.directory.clone().delete_user(delete.clone()).await.unwrap().into_inner();
    assert_eq!(answer.sessions_revoked, 1);
    assert_signed_out(&server, &admin, &tokens).await;
    assert_eq!(reason(admin.directory.clone().delete_user(delete).await), "NOT_FOUND");
    let by_id = GetUserRequest { identifier: Some(Identifier::UserId(id.to_string())), include_deleted: false };
    assert_eq!(reason(admin.directory.clone().get_user(by_id).await), "NOT_FOUND");
    assert!(get_user(&admin, &id.to_string()).await.deleted_at.is_some());
    let again = create_user(&admin, new_user(tenant, "ann@example.com")).await;
    assert_ne!(again.user_id, id.to_string());
}

#[tokio::test]
async fn a_new_address_counts_as_unverified() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let user = create_user(&admin, new_user(tenant, "ann@example.com")).await;
    assert!(user.verified_at.is_some());
    let request = UpdateUserRequest {
        user: Some(User { email: "ann.lee@example.com".to_owned(), ..user.clone() }),
        update_mask: mask(&["email"]),
        validate_only: false,
    };
    let request = admin.proven(UPDATE_USER, &user.user_id, request).await;
    let changed = admin.directory.clone().update_user(request).await.unwrap().into_inner().user.unwrap();
    assert_eq!((changed.email.as_str(), changed.verified_at), ("ann.lee@example.com", None));
    let recorded = events(&server, "user.updated").await;
    assert!(!recorded[0].1.to_string().contains("ann"), "{recorded:?}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_field() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let user = create_user(&admin, new_user(tenant, "ann@example.com")).await;
    let good = new_user(tenant, "bob@example.com");
    for (request, expected) in [
        (CreateUserRequest { email: "bob".to_owned(), ..good.clone() }, "email"),
        (CreateUserRequest { username: "b@b".to_owned(), ..good.clone() }, "username"),
        (CreateUserRequest { full_name: "x".repeat(201), ..good.clone() }, "full_name"),
        (CreateUserRequest { full_name: "a\u{0}b".to_owned(), ..good.clone() }, "full_name"),
        (CreateUserRequest { initial_password: "short".to_owned(), ..good.clone() }, "initial_password"),
        (CreateUserRequest { tenant_id: "north".to_owned(), ..good.clone() }, "tenant_id"),
        (CreateUserRequest { role_ids: vec!["user".to_owned()], ..good.clone() }, "role_ids"),
    ] {
        assert_eq!(field(admin.directory.clone().create_user(request).await), expected);
    }
    for paths in [&[][..], &["status"], &["email", "is_master_admin"], &["*"], &["user.email"]] {
        let request = UpdateUserRequest { user: Some(user.clone()), update_mask: mask(paths), validate_only: false };
        assert_eq!(field(admin.directory.clone().update_user(request).await), "update_mask", "{paths:?}");
    }
    let no_etag = UpdateUserRequest { user: Some(User { etag: String::new(), ..user.clone() }), ..renamed(&user, "x") };
    assert_eq!(field(admin.directory.clone().update_user(no_etag).await), "etag");
    for seconds in [0, -1, i64::MAX] {
        let duration = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = LockUserRequest { user_id: user.user_id.clone(), duration, ..Default::default() };
        assert_eq!(field(admin.directory.clone().lock_user(request).await), "duration");
    }
    let nobody = GetUserRequest::default();
    assert_eq!(field(admin.directory.clone().get_user(nobody).await), "identifier");
}

/// Hashing takes long: no password is hashed for a caller who may not create the user, has no step-up token, or has the
/// answer already.
#[tokio::test]
async fn an_initial_password_is_hashed_only_for_a_call_that_may_come_to_something() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let hashed = || server.app().metrics.hash_units.get();
    let request = CreateUserRequest {
        initial_password: "seven otters juggle walnuts".to_owned(),
        request_id: Uuid::from_u128(0x77).to_string(),
        ..new_user(tenant, "ann@example.com")
    };
    let before = hashed();
    for validate_only in [false, true] {
        let request = CreateUserRequest { validate_only, ..request.clone() };
        assert_eq!(reason(admin.plain.clone().create_user(request).await), "STEP_UP_REQUIRED");
    }
    let elsewhere = CreateUserRequest { role_ids: vec![Uuid::from_u128(7).to_string()], ..request.clone() };
    admin.plain.clone().create_user(elsewhere).await.expect_err("there is no such role");
    assert_eq!(hashed(), before, "nothing was hashed");

    let created = create_user(&admin, request.clone()).await;
    assert!(created.has_password);
    let after = hashed();
    assert!(after > before);
    let again = admin.plain.clone().create_user(request).await.expect("the first answer").into_inner();
    assert_eq!(again.user, Some(created));
    assert_eq!(hashed(), after, "which costs no hash");
}
