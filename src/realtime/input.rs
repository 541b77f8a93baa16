//! What is handed to a socket.

use std::time::Instant;

use bytes::Bytes;

use super::notice::Notice;

/// The time, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock, for timeouts.
    pub instant: Instant,
    /// Seconds since 1970, for tokens.
    pub unix: i64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A text frame came.
    Text(&'a str),
    /// A binary frame came.
    Binary(&'a [u8]),
    /// A ping or a pong came: a sign of life and nothing else.
    Control,
    /// The pipeline has something to say to a membership.
    Notice {
        /// Which; unknown ones have ended meanwhile.
        membership: u32,
        /// What.
        notice: Notice,
    },
    /// Changes for a membership, in order.
    Changes {
        /// Which; unknown ones have ended meanwhile.
        membership: u32,
        /// The `ids` array, as JSON text.
        ids: &'a str,
        /// The `data` objects, as JSON text.
        payloads: &'a [Bytes],
        /// The last payload is the last of its transaction that this membership gets.
        last: bool,
    },
    /// Who may send to private topics may have changed before the frame that comes next.
    DoubtSending,
    /// The server is leaving.
    Drain,
    /// The WebSocket is gone. Nothing is sent after this.
    Gone,
}
