//! A server of its own for every test, and the calls that all of them make.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kanidmd_lib::prelude::{Url, Uuid};
use serde_json::{Value, json};
use ureq::http::Request;

/// From RFC 7636, appendix B.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
pub const REDIRECT: &str = "https://app.example.com/callback";
pub const PASSWORD: &str = "an-uncommon-test-password";

pub struct Host {
    process: Child,
    pub ready: Value,
    pub url: String,
}

pub struct Answer {
    pub status: u16,
    pub text: String,
    pub location: String,
    pub session: String,
    pub cookie: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// A query parameter of the location this answer sends the browser to.
    pub fn sent(&self, key: &str) -> String {
        let to = Url::parse(&self.location).expect("a location");
        let found = to.query_pairs().find(|(name, _)| name == key);
        found.expect("the parameter").1.into_owned()
    }
}

pub enum Body<'a> {
    None,
    Json(Value),
    Form(&'a [(&'a str, &'a str)]),
}

impl Host {
    pub fn start() -> Host {
        Self::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> Host {
        let mut process = Command::new(env!("CARGO_BIN_EXE_dev-kanidm"))
            .arg("--exit-with-stdin")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let mut out = BufReader::new(process.stdout.take().expect("its output"));
        out.read_line(&mut line).expect("the ready line");
        let ready: Value = serde_json::from_str(&line).expect("the ready line is JSON");
        let url = ready["url"].as_str().expect("a url").to_string();
        Host { process, ready, url }
    }

    pub fn start_in(state: &Path) -> Host {
        Self::start_with(&["--state-dir", state.to_str().expect("a path in UTF-8")])
    }

    /// Ends the process as a test that dies would: by closing its standard input.
    pub fn stop(mut self) -> ExitStatus {
        drop(self.process.stdin.take());
        self.process.wait().expect("the server ends")
    }

    pub fn try_call(
        &self,
        method: &str,
        path: &str,
        authorization: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Answer, ureq::Error> {
        let (kind, bytes) = match body {
            Body::None => ("text/plain", String::new()),
            Body::Json(value) => ("application/json", value.to_string()),
            Body::Form(pairs) => (
                "application/x-www-form-urlencoded",
                Url::parse_with_params("http://x/", pairs)
                    .ok()
                    .and_then(|url| url.query().map(str::to_string))
                    .unwrap_or_default(),
            ),
        };
        let mut request =
            Request::builder().method(method).uri(format!("{}{path}", self.url)).header("content-type", kind);
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .allow_non_standard_methods(true)
                .build(),
        );
        let mut response = agent.run(request.body(bytes).expect("a request"))?;
        let header = |name| {
            let value = response.headers().get(name);
            let value = value.and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_string()
        };
        Ok(Answer {
            status: response.status().as_u16(),
            location: header("location"),
            session: header("x-kanidm-auth-session-id"),
            cookie: header("set-cookie"),
            text: response.body_mut().read_to_string()?,
        })
    }

    pub fn get(&self, path: &str, authorization: &str) -> Answer {
        self.try_call("GET", path, authorization, &[], Body::None).expect("an answer")
    }

    pub fn send(&self, method: &str, path: &str, authorization: &str, body: Value) -> Answer {
        self.try_call(method, path, authorization, &[], Body::Json(body)).expect("an answer")
    }

    pub fn form(&self, path: &str, authorization: &str, pairs: &[(&str, &str)]) -> Answer {
        self.try_call("POST", path, authorization, &[], Body::Form(pairs)).expect("an answer")
    }

    pub fn auth_step(&self, session: &str, step: Value) -> Answer {
        let headers = [("x-kanidm-auth-session-id", session)];
        let body = Body::Json(json!({ "step": step }));
        self.try_call("POST", "/v1/auth", "", &headers, body).expect("an answer")
    }

    /// A bearer credential, or what the server says instead.
    pub fn sign_in(&self, name: &str, password: &str) -> Result<String, Value> {
        let init = json!({"init2": {"username": name, "issue": "token", "privileged": true}});
        let chosen = self.auth_step("", init).session;
        let begun = self.auth_step(&chosen, json!({"begin": "password"})).session;
        let cred = json!({"cred": {"password": password}});
        let done = self.auth_step(&begun, cred).ok();
        match done["state"]["success"].as_str() {
            Some(token) => Ok(format!("Bearer {token}")),
            None => Err(done["state"].clone()),
        }
    }

    pub fn idm_admin(&self) -> String {
        let password = self.ready["idm_admin_password"].as_str().expect("a password");
        self.sign_in("idm_admin", password).expect("idm_admin signs in")
    }

    pub fn fault(&self, fault: Value) {
        let answer = self.send("POST", "/_dev/fault", "", fault);
        assert_eq!(answer.status, 204, "{}", answer.text);
    }

    pub fn clear_faults(&self) {
        let answer = self.try_call("DELETE", "/_dev/fault", "", &[], Body::None);
        assert_eq!(answer.expect("an answer").status, 204);
    }

    pub fn requests(&self, what: &str) -> u64 {
        self.get("/_dev/requests", "").ok()[what].as_u64().unwrap_or(0)
    }

    pub fn advance(&self, seconds: u64) {
        self.send("POST", "/_dev/clock", "", json!({"advance_seconds": seconds})).ok();
    }

    pub fn allow_passwords(&self, admin: &str) {
        let path = "/v1/group/idm_all_persons/_attr/credential_type_minimum";
        self.send("PUT", path, admin, json!(["any"])).ok();
    }

    pub fn create_person(&self, admin: &str, name: &str) -> Uuid {
        let uuid = Uuid::new_v4();
        let entries = json!({"entries": [person(name, uuid)]});
        self.send("POST", "/v1/raw/create", admin, entries).ok();
        uuid
    }

    /// The token of a fresh reset link.
    pub fn reset_link(&self, admin: &str, name: &str) -> String {
        let path = format!("/v1/person/{name}/_credential/_update_intent/300");
        let intent = self.get(&path, admin).ok();
        intent["token"].as_str().expect("a token").to_string()
    }

    /// The session of an exchanged reset link, with the password set but not committed.
    pub fn prepare_password(&self, admin: &str, name: &str) -> (Value, Value) {
        let link = self.reset_link(admin, name);
        let opened = self.send("POST", "/v1/credential/_exchange_intent", "", json!(link));
        let session = opened.ok()[0].clone();
        let change = json!([{"password": PASSWORD}, session]);
        let status = self.send("POST", "/v1/credential/_update", "", change).ok();
        (session, status)
    }

    /// A person who can sign in, alone in group `crew`, which may use the client `app`: its Basic credential.
    pub fn with_client(&self, admin: &str, name: &str) -> (Uuid, String) {
        self.allow_passwords(admin);
        let uuid = self.create_person(admin, name);
        let (session, _) = self.prepare_password(admin, name);
        self.send("POST", "/v1/credential/_commit", "", session).ok();
        let group = json!({"attrs": {"name": ["crew"], "member": [uuid]}});
        self.send("POST", "/v1/group", admin, group).ok();
        let client = json!({"attrs": {"name": ["app"], "displayname": ["App"],
            "oauth2_rs_origin": [REDIRECT], "oauth2_rs_origin_landing": ["https://app.example.com"]}});
        self.send("POST", "/v1/oauth2/_basic", admin, client).ok();
        let scopes = json!(["openid", "email", "groups"]);
        self.send("POST", "/v1/oauth2/app/_scopemap/crew", admin, scopes).ok();
        let secret = self.get("/v1/oauth2/app/_basic_secret", admin).ok();
        let pair = format!("app:{}", secret.as_str().expect("a secret"));
        (uuid, format!("Basic {}", STANDARD.encode(pair)))
    }

    pub fn tokens(&self, client: &str, code: &str) -> Value {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ];
        self.form("/oauth2/token", client, &form).ok()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

pub fn person(name: &str, uuid: Uuid) -> Value {
    json!({"attrs": {"class": ["object", "account", "person"], "uuid": [uuid], "name": [name],
        "displayname": ["A Person"], "mail": [format!("{uuid}@example.com")]}})
}

/// The query of an authorisation request by the client `app`.
pub fn authorisation() -> String {
    let pairs = [
        ("response_type", "code"),
        ("client_id", "app"),
        ("redirect_uri", REDIRECT),
        ("scope", "openid email groups"),
        ("state", "a-state"),
        ("nonce", "a-nonce"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    let url = Url::parse_with_params("http://x/", pairs).expect("a url");
    url.query().expect("a query").to_string()
}
