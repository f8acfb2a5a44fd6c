//! Exchanging a service account's API key, or its id and secret, for a short access token.

use uuid::Uuid;
use zeroize::Zeroizing;

use super::Login;
use super::store::login;
use super::store::service_account::{self, KeyAnswer};
use crate::access::{Call, Permissions, PrincipalKind};
use crate::audit::{Event, EventType, Outcome};
use crate::authenticate::invalid_credentials;
use crate::credential::RateLimitBucket;
use crate::fault::Result;
use crate::metrics::{LoginMethod, LoginOutcome};
use crate::token::{AccessToken, Grant, RoleNames, opaque};

/// Prefix of API keys.
const KEY_PREFIX: &str = "sidle_ak_";
/// Prefix of clients' secrets.
const SECRET_PREFIX: &str = "sidle_cs_";

/// What a service account shows. One kind of credential in two spellings: a key names its account by itself, a secret
/// is good together with the account's id.
pub(in crate::authenticate) enum Shown {
    Key(Zeroizing<String>),
    Client { id: Uuid, secret: Zeroizing<String> },
}

impl Shown {
    /// The secret, if it looks like one, and the client that it must belong to.
    fn parts(&self) -> Option<(&str, Option<Uuid>)> {
        let (prefix, secret, client) = match self {
            Self::Key(key) => (KEY_PREFIX, key, None),
            Self::Client { id, secret } => (SECRET_PREFIX, secret, Some(*id)),
        };
        opaque::is_plausible(prefix, secret).then_some((secret.as_str(), client))
    }
}

/// A service account that showed its key.
#[derive(Debug)]
pub(in crate::authenticate) struct Exchanged {
    pub token: AccessToken,
    pub service_account_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub permissions: Permissions,
}

impl Login {
    /// A token for what the key permits: the account's rights, narrowed by the key's scopes, in the account's tenant.
    ///
    /// # Errors
    /// `INVALID_CREDENTIALS`, the same for every cause.
    pub(in crate::authenticate) async fn service_account(
        &self,
        call: &Call,
        shown: &Shown,
        audience: String,
    ) -> Result<Exchanged> {
        self.throttle(call, RateLimitBucket::ServiceAccount).await?;
        let exchanged = self.exchange_key(call, shown, audience).await;
        let outcome = match &exchanged {
            Ok(Some(_)) => LoginOutcome::Success,
            Ok(None) => LoginOutcome::Refused,
            Err(_) => LoginOutcome::Failed,
        };
        self.metrics.login(LoginMethod::ApiKey, outcome);
        exchanged?.ok_or_else(invalid_credentials)
    }

    async fn exchange_key(&self, call: &Call, shown: &Shown, audience: String) -> Result<Option<Exchanged>> {
        let Some((secret, client)) = shown.parts() else {
            self.refuse_unknown_key(call).await?;
            return Ok(None);
        };
        let event = self.recorder.prepare(Event::new(EventType::ServiceAccountAuthenticated, call));
        let refused = Event::new(EventType::ServiceAccountLoginRefused, call).outcome(Outcome::Refused);
        let refused = self.recorder.prepare(refused);
        // The id before the statement: it says when the token was issued, which is not after the key was found good.
        let (digest, now, token_id) = (opaque::digest(secret), self.context.now(), self.context.new_id());
        let answer = service_account::exchange_key(&self.db, &digest, client, now, &event, &refused).await?;
        self.recorder.wake();
        let account = match answer {
            KeyAnswer::Accepted(account) => account,
            KeyAnswer::Refused => return Ok(None),
            KeyAnswer::Unknown => {
                self.refuse_unknown_key(call).await?;
                return Ok(None);
            }
        };
        let is_of_platform = account.tenant_id.is_none();
        let permissions = Permissions::new(account.permissions);
        let permissions = if is_of_platform { permissions.on_platform() } else { permissions };
        let none = Permissions::default();
        let grant = Grant {
            kind: PrincipalKind::ServiceAccount,
            subject: account.service_account_id,
            session_id: None,
            tenant_id: account.tenant_id,
            audience,
            roles: RoleNames::default(),
            permissions: if is_of_platform { none.clone() } else { permissions.clone() },
            platform_permissions: if is_of_platform { permissions.clone() } else { none },
            epoch: account.epoch,
            not_after: account.expires_at,
        };
        let token = self.sessions.issuer.issue(token_id, &grant)?;
        let (service_account_id, tenant_id) = (account.service_account_id, account.tenant_id);
        Ok(Some(Exchanged { token, service_account_id, tenant_id, permissions }))
    }

    /// Any caller can present keys that do not exist, so these are counted and only a sample is written down.
    async fn refuse_unknown_key(&self, call: &Call) -> Result<()> {
        if let Some(left_out) = self.sampled.sample(self.context.now().timestamp()) {
            let event = Event::new(EventType::ServiceAccountLoginRefused, call).outcome(Outcome::Refused);
            let event = self.recorder.prepare(event.reason("unknown").detail("left_out", left_out));
            login::login_refuse(&self.db, &event, None).await?;
            self.recorder.wake();
        }
        Ok(())
    }
}
