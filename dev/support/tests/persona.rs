//! A person's login at Kanidm: from a reset link to a code for the application.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use sidle_dev::kanidm::Kanidm;
use sidle_dev::random_word;

#[tokio::test]
async fn kanidm_lets_a_person_in_with_what_their_link_gave_them() {
    let kanidm = Kanidm::start().await.unwrap();
    let access = kanidm.prepare("https://app.example/callback").await.unwrap();
    let name = format!("p{}", random_word(10));
    let id = kanidm.create_person(&name, "A Person", &format!("{name}@persona.example")).await.unwrap();
    assert!(kanidm.sign_in(&name, "nothing was set yet").await.is_err());

    let link = kanidm.reset_link(&id.to_string()).await.unwrap();
    let password = random_word(24);
    kanidm.use_reset_link(&link, &password).await.unwrap();
    assert!(kanidm.use_reset_link(&link, &password).await.is_err(), "a link is spent once used");

    let bearer = kanidm.sign_in(&name, &password).await.unwrap();
    // PKCE with the challenge of RFC 7636, appendix B; the code is not exchanged here.
    let query = format!(
        "response_type=code&client_id={}&redirect_uri=https%3A%2F%2Fapp.example%2Fcallback&scope=openid&state=s&nonce=n\
         &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256",
        access.client_id
    );
    let returned = kanidm.authorise(&bearer, &format!("{}/ui/oauth2?{query}", kanidm.url)).await.unwrap();
    assert_eq!(returned.state, "s");
    assert!(!returned.code.is_empty());
}
