//! Between the messages of `AuthenticateServiceAccount` and the module's own types.

use zeroize::Zeroizing;

use super::{Service, convert};
use crate::access::{Call, input};
use crate::authenticate::login::api_key::Shown;
use crate::fault::{Fault, Result};
use crate::proto;

pub(super) async fn authenticate(
    service: &Service,
    call: &Call,
    request: proto::AuthenticateServiceAccountRequest,
) -> Result<proto::AuthenticateServiceAccountResponse> {
    let shown = shown(request.api_key, request.client_credentials)?;
    let audience = service.authenticate.login.sessions.issuer.audience(&request.audience)?;
    let exchanged = service.authenticate.login.service_account(call, &shown, audience).await?;
    Ok(proto::AuthenticateServiceAccountResponse {
        access_token: exchanged.token.token,
        access_token_expires_at: Some(input::to_proto(exchanged.token.expires_at)),
        service_account_id: exchanged.service_account_id.to_string(),
        tenant_id: convert::id(exchanged.tenant_id),
        permissions: exchanged.permissions.names(),
    })
}

/// What a service account shows: exactly one of the two spellings.
fn shown(api_key: String, credentials: Option<proto::ClientCredentials>) -> Result<Shown> {
    let key = Zeroizing::new(api_key);
    match credentials {
        None => {
            convert::secret("api_key", &key, 256)?;
            Ok(Shown::Key(key))
        }
        Some(_) if !key.is_empty() => Err(Fault::field("api_key", "must be empty when client_credentials are given")),
        Some(credentials) => {
            let secret = Zeroizing::new(credentials.client_secret);
            convert::secret("client_credentials.client_secret", &secret, 256)?;
            let id = input::uuid("client_credentials.client_id", &credentials.client_id)?;
            Ok(Shown::Client { id, secret })
        }
    }
}
