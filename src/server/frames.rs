//! What passes over an HTTP/2 connection, by the heads of its frames: a budget for control frames. The HTTP/2 library
//! answers PING, SETTINGS and the like for as long as they come; a client that sends nothing else is only there to
//! keep the service busy.

use std::time::Instant;

/// Control frames that a connection may send in a burst.
pub(super) const BURST: u32 = 1000;
/// Further ones that it may send every second without getting anything done.
const A_SECOND: u32 = 2;
/// Further ones for each frame that is part of a request.
const A_REQUEST_FRAME: u32 = 2;
/// Further ones for each frame of an answer: clients measure the line with a PING, and open windows for stream and
/// connection, after each.
const AN_ANSWER_FRAME: u32 = 4;

const PREFACE: u32 = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// The head of a frame.
struct Frame {
    kind: u8,
    length: u32,
}

impl Frame {
    /// Whether the frame is part of a request or an answer. An empty frame of data is not: nothing is in it.
    fn carries(&self) -> bool {
        self.kind == HEADERS || (self.kind == DATA && self.length > 0)
    }
}

/// Finds the heads of frames in one direction of a connection.
struct Heads {
    head: [u8; 9],
    /// Bytes of the next head that have come.
    filled: usize,
    /// Bytes until the next head.
    skip: u32,
}

impl Heads {
    fn after(skip: u32) -> Self {
        Self { head: [0; 9], filled: 0, skip }
    }

    fn pass(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let skipped = bytes.len().min(self.skip as usize);
            bytes = &bytes[skipped..];
            self.skip -= skipped as u32;
            let taken = bytes.len().min(self.head.len() - self.filled);
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == self.head.len() {
                let [high, middle, low, kind, ..] = self.head;
                let length = u32::from_be_bytes([0, high, middle, low]);
                (self.filled, self.skip) = (0, length);
                seen(Frame { kind, length });
            }
        }
    }
}

/// Both directions of a connection, as the server sees them.
pub(super) struct Frames {
    from_client: Heads,
    to_client: Heads,
    began: bool,
    left: u32,
    /// When `left` was last topped up for the time that has passed.
    topped_up: Instant,
}

impl Frames {
    /// A connection that begins now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            from_client: Heads::after(PREFACE),
            to_client: Heads::after(0),
            began: false,
            left: BURST,
            topped_up: now,
        }
    }

    /// Whether the client has sent the preface and the head of its first frame.
    pub(super) fn began(&self) -> bool {
        self.began
    }

    /// Notes what the client sent; `false` when it has sent too many control frames.
    #[must_use]
    pub(super) fn received(&mut self, bytes: &[u8], now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.topped_up).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(A_SECOND);
            self.left = self.left.saturating_add(more).min(BURST);
            self.topped_up = now;
        }
        let (began, left) = (&mut self.began, &mut self.left);
        let mut within = true;
        self.from_client.pass(bytes, |frame| {
            *began = true;
            if frame.carries() {
                *left = left.saturating_add(A_REQUEST_FRAME).min(BURST);
            } else if *left == 0 {
                within = false;
            } else {
                *left -= 1;
            }
        });
        within
    }

    /// Notes what was sent to the client.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        let left = &mut self.left;
        self.to_client.pass(bytes, |frame| {
            if frame.carries() {
                *left = left.saturating_add(AN_ANSWER_FRAME).min(BURST);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::context::Clock;

    const PING: u8 = 6;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).unwrap().to_be_bytes();
        [&[size[1], size[2], size[3], kind, 0, 0, 0, 0, 1], vec![0xff; length].as_slice()].concat()
    }

    fn begun() -> (Frames, Instant) {
        let now = Clock::system().instant();
        let mut frames = Frames::new(now);
        assert!(frames.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now) && !frames.began());
        assert!(frames.received(&frame(4, 6), now) && frames.began());
        (frames, now)
    }

    #[test]
    fn control_frames_run_out_whichever_they_are_and_however_they_are_cut() {
        // PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, unknown ones, and empty DATA.
        for (kind, length) in [(2, 5), (3, 4), (4, 0), (PING, 8), (8, 4), (0x10, 3), (0xfa, 0), (DATA, 0)] {
            for piece in [1, 7, 9, 4096] {
                let (mut frames, now) = begun();
                let flood = frame(kind, length).repeat(BURST as usize - 1);
                assert!(flood.chunks(piece).all(|piece| frames.received(piece, now)), "{kind}");
                assert!(!frames.received(&frame(kind, length), now), "{kind} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn requests_answers_and_time_give_further_ones() {
        let (mut frames, now) = begun();
        let exhaust = |frames: &mut Frames, now| {
            let mut count = 0;
            while frames.received(&frame(PING, 8), now) {
                count += 1;
            }
            count
        };
        assert_eq!(exhaust(&mut frames, now), BURST - 1);
        assert!(frames.received(&frame(HEADERS, 40), now));
        assert_eq!(exhaust(&mut frames, now), A_REQUEST_FRAME);
        frames.sent(&frame(DATA, 16));
        assert_eq!(exhaust(&mut frames, now), AN_ANSWER_FRAME);
        // What the library answers to PING and SETTINGS is no progress.
        frames.sent(&[frame(PING, 8), frame(4, 0), frame(8, 4), frame(DATA, 0)].concat());
        assert_eq!(exhaust(&mut frames, now), 0);
        assert_eq!(exhaust(&mut frames, now + Duration::from_secs(10)), 10 * A_SECOND);
        assert_eq!(exhaust(&mut frames, now + Duration::from_secs(1 << 40)), BURST, "never more than at the beginning");
    }

    /// Payload that looks like frames is payload.
    #[test]
    fn what_is_in_a_frame_is_not_looked_at() {
        let (mut frames, now) = begun();
        let inner = frame(PING, 8).repeat(BURST as usize * 2);
        let mut outer = frame(DATA, inner.len());
        outer.truncate(9);
        outer.extend(&inner);
        assert!(frames.received(&outer, now));
        assert!(frames.received(&frame(PING, 8), now));
    }
}
