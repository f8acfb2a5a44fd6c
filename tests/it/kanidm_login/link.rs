//! Linking a person to one's own account: both are proved in one session.

use sidle::proto;
use sidle::proto::KanidmLoginPurpose::Link;
use sidle::proto::step_up_request::Proof;
use sidle_dev::persona::Returned;
use tonic::Status;
use uuid::Uuid;

use super::{START, World, complete, complete_as, is_good, person, with_mail};
use crate::authenticate::factors::guarded;
use crate::authenticate::set;
use crate::look::{a_statement_waits, event, reason, reasons};
use crate::support::{ADMIN_PASSWORD, Setup};

/// A user with a password who is not linked, and a person to whom no user is linked.
struct Two {
    world: World,
    user: Uuid,
    token: String,
    person: Uuid,
    bearer: String,
}

impl Two {
    async fn new() -> Self {
        Self::with(|setup| setup).await
    }

    async fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let world = World::with(change).await;
        let user = world.server.user(world.tenant, "bob@example.com", "user").await;
        let token = world.server.sign_in("bob@example.com").await.access_token;
        let (person, bearer) = person(&world.kanidm, "bob").await;
        world.kanidm.add_member(&world.group.to_string(), &person.to_string()).await.unwrap();
        Self { world, user, token, person, bearer }
    }

    async fn at_kanidm(&self, token: &str, bearer: &str) -> Result<(Returned, String), Status> {
        let begun = self.world.go(token, Link).await?;
        Ok((self.world.kanidm.authorise(bearer, &begun.authorization_url).await.unwrap(), begun.login_secret))
    }

    async fn link(&self) -> Result<proto::KanidmLink, Status> {
        let (back, secret) = self.at_kanidm(&self.token, &self.bearer).await?;
        Ok(complete_as(&self.world.server, &self.token, &back, &secret).await?.linked.expect("a link"))
    }

    async fn linked(&self) -> Option<Uuid> {
        let select = "SELECT kanidm_user_id FROM users WHERE user_id = $1";
        sqlx::query_scalar(select).bind(self.user).fetch_one(self.world.server.sql()).await.unwrap()
    }
}

#[tokio::test]
async fn who_proves_both_sides_in_one_sitting_is_linked() {
    let two = Two::new().await;
    let elsewhere = two.world.server.sign_in("bob@example.com").await;
    let link = two.link().await.unwrap();
    assert_eq!((link.user_id, link.kanidm_user_id), (two.user.to_string(), two.person.to_string()));
    assert_eq!(link.sessions_revoked, 1);
    assert!(!is_good(&two.world.server, &elsewhere.access_token).await, "another session may be somebody else's");
    assert!(is_good(&two.world.server, &two.token).await, "this one goes on");
    let mut client = two.world.server.client(&two.token);
    let session = client.session.get_session(proto::GetSessionRequest::default()).await.unwrap().into_inner();
    let session = session.session.unwrap();
    assert_eq!(session.auth_method(), proto::SessionAuthMethod::Dual, "both confirm it now");
    assert!(!session.kanidm_session_id.is_empty());
    let told = event(&two.world.server, "user.kanidm_linked").await;
    assert_eq!((told.target_id.clone(), told.actor_id), (Some(two.user.to_string()), Some(two.user)));

    let signed_in = two.world.login_as(&two.bearer).await.expect("the person signs in as the user");
    assert_eq!(signed_in.user.unwrap().user_id, two.user.to_string());
    two.world.server.sign_in("bob@example.com").await;
    assert_eq!(reason(&two.link().await.unwrap_err()), "ALREADY_EXISTS", "once");
}

/// S33: a link is an authentication method, of which its user is notified.
#[tokio::test]
async fn a_user_is_told_once_of_a_link_that_they_made() {
    let two = Two::with(with_mail).await;
    let (back, secret) = two.at_kanidm(&two.token, &two.world.bearer).await.unwrap();
    complete_as(&two.world.server, &two.token, &back, &secret).await.expect_err("somebody else's person");
    assert!(two.world.mailed(two.user).await.is_empty(), "nothing has happened");
    two.link().await.unwrap();
    assert_eq!(two.world.mailed(two.user).await, ["kanidm_linked"]);
    assert_eq!(reason(&two.link().await.unwrap_err()), "ALREADY_EXISTS");
    assert_eq!(two.world.mailed(two.user).await, ["kanidm_linked"]);
}

