//! Logins of the hero: first with the old password, later through Kanidm, and then either way.

use sidle::proto::{
    AuthMethod, AuthenticatePasswordRequest, CompleteKanidmLoginRequest, GetUserRequest, RefreshTokenRequest, SignedIn,
    StartKanidmLoginRequest, VerifyTokenRequest, WhoAmIRequest, authenticate_password_response::Outcome,
    get_user_request, who_am_i_response,
};

use super::Demo;
use super::migrate::Migrated;
use crate::Result;
use crate::client::{Client, reason, refused, word};
use crate::output::{self, fact};

/// Signs the hero in with a password; a refusal is its reason.
async fn attempt(demo: &Demo<'_>, password: &str) -> Result<Result<SignedIn, String>> {
    let request = AuthenticatePasswordRequest {
        identifier: demo.expected.hero.email.clone(),
        password: password.to_owned(),
        ..Default::default()
    };
    match demo.anonymous.authenticate.clone().authenticate_password(request).await {
        Ok(answer) => match answer.into_inner().outcome {
            Some(Outcome::SignedIn(signed_in)) => Ok(Ok(signed_in)),
            _ => Err("AuthenticatePassword asked for a second factor, which nobody has".into()),
        },
        Err(status) => Ok(Err(reason(&status))),
    }
}

fn access_token(signed_in: &SignedIn) -> String {
    signed_in.tokens.clone().unwrap_or_default().access_token
}

/// Asks whom the token names, compares that with the hero, and prints it.
async fn who_am_i(demo: &mut Demo<'_>, token: &str) -> Result<()> {
    let mut client = Client::new(&demo.ready.channel, Some(token))?;
    let me = client.authenticate.who_am_i(WhoAmIRequest {}).await.map_err(refused("WhoAmI"))?.into_inner();
    let Some(who_am_i_response::Principal::User(user)) = me.principal else {
        return Err("WhoAmI does not answer with a user".into());
    };
    let home = me.tenants.iter().find(|tenant| tenant.home).cloned().unwrap_or_default();
    fact("WhoAmI", format!("{}, {} in {}", user.full_name, home.roles.join(", "), home.slug));
    let hero = &demo.expected.hero;
    demo.checks.same("WhoAmI: user", &hero.id, &user.user_id);
    demo.checks.same("WhoAmI: e-mail", &hero.email, &user.email);
    demo.checks.same("WhoAmI: name", &hero.full_name, &user.full_name);
    demo.checks.same("WhoAmI: tenant", &hero.tenant, &home.slug);
    Ok(())
}

/// Sidle's own audience, as nothing else is configured.
const AUDIENCE: &str = "sidle";

/// Before the migration: the old password, and a wrong one.
pub async fn with_password(demo: &mut Demo<'_>) -> Result<()> {
    let hero = demo.expected.hero.clone();
    let step = output::step(6, &format!("{} signs in with the old password: AuthenticatePassword", hero.full_name));
    fact("address", &hero.email);
    let wrong = attempt(demo, "something else").await?.err().unwrap_or_default();
    fact("with a wrong password", if wrong.is_empty() { "signed in" } else { &wrong });
    demo.checks.same("login with a wrong password", &"INVALID_CREDENTIALS".to_owned(), &wrong);
    let signed_in =
        attempt(demo, &hero.password).await?.map_err(|why| format!("the old password is refused: {why}"))?;
    fact("with the old password", format!("signed in, session {}", output::short(&signed_in.session_id)));
    let method = signed_in.user.as_ref().map(|user| user.auth_method()).unwrap_or_default();
    demo.checks.same("ways to sign in before", &AuthMethod::Password, &method);
    who_am_i(demo, &access_token(&signed_in)).await?;
    step.done();
    Ok(())
}

