//! An administrator links persons that already existed in Kanidm.

use sidle::proto::{GetUserRequest, LinkKanidmPersonRequest, LinkKanidmPersonResponse, User, get_user_request};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::{World, group, is_good, person, with_mail};
use crate::authenticate::{api_key, exchange, set};
use crate::look::{event, reason};
use crate::support::server::with_proof;
use crate::support::{Client, TestServer};

const METHOD: &str = "sidle.v1.DirectoryService/LinkKanidmPerson";

async fn user(server: &TestServer, token: &str, id: Uuid) -> User {
    let identifier = Some(get_user_request::Identifier::UserId(id.to_string()));
    let request = GetUserRequest { identifier, include_deleted: false };
    server.client(token).directory.get_user(request).await.unwrap().into_inner().user.unwrap()
}

fn asked(user: &User, person: Uuid) -> LinkKanidmPersonRequest {
    LinkKanidmPersonRequest {
        user_id: user.user_id.clone(),
        etag: user.etag.clone(),
        kanidm_user_id: person.to_string(),
        ..Default::default()
    }
}

/// The call with this step-up token; none for the empty one.
async fn link_with(
    caller: &Client,
    request: LinkKanidmPersonRequest,
    proof: &str,
) -> Result<LinkKanidmPersonResponse, Status> {
    Ok(caller.directory.clone().link_kanidm_person(with_proof(request, proof)).await?.into_inner())
}

/// The call with a fresh step-up token for it.
async fn link(
    server: &TestServer,
    token: &str,
    request: LinkKanidmPersonRequest,
) -> Result<LinkKanidmPersonResponse, Status> {
    let caller = server.client(token);
    let call = async |request| caller.directory.clone().link_kanidm_person(request).await;
    caller.proving(request, call).await
}

async fn root(world: &World) -> String {
    let tenant = world.server.tenant("platform").await;
    world.server.user(tenant, "root@platform.example", "SYSTEM_ADMIN").await;
    world.server.sign_in("root@platform.example").await.access_token
}

#[tokio::test]
async fn an_administrator_links_a_user_to_a_person_who_was_there_before() {
    let world = World::new().await;
    let (server, root) = (&world.server, root(&world).await);
    let bob = server.user(world.tenant, "bob@example.com", "user").await;
    let bobs = server.sign_in("bob@example.com").await.access_token;
    let (id, bearer) = person(&world.kanidm, "bob").await;
    world.kanidm.add_member(&world.group.to_string(), &id.to_string()).await.unwrap();
    assert_eq!(reason(&world.login_as(&bearer).await.unwrap_err()), "PERSON_NOT_LINKED");

    let request = LinkKanidmPersonRequest {
        request_id: Uuid::from_u128(7).to_string(),
        ..asked(&user(server, &root, bob).await, id)
    };
    let unproven = server.client(&root).directory.link_kanidm_person(request.clone()).await.unwrap_err();
    assert_eq!(reason(&unproven), "STEP_UP_REQUIRED");
    let trial = LinkKanidmPersonRequest { validate_only: true, ..request.clone() };
    link(server, &root, trial).await.expect("it would be done");
    assert_eq!(user(server, &root, bob).await.kanidm_user_id, "", "and was not");

    let linked = link(server, &root, request.clone()).await.unwrap().user.unwrap();
    assert_eq!((linked.kanidm_user_id.clone(), linked.auth_method()), (id.to_string(), sidle::proto::AuthMethod::Dual));
    assert!(!is_good(server, &bobs).await, "whoever was signed in signs in again");
    let told = event(server, "user.kanidm_linked").await;
    assert_eq!((told.target_id.clone(), told.details["by"].as_str()), (Some(bob.to_string()), Some("administrator")));
    let again = link(server, &root, request).await.expect("a repeat").user.unwrap();
    assert_eq!(again.etag, linked.etag, "has the first answer");
    assert_eq!(world.login_as(&bearer).await.unwrap().user.unwrap().user_id, bob.to_string());
    server.sign_in("bob@example.com").await;
}