/// A stolen access token, however young its session is, and the thief's own person: the link would outlast every change
/// of password and bypass the second factor.
#[tokio::test]
async fn a_session_alone_links_nobody_however_young_it_is() {
    let two = Two::new().await;
    let server = &two.world.server;
    let client = server.client(&two.token);
    let refused = two.world.go_with(&two.token, Link, "").await.unwrap_err();
    assert_eq!(reason(&refused), "STEP_UP_REQUIRED", "seconds after the login");
    // Step-up tokens for another call, of another session, and one that was used.
    let enroll = client.prove("sidle.v1.AuthenticateService/EnrollTotp", "").await;
    let change = tonic_types::StatusExt::get_details_error_info(&refused).unwrap().metadata["change"].clone();
    let elsewhere = server.client(&server.sign_in("bob@example.com").await.access_token);
    let elsewhere = elsewhere.prove_change(START, "", &change).await;
    let targeted = client.prove_change(START, &two.user.to_string(), &change).await;
    let spent = client.prove_change(START, "", &change).await;
    two.world.go_with(&two.token, Link, &spent).await.expect("a proof for exactly this");
    for wrong in [enroll, elsewhere, targeted, spent] {
        let refused = two.world.go_with(&two.token, Link, &wrong).await.unwrap_err();
        assert_eq!(reason(&refused), "STEP_UP_REQUIRED");
    }
    assert_eq!(two.linked().await, None);
}

/// With a second factor the password is no proof, so that a thief of both a session and the password cannot link.
#[tokio::test]
async fn past_a_second_factor_a_password_links_nobody() {
    let two = Two::new().await;
    let server = &two.world.server;
    let ann = guarded(server, two.world.tenant, "cid@example.com").await;
    let refused = two.world.go_with(ann.client.token(), Link, "").await.unwrap_err();
    let ways = tonic_types::StatusExt::get_details_error_info(&refused).unwrap().metadata["ways"].clone();
    assert_eq!(ways, "totp,recovery_code");
    assert_eq!(
        reason(&two.world.go(ann.client.token(), Link).await.unwrap_err()),
        "STEP_UP_REQUIRED",
        "by the password"
    );
    let change = tonic_types::StatusExt::get_details_error_info(&refused).unwrap().metadata["change"].clone();
    let proof = Some(Proof::RecoveryCode(ann.codes[0].clone()));
    let request = proto::StepUpRequest { method: START.to_owned(), target: String::new(), change, proof };
    let proof = ann.client.authenticate.clone().step_up(request).await.unwrap().into_inner().step_up_token;
    two.world.go_with(ann.client.token(), Link, &proof).await.expect("by a factor that the account has");
}

/// The administrator who set that password may still know it, and would keep an authentication method that no change of
/// it removes.
#[tokio::test]
async fn a_password_that_must_be_changed_links_nobody() {
    let two = Two::new().await;
    let server = &two.world.server;
    let (back, secret) = two.at_kanidm(&two.token, &two.bearer).await.unwrap();
    set(server, two.user, "must_change_password = true").await;
    complete_as(server, &two.token, &back, &secret).await.expect_err("begun before, completed after");
    let seeded = server.sign_in("bob@example.com").await.access_token;
    for token in [&two.token, &seeded] {
        two.world.go(token, Link).await.expect_err("not begun either");
    }
    let begun: i64 = sqlx::query_scalar("SELECT count(*) FROM kanidm_logins").fetch_one(server.sql()).await.unwrap();
    assert_eq!((begun, two.linked().await), (0, None));
    assert!(reasons(server, "user.kanidm_linked", "success").await.is_empty());

    let change = proto::ChangePasswordRequest {
        current_password: ADMIN_PASSWORD.to_owned(),
        new_password: "nine lives of a grey cat".to_owned(),
    };
    let changed = server.client(&seeded).authenticate.change_password(change).await.unwrap().into_inner();
    let token = changed.tokens.unwrap().access_token;
    let begun = two.world.go_by(&token, Link, "nine lives of a grey cat").await.expect("a password of one's own");
    let back = two.world.kanidm.authorise(&two.bearer, &begun.authorization_url).await.unwrap();
    let secret = begun.login_secret;
    complete_as(server, &token, &back, &secret).await.expect("links");
    assert_eq!(two.linked().await, Some(two.person));
}

