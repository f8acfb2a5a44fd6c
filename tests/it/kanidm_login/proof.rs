//! A login at Kanidm as reauthentication. Kanidm 1.11 reports when a person authenticated; others do not.

use std::time::Duration;

use sidle::proto::KanidmLoginPurpose::{Link, StepUp};
use sidle::proto::step_up_request::Proof;
use sidle::proto::{EnrollTotpRequest, KanidmProof, StepUpRequest};
use sidle_dev::persona::Returned;
use tonic_types::StatusExt as _;

use super::{PASSWORD, World, complete_as, person};
use crate::look::reason;

/// The parameter by which Kanidm asks a signed-in person for the password again.
const ANEW: &str = "&prompt=login&max_age=0";
/// A call that needs a step-up.
const SENSITIVE: &str = "sidle.v1.AuthenticateService/EnrollTotp";

impl World {
    /// Whether this Kanidm reports when a person authenticated.
    async fn tells_auth_time(&self) -> bool {
        let answer = self.kanidm.http.get(format!("{}/v1/self", self.kanidm.url)).send().await.unwrap();
        let version = answer.headers().get("x-kanidm-version").and_then(|value| value.to_str().ok()).unwrap_or("1.7.4");
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap());
        (parts.next().unwrap(), parts.next().unwrap()) >= (1, 11)
    }

    /// What `StepUp` answers.
    async fn prove(&self, token: &str, back: &Returned, secret: &str) -> Result<(), String> {
        let proof = KanidmProof { state: back.state.clone(), code: back.code.clone(), login_secret: secret.to_owned() };
        let request =
            StepUpRequest { method: SENSITIVE.to_owned(), proof: Some(Proof::Kanidm(proof)), ..Default::default() };
        let mut client = self.server.client(token).authenticate;
        client.step_up(request).await.map(drop).map_err(|status| reason(&status))
    }

    /// The methods that a sensitive call names when it is made without a step-up token.
    async fn ways(&self, token: &str) -> String {
        let status = self.server.client(token).authenticate.enroll_totp(EnrollTotpRequest {}).await.unwrap_err();
        assert_eq!(reason(&status), "STEP_UP_REQUIRED");
        status.get_details_error_info().unwrap().metadata["ways"].clone()
    }

    /// Logs in at Kanidm for a step-up, with the password, and returns. Kanidm's page keeps the request meanwhile and
    /// resumes it without asking again, which only the page can; this is the request that it then sends.
    async fn prove_anew(&self, token: &str) -> (Returned, String) {
        let begun = self.go(token, StepUp).await.unwrap();
        let bearer = self.kanidm.sign_in(&self.person.to_string(), PASSWORD).await.unwrap();
        let url = begun.authorization_url.trim_end_matches(ANEW);
        (self.kanidm.authorise(&bearer, url).await.unwrap(), begun.login_secret)
    }

    /// Logs in at Kanidm for a step-up in a browser where this person is signed in, without being asked for anything
    /// there.
    async fn prove_at_kanidm(&self, token: &str, bearer: &str) -> (Returned, String) {
        let begun = self.go(token, StepUp).await.unwrap();
        assert!(begun.authorization_url.ends_with(ANEW), "the person is asked to authenticate anew");
        // Left out here, as an attacker would.
        let url = begun.authorization_url.trim_end_matches(ANEW);
        self.kanidm.authorise(bearer, &begun.authorization_url).await.expect_err("Kanidm asks for it");
        (self.kanidm.authorise(bearer, url).await.unwrap(), begun.login_secret)
    }
}

#[tokio::test]
async fn a_proof_is_offered_only_where_kanidm_tells_when_a_person_authenticated() {
    let world = World::new().await;
    let tells = world.tells_auth_time().await;
    let token = world.login().await.unwrap().tokens.unwrap().access_token;
    assert_eq!(world.ways(&token).await.split(',').any(|way| way == "kanidm"), tells);
    let begun = world.go(&token, StepUp).await.map(drop).map_err(|status| reason(&status));
    assert_eq!(begun, if tells { Ok(()) } else { Err("KANIDM_PROOF_UNAVAILABLE".to_owned()) });
    // A user who is not linked has no person to prove.
    world.server.user(world.tenant, "bob@example.com", "user").await;
    let bobs = world.server.sign_in("bob@example.com").await.access_token;
    assert_eq!(world.ways(&bobs).await, "password");
    assert_eq!(reason(&world.go(&bobs, StepUp).await.unwrap_err()), "KANIDM_PROOF_UNAVAILABLE");
}

#[tokio::test]
async fn the_callers_own_person_proves_it_in_the_callers_session_once_and_within_minutes() {
    let world = World::new().await;
    if !world.tells_auth_time().await {
        return;
    }
    let token = world.login().await.unwrap().tokens.unwrap().access_token;
    let (back, secret) = world.prove_anew(&token).await;
    world.prove(&token, &back, &secret).await.expect("just authenticated");
    assert_eq!(world.prove(&token, &back, &secret).await, Err("INVALID_LOGIN_ATTEMPT".to_owned()), "once");

    // Another user's person, another session of one's own, another purpose.
    let (_, stranger) = person(&world.kanidm, "stranger").await;
    let (back, secret) = world.prove_at_kanidm(&token, &stranger).await;
    assert_eq!(world.prove(&token, &back, &secret).await, Err("INVALID_CREDENTIALS".to_owned()));
    let other = world.login().await.unwrap().tokens.unwrap().access_token;
    let (back, secret) = world.prove_at_kanidm(&token, &world.bearer).await;
    assert_eq!(world.prove(&other, &back, &secret).await, Err("INVALID_LOGIN_ATTEMPT".to_owned()));
    let refused = complete_as(&world.server, &token, &back, &secret).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_LOGIN_ATTEMPT", "it begins no session and links nobody");
    world.server.user(world.tenant, "bob@example.com", "user").await;
    let bobs = world.server.sign_in("bob@example.com").await.access_token;
    let begun = world.go(&bobs, Link).await.unwrap();
    let linking = world.kanidm.authorise(&stranger, &begun.authorization_url).await.unwrap();
    let refused = world.prove(&bobs, &linking, &begun.login_secret).await;
    assert_eq!(refused, Err("STEP_UP_REQUIRED".to_owned()), "whoever is not linked does not go by this way");
    let begun = world.start().await.unwrap();
    let login = world.kanidm.authorise(&world.bearer, &begun.authorization_url).await.unwrap();
    let refused = world.prove(&token, &login, &begun.login_secret).await;
    assert_eq!(refused, Err("INVALID_LOGIN_ATTEMPT".to_owned()), "a login is no proof");

    // An attacker at the browser of a signed-in person, who leaves out the parameter that asks for a fresh
    // authentication: even minutes after the person authenticated.
    world.server.context.clock.advance(Duration::from_secs(2 * 60));
    let (back, secret) = world.prove_at_kanidm(&token, &world.bearer).await;
    assert_eq!(world.prove(&token, &back, &secret).await, Err("INVALID_CREDENTIALS".to_owned()));

    // A login that is completed too late.
    let (back, secret) = world.prove_at_kanidm(&token, &world.bearer).await;
    world.server.context.clock.advance(Duration::from_secs(5 * 60));
    assert_eq!(world.prove(&token, &back, &secret).await, Err("INVALID_CREDENTIALS".to_owned()));
}