#[tokio::test]
async fn an_administrators_link_needs_a_persons_proof_for_exactly_this_and_spends_it() {
    let world = World::new().await;
    let (server, root) = (&world.server, root(&world).await);
    let bob = server.user(world.tenant, "bob@example.com", "user").await;
    let (id, _) = person(&world.kanidm, "bob").await;
    let request = asked(&user(server, &root, bob).await, id);
    let (here, target) = (server.client(&root), bob.to_string());
    let elsewhere = server.client(&server.sign_in("root@platform.example").await.access_token);

    let refused = link_with(&here, request.clone(), "").await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "STEP_UP_REQUIRED"));
    let wanted = refused.get_details_error_info().unwrap().metadata;
    assert_eq!((wanted["method"].as_str(), wanted["target"].as_str()), (METHOD, target.as_str()));
    let others = [
        ("another target", here.prove_change(METHOD, &world.user.to_string(), &wanted["change"]).await),
        ("another call", here.prove_change("sidle.v1.DirectoryService/UpdateUser", &target, &wanted["change"]).await),
        ("another session", elsewhere.prove_change(METHOD, &target, &wanted["change"]).await),
        ("another change", here.prove(METHOD, &target).await),
    ];
    for (of, proof) in others {
        let refused = link_with(&here, request.clone(), &proof).await.expect_err(of);
        assert_eq!(reason(&refused), "STEP_UP_REQUIRED", "{of}");
    }
    // A service account with every permission, with no step-up token and with a user's.
    let key = api_key(server, None, &["*"], &[]).await;
    let program = server.client(&exchange(server, &key).await.unwrap().access_token);
    for proof in [String::new(), here.prove_change(METHOD, &target, &wanted["change"]).await] {
        let refused = link_with(&program, request.clone(), &proof).await.unwrap_err();
        assert_eq!(reason(&refused), "USER_REQUIRED");
    }
    assert_eq!(user(server, &root, bob).await.kanidm_user_id, "");

    let proof = here.prove_change(METHOD, &target, &wanted["change"]).await;
    let trial = LinkKanidmPersonRequest { validate_only: true, ..request.clone() };
    link_with(&here, trial, &proof).await.expect("a trial, which spends nothing");
    link_with(&here, request.clone(), &proof).await.expect("the proof for exactly this");
    let again = link_with(&here, request, &proof).await.unwrap_err();
    assert_eq!(reason(&again), "STEP_UP_REQUIRED", "spent");
}

/// S33: also when another caller made the link.
#[tokio::test]
async fn a_user_is_told_once_of_a_link_that_an_administrator_made() {
    let world = World::with(with_mail).await;
    let (server, root) = (&world.server, root(&world).await);
    let bob = server.user(world.tenant, "bob@example.com", "user").await;
    let (id, _) = person(&world.kanidm, "bob").await;
    let request = LinkKanidmPersonRequest {
        request_id: Uuid::from_u128(7).to_string(),
        ..asked(&user(server, &root, bob).await, id)
    };
    let trial = LinkKanidmPersonRequest { validate_only: true, ..request.clone() };
    link(server, &root, trial).await.unwrap();
    assert!(world.mailed(bob).await.is_empty(), "nothing has happened");
    for _ in 0..2 {
        link(server, &root, request.clone()).await.expect("linked, and the same answer again");
        assert_eq!(world.mailed(bob).await, ["kanidm_linked"]);
    }
}

#[tokio::test]
async fn only_what_is_there_unchanged_and_free_is_linked() {
    let world = World::new().await;
    let (server, root) = (&world.server, root(&world).await);
    let bob = server.user(world.tenant, "bob@example.com", "user").await;
    let (id, _) = person(&world.kanidm, "bob").await;
    let seen = user(server, &root, bob).await;
    assert_eq!(reason(&link(server, &root, asked(&seen, Uuid::new_v4())).await.unwrap_err()), "NOT_FOUND");
    assert_eq!(reason(&link(server, &root, asked(&seen, world.person)).await.unwrap_err()), "ALREADY_EXISTS");
    let ann = user(server, &root, world.user).await;
    assert_eq!(reason(&link(server, &root, asked(&ann, id)).await.unwrap_err()), "ALREADY_EXISTS");
    // The person whose uuid is another user's id is the one that Sidle makes for that user.
    let (twin, _) = person(&world.kanidm, "twin").await;
    let insert =
        "INSERT INTO users (user_id, tenant_id, email, email_key) VALUES ($1, $2, 'twin@x.example', 'twin@x.example')";
    sqlx::query(insert).bind(twin).bind(world.tenant).execute(server.sql()).await.unwrap();
    assert_eq!(reason(&link(server, &root, asked(&seen, twin)).await.unwrap_err()), "ALREADY_EXISTS");
    set(server, bob, "full_name = 'Robert', version = version + 1").await;
    assert_eq!(reason(&link(server, &root, asked(&seen, id)).await.unwrap_err()), "ETAG_MISMATCH");
    link(server, &root, asked(&user(server, &root, bob).await, id)).await.expect("and as it is now");
}