#[tokio::test]
async fn a_link_belongs_to_the_session_that_began_it() {
    let two = Two::new().await;
    let server = &two.world.server;
    // An attacker has a victim finish the login: the victim's person would open the attacker's account, or theirs.
    server.user(two.world.tenant, "eve@example.com", "user").await;
    let eve = server.sign_in("eve@example.com").await.access_token;
    let bobs_other = server.sign_in("bob@example.com").await.access_token;
    let (back, secret) = two.at_kanidm(&eve, &two.bearer).await.unwrap();
    for token in [&two.token, &bobs_other, ""] {
        let refused = complete_as(server, token, &back, &secret).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_LOGIN_ATTEMPT");
    }
    let (back, secret) = two.at_kanidm(&two.token, &two.bearer).await.unwrap();
    for token in [&eve, &bobs_other, ""] {
        let refused = complete_as(server, token, &back, &secret).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_LOGIN_ATTEMPT");
    }
    assert_eq!(two.linked().await, None);
    complete_as(server, &two.token, &back, &secret).await.expect("its own session still does");
}

#[tokio::test]
async fn a_link_needs_a_session_and_a_session_no_link() {
    let two = Two::new().await;
    for token in ["", "nonsense", &crate::authenticate::verifier_token(&two.world.server).await] {
        assert_eq!(reason(&two.world.go(token, Link).await.unwrap_err()), "UNAUTHENTICATED");
    }
    // One that was begun to sign in is completed with a token along: it still only signs in, here a person without a
    // user.
    let begun = two.world.start().await.unwrap();
    let back = two.world.kanidm.authorise(&two.bearer, &begun.authorization_url).await.unwrap();
    let refused = complete_as(&two.world.server, &two.token, &back, &begun.login_secret).await.unwrap_err();
    assert_eq!(reason(&refused), "PERSON_NOT_LINKED");
    // And one that was begun to link does not sign in.
    let (back, secret) = two.at_kanidm(&two.token, &two.world.bearer).await.unwrap();
    assert_eq!(reason(&complete(&two.world.server, &back, &secret).await.unwrap_err()), "INVALID_LOGIN_ATTEMPT");
    assert_eq!(two.linked().await, None);
}

#[tokio::test]
async fn a_person_who_is_somebodys_is_nobody_elses() {
    let two = Two::new().await;
    // Ann's person, which is linked to Ann: Bob has got hold of her Kanidm session for a moment.
    let (back, secret) = two.at_kanidm(&two.token, &two.world.bearer).await.unwrap();
    let refused = complete_as(&two.world.server, &two.token, &back, &secret).await.unwrap_err();
    assert_eq!(reason(&refused), "ALREADY_EXISTS");
    // The person that a migration created for a user who is not linked any more has that user's id.
    let (twin, bearer) = person(&two.world.kanidm, "twin").await;
    let insert =
        "INSERT INTO users (user_id, tenant_id, email, email_key) VALUES ($1, $2, 'twin@x.example', 'twin@x.example')";
    sqlx::query(insert).bind(twin).bind(two.world.tenant).execute(two.world.server.sql()).await.unwrap();
    let (back, secret) = two.at_kanidm(&two.token, &bearer).await.unwrap();
    let refused = complete_as(&two.world.server, &two.token, &back, &secret).await.unwrap_err();
    assert_eq!(reason(&refused), "ALREADY_EXISTS");
    assert_eq!(reasons(&two.world.server, "user.login_refused", "refused").await, ["person_taken"; 2]);
    assert_eq!(two.linked().await, None);
}

