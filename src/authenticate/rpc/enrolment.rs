//! Invitations on the wire.

use zeroize::Zeroizing;

use super::password::LONGEST_TYPED;
use super::{Service, convert};
use crate::access::{Call, input};
use crate::authenticate::enrolment::redeem::Redemption;
use crate::fault::Result;
use crate::proto;

pub(super) async fn redeem(
    service: &Service,
    call: &Call,
    request: proto::RedeemInvitationRequest,
) -> Result<proto::RedeemInvitationResponse> {
    let link = service.authenticate.enrolment.redeem(call, redemption(request)?).await?;
    Ok(proto::RedeemInvitationResponse {
        enrolment_url: link.url.to_string(),
        expires_at: Some(input::to_proto(link.expires_at)),
    })
}

fn redemption(request: proto::RedeemInvitationRequest) -> Result<Redemption> {
    let (token, password) = (Zeroizing::new(request.invitation_token), Zeroizing::new(request.password));
    let code = Zeroizing::new(request.second_factor_code);
    convert::secret("invitation_token", &token, 256)?;
    convert::secret("password", &password, LONGEST_TYPED)?;
    if code.len() > 64 {
        return Err(crate::fault::Fault::field("second_factor_code", "must have at most 64 bytes"));
    }
    Ok(Redemption { token, password, code })
}