/// CVE-2026-94000: a caller with some permissions of administration gains others, through links and groups.
#[tokio::test]
async fn a_delegated_administrator_does_not_rise_through_links_and_groups() {
    let world = World::new().await;
    let (server, kanidm) = (&world.server, &world.kanidm);
    let eve = server.user(world.tenant, "eve@example.com", "admin").await;
    let eves = server.sign_in("eve@example.com").await.access_token;
    let (own, _) = person(kanidm, "eve").await;
    // Her own person to an account with more permissions than she has.
    for (mail, role) in [("chief@example.com", "super_admin"), ("operator@example.com", "SYSTEM_ADMIN")] {
        let chief = server.user(world.tenant, mail, role).await;
        let refused = link(server, &eves, asked(&user(server, &eves, chief).await, own)).await.unwrap_err();
        assert_eq!(reason(&refused), "PERMISSION_DENIED", "{mail}");
    }
    // Her own account to any person, by an administrator's call instead of a login.
    let refused = link(server, &eves, asked(&user(server, &eves, eve).await, own)).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED");
    // An account whose password she knows to a person whose groups give more: in another tenant, or here.
    server.user(world.tenant, "puppet@example.com", "user").await;
    let puppet = "SELECT user_id FROM users WHERE email = 'puppet@example.com'";
    let puppet: Uuid = sqlx::query_scalar(puppet).fetch_one(server.sql()).await.unwrap();
    let elsewhere = server.tenant("b").await;
    let (users_of_b, admins_of_b) =
        (group(kanidm, server, elsewhere, "user").await, group(kanidm, server, elsewhere, "admin").await);
    let chiefs = group(kanidm, server, world.tenant, "super_admin").await;
    let outer = format!("outer_{}", Uuid::new_v4().simple());
    let named = serde_json::json!({ "attrs": { "name": [outer] } });
    kanidm.post("/v1/group", &named).await.unwrap();
    kanidm.add_member(&chiefs.to_string(), &outer).await.unwrap();
    for (n, group) in [admins_of_b.to_string(), chiefs.to_string(), outer].into_iter().enumerate() {
        let (victim, _) = person(kanidm, &format!("victim{n}")).await;
        kanidm.add_member(&group, &victim.to_string()).await.unwrap();
        let refused = link(server, &eves, asked(&user(server, &eves, puppet).await, victim)).await.unwrap_err();
        assert_eq!(reason(&refused), "PERMISSION_DENIED", "{group}");
    }
    // A service account of hers.
    let key = api_key(server, Some(world.tenant), &["users.write", "users.read"], &[]).await;
    let program = exchange(server, &key).await.unwrap().access_token;
    let (plain, _) = person(kanidm, "plain").await;
    kanidm.add_member(&world.group.to_string(), &plain.to_string()).await.unwrap();
    kanidm.add_member(&users_of_b.to_string(), &plain.to_string()).await.unwrap();
    let request = asked(&user(server, &eves, puppet).await, plain);
    let refused = server.client(&program).directory.link_kanidm_person(request.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "USER_REQUIRED");
    // A role without any permission of Sidle's may mean everything to another service.
    let refused = link(server, &eves, request).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED", "another tenant's, whatever it gives there");
    let (nobodys, _) = person(kanidm, "nobodys").await;
    let refused = link(server, &eves, asked(&user(server, &eves, puppet).await, nobodys)).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED", "nobody says that the person is of her tenant");
    let (plainer, _) = person(kanidm, "plainer").await;
    kanidm.add_member(&world.group.to_string(), &plainer.to_string()).await.unwrap();
    link(server, &eves, asked(&user(server, &eves, puppet).await, plainer)).await.expect("her own tenant's she links");
}