/// Two callers who prove the same person concurrently: the second finds out by the index alone, and is refused on
/// record.
#[tokio::test]
async fn a_person_who_becomes_somebodys_at_the_same_moment_is_nobody_elses() {
    let two = Two::new().await;
    let server = &two.world.server;
    let other = server.user(two.world.tenant, "eve@example.com", "user").await;
    let (back, secret) = two.at_kanidm(&two.token, &two.bearer).await.unwrap();
    let mut first = server.sql().begin().await.unwrap();
    let link = "UPDATE users SET kanidm_user_id = $2, auth_method = 'dual' WHERE user_id = $1";
    sqlx::query(link).bind(other).bind(two.person).execute(&mut *first).await.unwrap();
    let commit = async {
        a_statement_waits(server).await;
        first.commit().await.unwrap();
    };
    let (refused, ()) = tokio::join!(complete_as(server, &two.token, &back, &secret), commit);
    assert_eq!(reason(&refused.unwrap_err()), "ALREADY_EXISTS");
    let told = event(server, "user.login_refused").await;
    assert_eq!((told.reason.as_deref(), told.actor_id), (Some("person_taken"), Some(two.user)));
    assert_eq!((told.target_id.clone(), told.tenant_id), (Some(two.user.to_string()), Some(two.world.tenant)));
    assert_eq!(two.linked().await, None);
    assert!(is_good(server, &two.token).await, "nothing of the link was done");
}

#[tokio::test]
async fn a_session_that_ends_meanwhile_links_nobody() {
    let two = Two::new().await;
    let server = &two.world.server;
    let (back, secret) = two.at_kanidm(&two.token, &two.bearer).await.unwrap();
    let mut logout = server.sql().begin().await.unwrap();
    let end = "UPDATE sessions SET status = 'revoked', revoked_at = now(), revoke_reason = 'logout' WHERE user_id = $1";
    sqlx::query(end).bind(two.user).execute(&mut *logout).await.unwrap();
    let commit = async {
        a_statement_waits(server).await;
        logout.commit().await.unwrap();
    };
    let (refused, ()) = tokio::join!(complete_as(server, &two.token, &back, &secret), commit);
    assert_eq!(reason(&refused.unwrap_err()), "UNAUTHENTICATED");
    assert_eq!(reasons(server, "user.login_refused", "refused").await, ["refused"]);
    assert_eq!(two.linked().await, None);
}

#[tokio::test]
async fn neither_a_rolled_back_user_nor_one_of_kanidms_links_anew() {
    let two = Two::new().await;
    set(&two.world.server, two.user, &format!("kanidm_user_id = '{}'", Uuid::new_v4())).await;
    assert_eq!(reason(&two.link().await.unwrap_err()), "ALREADY_EXISTS", "an administrator rolled them back");
    let kanidms = two.world.login().await.unwrap().tokens.unwrap().access_token;
    assert_eq!(reason(&two.at_kanidm(&kanidms, &two.bearer).await.unwrap_err()), "ALREADY_EXISTS");
}

#[tokio::test]
async fn nobody_is_linked_while_a_migration_makes_a_person_for_them() {
    let two = Two::new().await;
    let server = &two.world.server;
    let arrange = [
        "ALTER TABLE migration_items DROP CONSTRAINT migration_items_migration_id_fkey",
        "INSERT INTO migration_items (item_id, migration_id, ordinal, user_id, tenant_id, user_version, kanidm_name,
             display_name, mail, is_admin, group_names, state, intent_recorded_at)
         SELECT gen_random_uuid(), gen_random_uuid(), 1, user_id, tenant_id, version, 'bob', 'Bob', email, false, '{}',
             'intent_recorded', now() FROM users WHERE email = 'bob@example.com'",
    ];
    for statement in arrange {
        sqlx::query(statement).execute(server.sql()).await.unwrap();
    }
    assert_eq!(reason(&two.link().await.unwrap_err()), "MIGRATION_OVERLAP");
    sqlx::query("UPDATE migration_items SET state = 'pending'").execute(server.sql()).await.unwrap();
    two.link().await.expect("it has not begun with them, and will find them linked");
}
