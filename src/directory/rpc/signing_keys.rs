//! Signing keys on the wire. The keys themselves belong to the token module.

use std::time::Duration;

use sidle_token::Algorithm;
use uuid::Uuid;

use super::convert::time;
use super::{Service, page};
use crate::access::replay::{ChangeRequest, answers_without_secrets};
use crate::access::{Call, input, paging};
use crate::fault::{Fault, Result};
use crate::proto::*;
use crate::token::{KeyState, KeyView, Revoke, Rotation};

const LIST: &str = "sidle.v1.DirectoryService/ListSigningKeys";
const ROTATE: &str = "sidle.v1.DirectoryService/RotateSigningKeys";
/// Longest time that a key may be published before it signs.
const LONGEST_LEAD: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) async fn list(
    service: &Service,
    call: &Call,
    request: ListSigningKeysRequest,
) -> Result<ListSigningKeysResponse> {
    let size = paging::page_size(request.page_size)?;
    let before: Option<Uuid> = service.paging.decode(call, LIST, &request.include_expired, &request.page_token)?;
    let mut change = service.directory.change(call, "keys.read").await?;
    change.platform_only()?;
    let keys = &service.directory.keys;
    let found = keys.list(&mut change.tx, before, request.include_expired, size + 1).await?;
    let (found, next) = page(found, size, |key| key.kid);
    let next_page_token =
        next.map(|kid| service.paging.encode(call, LIST, &request.include_expired, &kid)).unwrap_or_default();
    Ok(ListSigningKeysResponse { signing_keys: found.into_iter().map(write).collect(), next_page_token })
}

pub(super) async fn rotate(
    service: &Service,
    call: &Call,
    request: RotateSigningKeysRequest,
) -> Result<RotateSigningKeysResponse> {
    input::uuid("request_id", &request.request_id)?;
    let (algorithm, rotation) = (algorithm(&request.algorithm)?, rotation(&request)?);
    let asked = ChangeRequest::new(ROTATE, &request.request_id, request.validate_only, &request);
    let answer = |key, previous: Vec<KeyView>| RotateSigningKeysResponse {
        signing_key: Some(write(key)),
        previous_keys: previous.into_iter().map(write).collect(),
    };
    service.directory.rotate_signing_keys(call, &asked, algorithm, &rotation, answer).await
}

answers_without_secrets!(RotateSigningKeysResponse);

fn algorithm(name: &str) -> Result<Option<Algorithm>> {
    if name.is_empty() {
        return Ok(None);
    }
    let known = Algorithm::parse(name).filter(|algorithm| *algorithm != Algorithm::Hs256);
    known.map(Some).ok_or_else(|| Fault::field("algorithm", "must be EdDSA, ES256 or RS256, or empty"))
}

fn rotation(request: &RotateSigningKeysRequest) -> Result<Rotation> {
    let lead = request.lead_time.map(|lead| input::duration(&lead).filter(|lead| *lead <= LONGEST_LEAD));
    if lead == Some(None) {
        return Err(Fault::field("lead_time", "must be from 0 to 7 days"));
    }
    let ids = request.revoke_key_ids.iter().map(|id| input::uuid("revoke_key_ids", id)).collect::<Result<Vec<_>>>()?;
    let revoke = match (request.revoke_previous, ids.is_empty()) {
        (false, true) => Revoke::Nothing,
        (false, false) => Revoke::These(ids),
        (true, true) => Revoke::Previous,
        (true, false) => return Err(Fault::field("revoke_key_ids", "must be empty with revoke_previous")),
    };
    Ok(Rotation { lead: lead.flatten(), revoke })
}

fn write(key: KeyView) -> SigningKey {
    let state = match key.state {
        KeyState::Pending => SigningKeyState::Published,
        KeyState::Active => SigningKeyState::Active,
        KeyState::Retiring => SigningKeyState::Retiring,
        KeyState::Retired => SigningKeyState::Expired,
    };
    let public = key.public.and_then(|public| serde_json::to_string(&public).ok());
    SigningKey {
        key_id: key.kid.to_string(),
        algorithm: key.algorithm,
        state: state.into(),
        public_jwk: public.unwrap_or_default(),
        created_at: time(Some(key.created_at)),
        activates_at: time(Some(key.activates_at)),
        retires_at: time(key.retires_at),
        expires_at: time(key.expires_at),
    }
}
