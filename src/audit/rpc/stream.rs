//! One open stream of events: what it sends, its heartbeats, and when its caller is no longer authorised.

use super::bound::{Bound, STREAM};
use super::convert;
use crate::access::Call;
use crate::access::live::{Admission, Heartbeat, RECHECK};
use crate::access::paging::Paging;
use crate::audit::{Follow, Progress, StoredEvent};
use crate::fault::Result;
use crate::proto::StreamEventsResponse;
use crate::seal::Keyring;

pub(super) struct Stream {
    pub admission: Admission,
    pub keyring: Keyring,
    pub paging: Paging,
    pub call: Call,
    pub follow: Follow,
    pub bound: Bound,
    pub heartbeat: Heartbeat,
    pub caught_up: bool,
}

impl Stream {
    /// The messages; after an error there are no more.
    pub(super) fn messages(self) -> impl futures_util::Stream<Item = Result<StreamEventsResponse>> + Send {
        futures_util::stream::try_unfold(self, |mut stream| async move {
            Ok(stream.next().await?.map(|message| (message, stream)))
        })
    }

    async fn next(&mut self) -> Result<Option<StreamEventsResponse>> {
        loop {
            let progress = self.progress().await?;
            // After the wait, before anything is sent: rights may have ended meanwhile.
            let welcome = self.admission.recheck(&self.call);
            // No caller can be verified at that moment, and this is why.
            self.follow.ensure_current()?;
            welcome?;
            match progress {
                Progress::Event(event) => return Ok(Some(self.message(Some(&event)))),
                Progress::End => return Ok(None),
                Progress::Live if !self.caught_up => {
                    self.caught_up = true;
                    return Ok(Some(self.message(None)));
                }
                Progress::Live | Progress::Further if self.heartbeat.is_due() => {
                    return Ok(Some(self.message(None)));
                }
                Progress::Live | Progress::Further => {}
            }
        }
    }

    async fn progress(&mut self) -> Result<Progress> {
        // On the way to the live end there is always something to read, and a read that is cut short is lost.
        if !self.follow.is_live() {
            return self.follow.progress().await;
        }
        let quiet = self.heartbeat.left().min(RECHECK);
        tokio::select! {
            progress = self.follow.progress() => progress,
            () = tokio::time::sleep(quiet) => Ok(Progress::Further),
        }
    }

    fn message(&mut self, event: Option<&StoredEvent>) -> StreamEventsResponse {
        self.heartbeat.sent();
        StreamEventsResponse {
            event: event.map(|event| convert::event(event, &self.keyring)),
            cursor: self.paging.encode(&self.call, STREAM, &self.bound, &self.follow.mark()),
            caught_up: self.caught_up,
        }
    }
}
