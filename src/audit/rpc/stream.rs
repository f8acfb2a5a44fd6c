//! One open stream of events: what it sends, when it shows that it lives, and when its caller is no longer welcome.

use std::time::{Duration, Instant};

use super::{Bound, STREAM, Service, convert};
use crate::access::Call;
use crate::audit::{Follow, Progress, StoredEvent};
use crate::fault::Result;
use crate::proto::StreamEventsResponse;

/// Longest time between two looks at whether the caller is still welcome, while nothing is sent.
const RECHECK: Duration = Duration::from_secs(5);

pub(super) struct Stream {
    service: Service,
    call: Call,
    follow: Follow,
    bound: Bound,
    heartbeat: Duration,
    last_sent: Instant,
    caught_up: bool,
}

impl Stream {
    pub(super) fn new(service: Service, call: Call, follow: Follow, bound: Bound, heartbeat: Duration) -> Self {
        let last_sent = service.context.clock.instant();
        Self { service, call, follow, bound, heartbeat, last_sent, caught_up: false }
    }

    /// The messages; after an error there are no more.
    pub(super) fn messages(self) -> impl futures_util::Stream<Item = Result<StreamEventsResponse>> + Send {
        futures_util::stream::try_unfold(self, |mut stream| async move {
            Ok(stream.next().await?.map(|message| (message, stream)))
        })
    }

    async fn next(&mut self) -> Result<Option<StreamEventsResponse>> {
        loop {
            let progress = self.progress().await?;
            // After the wait, before anything is said: rights may have ended meanwhile.
            let welcome = self.service.verifier.recheck_call(&self.call);
            // Nobody is vouched for at that moment, and this is why.
            self.follow.ensure_current()?;
            welcome?;
            match progress {
                Progress::Event(event) => return Ok(Some(self.message(Some(&event)))),
                Progress::End => return Ok(None),
                Progress::Live if !self.caught_up => {
                    self.caught_up = true;
                    return Ok(Some(self.message(None)));
                }
                Progress::Live | Progress::Further if self.silence() >= self.heartbeat => {
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
        let quiet = self.heartbeat.saturating_sub(self.silence()).min(RECHECK);
        tokio::select! {
            progress = self.follow.progress() => progress,
            () = tokio::time::sleep(quiet) => Ok(Progress::Further),
        }
    }

    fn silence(&self) -> Duration {
        self.service.context.clock.instant().saturating_duration_since(self.last_sent)
    }

    fn message(&mut self, event: Option<&StoredEvent>) -> StreamEventsResponse {
        self.last_sent = self.service.context.clock.instant();
        StreamEventsResponse {
            event: event.map(|event| convert::event(event, &self.service.keyring)),
            cursor: self.service.paging.encode(&self.call, STREAM, &self.bound, &self.follow.mark()),
            caught_up: self.caught_up,
        }
    }
}
