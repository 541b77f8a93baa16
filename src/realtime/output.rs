//! What a socket wants done.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::broadcast::{Broadcast, Storing};
use super::code::ErrorCode;
use super::notice::ResyncReason;
use super::request::Ask;
use crate::auth::Claims;
use crate::change::Cursor;
use crate::routing::RequestedBinding;
use crate::topic::Room;

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
        /// The channel's topic.
        room: Arc<Room>,
    },
    /// Find out from where on the membership is to hear what the database broadcasts; answered by
    /// [`super::Notice::Listening`].
    Listen {
        /// Number of the membership.
        membership: u32,
        /// As whom.
        claims: Arc<Claims>,
        /// The channel's topic.
        room: Arc<Room>,
        /// The join carried no token of its own.
        grace: bool,
        /// It has stored broadcasts replayed if it does not go on where it was.
        replays: bool,
    },
    /// The membership is joined and in its room: what it missed may come.
    Hear {
        /// Number of the membership.
        membership: u32,
    },
    /// The membership was sent the broadcast from the database that stands here, or needs it no more.
    Heard {
        /// Number of the membership.
        membership: u32,
        /// Where it stands in the stream.
        cursor: Cursor,
    },
    /// Somebody may not read a topic: what was missed of it is nothing to come back for.
    Forget {
        /// Who.
        claims: Arc<Claims>,
        /// The topic.
        room: Arc<Room>,
    },
    /// The membership has new claims.
    Identify {
        /// Number of the membership.
        membership: u32,
        /// As whom from now on.
        claims: Arc<Claims>,
    },
    /// The membership ends because its topic is joined again: the new one goes on where it was, if it may.
    Park {
        /// Number of the membership.
        membership: u32,
    },
    /// The membership ended.
    Unsubscribe {
        /// Number of the membership.
        membership: u32,
    },
    /// Do something in the membership's room.
    Room {
        /// Number of the membership.
        membership: u32,
        /// Which room.
        room: Arc<Room>,
        /// What to do.
        request: RoomRequest,
    },
    /// Ask the database about the membership's topic; answered by [`super::Notice::Answered`].
    Ask {
        /// Number of the membership.
        membership: u32,
        /// Comes back with the answer.
        ticket: u32,
        /// As whom.
        claims: Arc<Claims>,
        /// About which room.
        room: Arc<Room>,
        /// What.
        ask: Ask,
    },
    /// Tell the membership once broadcasts from the database flow: [`super::Notice::ReplicationReady`].
    AwaitReplication {
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
    /// A heartbeat was answered: the peer has handled all that was sent before the answer to the one before.
    Beat,
    /// Count something.
    Record(Tally),
}

/// What a membership does in its room.
#[derive(Clone, Debug)]
pub enum RoomRequest {
    /// Become a member, or receive something else from now on. Nothing said before reaches it.
    Enter(Entry),
    /// The same, to have replayed what was stored. What is being stored reaches it as well, some of it twice: it may come to
    /// be stored too late for the replay.
    EnterReplaying(Entry),
    /// Be a member no longer; what it tracks is gone.
    Leave,
    /// Say something; the sender hears it as well if it asked to.
    Say {
        /// What.
        message: Arc<Broadcast>,
        /// Also to the sender.
        to_self: bool,
        /// It is stored besides, and is being as long as somebody holds this.
        storing: Option<Arc<Storing>>,
    },
    /// Be present as `key` with this JSON object, which replaces what was tracked before.
    Track {
        /// The presence key.
        key: Arc<str>,
        /// A JSON object.
        payload: Box<RawValue>,
    },
    /// Be present no longer.
    Untrack,
    /// Be told who is present, in [`super::Notice::PresenceState`], and of what changes from then on.
    State,
}

/// How a member enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is sent.
    pub receives: Receives,
    /// When the question was put whose answer admits it: what has called permissions into doubt since then, it is told.
    /// `None`: it needs no permission.
    pub asked: Option<Instant>,
}

impl Entry {
    /// Of somebody who needs no permission.
    #[must_use]
    pub const fn open(receives: Receives) -> Self {
        Self {
            receives,
            asked: None,
        }
    }
}

/// What a member is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receives {
    /// Broadcasts.
    pub broadcasts: bool,
    /// Presence diffs.
    pub presence: bool,
}

/// A frame to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Text.
    Text(String),
    /// Text that others are sent as well; always UTF-8.
    SharedText(Bytes),
    /// Binary.
    Binary(Bytes),
}

/// What the shell counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// A join was answered with ok.
    Joined,
    /// A join was answered with an error of this code.
    JoinRefused(ErrorCode),
    /// Something went wrong for a channel; it was told, or not.
    Error(ErrorCode),
    /// A channel was told to start over.
    Resync(ResyncReason),
    /// So many changes were sent.
    Changes(usize),
    /// A message was understood.
    Message,
}

/// Frames that were sent since the last look, apart from [`Tally`] because they are many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Broadcasts.
    pub broadcasts: u64,
    /// Metas that came or left.
    pub presence_events: u64,
}
