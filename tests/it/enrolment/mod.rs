//! How a user who was migrated gets a first credential in Kanidm.

mod carry_over;
mod correlation;
mod hints;
mod links;
mod redeem;
mod second_factor;
mod void;

use sidle::proto;
use sidle::proto::authenticate_password_response::Outcome;
use sidle::seal::SealContext;
use sidle_dev::kanidm::Kanidm;
use sidle_dev::random_word;
use sqlx::Row as _;
use tonic::Status;
use uuid::Uuid;

use crate::authenticate::set;
use crate::look::reason;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

const REDIRECT: &str = "https://app.example/callback";

/// A Kanidm, and a server whose tenant's users are invited.
struct World {
    kanidm: Kanidm,
    server: TestServer,
    tenant: Uuid,
}

/// A user who was migrated to a person without a credential.
struct Person {
    user: Uuid,
    person: Uuid,
    name: String,
    email: String,
}

impl World {
    async fn new() -> Self {
        Self::with(|setup| setup.with("ENROLMENT__HINTS", "true")).await
    }

    async fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let kanidm = crate::support::kanidm().await;
        let access = kanidm.prepare(REDIRECT).await.unwrap();
        // No mail server listens: messages stay in the outbox, where the test can read them.
        let setup = Setup::new()
            .await
            .with_kanidm(&kanidm, &access)
            .with("MAIL__HOST", "127.0.0.1")
            .with("MAIL__PORT", "1")
            .with("MAIL__TLS", "none")
            .with("MAIL__FROM", "sidle@example.com")
            .with("MAIL__ORIGIN", "https://accounts.example")
            .with("THROTTLE__PER_MINUTE", "0");
        let server = change(setup).start().await;
        let tenant = server.tenant("a").await;
        Self { kanidm, server, tenant }
    }

    /// A user who was migrated and has not enrolled.
    async fn person(&self, name: &str) -> Person {
        let name = format!("{name}_{}", random_word(10));
        let email = format!("{name}@example.com");
        let user = self.server.user(self.tenant, &email, "user").await;
        let person = self.kanidm.create_person(&name, &name, &email).await.unwrap();
        set(
            &self.server,
            user,
            &format!("auth_method = 'dual', kanidm_user_id = '{person}', kanidm_synced_at = now()"),
        )
        .await;
        Person { user, person, name, email }
    }

    /// Signs in from a device, unknown for the empty secret.
    async fn login(&self, email: &str, device: &str) -> proto::SignedIn {
        login(&self.server, email, ADMIN_PASSWORD, device).await
    }

    /// Signs in until the device is known, and then once more; returns the invitation of that.
    async fn invited(&self, person: &Person) -> String {
        let device = self.login(&person.email, "").await.known_device_token;
        let hint = self.login(&person.email, &device).await.enrolment.expect("an invitation");
        hint.invitation_token
    }

    async fn redeem(&self, token: &str, password: &str, code: &str) -> Result<proto::RedeemInvitationResponse, Status> {
        redeem(&self.server, token, password, code).await
    }

    /// Whether the user has an invitation that can be redeemed.
    async fn has_invitation(&self, user: Uuid) -> bool {
        self.count("SELECT count(*) FROM invitations WHERE user_id = $1", user).await == 1
    }

    async fn count(&self, select: &str, id: Uuid) -> i64 {
        let select = sqlx::AssertSqlSafe(select.to_owned());
        sqlx::query_scalar(select).bind(id).fetch_one(self.server.sql()).await.unwrap()
    }

    /// Invitations that wait to be mailed to this address, the oldest first.
    async fn mailed(&self, address: &str) -> Vec<String> {
        let select = "SELECT mail_id, parameters FROM mail_outbox WHERE kind = 'enrolment_hint' AND recipient = $1
            ORDER BY mail_id";
        let rows = sqlx::query(select).bind(address).fetch_all(self.server.sql()).await.unwrap();
        let token = |row: sqlx::postgres::PgRow| {
            let context = SealContext { table: "mail_outbox", column: "parameters", row: row.get(0) };
            let parameters = self.server.app().keyring.open(context, row.get(1)).unwrap();
            let parameters: serde_json::Value = serde_json::from_slice(&parameters).unwrap();
            parameters["token"].as_str().unwrap().to_owned()
        };
        rows.into_iter().map(token).collect()
    }

    /// Sets a column of the row about a person's credentials.
    async fn set_enrolment(&self, person: Uuid, assignment: &str) {
        let update = format!("UPDATE kanidm_enrolments SET {assignment} WHERE person_id = $1");
        sqlx::query(sqlx::AssertSqlSafe(update)).bind(person).execute(self.server.sql()).await.unwrap();
    }
}

async fn login(server: &TestServer, email: &str, password: &str, device: &str) -> proto::SignedIn {
    match sign_in(server, email, password, device).await.expect("the password is right") {
        Outcome::SignedIn(signed_in) => signed_in,
        Outcome::MfaChallenge(_) => panic!("a second factor was asked for"),
    }
}

async fn sign_in(server: &TestServer, email: &str, password: &str, device: &str) -> Result<Outcome, Status> {
    let request = proto::AuthenticatePasswordRequest {
        identifier: email.to_owned(),
        password: password.to_owned(),
        known_device_token: device.to_owned(),
        ..Default::default()
    };
    let response = server.client("").authenticate.authenticate_password(request).await?;
    Ok(response.into_inner().outcome.expect("an outcome"))
}

async fn redeem(
    server: &TestServer,
    token: &str,
    password: &str,
    code: &str,
) -> Result<proto::RedeemInvitationResponse, Status> {
    let request = proto::RedeemInvitationRequest {
        invitation_token: token.to_owned(),
        password: password.to_owned(),
        second_factor_code: code.to_owned(),
    };
    Ok(server.client("").authenticate.redeem_invitation(request).await?.into_inner())
}

/// Kanidm's token in the URL of its page.
fn intent(link: &proto::RedeemInvitationResponse) -> String {
    let (_, token) = link.enrolment_url.split_once("/ui/reset?token=").expect("Kanidm's page");
    token.to_owned()
}

/// Asserts that this is the one refusal there is.
fn assert_refused<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>) {
    let refused = answer.expect_err(what);
    assert_eq!(reason(&refused), "INVALID_CREDENTIALS", "{what}");
    assert_eq!(refused.message(), "The credentials are not accepted.", "{what}");
}
