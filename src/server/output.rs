//! The outbound side of a socket: frames under way, and whether the peer takes them.
//!
//! Bounded by its user, who takes no changes without [`Outbound::room`] and no inbound frames without room for replies.
//! Many frames are gathered into one flush.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::meter::Written;
use super::websocket::{Frame, QUEUE_KEPT, WebSocket};

/// Bytes under way beyond which no further changes are taken from the log. A frame of any size fits all the same.
const ROOM_BYTES: usize = 64 * 1024;
/// Replies have as much room again, so that a heartbeat is answered while changes wait.
const REPLY_ROOM_BYTES: usize = 2 * ROOM_BYTES;

/// Frames under way.
pub(super) struct Outbound {
    frames: VecDeque<Frame>,
    /// Bytes of frames that were added since everything was last flushed.
    unflushed: usize,
    written: Written,
    /// What was written when the peer was last seen to take something, and when that was.
    progress: Option<(u64, Instant)>,
}

impl Outbound {
    pub(super) fn new(written: Written) -> Self {
        Self {
            frames: VecDeque::new(),
            unflushed: 0,
            written,
            progress: None,
        }
    }

    pub(super) fn push(&mut self, frame: Frame) {
        let bytes = frame.len();
        // An empty frame has a header as well.
        self.unflushed = self.unflushed.saturating_add(bytes).saturating_add(2);
        self.frames.push_back(frame);
    }

    /// Bytes of changes that may be added.
    pub(super) fn room(&self) -> usize {
        ROOM_BYTES.saturating_sub(self.unflushed)
    }

    /// Whether replies may be added.
    pub(super) fn has_room_for_replies(&self) -> bool {
        self.unflushed < REPLY_ROOM_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unflushed == 0
    }

    /// Hands over what waits. Ready once the kernel has taken everything.
    pub(super) fn poll_flush(
        &mut self,
        websocket: &mut WebSocket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.frames.is_empty() {
            ready!(websocket.poll_ready(cx))?;
            if let Some(frame) = self.frames.pop_front() {
                websocket.push(frame);
            }
        }
        ready!(websocket.poll_flush(cx))?;
        self.frames.shrink_to(QUEUE_KEPT);
        self.unflushed = 0;
        self.progress = None;
        Poll::Ready(Ok(()))
    }

    /// Since when the peer has taken nothing although something waits.
    pub(super) fn stalled_since(&mut self, now: Instant) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        let written = self.written.bytes();
        match self.progress {
            Some((before, since)) if before == written => Some(since),
            _ => {
                self.progress = Some((written, now));
                Some(now)
            }
        }
    }
}
