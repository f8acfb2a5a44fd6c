//! Streams to callers that follow the log. When something is sent, and whether its caller may still have it, is decided here
//! for all of them; what is sent is the [`Content`] of each.

use std::time::Duration;

use futures_util::stream::{Stream, try_unfold};

use super::log::{Follow, Log, Progress};
use super::stored::StoredEvent;
use crate::access::Call;
use crate::access::live::{Admission, Heartbeat, RECHECK, StreamCaller};
use crate::fault::Result;

/// What one kind of stream sends.
pub(crate) trait Content: Send + 'static {
    type Message: Send + 'static;

    /// What is sent before the log is followed, one message after the other.
    fn opening(&mut self, _: &Follow) -> Option<Self::Message> {
        None
    }

    /// Takes the next event, the last one that `follow` gave.
    ///
    /// # Errors
    /// When the event cannot be read.
    fn event(&mut self, event: &StoredEvent, follow: &Follow) -> Result<Reaction<Self::Message>>;

    /// Takes note that there is no event at the moment.
    fn idle(&mut self, _: &Follow) {}

    /// What is sent when everything that was there has been read for the first time, with what was gathered.
    fn caught_up(&mut self, _: &Follow) -> Option<Self::Message> {
        None
    }

    /// What shows that the stream lives and how far it has come, with what was gathered; none while nothing true can be
    /// said.
    fn heartbeat(&mut self, follow: &Follow) -> Option<Self::Message>;

    /// Whether nothing comes any more.
    fn is_complete(&self) -> bool {
        false
    }
}

/// What becomes of an event.
pub(crate) enum Reaction<Message> {
    /// This is sent, with what was gathered.
    Send(Message),
    /// It is gathered, and sent as soon as no other event is there.
    Gather,
    /// It is of no interest.
    Skip,
}

/// Opens streams that follow the log. Clones open the same.
#[derive(Clone)]
pub struct Streams {
    log: Log,
    admission: Admission,
}

impl Streams {
    /// Streams over `log`; `admission` says whether their callers are still authorised.
    pub fn new(log: Log, admission: Admission) -> Self {
        Self { log, admission }
    }

    /// The log that they follow.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The caller of a stream that follows no log.
    pub(crate) fn caller(&self, call: Call) -> StreamCaller {
        self.admission.of(call)
    }

    /// The messages of a stream; after an error there are no more.
    pub(crate) fn open<C: Content>(
        &self,
        call: Call,
        heartbeat: Heartbeat,
        follow: Follow,
        content: C,
    ) -> impl Stream<Item = Result<C::Message>> + Send + use<C> {
        let caller = self.caller(call);
        let stream = LiveStream { caller, heartbeat, follow, content, is_caught_up: false, is_gathering: false };
        try_unfold(stream, |mut stream| async move { Ok(stream.next().await?.map(|message| (message, stream))) })
    }
}

struct LiveStream<C> {
    caller: StreamCaller,
    heartbeat: Heartbeat,
    follow: Follow,
    content: C,
    is_caught_up: bool,
    is_gathering: bool,
}

/// What a stream has come to.
enum Next<Message> {
    Opening(Message),
    Log(Progress),
}

impl<C: Content> LiveStream<C> {
    /// The next message; none when the content is complete, or the replica shuts down.
    async fn next(&mut self) -> Result<Option<C::Message>> {
        loop {
            let next = self.wait().await?;
            // After the wait, before anything is sent: rights may have ended meanwhile.
            let admitted = self.caller.recheck().await;
            // No caller can be verified at that moment, and this is why.
            self.follow.ensure_current()?;
            admitted?;
            let message = match next {
                Next::Opening(message) => Some(message),
                Next::Log(Progress::Event(event)) => self.take(&event)?,
                Next::Log(Progress::Further) => self.pause(false),
                Next::Log(Progress::Live) => self.pause(true),
                Next::Log(Progress::End) => return Ok(None),
            };
            if message.is_some() {
                self.heartbeat.sent();
                self.is_gathering = false;
                return Ok(message);
            }
        }
    }

    async fn wait(&mut self) -> Result<Next<C::Message>> {
        if let Some(message) = self.content.opening(&self.follow) {
            return Ok(Next::Opening(message));
        }
        if self.content.is_complete() {
            return Ok(Next::Log(Progress::End));
        }
        // On the way to the live end there is always something to read, and a read that is cut short is lost.
        if !self.follow.is_live() {
            return Ok(Next::Log(self.follow.progress().await?));
        }
        let quiet = if self.is_gathering { Duration::ZERO } else { self.heartbeat.left().min(RECHECK) };
        let progress = tokio::select! {
            biased;
            progress = self.follow.progress() => progress?,
            () = tokio::time::sleep(quiet) => Progress::Further,
        };
        Ok(Next::Log(progress))
    }

    fn take(&mut self, event: &StoredEvent) -> Result<Option<C::Message>> {
        match self.content.event(event, &self.follow)? {
            Reaction::Send(message) => return Ok(Some(message)),
            Reaction::Gather => self.is_gathering = true,
            Reaction::Skip => {}
        }
        Ok(None)
    }

    /// What is sent while there is no event.
    fn pause(&mut self, is_live: bool) -> Option<C::Message> {
        self.content.idle(&self.follow);
        if is_live && !std::mem::replace(&mut self.is_caught_up, true) {
            let message = self.content.caught_up(&self.follow);
            if message.is_some() {
                return message;
            }
        }
        if !self.is_gathering && !self.heartbeat.is_due() {
            return None;
        }
        // Also when there is nothing to send: the next one is due an interval later.
        self.heartbeat.sent();
        self.content.heartbeat(&self.follow)
    }
}