/// After the migration: a credential through the reset link, the login through Kanidm, and the old password again.
/// Returns an access token of the login through Kanidm.
pub async fn through_kanidm(demo: &mut Demo<'_>, migrated: &Migrated) -> Result<String> {
    let hero = demo.expected.hero.clone();
    let step = output::step(10, &format!("{} signs in through Kanidm, and with the old password", hero.full_name));
    let person = migrated.linked.get(&hero.id).ok_or("the hero was not migrated")?;
    fact("name in Kanidm", &person.name);

    let link = demo.kanidm.reset_link(&person.uuid).await?;
    let password = sidle_dev::random_word(24);
    demo.kanidm.use_reset_link(&link, &password).await?;
    fact("reset link", "used to set a password in Kanidm, as its owner would");

    let signed_in = oidc_login(demo, &person.name, &password).await?;
    fact("CompleteKanidmLogin", format!("signed in, session {}", output::short(&signed_in.session_id)));
    let user = signed_in.user.clone().unwrap_or_default();
    demo.checks.same("login through Kanidm: the same user", &hero.id, &user.user_id);
    who_am_i(demo, &access_token(&signed_in)).await?;

    let again = attempt(demo, &hero.password).await?;
    fact("with the old password", again.as_ref().map_or_else(Clone::clone, |_| "still signed in".to_owned()));
    let same = again.ok().and_then(|signed_in| signed_in.user).map(|user| user.user_id);
    demo.checks.same("the old password after the migration", &Some(hero.id.clone()), &same);
    let user = get_user(demo, &hero.id).await?;
    fact("ways to sign in", word(user.auth_method().as_str_name(), "AUTH_METHOD_"));
    demo.checks.same("ways to sign in after", &AuthMethod::Dual, &user.auth_method());
    demo.checks.same("uuid in Kanidm", &person.uuid, &user.kanidm_user_id);
    demo.checks.holds("the first login through Kanidm completed the migration", user.migration_completed_at.is_some());

    let token = renew(demo, &signed_in).await?;
    step.done();
    Ok(token)
}

/// The steps of a browser: from the application to Kanidm and back.
async fn oidc_login(demo: &mut Demo<'_>, name: &str, password: &str) -> Result<SignedIn> {
    let request = StartKanidmLoginRequest { redirect_uri: demo.access.redirect_uri.clone(), ..Default::default() };
    let answer = demo.anonymous.authenticate.start_kanidm_login(request).await;
    let start = answer.map_err(refused("StartKanidmLogin"))?.into_inner();
    let page = start.authorization_url.split('?').next().unwrap_or_default();
    fact("StartKanidmLogin", format!("sends the browser to {page}"));
    let bearer = demo.kanidm.sign_in(name, password).await?;
    let returned = demo.kanidm.authorise(&bearer, &start.authorization_url).await?;
    fact("Kanidm", format!("signed in, consented, back at {} with a code", demo.access.redirect_uri));
    demo.checks.same("state that comes back from Kanidm", &start.state, &returned.state);
    let request =
        CompleteKanidmLoginRequest { state: returned.state, code: returned.code, login_secret: start.login_secret };
    let answer = demo.anonymous.authenticate.complete_kanidm_login(request).await;
    Ok(answer.map_err(refused("CompleteKanidmLogin"))?.into_inner().signed_in.unwrap_or_default())
}

async fn get_user(demo: &mut Demo<'_>, user_id: &str) -> Result<sidle::proto::User> {
    let identifier = Some(get_user_request::Identifier::UserId(user_id.to_owned()));
    let request = GetUserRequest { identifier, ..Default::default() };
    let answer = demo.admin.directory.get_user(request).await.map_err(refused("GetUser"))?;
    Ok(answer.into_inner().user.unwrap_or_default())
}

/// Exchanges the refresh token and has the new access token verified, as another service would.
async fn renew(demo: &mut Demo<'_>, signed_in: &SignedIn) -> Result<String> {
    let request = RefreshTokenRequest {
        refresh_token: signed_in.tokens.clone().unwrap_or_default().refresh_token,
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let answer = demo.anonymous.authenticate.refresh_token(request).await.map_err(refused("RefreshToken"))?;
    let tokens = answer.into_inner().tokens.unwrap_or_default();
    fact("RefreshToken", "a new pair of tokens");
    demo.checks.holds("a refresh gives another access token", tokens.access_token != access_token(signed_in));

    let request = VerifyTokenRequest { token: tokens.access_token.clone(), audience: AUDIENCE.to_owned() };
    let answer = demo.admin.authenticate.verify_token(request).await.map_err(refused("VerifyToken"))?.into_inner();
    let claims = answer.claims.unwrap_or_default();
    fact("VerifyToken", format!("good, subject {}, roles {}", claims.subject, claims.roles.join(", ")));
    demo.checks.same("verified token: subject", &demo.expected.hero.id, &claims.subject);
    demo.checks.same("verified token: session", &signed_in.session_id, &claims.session_id);
    Ok(tokens.access_token)
}
