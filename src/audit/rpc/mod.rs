//! The audit log's RPCs: read the request, read the log, write the response.

mod bound;
mod convert;
mod stream;

use futures_util::stream::Stream;

use self::bound::Bound;
use super::{Filter, Key, Listing, Log, Mark, Streams, Wanted};
use crate::access::live::Heartbeat;
use crate::access::paging::{Paging, cut, page_size};
use crate::access::rpcs::rpcs;
use crate::access::{Call, input};
use crate::context::Context;
use crate::db::Scope;
use crate::fault::{Fault, Result};
use crate::proto::audit_service_server::AuditService;
use crate::proto::*;
use crate::seal::Keyring;

const READ: &str = "audit.read";
const LIST: &str = "ListEvents";

/// `sidle.v1.AuditService`.
#[derive(Clone)]
pub struct Service {
    context: Context,
    keyring: Keyring,
    paging: Paging,
    streams: Streams,
}

impl Service {
    /// The service over the log that `streams` follow.
    pub fn new(context: Context, keyring: Keyring, paging: Paging, streams: Streams) -> Self {
        Self { context, keyring, paging, streams }
    }

    fn log(&self) -> &Log {
        self.streams.log()
    }

    /// The caller's reach, narrowed to the tenant that the filter names, and what the filter wants.
    fn filter(call: &Call, filter: Option<&AuditFilter>) -> Result<(Scope, Wanted)> {
        let nothing = AuditFilter::default();
        let filter = filter.unwrap_or(&nothing);
        let tenant = input::optional_uuid("filter.tenant_id", &filter.tenant_id)?;
        Ok((call.principal()?.authorize(READ, tenant)?, convert::wanted(filter)?))
    }

    async fn get(&self, call: &Call, request: GetEventRequest) -> Result<GetEventResponse> {
        let key = match request.event {
            Some(get_event_request::Event::EventId(id)) => Key::Id(input::uuid("event_id", &id)?),
            Some(get_event_request::Event::Position(position)) => Key::Position(position),
            None => return Err(Fault::field("event", "must be given by event_id or position")),
        };
        let scope = call.principal()?.authorize(READ, None)?;
        let event = self.log().get(scope, key).await?;
        let opened = event.open(&self.keyring);
        let opening =
            |part: &Option<super::OpenedPart>| part.as_ref().map(|part| part.opening.clone()).unwrap_or_default();
        Ok(GetEventResponse {
            origin_opening: opening(&opened.origin),
            personal_opening: opening(&opened.personal),
            leaf: event.leaf.clone(),
            event: Some(convert::event(&event, &self.keyring)),
        })
    }

    async fn list(&self, call: &Call, request: ListEventsRequest) -> Result<ListEventsResponse> {
        let (scope, wanted) = Self::filter(call, request.filter.as_ref())?;
        let size = page_size(request.page_size)?;
        let newest_first = convert::newest_first(request.order)?;
        let time =
            |field, time: Option<prost_types::Timestamp>| time.map(|time| input::from_proto(field, &time)).transpose();
        let from = time("recorded_from", request.recorded_from)?;
        let before = time("recorded_before", request.recorded_before)?;
        let bound = Bound {
            recorded_from: from.map(|time| time.timestamp_micros()),
            recorded_before: before.map(|time| time.timestamp_micros()),
            newest_first,
            ..Bound::to_filter(scope, &wanted)
        };
        let last = self.paging.decode::<Mark>(call, LIST, &bound, &request.page_token)?;
        let listing = Listing { from, before, newest_first, last, size: size + 1 };
        let mut events = self.log().list_recorded(&Filter::wanting(scope, wanted), listing).await?;
        let last = cut(&mut events, size).map(Mark::of);
        Ok(ListEventsResponse {
            next_page_token: last.map(|last| self.paging.encode(call, LIST, &bound, &last)).unwrap_or_default(),
            events: events.iter().map(|event| convert::event(event, &self.keyring)).collect(),
        })
    }

    async fn stream(
        &self,
        call: Call,
        request: StreamEventsRequest,
    ) -> Result<impl Stream<Item = Result<StreamEventsResponse>> + use<>> {
        let (scope, wanted) = Self::filter(&call, request.filter.as_ref())?;
        let interval = Heartbeat::interval(request.heartbeat_interval, 1..=300)?;
        let bound = Bound::to_filter(scope, &wanted);
        let start = stream::start(&self.paging, &call, &bound, request.start)?;
        let origin = self.log().resolve(start).await?;
        let follow = self.log().follow(Filter::wanting(scope, wanted), origin);
        let heartbeat = Heartbeat::new(self.context.clock.clone(), interval);
        let (keyring, paging) = (self.keyring.clone(), self.paging.clone());
        let events = stream::Events { keyring, paging, call: call.clone(), bound, caught_up: false };
        Ok(self.streams.open(call, heartbeat, follow, events))
    }
}

rpcs! { AuditService for Service {
    unary {
        get_event(GetEventRequest) -> GetEventResponse = Service::get;
        list_events(ListEventsRequest) -> ListEventsResponse = Service::list;
    }
    streams {
        stream_events(StreamEventsRequest) -> StreamEventsStream of StreamEventsResponse = Service::stream;
    }
    unimplemented {
        record_events(RecordEventsRequest) -> RecordEventsResponse = "RecordEvents";
        get_checkpoint(GetCheckpointRequest) -> GetCheckpointResponse = "GetCheckpoint";
        get_inclusion_proof(GetInclusionProofRequest) -> GetInclusionProofResponse = "GetInclusionProof";
        get_consistency_proof(GetConsistencyProofRequest) -> GetConsistencyProofResponse = "GetConsistencyProof";
        erase_subject(EraseSubjectRequest) -> EraseSubjectResponse = "EraseSubject";
    }
    unimplemented_streams {
        export_events(ExportEventsRequest) -> ExportEventsStream of ExportEventsResponse = "ExportEvents";
    }
}}
