//! A Kanidm to test against: a dev Kanidm started for the purpose, or a full one that the environment names.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::{Result, random_word, variable};

/// Groups that give Sidle's service account its rights: to create persons and groups, and to read a person's address
/// and credential status, without which an existing person cannot be told from one that was taken over.
pub const RIGHTS: [&str; 3] = ["idm_people_on_boarding", "idm_group_admins", "idm_account_mail_read"];

/// A running Kanidm and its administrator's credentials.
pub struct Kanidm {
    /// Base URL.
    pub url: String,
    /// Authority of its certificate, for a full Kanidm.
    pub ca_file: Option<PathBuf>,
    /// Client without redirects; trusts the authority.
    pub http: reqwest::Client,
    admin: String,
    admin_password: String,
    reader: tokio::sync::OnceCell<String>,
    process: Option<Child>,
}

/// Settings with which Sidle uses a Kanidm.
#[derive(Clone, Debug)]
pub struct Access {
    /// API token of the service account.
    pub token: String,
    /// OAuth2 client.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// Redirect address of logins.
    pub redirect_uri: String,
}

/// How dev Kanidm can be made to fail; a full Kanidm has no such switch.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Answers 503 without doing anything.
    Fail,
    /// Holds requests until the fault is cleared.
    Stall,
    /// Answers 200 with bytes that are not JSON.
    Garbage,
    /// Performs the request and closes the connection without an answer.
    DropReply,
}

impl Kanidm {
    /// The full Kanidm of `SIDLE_TEST_KANIDM_URL` if set, otherwise a fresh dev Kanidm.
    ///
    /// # Errors
    /// When it cannot be started or signed in to.
    pub async fn start() -> Result<Self> {
        if std::env::var("SIDLE_TEST_KANIDM_URL").is_ok() { Self::full().await } else { Self::dev().await }
    }

    /// Whether this is dev Kanidm, with its clock and its faults.
    pub fn is_dev(&self) -> bool {
        self.process.is_some()
    }

    /// Password of `idm_admin`.
    pub fn admin_password(&self) -> &str {
        &self.admin_password
    }

