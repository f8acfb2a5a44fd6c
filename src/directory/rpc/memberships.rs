//! Memberships on the wire.

use super::super::memberships::{self, Filter, Position};
use super::super::store::{self, GrantSource};
use super::convert::{made, time};
use super::{BEGINNING, Service, page};
use crate::access::replay::{ChangeRequest, answers_without_secrets};
use crate::access::{Call, input, paging};
use crate::fault::{Fault, Result};
use crate::proto::{self, *};

const LIST: &str = "sidle.v1.DirectoryService/ListMemberships";
const CREATE: &str = "sidle.v1.DirectoryService/CreateMembership";

pub(super) async fn get(
    service: &Service,
    call: &Call,
    request: GetMembershipRequest,
) -> Result<GetMembershipResponse> {
    let id = input::uuid("membership_id", &request.membership_id)?;
    let (_, mut tx) = service.directory.read(call, "users.read").await?;
    let membership = store::memberships::by_id(&mut tx, id).await?.ok_or_else(|| Fault::not_found("membership"))?;
    Ok(GetMembershipResponse { membership: Some(write(membership)) })
}

pub(super) async fn list(
    service: &Service,
    call: &Call,
    request: ListMembershipsRequest,
) -> Result<ListMembershipsResponse> {
    let size = paging::page_size(request.page_size)?;
    let filter = Filter {
        user_id: input::optional_uuid("user_id", &request.user_id)?,
        tenant_id: input::optional_uuid("tenant_id", &request.tenant_id)?,
        platform_only: request.platform_only,
        role_id: input::optional_uuid("role_id", &request.role_id)?,
    };
    if filter.platform_only && filter.tenant_id.is_some() {
        return Err(Fault::field("platform_only", "cannot be combined with tenant_id"));
    }
    let after: Position =
        service.paging.decode(call, LIST, &filter, &request.page_token)?.unwrap_or((BEGINNING, BEGINNING));
    let (scope, mut tx) = service.directory.read(call, "users.read").await?;
    let found = memberships::list(&mut tx, scope, filter, after, size + 1).await?;
    let (found, next) = page(found, size, |found| (found.user_id, found.membership_id));
    let next_page_token = next.map(|after| service.paging.encode(call, LIST, &filter, &after)).unwrap_or_default();
    Ok(ListMembershipsResponse { memberships: found.into_iter().map(write).collect(), next_page_token })
}

pub(super) async fn create(
    service: &Service,
    call: &Call,
    request: CreateMembershipRequest,
) -> Result<CreateMembershipResponse> {
    let user_id = input::uuid("user_id", &request.user_id)?;
    let tenant_id = input::optional_uuid("tenant_id", &request.tenant_id)?;
    let role_id = input::uuid("role_id", &request.role_id)?;
    let mut change = service.directory.change(call, "memberships.write").await?;
    let asked = ChangeRequest::new(CREATE, &request.request_id, request.validate_only, &request);
    if let Some(first) = change.repeated(&asked).await? {
        return Ok(first);
    }
    let membership = memberships::create(&mut change, user_id, tenant_id, role_id).await?;
    change.answer(CreateMembershipResponse { membership: Some(write(membership)) }).await
}

pub(super) async fn delete(
    service: &Service,
    call: &Call,
    request: DeleteMembershipRequest,
) -> Result<DeleteMembershipResponse> {
    let id = input::uuid("membership_id", &request.membership_id)?;
    let mut change = service.directory.change(call, "memberships.write").await?;
    let gone = memberships::delete(&mut change, id, request.keep_credentials).await?;
    change.commit().await?;
    Ok(DeleteMembershipResponse { made: Some(made(gone)) })
}

answers_without_secrets!(CreateMembershipResponse);

fn write(membership: memberships::Membership) -> Membership {
    let source = match membership.source {
        GrantSource::Local => proto::GrantSource::Local,
        GrantSource::Kanidm => proto::GrantSource::Kanidm,
        GrantSource::Import => proto::GrantSource::Import,
    };
    Membership {
        membership_id: membership.membership_id.to_string(),
        user_id: membership.user_id.to_string(),
        tenant_id: membership.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
        role_id: membership.role_id.to_string(),
        role_name: membership.role_name,
        user_email: membership.user_email,
        source: source.into(),
        created_at: time(Some(membership.created_at)),
    }
}
