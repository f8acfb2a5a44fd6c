//! An administrator's session in Kanidm: signing in as `kanidm login` does, and calls with that session. Only for
//! commands that an administrator runs; the service never has such a credential.

use std::fmt;

use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::{Zeroize as _, Zeroizing};

use super::client::{Body, Credential, Kanidm};
use super::error::{KanidmError, Result};
use super::persons::Entry;
use crate::config::Secret;

/// Questions that one sign-in may ask. A sane server asks two.
const MOST_QUESTIONS: usize = 8;

/// Kanidm, as an administrator sees it.
pub struct Administrator {
    kanidm: Kanidm,
    token: Secret,
}

/// What Kanidm asks an administrator for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Password,
    /// Six digits of an authenticator application.
    Code,
}

/// Why an administrator was not let in.
#[derive(Debug, PartialEq, Eq)]
pub enum NotLetIn<E> {
    /// Kanidm refused or did not answer.
    Kanidm(KanidmError),
    /// There is no account of this name.
    Unknown,
    /// Name, password or code are wrong, or the account is locked.
    Denied,
    /// Kanidm wants what cannot be given at a terminal, such as a passkey.
    NotHere,
    /// The answer could not be had.
    Answer(E),
}

impl<E> From<KanidmError> for NotLetIn<E> {
    fn from(error: KanidmError) -> Self {
        Self::Kanidm(error)
    }
}

/// A step's outcome: exactly one of its fields is there.
#[derive(Deserialize)]
struct State {
    choose: Option<Vec<Value>>,
    #[serde(rename = "continue")]
    goes_on: Option<Vec<Value>>,
    success: Option<Secret>,
}

#[derive(Deserialize)]
struct Stepped {
    state: State,
}

impl fmt::Debug for Administrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Administrator({:?})", self.kanidm)
    }
}

impl Kanidm {
    /// Kanidm with a session that an administrator has already.
    pub fn as_administrator(&self, token: Secret) -> Administrator {
        Administrator { kanidm: self.patient(), token }
    }

    /// Signs an administrator in, with the right to make changes.
    ///
    /// # Errors
    /// As [`NotLetIn`] says.
    pub async fn sign_in_administrator<E>(
        &self,
        name: &str,
        mut answer: impl FnMut(Question) -> Result<Zeroizing<String>, E>,
    ) -> Result<Administrator, NotLetIn<E>> {
        let begin = json!({"step": {"init2": {"username": name, "issue": "token", "privileged": true}}});
        let (mut stepped, mut session) = match self.step(None, Body::Json(&begin)).await {
            Err(KanidmError::NotFound) => return Err(NotLetIn::Unknown),
            begun => begun?,
        };
        let mechanism = mechanism(&stepped.state).ok_or(NotLetIn::NotHere)?;
        let chosen = json!({"step": {"begin": mechanism}});
        (stepped, session) = self.step(session.as_ref(), Body::Json(&chosen)).await?;
        for _ in 0..MOST_QUESTIONS {
            if let Some(token) = stepped.state.success {
                return Ok(self.as_administrator(token));
            }
            let allowed = stepped.state.goes_on.ok_or(NotLetIn::Denied)?;
            let question = question(&allowed).ok_or(NotLetIn::NotHere)?;
            let body = credential(question, &answer(question).map_err(NotLetIn::Answer)?);
            (stepped, session) = self.step(session.as_ref(), body.ok_or(NotLetIn::Denied)?).await?;
        }
        Err(KanidmError::Nonsense("a sign-in that does not end".to_owned()).into())
    }

    async fn step(
        &self,
        session: Option<&http::HeaderValue>,
        body: Body<'_>,
    ) -> Result<(Stepped, Option<http::HeaderValue>)> {
        let url = self.url(&["v1", "auth"]);
        let mut answer = self.patient().send(Method::POST, url, Credential::SignIn(session), body).await?;
        let stepped = answer.json();
        // The last one holds the session.
        answer.body.zeroize();
        Ok((stepped?, answer.sign_in.or_else(|| session.cloned())))
    }
}

