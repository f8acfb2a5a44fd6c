//! Where access tokens come from, and when they are renewed: before they expire, and when the service has refused one.

use std::sync::PoisonError;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;
use tonic::Status;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use super::credentials::{SignIn, Store};
use super::failure::{Failure, Result, exit, reason};
use crate::access::input;
use crate::context::Context;
use crate::proto::authenticate_service_client::AuthenticateServiceClient;
use crate::proto::{AuthenticateServiceAccountRequest, RefreshTokenRequest, TokenPair};

/// A token that ends sooner is replaced before it is used.
const EXPIRY_MARGIN: TimeDelta = TimeDelta::seconds(30);

/// For how long a token is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// One call.
    Call,
    /// A stream, for which at least half of a token's life should be left. This release's service lets a stream outlast its
    /// token; the one before does not, nor does any let it outlast a database that is away when the token expires.
    Stream,
}

/// Where access tokens come from.
pub(super) enum Source {
    /// `SIDLE_TOKEN`.
    Given(Zeroizing<String>),
    /// `SIDLE_API_KEY`, exchanged at the first call.
    ApiKey { key: Zeroizing<String>, token: Mutex<Option<Exchanged>> },
    /// `sidle login`.
    SignedIn,
}

/// A token that an API key was exchanged for.
pub(super) struct Exchanged {
    token: Zeroizing<String>,
    obtained_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

/// The access tokens of one caller for one service.
pub(super) struct Tokens {
    server: String,
    context: Context,
    /// Leads to that service and to no other.
    channel: Channel,
    source: Source,
    /// The token that the service refused last, although its time was not over.
    refused: std::sync::Mutex<Option<Zeroizing<String>>>,
}

impl Tokens {
    pub fn new(server: String, context: Context, channel: Channel, source: Source) -> Self {
        Self { server, context, channel, source, refused: std::sync::Mutex::default() }
    }

    /// Whether the credentials are those of `sidle login`.
    pub fn are_kept(&self) -> bool {
        matches!(self.source, Source::SignedIn)
    }

    /// An access token that the service has not refused and that does not expire soon.
    pub async fn get(&self, need: Need) -> Result<Zeroizing<String>> {
        match &self.source {
            Source::Given(token) if self.is_refused(token) => Err(given_is_refused()),
            Source::Given(token) => Ok(token.clone()),
            Source::ApiKey { key, token } => self.exchanged(key, &mut *token.lock().await, need).await,
            Source::SignedIn => self.kept(need).await,
        }
    }

    /// Notes that the service does not accept a token any more: after a rotation of its keys, a change of the caller's
    /// rights, a revocation. The next one is another.
    pub fn refuse(&self, token: &str) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Zeroizing::new(token.to_owned()));
    }

    fn is_refused(&self, token: &str) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.as_ref().is_some_and(|refused| refused.as_str() == token)
    }

    fn is_good(&self, token: &str, obtained_at: Option<DateTime<Utc>>, expires_at: DateTime<Utc>, need: Need) -> bool {
        let left = expires_at - self.context.now();
        let lasts = need == Need::Call || obtained_at.is_some_and(|at| left * 2 >= expires_at - at);
        left > EXPIRY_MARGIN && lasts && !self.is_refused(token)
    }

    async fn exchanged(&self, key: &str, kept: &mut Option<Exchanged>, need: Need) -> Result<Zeroizing<String>> {
        if let Some(kept) = kept
            && self.is_good(&kept.token, Some(kept.obtained_at), kept.expires_at, need)
        {
            return Ok(kept.token.clone());
        }
        let request = AuthenticateServiceAccountRequest { api_key: key.to_owned(), ..Default::default() };
        let answer = self.anonymous().authenticate_service_account(request).await.map_err(key_is_refused)?.into_inner();
        let (token, obtained_at) = (Zeroizing::new(answer.access_token), self.context.now());
        let expires_at = input::from_proto("expires_at", &answer.access_token_expires_at.unwrap_or_default())?;
        *kept = Some(Exchanged { token: token.clone(), obtained_at, expires_at });
        Ok(token)
    }

    async fn kept(&self, need: Need) -> Result<Zeroizing<String>> {
        // The file stays locked while the tokens are renewed: a second run waits and finds the new ones.
        let store = Store::open()?;
        let mut credentials = store.read()?;
        let Some(sign_in) = credentials.servers.get_mut(&self.server) else { return Err(self.signed_out()) };
        let (obtained_at, expires_at) = (sign_in.access_token_obtained_at, sign_in.access_token_expires_at);
        if self.is_good(&sign_in.access_token, obtained_at, expires_at, need) {
            return Ok(Zeroizing::new(sign_in.access_token.clone()));
        }
        let request_id = sign_in.pending_refresh.get_or_insert_with(|| random_id(&self.context)).clone();
        let refresh_token = sign_in.refresh_token.clone();
        // Kept before it is sent: if the answer is lost, the next run repeats this call and nothing is lost.
        store.write(&credentials, &self.context)?;
        let request = RefreshTokenRequest { refresh_token, request_id, ..Default::default() };
        let answer = match self.anonymous().refresh_token(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if reason(&status).as_deref() == Some("INVALID_REFRESH_TOKEN") => {
                credentials.servers.remove(&self.server);
                store.write(&credentials, &self.context)?;
                return Err(self.ended());
            }
            Err(status) => return Err(status.into()),
        };
        let Some(sign_in) = credentials.servers.get_mut(&self.server) else { return Err(self.signed_out()) };
        sign_in.take(answer.tokens.unwrap_or_default(), self.context.now())?;
        let token = Zeroizing::new(sign_in.access_token.clone());
        store.write(&credentials, &self.context)?;
        Ok(token)
    }

    fn anonymous(&self) -> AuthenticateServiceClient<Channel> {
        AuthenticateServiceClient::new(self.channel.clone())
    }

    fn signed_out(&self) -> Failure {
        Failure::new(format!("nobody is signed in to {}", self.server))
            .remedy("Sign in with `sidle login`, or pass SIDLE_TOKEN or SIDLE_API_KEY.")
            .exit(exit::SIGNED_OUT)
    }

    fn ended(&self) -> Failure {
        Failure::new(format!("the session with {} has ended", self.server))
            .remedy("Sign in again with `sidle login`; the address of the service and its CA are remembered.")
            .exit(exit::SIGNED_OUT)
    }
}

