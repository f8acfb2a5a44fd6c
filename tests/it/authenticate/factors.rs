//! Helpers for tests of second factors: an authenticator application, and users who have one.

use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use sidle::proto::authenticate_password_response::Outcome;
use sidle::proto::complete_mfa_request::Factor;
use sidle::proto::step_up_request::Proof;
use sidle::proto::*;
use std::time::Duration;
use tonic::Status;
use uuid::Uuid;

use crate::support::{ADMIN_PASSWORD, Client, TestServer};

pub const ENROLL: &str = "sidle.v1.AuthenticateService/EnrollTotp";
pub const DISABLE: &str = "sidle.v1.AuthenticateService/DisableTotp";
pub const REGENERATE: &str = "sidle.v1.AuthenticateService/RegenerateRecoveryCodes";

/// An authenticator application whose clock is right.
#[derive(Clone)]
pub struct Authenticator {
    secret: Vec<u8>,
}

impl Authenticator {
    /// With the secret as it was shown.
    pub fn new(base32: &str) -> Self {
        let mut bits = String::new();
        for c in base32.chars() {
            let value = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".find(c).expect("base32");
            bits.push_str(&format!("{value:05b}"));
        }
        let bytes = bits.as_bytes().chunks_exact(8);
        Self { secret: bytes.map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap()).collect() }
    }

    /// The code that it shows `steps` steps from `at`.
    pub fn code(&self, at: DateTime<Utc>, steps: i64) -> String {
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.secret).unwrap();
        mac.update(&(at.timestamp() / 30 + steps).to_be_bytes());
        let digest = mac.finalize().into_bytes();
        let at = usize::from(digest[19] & 15);
        let number = u32::from_be_bytes(digest[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
        format!("{:06}", number % 1_000_000)
    }

    /// A code that it does not show, nor a moment ago, nor soon.
    pub fn wrong(&self, at: DateTime<Utc>) -> String {
        let shown: Vec<String> = (-3..=3).map(|steps| self.code(at, steps)).collect();
        (0..10).map(|n| format!("{n:06}")).find(|code| !shown.contains(code)).unwrap()
    }
}

/// A signed-in user with a second factor.
pub struct Guarded {
    pub user: Uuid,
    pub email: &'static str,
    pub client: Client,
    pub application: Authenticator,
    pub codes: Vec<String>,
}

/// Enrols an application for the user of `client`; the clock is moved on, so that the next code is a fresh one.
pub async fn enrol(server: &TestServer, client: &Client) -> (Authenticator, Vec<String>) {
    let request = client.proven(ENROLL, "", EnrollTotpRequest {}).await;
    let shown = client.authenticate.clone().enroll_totp(request).await.expect("an enrolment").into_inner();
    let application = Authenticator::new(&shown.secret);
    let request = ConfirmTotpRequest { totp_code: application.code(server.context.now(), 0) };
    let confirmed = client.authenticate.clone().confirm_totp(request).await.expect("confirmed").into_inner();
    tick(server);
    (application, confirmed.recovery_codes)
}

/// A user of `tenant` with an application.
pub async fn guarded(server: &TestServer, tenant: Uuid, email: &'static str) -> Guarded {
    let user = server.user(tenant, email, "user").await;
    let client = server.client(&server.sign_in(email).await.access_token);
    let (application, codes) = enrol(server, &client).await;
    Guarded { user, email, client, application, codes }
}

/// Moves the clock past the time of one code.
pub fn tick(server: &TestServer) {
    server.context.clock.advance(Duration::from_secs(30));
}

impl Guarded {
    /// The code that the application shows now.
    pub fn code(&self, server: &TestServer) -> String {
        self.application.code(server.context.now(), 0)
    }

    /// A code that it does not show.
    pub fn wrong(&self, server: &TestServer) -> String {
        self.application.wrong(server.context.now())
    }

    /// A fresh step-up token for a call on the caller's own account by `proof`.
    pub async fn prove(&self, method: &str, proof: Proof) -> Result<String, Status> {
        prove(&self.client, method, "", proof).await
    }
}

/// A fresh step-up token for a call whose request has no field.
pub async fn prove(client: &Client, method: &str, target: &str, proof: Proof) -> Result<String, Status> {
    let request = StepUpRequest {
        method: method.to_owned(),
        target: target.to_owned(),
        change: String::new(),
        proof: Some(proof),
    };
    Ok(client.authenticate.clone().step_up(request).await?.into_inner().step_up_token)
}

/// Proves the right password and gets a challenge.
pub async fn challenge(server: &TestServer, email: &str) -> Result<MfaChallenge, Status> {
    let request = AuthenticatePasswordRequest {
        identifier: email.to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
        ..Default::default()
    };
    match server.client("").authenticate.authenticate_password(request).await?.into_inner().outcome {
        Some(Outcome::MfaChallenge(challenge)) => Ok(challenge),
        other => panic!("not asked for a second factor: {other:?}"),
    }
}

/// Answers a challenge.
pub async fn answer(server: &TestServer, challenge: &MfaChallenge, factor: Factor) -> Result<SignedIn, Status> {
    let request = CompleteMfaRequest { challenge_token: challenge.challenge_token.clone(), factor: Some(factor) };
    Ok(server.client("").authenticate.complete_mfa(request).await?.into_inner().signed_in.expect("signed in"))
}

/// Answers a challenge with a code of an application.
pub async fn answer_code(server: &TestServer, challenge: &MfaChallenge, code: String) -> Result<SignedIn, Status> {
    answer(server, challenge, Factor::TotpCode(code)).await
}

/// The counted failures of an account, and whether it is locked.
pub async fn counted(server: &TestServer, user: Uuid) -> (i32, bool) {
    let select = "SELECT failed_login_attempts, locked_until > $2 IS TRUE FROM users WHERE user_id = $1";
    sqlx::query_as(select).bind(user).bind(server.context.now()).fetch_one(server.sql()).await.unwrap()
}

/// Number of active sessions of a user.
pub async fn sessions(server: &TestServer, user: Uuid) -> i64 {
    let select = "SELECT count(*) FROM sessions WHERE user_id = $1 AND status = 'active'";
    sqlx::query_scalar(select).bind(user).fetch_one(server.sql()).await.unwrap()
}
