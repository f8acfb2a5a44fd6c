//! Logins through Kanidm.

mod admin_link;
mod attempts;
mod first_login;
mod link;
mod outage;
mod people;
mod proof;
mod provider;
mod renewal;
mod tokens;
mod watch;

use serde_json::json;
use sidle::proto;
use sidle_dev::kanidm::Kanidm;
use sidle_dev::persona::Returned;
use tonic::Status;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::authenticate::set;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

const REDIRECT: &str = "https://app.example/callback";
const PASSWORD: &str = "a-password-that-Kanidm-likes-4711";

/// A Kanidm, a server that is its client, and a user who is linked to a person there.
struct World {
    kanidm: Kanidm,
    server: TestServer,
    tenant: Uuid,
    user: Uuid,
    person: Uuid,
    /// Group whose members belong to the tenant.
    group: Uuid,
    bearer: String,
}

impl World {
    async fn new() -> Self {
        Self::with(|setup| setup).await
    }

    async fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let kanidm = crate::support::kanidm().await;
        let access = kanidm.prepare(REDIRECT).await.unwrap();
        let server = change(Setup::new().await.with_kanidm(&kanidm, &access)).start().await;
        let tenant = server.tenant("a").await;
        let user = server.user(tenant, "ann@example.com", "user").await;
        let (person, bearer) = person(&kanidm, "ann").await;
        set(&server, user, &format!("auth_method = 'dual', kanidm_user_id = '{person}', kanidm_synced_at = now()"))
            .await;
        let group = group(&kanidm, &server, tenant, "user").await;
        kanidm.add_member(&group.to_string(), &person.to_string()).await.unwrap();
        Self { kanidm, server, tenant, user, person, group, bearer }
    }

    async fn start(&self) -> Result<proto::StartKanidmLoginResponse, Status> {
        start(&self.server, REDIRECT).await
    }

    /// The whole login, as a browser and an application perform it.
    async fn login(&self) -> Result<proto::SignedIn, Status> {
        self.login_as(&self.bearer).await
    }

    async fn login_as(&self, bearer: &str) -> Result<proto::SignedIn, Status> {
        let begun = self.start().await?;
        let back = self.kanidm.authorise(bearer, &begun.authorization_url).await.unwrap();
        assert_eq!(back.state, begun.state);
        complete(&self.server, &back, &begun.login_secret).await
    }

    /// Logs in at Kanidm for a purpose, as the user of this access token, with a fresh step-up token by
    /// [`ADMIN_PASSWORD`] where one is required.
    async fn go(
        &self,
        token: &str,
        purpose: proto::KanidmLoginPurpose,
    ) -> Result<proto::StartKanidmLoginResponse, Status> {
        self.go_by(token, purpose, ADMIN_PASSWORD).await
    }

    /// As [`World::go`], with a step-up by this password.
    async fn go_by(
        &self,
        token: &str,
        purpose: proto::KanidmLoginPurpose,
        password: &str,
    ) -> Result<proto::StartKanidmLoginResponse, Status> {
        let refused = match self.go_with(token, purpose, "").await {
            Err(refused) if crate::look::reason(&refused) == "STEP_UP_REQUIRED" => refused,
            answer => return answer,
        };
        let proof = Some(proto::step_up_request::Proof::Password(password.to_owned()));
        let asked = refused.get_details_error_info().expect("a refusal of Sidle's").metadata;
        let (method, change) = (START.to_owned(), asked["change"].clone());
        let request = proto::StepUpRequest { method, change, proof, ..Default::default() };
        match self.server.client(token).authenticate.step_up(request).await {
            Ok(given) => self.go_with(token, purpose, &given.into_inner().step_up_token).await,
            Err(_) => Err(refused),
        }
    }

    /// As [`World::go`], with this step-up token; none for the empty one.
    async fn go_with(
        &self,
        token: &str,
        purpose: proto::KanidmLoginPurpose,
        proof: &str,
    ) -> Result<proto::StartKanidmLoginResponse, Status> {
        let request = proto::StartKanidmLoginRequest {
            redirect_uri: REDIRECT.to_owned(),
            purpose: purpose.into(),
            ..Default::default()
        };
        let request = crate::support::server::with_proof(request, proof);
        Ok(self.server.client(token).authenticate.start_kanidm_login(request).await?.into_inner())
    }

    async fn refresh(&self, token: &str, id: u128) -> Result<proto::RefreshTokenResponse, Status> {
        let request = proto::RefreshTokenRequest {
            refresh_token: token.to_owned(),
            request_id: Uuid::from_u128(id).to_string(),
            ..Default::default()
        };
        Ok(self.server.client("").authenticate.refresh_token(request).await?.into_inner())
    }

    /// Kinds of the messages to a user, the oldest first: see [`with_mail`].
    async fn mailed(&self, user: Uuid) -> Vec<String> {
        let select = "SELECT kind FROM mail_outbox WHERE user_id = $1 ORDER BY mail_id";
        sqlx::query_scalar(select).bind(user).fetch_all(self.server.sql()).await.unwrap()
    }

    async fn column<T>(&self, select: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let select = sqlx::AssertSqlSafe(select.to_owned());
        sqlx::query_scalar(select).bind(self.user).fetch_one(self.server.sql()).await.unwrap()
    }
}

