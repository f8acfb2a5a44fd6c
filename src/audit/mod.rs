//! The audit log: what happened, in one order that is the same for every reader. Writers record into an inbox in the
//! transaction of their change, the sequencer gives positions to what is committed, the feed hands it out live. Knows
//! no other service's tables; the other services know [`Recorder`], [`Event`], [`Log`] and [`Feed`].

mod event;
mod event_type;
mod feed;
mod filter;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod json;
mod leaf;
mod listener;
mod live_stream;
mod log;
mod mark;
mod personal;
mod recording;
mod rpc;
mod sealed;
mod sequencer;
mod store;
mod stored;

pub use self::event::{ActorKind, Event, Outcome};
pub use self::event_type::EventType;
pub use self::feed::Feed;
pub use self::filter::{Filter, Wanted};
pub use self::live_stream::Streams;
pub(crate) use self::live_stream::{Content, Reaction};
pub use self::log::{Follow, Key, Listing, Log, Page, Progress, Start};
pub use self::mark::{Mark, Origin};
pub use self::recording::Recorder;
pub use self::rpc::Service;
pub use self::sealed::{sealed_keys, sealed_waiting};
pub use self::sequencer::{Sequencer, Step};
pub use self::store::Prepared;
pub use self::stored::{Opened, OpenedPart, StoredEvent};
