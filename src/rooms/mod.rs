//! Who is in which room, and what is said there.
//!
//! A room is a topic and a privacy class. Messages and presence reach each member's outbox; a connection takes them at the
//! pace of its socket. What other nodes would have to hear passes through one place, so that nothing here knows whether it
//! is alone.

use std::sync::Arc;

use crate::log::Outbox;
use crate::realtime::{Broadcast, Notice, RoomRequest};
use crate::topic::Room;

/// A channel membership on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId {
    /// The socket's number; never used twice.
    pub connection: u64,
    /// The membership's number on that socket.
    pub membership: u32,
}

/// All rooms of this node; clones are one.
#[derive(Clone, Debug, Default)]
pub struct Rooms {}

impl Rooms {
    /// No rooms yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Does what a membership wants in its room. Never waits.
    pub fn handle(
        &self,
        _member: MemberId,
        _outbox: &Arc<Outbox<Notice>>,
        _room: &Arc<Room>,
        _request: RoomRequest,
    ) {
    }

    /// Says something that no member said: over HTTP, or from the database.
    pub fn say(&self, _room: &Room, _message: &Arc<Broadcast>) {}

    /// Tells every private membership to look at its permissions again.
    pub fn recheck(&self) {}
}
