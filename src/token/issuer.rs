//! Makes access tokens.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sidle_token::{Claims, Epoch, Kind, TYPE, issue_time};
use uuid::Uuid;

use super::keys::Keys;
use super::role_names::RoleNames;
use super::signing::PrivateKey;
use crate::access::{Permissions, PrincipalKind};
use crate::config::TokenConfig;
use crate::context::Context;
use crate::fault::{Fault, Result};

/// For tokens that are issued a moment after it was noted until when they are good.
const SPARE: Duration = Duration::from_secs(60);

/// The end of a credential that has none: 9999-12-31T23:59:59Z.
const NEVER: DateTime<Utc> = DateTime::from_timestamp(253_402_300_799, 0).expect("a valid time");

/// Makes access tokens, signed with the active key.
#[derive(Clone, Debug)]
pub struct Issuer {
    keys: Keys,
    context: Context,
    config: Arc<TokenConfig>,
}

/// Who gets a token for what.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Kind of principal.
    pub kind: PrincipalKind,
    /// Its id.
    pub subject: Uuid,
    /// Its session, if it has one.
    pub session_id: Option<Uuid>,
    /// Tenant it acts in.
    pub tenant_id: Option<Uuid>,
    /// Who is to accept the token.
    pub audience: String,
    /// Roles, by whose they are.
    pub roles: RoleNames,
    /// Permissions in the tenant.
    pub permissions: Permissions,
    /// Permissions in every tenant.
    pub platform_permissions: Permissions,
    /// The revocation of the subject's tokens that stood in its row when the rights were read, under a lock that keeps
    /// the next one away until then: that one voids the token, whatever any clock says.
    pub epoch: Epoch,
    /// The token ends then at the latest: the end of the session or of the credential.
    pub not_after: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug)]
pub struct AccessToken {
    pub token: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

impl Issuer {
    pub fn new(keys: Keys, context: Context, config: Arc<TokenConfig>) -> Self {
        Self { keys, context, config }
    }

    /// The audience that was asked for, or Sidle's own.
    ///
    /// # Errors
    /// `INVALID_FIELD` for one that is not configured.
    pub fn audience(&self, asked: &str) -> Result<String> {
        match asked {
            "" => Ok(self.config.audience.clone()),
            known
                if known == self.config.audience
                    || self.config.audiences.iter().any(|a| a == known)
                    || self.keys.old_client(known).is_some() =>
            {
                Ok(known.to_owned())
            }
            _ => Err(Fault::field("audience", "must be one of the audiences in the service's configuration")),
        }
    }

    /// A token with the id `jti`, which is made before the statement that reads the rights: its time is when the token
    /// was issued.
    ///
    /// # Errors
    /// When there is no key to sign with.
    pub fn issue(&self, jti: Uuid, grant: &Grant) -> Result<AccessToken> {
        let issued_at = issue_time(jti).unwrap_or_else(|| self.context.now());
        let mut claims = Claims {
            iss: self.config.issuer.clone(),
            sub: grant.subject,
            aud: grant.audience.clone(),
            exp: 0,
            nbf: 0,
            iat: 0,
            jti,
            epoch: grant.epoch,
            sid: grant.session_id,
            // The end of a session is prolonged and brought forward: who wants to know it asks for the session.
            credential_exp: match grant.session_id {
                Some(_) => None,
                None => Some(grant.not_after.unwrap_or(NEVER).timestamp()),
            },
            tid: grant.tenant_id,
            kind: match grant.kind {
                PrincipalKind::User => Kind::User,
                PrincipalKind::ServiceAccount => Kind::ServiceAccount,
            },
            roles: grant.roles.shared.clone(),
            tenant_roles: grant.roles.own.clone(),
            platform_roles: grant.roles.platform.clone(),
            scope: grant.permissions.to_string(),
            platform_scope: grant.platform_permissions.to_string(),
        };
        let lifetime = TimeDelta::from_std(self.config.access_lifetime).unwrap_or_default();
        let expires_at = issued_at + lifetime;
        let expires_at = grant.not_after.map_or(expires_at, |end| expires_at.min(end));
        claims.iat = issued_at.timestamp();
        claims.nbf = claims.iat;
        claims.exp = expires_at.timestamp();
        let token = match self.keys.old_client(&claims.aud) {
            Some(client) => self.sign(client.verifies.kid(), &client.signs, &claims)?,
            None => {
                let key = self.keys.active()?;
                self.sign(key.kid, &key.signs, &claims)?
            }
        };
        // Whole seconds, as in the token.
        let expires_at = DateTime::from_timestamp(claims.exp, 0).unwrap_or(expires_at);
        Ok(AccessToken { token, expires_at })
    }

    /// When no verifier accepts any more what is issued now, here or where the clock is behind.
    pub fn access_until(&self) -> DateTime<Utc> {
        let life = self.config.access_lifetime.saturating_add(self.config.leeway * 2).saturating_add(SPARE);
        self.context.now() + TimeDelta::from_std(life).unwrap_or_default()
    }

    fn sign(&self, kid: Uuid, key: &PrivateKey, claims: &Claims) -> Result<String> {
        let header = json!({ "alg": key.algorithm().as_str(), "typ": TYPE, "kid": kid }).to_string();
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(claims).map_err(Fault::internal)?, &mut token);
        let signature = key.sign(&self.context.entropy, token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}
