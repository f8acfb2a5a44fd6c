//! Browser pages: set a password by reset link; sign in, consent, go back. Plain HTML without scripts; everything shown
//! is escaped.

use axum::Router;
use axum::extract::{Form, Query, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use kanidm_proto::internal::{CURegWarning, CURequest};
use kanidm_proto::v1::{AuthAllowed, AuthCredential, AuthIssueSession, AuthMech, AuthRequest, AuthStep};
use kanidmd_lib::idm::AuthState;
use kanidmd_lib::idm::oauth2::{AuthorisationRequest, AuthoriseResponse, Oauth2Error};
use kanidmd_lib::prelude::OperationError;
use serde::Deserialize;

use crate::App;
use crate::auth::Caller;
use crate::credential::{apply, commit_session, exchange_intent};
use crate::engine::{Engine, Fallible};
use crate::oauth2::{consider, permitted, rejected};

pub fn routes() -> Router<App> {
    Router::new()
        .route("/ui/reset", get(reset_form).post(reset))
        .route("/ui/oauth2", get(authorise))
        .route("/ui/login", post(login))
        .route("/ui/consent", post(consent))
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

/// `body` is HTML whose variable parts the caller has escaped.
fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>{title}</title>\
         <style>body{{font:1rem/1.5 sans-serif;max-width:24rem;margin:4rem auto;padding:0 1rem}}\
         input,button{{font:inherit;display:block;width:100%;box-sizing:border-box;margin:.3rem 0 1rem;padding:.4rem}}\
         .problem{{color:#a00}}footer{{color:#666;font-size:.8rem;margin-top:3rem}}</style>\
         <h1>{title}</h1>{body}<footer>Development Kanidm: not for real accounts.</footer></html>"
    );
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (status, headers, Html(html)).into_response()
}

fn problem(what: &str) -> String {
    format!("<p class=problem>{}</p>", escape(what))
}

#[derive(Deserialize)]
struct ResetLink {
    token: String,
}

async fn reset_form(Query(link): Query<ResetLink>) -> Response {
    show_reset(StatusCode::OK, &link.token, "")
}

fn show_reset(status: StatusCode, token: &str, notice: &str) -> Response {
    let body = format!(
        "{notice}<form method=post action=/ui/reset>\
         <input type=hidden name=token value=\"{}\">\
         <label>New password<input type=password name=password autocomplete=new-password required></label>\
         <label>Again<input type=password name=again autocomplete=new-password required></label>\
         <button>Set password</button></form>",
        escape(token)
    );
    page(status, "Set your password", &body)
}

#[derive(Deserialize)]
struct NewPassword {
    token: String,
    password: String,
    again: String,
}

async fn reset(State(app): State<App>, Form(new): Form<NewPassword>) -> Response {
    if new.password != new.again {
        let notice = problem("The two passwords differ.");
        return show_reset(StatusCode::BAD_REQUEST, &new.token, &notice);
    }
    match set_password(&app.engine, &new.token, new.password).await {
        Ok(()) => page(StatusCode::OK, "Password set", "<p>You can sign in with it now.</p>"),
        Err(why) => show_reset(StatusCode::BAD_REQUEST, &new.token, &problem(&why)),
    }
}

/// A failed attempt does not spend the link: it can be exchanged again until a commit succeeds.
async fn set_password(engine: &Engine, link: &str, password: String) -> Result<(), String> {
    let opened = exchange_intent(engine, link.to_string()).await;
    let (session, _) = opened.map_err(|_| "This link has expired or was used already.")?;
    let status = match apply(engine, &session, CURequest::Password(password)).await {
        Ok(status) => status,
        Err(OperationError::PasswordQuality(hints)) => {
            let hints: Vec<String> = hints.iter().map(ToString::to_string).collect();
            return Err(hints.join(" "));
        }
        Err(cause) => return Err(format!("Refused: {cause:?}")),
    };
    if !status.can_commit {
        let mfa = status.warnings.contains(&CURegWarning::MfaRequired);
        return Err(match mfa {
            true => "The account policy asks for a second factor, which this page cannot enrol.",
            false => "The account policy does not allow a password.",
        }
        .to_string());
    }
    let committed = commit_session(engine, &session).await;
    committed.map_err(|cause| format!("Refused: {cause:?}"))
}

/// Cookies do not distinguish ports, so several servers on one machine need names of their own.
fn cookie_name(app: &App) -> String {
    format!("dev-kanidm-{}", app.port)
}

fn signed_in(app: &App, headers: &HeaderMap) -> Caller {
    let name = cookie_name(app);
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map_or_else(Caller::nobody, |(_, token)| Caller::with_bearer(token))
}

async fn authorise(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    Query(request): Query<AuthorisationRequest>,
) -> Response {
    let Caller(caller) = signed_in(&app, &headers);
    let query = query.unwrap_or_default();
    match consider(&app, caller, &request).await {
        Ok(AuthoriseResponse::Permitted(success)) => {
            Redirect::to(success.build_redirect_uri().as_str()).into_response()
        }
        Ok(AuthoriseResponse::ConsentRequested { client_name, scopes, consent_token, .. }) => {
            let scopes: Vec<String> = scopes.into_iter().collect();
            let body = format!(
                "<p><b>{}</b> asks for: {}.</p><form method=post action=/ui/consent>\
                 <input type=hidden name=token value=\"{}\">\
                 <button name=decision value=permit>Continue</button>\
                 <button name=decision value=reject>Refuse</button></form>",
                escape(&client_name),
                escape(&scopes.join(", ")),
                escape(&consent_token)
            );
            page(StatusCode::OK, "Share your details?", &body)
        }
        Ok(AuthoriseResponse::AuthenticationRequired { client_name, .. }) => {
            let notice = format!("<p>to continue to <b>{}</b></p>", escape(&client_name));
            show_login(StatusCode::OK, &query, &notice)
        }
        Err(Oauth2Error::AuthenticationRequired) => show_login(StatusCode::OK, &query, ""),
        Err(Oauth2Error::AccessDenied) => {
            page(StatusCode::FORBIDDEN, "Not allowed", "<p>This account may not use that application.</p>")
        }
        Err(cause) => page(StatusCode::BAD_REQUEST, "Bad request", &problem(&cause.to_string())),
    }
}

fn show_login(status: StatusCode, query: &str, notice: &str) -> Response {
    let body = format!(
        "{notice}<form method=post action=/ui/login>\
         <input type=hidden name=query value=\"{}\">\
         <label>Name<input name=username autocomplete=username required autofocus></label>\
         <label>Password<input type=password name=password autocomplete=current-password required></label>\
         <label>One-time code, if you have one\
         <input name=code inputmode=numeric autocomplete=one-time-code></label>\
         <button>Sign in</button></form>",
        escape(query)
    );
    page(status, "Sign in", &body)
}

#[derive(Deserialize)]
struct Login {
    query: String,
    username: String,
    password: String,
    #[serde(default)]
    code: String,
}

async fn login(State(app): State<App>, Form(login): Form<Login>) -> Response {
    let query = login.query.clone();
    let Ok(Some(token)) = sign_in(&app.engine, login).await else {
        let notice = problem("Name, password or code is wrong.");
        return show_login(StatusCode::UNAUTHORIZED, &query, &notice);
    };
    let cookie = format!("{}={token}; Path=/ui; HttpOnly; SameSite=Lax", cookie_name(&app));
    let back = Redirect::to(&format!("/ui/oauth2?{query}"));
    ([(header::SET_COOKIE, cookie)], back).into_response()
}

/// The same steps a client takes over `/v1/auth`; none if the engine denies them.
async fn sign_in(engine: &Engine, login: Login) -> Fallible<Option<String>> {
    let mut session = None;
    let mut step = AuthStep::Init2 { username: login.username, issue: AuthIssueSession::Token, privileged: false };
    loop {
        let Caller(nobody) = Caller::nobody();
        let result = engine.auth(session, AuthRequest { step }, nobody).await?;
        session = Some(result.sessionid);
        step = match result.state {
            AuthState::Choose(mechanisms) => {
                let passwords = [AuthMech::PasswordTotp, AuthMech::Password];
                match passwords.into_iter().find(|m| mechanisms.contains(m)) {
                    Some(mechanism) => AuthStep::Begin(mechanism),
                    None => return Ok(None),
                }
            }
            AuthState::Continue(allowed) if allowed.contains(&AuthAllowed::Totp) => {
                let Ok(code) = login.code.trim().parse() else {
                    return Ok(None);
                };
                AuthStep::Cred(AuthCredential::Totp(code))
            }
            AuthState::Continue(_) => AuthStep::Cred(AuthCredential::Password(login.password.clone())),
            AuthState::Denied(_) => return Ok(None),
            AuthState::Success(token, _) => return Ok(Some(token.to_string())),
        };
    }
}

#[derive(Deserialize)]
struct Decision {
    token: String,
    decision: String,
}

async fn consent(State(app): State<App>, headers: HeaderMap, Form(form): Form<Decision>) -> Response {
    let Caller(caller) = signed_in(&app, &headers);
    let to = match form.decision.as_str() {
        "permit" => permitted(&app, caller, &form.token).await,
        _ => rejected(&app, caller, &form.token).await,
    };
    match to {
        Ok(to) => Redirect::to(to.as_str()).into_response(),
        Err(_) => page(
            StatusCode::BAD_REQUEST,
            "Too late",
            "<p>This request has expired. Go back to the application and start again.</p>",
        ),
    }
}
