//! What a socket wants done.

use std::sync::Arc;

use bytes::Bytes;

use super::notice::ResyncReason;
use crate::auth::Claims;
use crate::routing::RequestedBinding;

/// What to do, in this order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a frame.
    Send(Frame),
    /// Ask the pipeline for changes.
    Subscribe {
        /// Number of the membership; never used twice on a socket.
        membership: u32,
        /// As whom.
        claims: Arc<Claims>,
        /// For what; never empty.
        bindings: Vec<RequestedBinding>,
        /// The join carried no token of its own, so one may follow (design.md §5).
        grace: bool,
    },
    /// The membership has new claims.
    Identify {
        /// Number of the membership.
        membership: u32,
        /// As whom from now on.
        claims: Arc<Claims>,
    },
    /// The membership ended.
    Unsubscribe {
        /// Number of the membership.
        membership: u32,
    },
    /// Close the socket after what was sent. No frame follows.
    Close {
        /// The WebSocket close code (protocol.md §2.7).
        code: u16,
        /// For developers.
        reason: &'static str,
    },
    /// Count something.
    Record(Tally),
}

/// A frame to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Text.
    Text(String),
    /// Binary.
    Binary(Bytes),
}

/// What the shell counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// A join was answered with ok.
    Joined,
    /// A join was answered with an error of this code.
    JoinRefused(&'static str),
    /// A channel was told of an error of this code.
    SystemError(&'static str),
    /// A channel was told to start over.
    Resync(ResyncReason),
    /// So many changes were sent.
    Changes(usize),
    /// A message was understood.
    Message,
}
