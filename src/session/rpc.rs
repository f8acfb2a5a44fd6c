//! `sidle.v1.SessionService` on the wire.

mod watch;

use futures_util::stream::Stream;
use uuid::Uuid;

use super::{Listing, SessionOwner, SessionView, Sessions, Status};
use crate::access::rpcs::rpcs;
use crate::access::{Call, input};
use crate::audit::Streams;
use crate::fault::{Fault, Result};
use crate::proto;
use crate::proto::session_service_server::SessionService;
use crate::proto::{
    GetSessionRequest, GetSessionResponse, ListSessionsRequest, ListSessionsResponse, RevokeAllSessionsRequest,
    RevokeAllSessionsResponse, RevokeSessionRequest, RevokeSessionResponse, WatchRevocationsRequest,
    WatchRevocationsResponse,
};

#[derive(Clone)]
pub struct Service {
    sessions: Sessions,
    streams: Streams,
}

impl Service {
    /// The service over the sessions; `streams` are those of whoever watches revocations.
    pub fn new(sessions: Sessions, streams: Streams) -> Self {
        Self { sessions, streams }
    }
}

rpcs! { SessionService for Service {
    unary {
        get_session(GetSessionRequest) -> GetSessionResponse = Service::get;
        list_sessions(ListSessionsRequest) -> ListSessionsResponse = Service::list;
        revoke_session(RevokeSessionRequest) -> RevokeSessionResponse = Service::revoke;
        revoke_all_sessions(RevokeAllSessionsRequest) -> RevokeAllSessionsResponse = Service::revoke_all;
    }
    streams {
        watch_revocations(WatchRevocationsRequest) -> WatchRevocationsStream of WatchRevocationsResponse = Service::watch;
    }
}}

impl Service {
    async fn get(&self, call: &Call, request: GetSessionRequest) -> Result<GetSessionResponse> {
        let session = input::optional_uuid("session_id", &request.session_id)?;
        let session = self.sessions.get(call, session).await?;
        Ok(GetSessionResponse { session: Some(show(call, session)?) })
    }

    async fn list(&self, call: &Call, request: ListSessionsRequest) -> Result<ListSessionsResponse> {
        let (page, next_page_token) = self.sessions.list(call, &listing(request)?).await?;
        let sessions = page.into_iter().map(|session| show(call, session)).collect::<Result<_>>()?;
        Ok(ListSessionsResponse { sessions, next_page_token })
    }

    async fn revoke(&self, call: &Call, request: RevokeSessionRequest) -> Result<RevokeSessionResponse> {
        let session = input::optional_uuid("session_id", &request.session_id)?;
        let session = self.sessions.revoke(call, session).await?;
        Ok(RevokeSessionResponse { session: Some(show(call, session)?) })
    }

    async fn revoke_all(&self, call: &Call, request: RevokeAllSessionsRequest) -> Result<RevokeAllSessionsResponse> {
        let user = input::optional_uuid("user_id", &request.user_id)?;
        let ended = self.sessions.revoke_all(call, user, request.keep_current).await?;
        Ok(RevokeAllSessionsResponse { sessions_revoked: i32::try_from(ended).unwrap_or(i32::MAX) })
    }

    async fn watch(
        &self,
        call: Call,
        request: WatchRevocationsRequest,
    ) -> Result<impl Stream<Item = Result<WatchRevocationsResponse>> + use<>> {
        watch::open(&self.sessions, &self.streams, call, &request.cursor).await
    }
}

fn listing(request: ListSessionsRequest) -> Result<Listing> {
    let owner = match request.user_id.as_str() {
        "" => SessionOwner::Own,
        "-" => SessionOwner::Everybody,
        user => SessionOwner::User(input::uuid("user_id", user)?),
    };
    let status = |number: i32| match proto::SessionStatus::try_from(number) {
        Ok(proto::SessionStatus::Active) => Ok(Status::Active),
        Ok(proto::SessionStatus::Revoked) => Ok(Status::Revoked),
        Ok(proto::SessionStatus::Expired) => Ok(Status::Expired),
        _ => Err(Fault::field("statuses", "must hold ACTIVE, REVOKED or EXPIRED only")),
    };
    let mut statuses = request.statuses.into_iter().map(status).collect::<Result<Vec<_>>>()?;
    statuses.sort_by_key(|status| status.as_str());
    statuses.dedup();
    Ok(Listing {
        owner,
        tenant_id: input::optional_uuid("tenant_id", &request.tenant_id)?,
        statuses,
        page_size: request.page_size,
        page_token: request.page_token,
    })
}