fn given_is_refused() -> Failure {
    Failure::new("the service does not accept the access token in SIDLE_TOKEN: it has expired, or was revoked")
        .remedy("Put a fresh one into SIDLE_TOKEN, or unset it and sign in with `sidle login`.")
        .exit(exit::SIGNED_OUT)
}

fn key_is_refused(status: Status) -> Failure {
    let failure = Failure::from(status);
    if failure.reason.as_deref() != Some("INVALID_CREDENTIALS") {
        return failure;
    }
    failure.remedy(
        "SIDLE_API_KEY holds a key that is unknown, expired or revoked: make another with `sidle api-keys create`.",
    )
}

impl SignIn {
    /// Takes over a fresh pair of tokens.
    pub fn take(&mut self, tokens: TokenPair, now: DateTime<Utc>) -> Result<()> {
        let expires_at = tokens.access_token_expires_at.unwrap_or_default();
        self.access_token_expires_at = input::from_proto("access_token_expires_at", &expires_at)?;
        self.access_token_obtained_at = Some(now);
        self.access_token = tokens.access_token;
        self.refresh_token = tokens.refresh_token;
        self.pending_refresh = None;
        Ok(())
    }
}

/// A UUID that cannot be guessed.
pub(super) fn random_id(context: &Context) -> String {
    uuid::Builder::from_random_bytes(context.entropy.array()).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::transport::Endpoint;

    use super::*;

    fn tokens(source: Source) -> Tokens {
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        Tokens::new("http://127.0.0.1:1".to_owned(), Context::system(), channel, source)
    }

    #[tokio::test]
    async fn a_stream_begins_with_a_token_that_has_half_of_its_life_left() {
        let tokens = tokens(Source::SignedIn);
        let began = tokens.context.now();
        let ends = began + TimeDelta::minutes(15);
        let good = |need| tokens.is_good("a", Some(began), ends, need);
        assert!(good(Need::Call) && good(Need::Stream));
        assert!(!tokens.is_good("a", None, ends, Need::Stream), "nobody knows when it began");
        tokens.context.clock.advance(Duration::from_secs(8 * 60));
        assert!(good(Need::Call) && !good(Need::Stream));
        tokens.context.clock.advance(Duration::from_secs(6 * 60 + 31));
        assert!(!good(Need::Call));
    }

    #[tokio::test]
    async fn a_token_that_was_refused_is_not_sent_again() {
        let tokens = tokens(Source::Given(Zeroizing::new("given".to_owned())));
        assert_eq!(*tokens.get(Need::Stream).await.unwrap(), "given");
        tokens.refuse("another");
        assert!(tokens.get(Need::Call).await.is_ok());
        tokens.refuse("given");
        let failure = tokens.get(Need::Call).await.unwrap_err();
        assert!(failure.message.contains("SIDLE_TOKEN") && failure.remedy.is_some(), "{failure:?}");
        assert_eq!(failure.exit_code, exit::SIGNED_OUT);
    }
}