    /// A fresh dev Kanidm of its own; ends with this value.
    ///
    /// # Errors
    /// When the program is missing or does not get ready.
    pub async fn dev() -> Result<Self> {
        let program = variable("SIDLE_DEV_KANIDM_BIN")?;
        let mut process = Command::new(&program)
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("cannot start {program}: {e}"))?;
        let output = process.stdout.take().ok_or("dev Kanidm has no standard output")?;
        let line = BufReader::new(output).lines().next_line().await?.ok_or("dev Kanidm ended before it was ready")?;
        let ready: Value = serde_json::from_str(&line)?;
        let text = |key: &str| ready[key].as_str().map(str::to_owned).ok_or(format!("no {key} in {line}"));
        let http = client(None)?;
        let url = text("url")?;
        let admin_password = text("idm_admin_password")?;
        let admin = crate::persona::sign_in(&http, &url, "idm_admin", &admin_password).await?;
        Ok(Self { url, ca_file: None, http, admin, admin_password, reader: Default::default(), process: Some(process) })
    }

    async fn full() -> Result<Self> {
        let url = variable("SIDLE_TEST_KANIDM_URL")?.trim_end_matches('/').to_owned();
        let ca_file = PathBuf::from(variable("SIDLE_TEST_KANIDM_CA")?);
        let http = client(Some(&std::fs::read(&ca_file)?))?;
        let admin_password = variable("SIDLE_TEST_KANIDM_IDM_ADMIN_PASSWORD")?;
        let admin = crate::persona::sign_in(&http, &url, "idm_admin", &admin_password).await?;
        Ok(Self { url, ca_file: Some(ca_file), http, admin, admin_password, reader: Default::default(), process: None })
    }

    /// Creates a service account with the rights that Sidle documents, an OAuth2 client for all persons, and allows
    /// passwords without a second factor, which test persons use. Names are unique.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn prepare(&self, redirect_uri: &str) -> Result<Access> {
        let name = format!("sidle_{}", random_word(10));
        let account = json!({ "attrs": {
            "name": [name], "displayname": ["Sidle"], "entry_managed_by": ["idm_admins"],
        }});
        self.post("/v1/service_account", &account).await?;
        for group in RIGHTS {
            self.post(&format!("/v1/group/{group}/_attr/member"), &json!([name])).await?;
        }
        let token = json!({ "label": "sidle", "expiry": null, "read_write": true });
        let token = self.post(&format!("/v1/service_account/{name}/_api_token"), &token).await?;
        let token = token.as_str().ok_or("no API token")?.to_owned();

        let client_id = format!("{name}_login");
        let origin = redirect_uri.split('/').take(3).collect::<Vec<_>>().join("/");
        let client = json!({ "attrs": {
            "name": [client_id], "displayname": ["Sidle"],
            "oauth2_rs_origin": [redirect_uri], "oauth2_rs_origin_landing": [origin],
        }});
        self.post("/v1/oauth2/_basic", &client).await?;
        let scopes = json!(["openid", "profile", "email", "groups"]);
        self.post(&format!("/v1/oauth2/{client_id}/_scopemap/idm_all_persons"), &scopes).await?;
        let secret = self.get(&format!("/v1/oauth2/{client_id}/_basic_secret")).await?;
        let client_secret = secret.as_str().ok_or("no client secret")?.to_owned();

        let policy = "/v1/group/idm_all_persons/_attr/credential_type_minimum";
        self.send(reqwest::Method::PUT, policy, Some(&json!(["any"]))).await?;
        Ok(Access { token, client_id, client_secret, redirect_uri: redirect_uri.to_owned() })
    }

    /// Creates a person and returns its uuid.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn create_person(&self, name: &str, displayname: &str, mail: &str) -> Result<uuid::Uuid> {
        let id = uuid::Uuid::new_v4();
        let entry = json!({ "attrs": {
            "class": ["object", "account", "person"], "uuid": [id], "name": [name], "displayname": [displayname],
            "mail": [mail],
        }});
        self.post("/v1/raw/create", &json!({ "entries": [entry] })).await?;
        Ok(id)
    }

    /// Attributes of the person of this uuid or name, if there is one.
    ///
    /// # Errors
    /// When Kanidm does not answer.
    pub async fn person(&self, id: &str) -> Result<Option<Value>> {
        let entry = self.get(&format!("/v1/person/{id}")).await?;
        Ok((!entry.is_null()).then(|| entry["attrs"].clone()))
    }

    /// Attributes of every person.
    ///
    /// # Errors
    /// When Kanidm does not answer.
    pub async fn persons(&self) -> Result<Vec<Value>> {
        // Not as the administrator: a person's session may not read as many entries at a time as a service account may,
        // and a Kanidm that many tests use has many.
        let reader = self.reader.get_or_try_init(|| self.reader_token()).await?;
        let response = self.http.get(format!("{}/v1/person", self.url)).bearer_auth(reader).send().await?;
        let list = answer("GET /v1/person", response).await?;
        Ok(list.as_array().into_iter().flatten().map(|entry| entry["attrs"].clone()).collect())
    }

    /// A service account that may read all attributes of persons.
    async fn reader_token(&self) -> Result<String> {
        let name = format!("reader_{}", random_word(10));
        let account =
            json!({ "attrs": { "name": [name], "displayname": ["Reader"], "entry_managed_by": ["idm_admins"] }});
        self.post("/v1/service_account", &account).await?;
        self.post("/v1/group/idm_people_admins/_attr/member", &json!([name])).await?;
        let token = json!({ "label": "reader", "expiry": null, "read_write": false });
        let token = self.post(&format!("/v1/service_account/{name}/_api_token"), &token).await?;
        token.as_str().map(str::to_owned).ok_or_else(|| "no API token".into())
    }

    /// Names of the members of a group, given by uuid or name, without their domain.
    ///
    /// # Errors
    /// When Kanidm does not answer.
    pub async fn members(&self, group: &str) -> Result<Vec<String>> {
        let members = self.get(&format!("/v1/group/{group}/_attr/member")).await?;
        let names = members.as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(names.map(|spn| spn.split('@').next().unwrap_or(spn).to_owned()).collect())
    }

    /// Adds a member to a group.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn add_member(&self, group: &str, person: &str) -> Result<()> {
        self.post(&format!("/v1/group/{group}/_attr/member"), &json!([person])).await.map(drop)
    }

    /// Removes a member from a group.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn remove_member(&self, group: &str, person: &str) -> Result<()> {
        let path = format!("/v1/group/{group}/_attr/member");
        self.send(reqwest::Method::DELETE, &path, Some(&json!([person]))).await.map(drop)
    }

    /// Moves a person to the recycle bin.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn delete_person(&self, person: &str) -> Result<()> {
        self.send(reqwest::Method::DELETE, &format!("/v1/person/{person}"), None).await.map(drop)
    }

    /// A link with which a person sets a credential.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn reset_link(&self, person: &str) -> Result<String> {
        let intent = self.get(&format!("/v1/person/{person}/_credential/_update_intent/3600")).await?;
        intent["token"].as_str().map(str::to_owned).ok_or_else(|| format!("no reset link in {intent}").into())
    }

    /// Disables a person's account, as of now.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn expire(&self, person: &str) -> Result<()> {
        let path = format!("/v1/person/{person}/_attr/account_expire");
        self.send(reqwest::Method::PUT, &path, Some(&json!(["1970-01-01T00:00:00Z"]))).await.map(drop)
    }

    /// `GET` as the administrator.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send(reqwest::Method::GET, path, None).await
    }

    /// `POST` as the administrator.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(reqwest::Method::POST, path, Some(body)).await
    }

    /// `PUT` as the administrator.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(reqwest::Method::PUT, path, Some(body)).await
    }

    /// `PATCH` as the administrator.
    ///
    /// # Errors
    /// When Kanidm refuses.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(reqwest::Method::PATCH, path, Some(body)).await
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.url)).bearer_auth(&self.admin);
        if let Some(body) = body {
            request = request.json(body);
        }
        answer(&format!("{method} {path}"), request.send().await?).await
    }

    /// Makes dev Kanidm fail at requests whose path begins so, after letting `after` of them pass, `count` times.
    ///
    /// # Errors
    /// On a full Kanidm.
    pub async fn fault(&self, fault: Fault, path_prefix: &str, after: u32, count: Option<u32>) -> Result<()> {
        let mode = match fault {
            Fault::Fail => "fail",
            Fault::Stall => "stall",
            Fault::Garbage => "garbage",
            Fault::DropReply => "drop_reply",
        };
        let body = json!({ "mode": mode, "path_prefix": path_prefix, "after": after, "count": count });
        self.post("/_dev/fault", &body).await.map(drop)
    }

    /// Makes dev Kanidm answer so, without performing anything, to requests whose path begins so and whose body
    /// contains `text`, `count` times.
    ///
    /// # Errors
    /// On a full Kanidm.
    pub async fn answer_with(
        &self,
        path_prefix: &str,
        text: Option<&str>,
        (status, body): (u16, &str),
        count: Option<u32>,
    ) -> Result<()> {
        let fault = json!({
            "mode": "fail", "path_prefix": path_prefix, "body_contains": text, "status": status, "body": body,
            "count": count,
        });
        self.post("/_dev/fault", &fault).await.map(drop)
    }

    /// Makes dev Kanidm take so long for each entry of a request whose path begins so.
    ///
    /// # Errors
    /// On a full Kanidm.
    pub async fn slow(&self, path_prefix: &str, per_entry: Duration) -> Result<()> {
        let per_entry = u64::try_from(per_entry.as_millis())?;
        let fault = json!({ "mode": "stall", "path_prefix": path_prefix, "stall_ms_per_entry": per_entry });
        self.post("/_dev/fault", &fault).await.map(drop)
    }

    /// Ends every fault of dev Kanidm.
    ///
    /// # Errors
    /// On a full Kanidm.
    pub async fn heal(&self) -> Result<()> {
        self.send(reqwest::Method::DELETE, "/_dev/fault", None).await.map(drop)
    }

    /// Moves dev Kanidm's clock forward.
    ///
    /// # Errors
    /// On a full Kanidm.
    pub async fn advance(&self, by: Duration) -> Result<()> {
        self.post("/_dev/clock", &json!({ "advance_seconds": by.as_secs() })).await.map(drop)
    }

    /// How many requests of this kind, such as `GET /v1/person/{id}`, dev Kanidm has seen.
    ///
    /// # Errors
    /// On a full Kanidm.
    pub async fn requests(&self, kind: &str) -> Result<u64> {
        Ok(self.get("/_dev/requests").await?[kind].as_u64().unwrap_or(0))
    }

    /// Ends dev Kanidm immediately, as a crash would.
    ///
    /// # Errors
    /// On a full Kanidm.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.process.as_mut().ok_or("a full Kanidm is not ours to end")?.kill().await?)
    }
}

/// The JSON of a successful answer; a refusal becomes an error that names the call.
pub(crate) async fn answer(call: &str, response: reqwest::Response) -> Result<Value> {
    let status = response.status();
    let text = response.text().await?;
    if !status.is_success() {
        return Err(format!("{call}: {status} {text}").into());
    }
    Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
}

fn client(authority: Option<&[u8]>) -> Result<reqwest::Client> {
    // Several crates bring a cryptography provider; this one is used. An error: it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
    builder = match authority {
        Some(pem) => builder.tls_certs_only([reqwest::Certificate::from_pem(pem)?]),
        None => builder.tls_certs_only([]),
    };
    Ok(builder.timeout(Duration::from_secs(60)).build()?)
}
