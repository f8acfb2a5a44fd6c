//! `StreamEvents` on the wire: where it begins, and what it sends.

use super::bound::{Bound, STREAM};
use super::convert;
use crate::access::paging::Paging;
use crate::access::{Call, input};
use crate::audit::{Content, Follow, Reaction, Start, StoredEvent};
use crate::fault::{Fault, Result};
use crate::proto::StreamEventsResponse;
use crate::proto::stream_events_request::Start as Wire;
use crate::seal::Keyring;

/// Where a stream begins; a cursor must be one for the same events.
pub(super) fn start(paging: &Paging, call: &Call, bound: &Bound, start: Option<Wire>) -> Result<Start> {
    match start {
        None | Some(Wire::FromNow(true)) => Ok(Start::Now),
        Some(Wire::FromBeginning(true)) => Ok(Start::Beginning),
        Some(Wire::FromNow(false)) => Err(Fault::field("from_now", "must be true when set")),
        Some(Wire::FromBeginning(false)) => Err(Fault::field("from_beginning", "must be true when set")),
        Some(Wire::RecordedFrom(time)) => Ok(Start::Time(input::from_proto("recorded_from", &time)?)),
        Some(Wire::Cursor(cursor)) => {
            let empty = || Fault::field("cursor", "must not be empty; leave the start unset to begin with now");
            Ok(Start::After(paging.decode(call, STREAM, bound, &cursor)?.ok_or_else(empty)?))
        }
    }
}

/// The events that a filter wants, and that everything before was sent.
pub(super) struct Events {
    pub keyring: Keyring,
    pub paging: Paging,
    pub call: Call,
    pub bound: Bound,
    pub caught_up: bool,
}

impl Events {
    fn message(&self, event: Option<&StoredEvent>, follow: &Follow) -> StreamEventsResponse {
        StreamEventsResponse {
            event: event.map(|event| convert::event(event, &self.keyring)),
            cursor: self.paging.encode(&self.call, STREAM, &self.bound, &follow.mark()),
            caught_up: self.caught_up,
        }
    }
}

impl Content for Events {
    type Message = StreamEventsResponse;

    fn event(&mut self, event: &StoredEvent, follow: &Follow) -> Result<Reaction<StreamEventsResponse>> {
        Ok(Reaction::Send(self.message(Some(event), follow)))
    }

    fn caught_up(&mut self, follow: &Follow) -> Option<StreamEventsResponse> {
        self.caught_up = true;
        Some(self.message(None, follow))
    }

    fn heartbeat(&mut self, follow: &Follow) -> Option<StreamEventsResponse> {
        Some(self.message(None, follow))
    }
}