/// Of what Kanidm offers, what can be answered at a terminal: the stronger first.
fn mechanism(state: &State) -> Option<&'static str> {
    let offered = state.choose.as_ref()?;
    ["passwordmfa", "password"].into_iter().find(|name| offered.iter().any(|offer| offer == name))
}

fn question(allowed: &[Value]) -> Option<Question> {
    let questions = [("totp", Question::Code), ("password", Question::Password)];
    questions.into_iter().find(|(name, _)| allowed.iter().any(|one| one == name)).map(|(_, question)| question)
}

/// The step that answers; none for a code that is no number.
fn credential(question: Question, answer: &Zeroizing<String>) -> Option<Body<'static>> {
    let credential = match question {
        // Written by hand: a JSON value would keep a copy of the password that is not wiped.
        Question::Password => Zeroizing::new(serde_json::to_vec(answer.as_str()).ok()?),
        Question::Code => Zeroizing::new(answer.trim().parse::<u32>().ok()?.to_string().into_bytes()),
    };
    let name: &[u8] = if question == Question::Password { b"password" } else { b"totp" };
    let parts: [&[u8]; 5] = [br#"{"step":{"cred":{""#, name, br#"":"#, &credential, b"}}}"];
    let mut body = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    parts.iter().for_each(|part| body.extend_from_slice(part));
    Some(Body::Secret(body))
}

impl Administrator {
    /// Ends the session.
    ///
    /// # Errors
    /// As [`KanidmError`] says.
    pub async fn sign_out(self) -> Result<()> {
        self.call::<Value>(Method::GET, &["v1", "logout"], Body::None).await.map(drop)
    }

    pub(super) async fn call<T: DeserializeOwned>(&self, method: Method, path: &[&str], body: Body<'_>) -> Result<T> {
        let url = self.kanidm.url(path);
        self.kanidm.send(method, url, Credential::Bearer(&self.token), body).await?.json()
    }

    pub(super) async fn change(&self, method: Method, path: &[&str], value: &Value) -> Result<()> {
        self.call::<Value>(method, path, Body::Json(value)).await.map(drop)
    }

    pub(super) async fn search(&self, filter: Value) -> Result<Vec<Entry>> {
        #[derive(Deserialize)]
        struct Entries {
            entries: Vec<Entry>,
        }
        let query = json!({ "filter": filter });
        let found: Entries = self.call(Method::POST, &["v1", "raw", "search"], Body::Json(&query)).await?;
        Ok(found.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(json: &str) -> State {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_can_be_answered_at_a_terminal_is_chosen() {
        assert_eq!(mechanism(&state(r#"{"choose":["password"]}"#)), Some("password"));
        assert_eq!(mechanism(&state(r#"{"choose":["passkey","password","passwordmfa"]}"#)), Some("passwordmfa"));
        assert_eq!(mechanism(&state(r#"{"choose":["passkey"]}"#)), None);
        assert_eq!(mechanism(&state(r#"{"denied":"no"}"#)), None);
        let asked = |json: &str| question(&state(json).goes_on.unwrap());
        assert_eq!(asked(r#"{"continue":["totp"]}"#), Some(Question::Code));
        assert_eq!(asked(r#"{"continue":["password"]}"#), Some(Question::Password));
        assert_eq!(asked(r#"{"continue":[{"passkey":{}}]}"#), None);
    }

    #[test]
    fn answers_are_json_whatever_is_in_them() {
        let body = |question, answer: &str| match credential(question, &Zeroizing::new(answer.to_owned())) {
            Some(Body::Secret(body)) => serde_json::from_slice::<Value>(&body).unwrap(),
            _ => panic!("no answer"),
        };
        assert_eq!(body(Question::Password, "a\"}}\u{1}ß"), json!({"step": {"cred": {"password": "a\"}}\u{1}ß"}}}));
        assert_eq!(body(Question::Code, "012345 "), json!({"step": {"cred": {"totp": 12345}}}));
        assert!(credential(Question::Code, &Zeroizing::new("1 or 2".to_owned())).is_none());
    }
}