fn show(call: &Call, session: SessionView) -> Result<proto::Session> {
    let id = session.session_id;
    let text = |id: Option<Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
    let current = call.principal.as_ref().and_then(|principal| principal.session_id) == Some(id);
    Ok(proto::Session {
        session_id: id.to_string(),
        user_id: session.user_id.to_string(),
        tenant_id: text(session.tenant_id),
        auth_method: auth_method(&session.auth_method, id)?.into(),
        status: status(&session.status, id)?.into(),
        device: Some(proto::Device {
            device_id: session.device_id.unwrap_or_default(),
            r#type: device_type(session.device_type.as_deref(), id)?.into(),
            platform: session.device_platform.unwrap_or_default(),
            user_agent: session.user_agent.unwrap_or_default(),
            location: session.device_location.unwrap_or_default(),
            fingerprint: session.device_fingerprint.unwrap_or_default(),
        }),
        ip_address: session.ip_address.unwrap_or_default(),
        persistent: session.persistent,
        audience: session.audience,
        created_at: Some(input::to_proto(session.created_at)),
        last_activity_at: Some(input::to_proto(session.last_activity_at)),
        expires_at: Some(input::to_proto(session.expires_at)),
        idle_expires_at: Some(input::to_proto(session.idle_expires_at)),
        revoked_at: session.revoked_at.map(input::to_proto),
        revoke_reason: revoke_reason(session.revoke_reason.as_deref(), id)?.into(),
        kanidm_session_id: text(session.kanidm_session_id),
        current,
    })
}

fn auth_method(name: &str, session: Uuid) -> Result<proto::SessionAuthMethod> {
    match name {
        "jwt" => Ok(proto::SessionAuthMethod::Jwt),
        "kanidm" => Ok(proto::SessionAuthMethod::Kanidm),
        "dual" => Ok(proto::SessionAuthMethod::Dual),
        _ => Err(Fault::unknown_word("sessions.auth_method", session)),
    }
}

fn status(name: &str, session: Uuid) -> Result<proto::SessionStatus> {
    match name {
        "active" => Ok(proto::SessionStatus::Active),
        "revoked" => Ok(proto::SessionStatus::Revoked),
        "expired" => Ok(proto::SessionStatus::Expired),
        _ => Err(Fault::unknown_word("sessions.status", session)),
    }
}

fn device_type(name: Option<&str>, session: Uuid) -> Result<proto::DeviceType> {
    match name {
        None => Ok(proto::DeviceType::Unspecified),
        Some("desktop") => Ok(proto::DeviceType::Desktop),
        Some("phone") => Ok(proto::DeviceType::Phone),
        Some("tablet") => Ok(proto::DeviceType::Tablet),
        Some("service") => Ok(proto::DeviceType::Service),
        Some("other") => Ok(proto::DeviceType::Other),
        Some(_) => Err(Fault::unknown_word("sessions.device_type", session)),
    }
}

fn revoke_reason(name: Option<&str>, session: Uuid) -> Result<proto::RevokeReason> {
    match name {
        None => Ok(proto::RevokeReason::Unspecified),
        Some("logout") => Ok(proto::RevokeReason::Logout),
        Some("user") => Ok(proto::RevokeReason::User),
        Some("administrator") => Ok(proto::RevokeReason::Administrator),
        Some("token_reuse") => Ok(proto::RevokeReason::TokenReuse),
        Some("kanidm") => Ok(proto::RevokeReason::Kanidm),
        Some("credential_changed") => Ok(proto::RevokeReason::CredentialChanged),
        Some("user_disabled") => Ok(proto::RevokeReason::UserDisabled),
        Some("rollback") => Ok(proto::RevokeReason::Rollback),
        Some("session_limit") => Ok(proto::RevokeReason::SessionLimit),
        Some(_) => Err(Fault::unknown_word("sessions.revoke_reason", session)),
    }
}