/// With a mail server that is down: messages stay in the outbox, where a test can read them.
fn with_mail(setup: Setup) -> Setup {
    let setup = setup.with("MAIL__HOST", "localhost").with("MAIL__PORT", "1").with("MAIL__TLS", "none");
    setup.with("MAIL__FROM", "sidle@example.com").with("MAIL__ORIGIN", "https://accounts.example.com")
}

/// A person with a password who is signed in to Kanidm.
pub(crate) async fn person(kanidm: &Kanidm, name: &str) -> (Uuid, String) {
    let name = format!("{name}_{}", &Uuid::new_v4().simple().to_string()[..12]);
    let id = kanidm.create_person(&name, &name, &format!("{name}@example.com")).await.unwrap();
    let link = kanidm.reset_link(&id.to_string()).await.unwrap();
    kanidm.use_reset_link(&link, PASSWORD).await.unwrap();
    (id, kanidm.sign_in(&name, PASSWORD).await.unwrap())
}

/// A group of Kanidm's for a role in a tenant.
async fn group(kanidm: &Kanidm, server: &TestServer, tenant: Uuid, role: &str) -> Uuid {
    let (id, name) = (Uuid::new_v4(), format!("tenant_{}", Uuid::new_v4().simple()));
    kanidm.post("/v1/group", &json!({ "attrs": { "name": [name], "uuid": [id] } })).await.unwrap();
    sqlx::query(
        "INSERT INTO kanidm_tenant_groups (tenant_id, kanidm_group_uuid, kanidm_group_name, role, role_id, confirmed_at)
         SELECT $1, $2, $3, CASE name WHEN 'user' THEN 'member' ELSE 'admin' END, role_id, now()
         FROM roles WHERE name = $4 AND tenant_id IS NULL",
    )
    .bind(tenant)
    .bind(id)
    .bind(name)
    .bind(role)
    .execute(server.sql())
    .await
    .unwrap();
    id
}

/// Name of the RPC, as step-up tokens name it.
const START: &str = "sidle.v1.AuthenticateService/StartKanidmLogin";

async fn start(server: &TestServer, redirect_uri: &str) -> Result<proto::StartKanidmLoginResponse, Status> {
    let request = proto::StartKanidmLoginRequest { redirect_uri: redirect_uri.to_owned(), ..Default::default() };
    Ok(server.client("").authenticate.start_kanidm_login(request).await?.into_inner())
}

async fn complete(server: &TestServer, back: &Returned, secret: &str) -> Result<proto::SignedIn, Status> {
    Ok(complete_as(server, "", back, secret).await?.signed_in.expect("a login"))
}

async fn complete_as(
    server: &TestServer,
    token: &str,
    back: &Returned,
    secret: &str,
) -> Result<proto::CompleteKanidmLoginResponse, Status> {
    let request = proto::CompleteKanidmLoginRequest {
        state: back.state.clone(),
        code: back.code.clone(),
        login_secret: secret.to_owned(),
    };
    Ok(server.client(token).authenticate.complete_kanidm_login(request).await?.into_inner())
}

async fn is_good(server: &TestServer, access_token: &str) -> bool {
    server.client(access_token).authenticate.who_am_i(proto::WhoAmIRequest {}).await.is_ok()
}
